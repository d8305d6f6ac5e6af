//! Locations: the places that hold stock.

use super::Document;
use super::status::status;
use crate::id::LocationId;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

status! {
    /// What kind of place it is.
    LocationType {
        /// Goods are kept there.
        Warehouse = "warehouse",
        /// Goods are sold there.
        Store = "store",
        /// A supplier ships from there in our name.
        DropShip = "drop_ship",
    }
}

/// A location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// The client's own code.
    pub code: String,
    /// What people call it.
    pub name: Option<String>,
    /// What kind of place it is.
    #[serde(rename = "type")]
    pub location_type: LocationType,
    /// Whether more may be promised or taken than is there.
    pub allow_negative_stock: bool,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for Location {
    fn code(&self) -> Option<&str> {
        Some(&self.code)
    }
}
