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

/// Longest names of the envelope, in bytes: what a key, a person or a request is called. The edge takes no more than half of it.
const NAME_BYTES_MAX: usize = 1_024;

impl Command {
    /// What is wrong with all but its operations, which are refused with reasons of their own; `None` where it is sound. The edge
    /// makes no such command: it was put on the log by another program, and a store would refuse it for ever.
    #[must_use]
    pub fn unsound(&self) -> Option<String> {
        let Actor { kind, id, ip, user_agent } = self.actor.as_ref();
        let names = [
            ("idempotency_key", self.idempotency_key.as_str()),
            ("fingerprint", &self.fingerprint),
            ("request_id", &self.request_id),
            ("actor.kind", kind),
            ("actor.id", id),
            ("actor.ip", ip.as_deref().unwrap_or_default()),
            ("actor.user_agent", user_agent.as_deref().unwrap_or_default()),
        ];
        if let Some((field, text)) = names.iter().find(|(_, text)| text.len() > NAME_BYTES_MAX || text.contains('\0')) {
            return Some(format!("{field} has {} bytes, {NAME_BYTES_MAX} at most, without NUL", text.len()));
        }
        if self.operations.is_empty() || self.operations.len() > OPERATIONS_MAX {
            return Some(format!("it has {} operations, 1 to {OPERATIONS_MAX} are taken", self.operations.len()));
        }
        (!self.issued_at.is_writable()).then(|| "issued_at lies outside the years 0 to 9999".to_owned())
    }

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
