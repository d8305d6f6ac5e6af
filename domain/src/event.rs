//! What leaves a decision beside movements: events for the world, audit records for the account.

use crate::command::Actor;
use crate::entity::EntityKind;
use crate::id::{CommandId, EventId, TenantId};
use crate::movement::{Chain, Hash};
use crate::timestamp::Timestamp;
use std::sync::Arc;
use uuid::Uuid;

/// Every type of event, as subscribers know them, with what it says.
pub const EVENT_TYPES: &[(&str, &str)] = &[
    ("item.created", "An item was added to the catalogue."),
    ("item.updated", "An item changed."),
    ("location.created", "A location was added."),
    ("location.updated", "A location changed."),
    ("supplier.created", "A supplier was added."),
    ("supplier.updated", "A supplier changed."),
    ("po.created", "A purchase order was drafted."),
    ("po.ordered", "A purchase order was sent to its supplier."),
    ("po.received", "Goods of a purchase order came in, some or all."),
    ("po.closed", "A purchase order ended."),
    ("po.cancelled", "A purchase order was dropped."),
    ("order.created", "A sales order was drafted."),
    ("order.allocated", "Stock was reserved for a sales order."),
    ("order.shipped", "Goods of a sales order went out, some or all."),
    ("order.closed", "A sales order ended."),
    ("order.cancelled", "A sales order was dropped and its reservation released."),
    ("order.returned", "A return changed what a sales order has had returned."),
    ("transfer.created", "A transfer was drafted."),
    ("transfer.dispatched", "A transfer left its source."),
    ("transfer.received", "Goods of a transfer came in, some or all."),
    ("transfer.closed", "A transfer ended."),
    ("transfer.cancelled", "A transfer was dropped."),
    ("return.received", "Returned goods came in."),
    ("stock.adjusted", "Stock was corrected."),
    ("stock.counted", "Stock was counted."),
    ("stock.low", "What can be promised of an item has come down to its reorder point."),
    ("reservation.created", "Stock was held."),
    ("reservation.released", "Held stock was let go."),
    ("reservation.expired", "Held stock was let go because its time had come."),
];

/// Something that happened, told to the world once it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainEvent {
    /// Derived from the command: a repeat carries the same id.
    pub id: EventId,
    /// Whose.
    pub tenant: TenantId,
    /// Its place among the tenant's events: 1, 2, 3, … without a gap.
    pub sequence: i64,
    /// One of [`EVENT_TYPES`].
    pub event_type: &'static str,
    /// What it is about.
    pub subject_kind: EntityKind,
    /// What it is about.
    pub subject: Uuid,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// When the ledger took it.
    pub recorded_at: Timestamp,
    /// The command behind it.
    pub command: CommandId,
    /// The document after it, as JSON; for `stock.low`, which changes none, a [`LowStock`](crate::item::LowStock).
    pub data: Arc<str>,
}

/// Who changed what into what: one for each document written, so that a document's records are its whole history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Its place among the tenant's records: 1, 2, 3, … without a gap.
    pub sequence: i64,
    /// Which operation of the command this is the answer to; absent for a document that changed along with it.
    pub operation_index: Option<i32>,
    /// The kind of command.
    pub action: &'static str,
    /// What was written.
    pub entity_kind: EntityKind,
    /// What was written.
    pub entity: Uuid,
    /// The version it has now; the record of the version before holds the old values.
    pub entity_version: i64,
    /// The new values, as JSON.
    pub document: Arc<str>,
    /// Who, from where.
    pub actor: Arc<Actor>,
    /// By which request.
    pub request_id: Arc<str>,
    /// By which command.
    pub command: CommandId,
    /// When.
    pub recorded_at: Timestamp,
    /// SHA-256 over the hash before it and all of the above: see [`AuditRecord::chain`].
    pub hash: Hash,
}

/// The name of the audit records' chain, part of its genesis.
pub const AUDIT_CHAIN: &str = "twh.audit.v1";

impl AuditRecord {
    /// The hash that this record must carry after a given one.
    #[must_use]
    pub fn chain(&self, previous: &Hash) -> Hash {
        let mut hash = Chain::after(previous);
        hash.uuid(self.tenant.0)
            .int(self.sequence)
            .int(self.operation_index.map_or(-1, i64::from))
            .text(self.action)
            .text(self.entity_kind.name())
            .uuid(self.entity)
            .int(self.entity_version)
            .text(&self.document)
            .text(&self.actor.kind)
            .text(&self.actor.id)
            .optional(self.actor.ip.as_deref())
            .optional(self.actor.user_agent.as_deref())
            .text(&self.request_id)
            .uuid(self.command.0)
            .int(self.recorded_at.micros());
        hash.finish()
    }
}

/// A change that is not the ledger's (keys, people, sessions), in the account of them: one chain a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Its place among the tenant's records: 1, 2, 3, … without a gap.
    pub sequence: i64,
    /// What was done, such as `api_key.create`.
    pub action: String,
    /// The kind of thing it was done to.
    pub entity_kind: String,
    /// What it was done to.
    pub entity: Uuid,
    /// The values before, as JSON; absent for something new.
    pub old: Option<String>,
    /// The values after, as JSON; absent for something that is gone.
    pub new: Option<String>,
    /// Who, from where.
    pub actor: Actor,
    /// By which request.
    pub request_id: String,
    /// When.
    pub recorded_at: Timestamp,
}

/// The name of the control records' chain, part of its genesis.
pub const CONTROL_CHAIN: &str = "twh.control.v1";

impl ControlRecord {
    /// The hash that this record must carry after a given one.
    #[must_use]
    pub fn chain(&self, previous: &Hash) -> Hash {
        let mut hash = Chain::after(previous);
        hash.uuid(self.tenant.0)
            .int(self.sequence)
            .text(&self.action)
            .text(&self.entity_kind)
            .uuid(self.entity)
            .optional(self.old.as_deref())
            .optional(self.new.as_deref())
            .text(&self.actor.kind)
            .text(&self.actor.id)
            .optional(self.actor.ip.as_deref())
            .optional(self.actor.user_agent.as_deref())
            .text(&self.request_id)
            .int(self.recorded_at.micros());
        hash.finish()
    }
}
