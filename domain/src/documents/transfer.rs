//! Transfers between locations: draft → in transit → partially received → received → closed; or cancelled before they leave.
//!
//! Goods in transit are at no location: they left the source's level and have not reached the destination's.

use super::Document;
use super::status::status;
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId};
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

status! {
    /// Where a transfer stands.
    TransferStatus {
        /// Being written.
        Draft = "draft",
        /// On its way.
        InTransit = "in_transit",
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

/// What is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransferDocumentLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many.
    pub quantity: Quantity,
    /// How many are on their way.
    pub quantity_in_transit: Quantity,
    /// How many have come.
    pub quantity_received: Quantity,
    /// How many left and will not come.
    pub quantity_lost: Quantity,
}

/// A transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transfer {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Where from.
    pub from_location_id: LocationId,
    /// Where to.
    pub to_location_id: LocationId,
    /// Where it stands.
    pub status: TransferStatus,
    /// What is moved.
    pub lines: Vec<TransferDocumentLine>,
    /// Why goods are missing, where it was closed short.
    pub close_reason: Option<String>,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for Transfer {
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
        let places = [self.from_location_id, self.to_location_id];
        self.lines.iter().flat_map(|line| places.map(|place| (line.item_id, place))).collect()
    }
}
