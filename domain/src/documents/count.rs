//! Physical counts: what is there, whatever the books say. The movement is the difference, even where it is nothing.

use super::Document;
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId};
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CountDocumentLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many the books said.
    pub quantity_expected: Quantity,
    /// How many there were.
    pub quantity_counted: Quantity,
}

/// A physical count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Where.
    pub location_id: LocationId,
    /// What was counted.
    pub lines: Vec<CountDocumentLine>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for Count {
    fn code(&self) -> Option<&str> {
        Some(&self.number)
    }

    fn lines(&self) -> usize {
        self.lines.len()
    }
}
