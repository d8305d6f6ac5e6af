//! What is to be loaded before a command is decided.

use crate::commands::Command;
use crate::reads::{Needs, Reads};
use crate::state::{IdempotencyKey, Need, State};

/// Adds to `needs` what the command touches and `state` has not loaded. Call again after loading: what was loaded
/// (an order, the id behind a SKU) names further things. Nothing added means all is there.
pub fn prefetch(state: &State, command: &Command, needs: &mut Needs) {
    let mut reads = Reads::new(state, command.tenant_id, needs);
    reads.need(Need::Head(command.tenant_id));
    reads.new_name(Need::Outcome(IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() }));
    for operation in &command.operations {
        operation.payload.reads(operation.subject, &mut reads);
    }
}
