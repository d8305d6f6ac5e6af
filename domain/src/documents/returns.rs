//! Returns: goods that come back, of a shipment (at most what it shipped) or blind, restocked or scrapped.

use super::Document;
use super::status::status;
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId, SalesOrderId};
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

status! {
    /// What becomes of returned goods.
    Disposition {
        /// Back on the shelf.
        Restock = "restock",
        /// Thrown away: they come in and are written off at once.
        Scrap = "scrap",
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReturnDocumentLine {
    /// From 1.
    pub line: i32,
    /// The line of the sales order that shipped it.
    pub order_line: Option<i32>,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many.
    pub quantity: Quantity,
    /// What became of them.
    pub disposition: Disposition,
}

/// A return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Return {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// The order that shipped the goods; absent for a blind return.
    pub sales_order_id: Option<SalesOrderId>,
    /// Where they arrived.
    pub location_id: LocationId,
    /// What came back.
    pub lines: Vec<ReturnDocumentLine>,
    /// Why.
    pub reason: Option<String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for Return {
    fn code(&self) -> Option<&str> {
        Some(&self.number)
    }

    fn lines(&self) -> usize {
        self.lines.len()
    }
}
