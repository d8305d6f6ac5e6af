//! Items: the catalogue. A stock item has levels and movements; a service (postage, a fee) only stands on documents.

use super::Document;
use super::status::status;
use crate::decimal::Quantity;
use crate::id::ItemId;
use crate::money::Money;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

status! {
    /// Whether an item holds stock.
    ItemType {
        /// It does.
        Stock = "stock",
        /// It does not: postage, fees, discounts.
        Service = "service",
    }
}

/// An item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// Its id.
    pub id: ItemId,
    /// The client's own code.
    pub sku: String,
    /// What people call it.
    pub name: Option<String>,
    /// More about it.
    pub description: Option<String>,
    /// Whether it holds stock.
    #[serde(rename = "type")]
    pub item_type: ItemType,
    /// What a quantity of 1 is.
    pub unit: String,
    /// Codes that scanners read.
    pub barcodes: Vec<String>,
    /// What it costs to buy.
    pub cost_price: Option<Money>,
    /// What it sells for.
    pub sale_price: Option<Money>,
    /// The availability at which more should be ordered.
    pub reorder_point: Option<Quantity>,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What `stock.low` says: an item whose availability, over all locations, has come down to its reorder point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LowStock {
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// What people call it.
    pub name: Option<String>,
    /// What could be promised when it came down.
    pub available: Quantity,
    /// The reorder point that it came down to.
    pub reorder_point: Quantity,
}

impl Document for Item {
    fn code(&self) -> Option<&str> {
        Some(&self.sku)
    }

    fn lines(&self) -> usize {
        self.barcodes.len()
    }

    fn metadata(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.metadata)
    }
}
