//! From a request to a command: ids, times and the actor are fixed, everything else is the client's.

use crate::fingerprint::fingerprint;
use time::OffsetDateTime;
use twh_domain::commands::{Command, Operation, Payload, RULES_VERSION};
use twh_domain::id::CommandId;
use twh_edge::auth::Identity;
use uuid::Uuid;

/// One thing that a client asks for.
pub(crate) struct Asked {
    /// What it acts upon; `None` when it makes something new.
    pub(crate) subject: Option<Uuid>,
    /// The version that the client saw.
    pub(crate) expected_version: Option<i64>,
    /// What.
    pub(crate) payload: Payload,
}

/// The command that asks for these things, all or nothing.
pub(crate) fn command(caller: &Identity, request_id: &str, idempotency_key: String, asked: Vec<Asked>) -> Command {
    let operations: Vec<(Operation, bool)> = asked
        .into_iter()
        .map(|asked| {
            let operation = Operation {
                subject: asked.subject.unwrap_or_else(Uuid::now_v7),
                expected_version: asked.expected_version,
                payload: asked.payload,
            };
            (operation, asked.subject.is_none())
        })
        .collect();
    let fingerprint = fingerprint(operations.iter().map(|(operation, creates)| (operation, *creates)));
    Command {
        command_id: CommandId(Uuid::now_v7()),
        tenant_id: caller.tenant_id,
        rules_version: RULES_VERSION,
        issued_at: OffsetDateTime::now_utc().into(),
        actor: caller.actor().into(),
        request_id: request_id.into(),
        idempotency_key,
        fingerprint,
        operations: operations.into_iter().map(|(operation, _)| operation).collect(),
    }
}
