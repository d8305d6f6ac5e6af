//! What leaves a decision beside movements: events for the world, audit records for the account.

use crate::actor::Actor;
use crate::entity::EntityKind;
use crate::id::{CommandId, EventId, TenantId};
use crate::movement::{Chain, Hash};
use crate::timestamp::Timestamp;
use std::sync::Arc;
use uuid::Uuid;

/// What an event carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// Its subject, as the command left it.
    Document,
    /// A [`LowStock`](crate::documents::item::LowStock): no document changed.
    LowStock,
}

macro_rules! events {
    ($($variant:ident => $name:literal, $subject:ident, $carries:ident, $meaning:literal;)*) => {
        /// Every type of event that the ledger tells of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum EventType { $(#[doc = $meaning] $variant,)* }

        impl EventType {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that subscribers know.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it says, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// The kind of document that it is about.
            #[must_use]
            pub const fn subject(self) -> EntityKind {
                match self { $(Self::$variant => EntityKind::$subject,)* }
            }

            /// What it carries.
            #[must_use]
            pub const fn carries(self) -> Carries {
                match self { $(Self::$variant => Carries::$carries,)* }
            }

            /// The type with this name; `None` where a later version of the platform has added it.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

events! {
    ItemCreated => "item.created", Item, Document, "An item was added to the catalogue.";
    ItemUpdated => "item.updated", Item, Document, "An item changed.";
    LocationCreated => "location.created", Location, Document, "A location was added.";
    LocationUpdated => "location.updated", Location, Document, "A location changed.";
    SupplierCreated => "supplier.created", Supplier, Document, "A supplier was added.";
    SupplierUpdated => "supplier.updated", Supplier, Document, "A supplier changed.";
    PurchaseOrderCreated => "po.created", PurchaseOrder, Document, "A purchase order was drafted.";
    PurchaseOrderOrdered => "po.ordered", PurchaseOrder, Document, "A purchase order was sent to its supplier.";
    PurchaseOrderReceived => "po.received", PurchaseOrder, Document, "Goods of a purchase order came in, some or all.";
    PurchaseOrderClosed => "po.closed", PurchaseOrder, Document, "A purchase order ended.";
    PurchaseOrderCancelled => "po.cancelled", PurchaseOrder, Document, "A purchase order was dropped.";
    SalesOrderCreated => "order.created", SalesOrder, Document, "A sales order was drafted.";
    SalesOrderAllocated => "order.allocated", SalesOrder, Document, "Stock was reserved for a sales order.";
    SalesOrderShipped => "order.shipped", SalesOrder, Document, "Goods of a sales order went out, some or all.";
    SalesOrderClosed => "order.closed", SalesOrder, Document, "A sales order ended.";
    SalesOrderCancelled => "order.cancelled", SalesOrder, Document, "A sales order was dropped and its reservation released.";
    SalesOrderReturned => "order.returned", SalesOrder, Document, "A return changed what a sales order has had returned.";
    TransferCreated => "transfer.created", Transfer, Document, "A transfer was drafted.";
    TransferDispatched => "transfer.dispatched", Transfer, Document, "A transfer left its source.";
    TransferReceived => "transfer.received", Transfer, Document, "Goods of a transfer came in, some or all.";
    TransferClosed => "transfer.closed", Transfer, Document, "A transfer ended.";
    TransferCancelled => "transfer.cancelled", Transfer, Document, "A transfer was dropped.";
    ReturnReceived => "return.received", Return, Document, "Returned goods came in.";
    StockAdjusted => "stock.adjusted", Adjustment, Document, "Stock was corrected.";
    StockCounted => "stock.counted", Count, Document, "Stock was counted.";
    StockLow => "stock.low", Item, LowStock, "What can be promised of an item has come down to its reorder point.";
    ReservationCreated => "reservation.created", Reservation, Document, "Stock was held.";
    ReservationReleased => "reservation.released", Reservation, Document, "Held stock was let go.";
    ReservationExpired => "reservation.expired", Reservation, Document, "Held stock was let go because its time had come.";
}

/// Something that happened, told to the world once it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainEvent {
    /// Derived from the command: a repeat carries the same id.
    pub id: EventId,
    /// Whose.
    pub tenant: TenantId,
    /// Its place among the tenant's events: 1, 2, 3, … without a gap.
    pub sequence: i64,
    /// Its type.
    pub event_type: EventType,
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
    /// What it carries, as JSON: see [`EventType::carries`].
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
