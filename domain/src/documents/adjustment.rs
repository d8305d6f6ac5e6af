//! Adjustments: corrections of stock, each with its reason.

use super::Document;
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId};
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What was corrected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdjustmentDocumentLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many more, or fewer.
    pub quantity: Quantity,
}

/// An adjustment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Adjustment {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Where.
    pub location_id: LocationId,
    /// Why.
    pub reason: String,
    /// What was corrected.
    pub lines: Vec<AdjustmentDocumentLine>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for Adjustment {
    fn code(&self) -> Option<&str> {
        Some(&self.number)
    }

    fn lines(&self) -> usize {
        self.lines.len()
    }
}
