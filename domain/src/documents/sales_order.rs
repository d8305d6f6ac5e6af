//! Sales orders: draft → allocated → partially shipped → shipped → closed; or cancelled until something ships.
//!
//! Allocation reserves, shipping consumes the reservation, cancelling (and closing short) releases it.

use super::status::status;
use super::{Document, Hold};
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId, SalesOrderId};
use crate::money::Money;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

status! {
    /// Where a sales order stands.
    SalesOrderStatus {
        /// Being written.
        Draft = "draft",
        /// Its stock is reserved.
        Allocated = "allocated",
        /// Some of it has gone.
        PartiallyShipped = "partially_shipped",
        /// All of it has gone.
        Shipped = "shipped",
        /// Ended.
        Closed = "closed",
        /// Dropped.
        Cancelled = "cancelled",
    }
}

/// What is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SalesOrderLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// False for a service: it is shipped without a movement.
    pub stocked: bool,
    /// Where it ships from.
    pub location_id: LocationId,
    /// How many.
    pub quantity_ordered: Quantity,
    /// How many are reserved and have not gone yet.
    pub quantity_allocated: Quantity,
    /// How many have gone.
    pub quantity_shipped: Quantity,
    /// How many of those came back.
    pub quantity_returned: Quantity,
    /// Agreed price of one unit.
    pub unit_price: Option<Money>,
}

/// A sales order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SalesOrder {
    /// Its id.
    pub id: SalesOrderId,
    /// Its number.
    pub number: String,
    /// The client's name for the buyer.
    pub customer_reference: Option<String>,
    /// Where the goods ship from, unless a line says otherwise.
    pub location_id: LocationId,
    /// Where it stands.
    pub status: SalesOrderStatus,
    /// What is sold.
    pub lines: Vec<SalesOrderLine>,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// When it was placed, by the client's word.
    pub ordered_at: Timestamp,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for SalesOrder {
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

    fn holds(&self) -> Vec<Hold> {
        let held = self.lines.iter().filter(|line| line.stocked && !line.quantity_allocated.is_zero());
        held.map(|line| (line.item_id, line.location_id, line.quantity_allocated)).collect()
    }

    fn levels(&self) -> Vec<(ItemId, LocationId)> {
        self.lines.iter().map(|line| (line.item_id, line.location_id)).collect()
    }
}
