//! Purchase orders: draft → ordered → partially received → received → closed; or cancelled while nothing has come.

use super::Document;
use super::status::status;
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId, SupplierId};
use crate::money::Money;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

status! {
    /// Where a purchase order stands.
    PurchaseOrderStatus {
        /// Being written.
        Draft = "draft",
        /// With the supplier.
        Ordered = "ordered",
        /// Some of it has come.
        PartiallyReceived = "partially_received",
        /// All of it has come.
        Received = "received",
        /// Ended.
        Closed = "closed",
        /// Dropped.
        Cancelled = "cancelled",
    }
}

/// What is bought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurchaseOrderLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// False for a service: it is received without a movement.
    pub stocked: bool,
    /// How many.
    pub quantity_ordered: Quantity,
    /// How many have come.
    pub quantity_received: Quantity,
    /// Agreed cost of one unit.
    pub unit_cost: Option<Money>,
}

impl PurchaseOrderLine {
    pub(crate) fn outstanding(&self) -> Quantity {
        self.quantity_ordered.checked_sub(self.quantity_received).unwrap_or_default().max(Quantity::ZERO)
    }

    /// The most that may come of this line, by the order's policy.
    pub(crate) fn limit(&self, over_receipt_percent: i32) -> Quantity {
        let ordered = i128::from(self.quantity_ordered.micros());
        let limit = ordered + ordered * i128::from(over_receipt_percent) / 100;
        i64::try_from(limit).ok().and_then(Quantity::from_micros).unwrap_or(self.quantity_ordered)
    }
}

/// A purchase order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurchaseOrder {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Whom from.
    pub supplier_id: Option<SupplierId>,
    /// Where the goods arrive.
    pub location_id: LocationId,
    /// Where it stands.
    pub status: PurchaseOrderStatus,
    /// What is bought.
    pub lines: Vec<PurchaseOrderLine>,
    /// How much more than ordered a line may receive, in percent.
    pub over_receipt_percent: i32,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for PurchaseOrder {
    fn code(&self) -> Option<&str> {
        Some(&self.number)
    }

    fn status(&self) -> Option<&'static str> {
        Some(self.status.name())
    }

    fn lines(&self) -> usize {
        self.lines.len()
    }

    fn metadata(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.metadata)
    }

    fn levels(&self) -> Vec<(ItemId, LocationId)> {
        self.lines.iter().map(|line| (line.item_id, self.location_id)).collect()
    }
}
