//! Commands: what a client asks for, with everything that is not deterministic (ids, times, actor) already fixed.

use crate::actor::Actor;
use crate::commands::Payload;
use crate::draft::Envelope;
use crate::id::{CommandId, TenantId};
use crate::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// The rules that today's commands are decided by; carried in each command, so that a replay decides as it was decided.
///
/// 1: the first. 2: what a command writes is bounded by bytes, see [`crate::limits::BOUNDED_SINCE`].
pub const RULES_VERSION: i32 = 2;
/// Idempotency-Keys that begin like this are the platform's own: no client may send one.
pub const SYSTEM_KEY_PREFIX: &str = "system/";
/// Most operations in one command: an atomic batch.
pub const OPERATIONS_MAX: usize = 1_000;

/// One request to change something, as it stands on the `commands` topic. All or nothing, however many operations it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Fixed at the edge.
    pub command_id: CommandId,
    /// Whose stock.
    pub tenant_id: TenantId,
    /// Which rules decide it: see [`RULES_VERSION`].
    pub rules_version: i32,
    /// The edge's clock when it took the request; the default of `occurred_at`.
    pub issued_at: Timestamp,
    /// Who asked.
    pub actor: Arc<Actor>,
    /// The request that brought it, for logs and audit.
    pub request_id: Arc<str>,
    /// The client's name for this request; the same key is applied once.
    pub idempotency_key: String,
    /// SHA-256 of method, route and canonical body, in hexadecimal: tells a retry from a reuse of the key.
    pub fingerprint: String,
    /// What to do, in order.
    pub operations: Vec<Operation>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The id of what is created (fixed at the edge) or acted upon.
    pub subject: Uuid,
    /// The version that the client saw (`If-Match`); another one refuses the command.
    pub expected_version: Option<i64>,
    /// What.
    pub payload: Payload,
}

impl Command {
    /// What its decision knows of it, whatever it asks for.
    pub(crate) const fn envelope(&self) -> Envelope<'_> {
        Envelope {
            command: self.command_id,
            tenant: self.tenant_id,
            rules_version: self.rules_version,
            issued_at: self.issued_at,
            actor: &self.actor,
            request_id: &self.request_id,
        }
    }
}
