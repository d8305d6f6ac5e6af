//! Reservations: stock held for a while without an order, until it is released or its time comes.

use super::status::status;
use super::{Document, Hold};
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId};
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

status! {
    /// Where a reservation stands.
    ReservationStatus {
        /// It holds stock.
        Active = "active",
        /// It was let go.
        Released = "released",
        /// Its time came.
        Expired = "expired",
    }
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reservation {
    /// Its id.
    pub id: Uuid,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// Where.
    pub location_id: LocationId,
    /// How many.
    pub quantity: Quantity,
    /// Where it stands.
    pub status: ReservationStatus,
    /// When it lapses.
    pub expires_at: Option<Timestamp>,
    /// What for, in the client's words.
    pub reference: Option<String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Document for Reservation {
    fn code(&self) -> Option<&str> {
        None
    }

    fn status(&self) -> Option<&'static str> {
        Some(self.status.name())
    }

    fn holds(&self) -> Vec<Hold> {
        match self.status {
            ReservationStatus::Active => vec![(self.item_id, self.location_id, self.quantity)],
            _ => Vec::new(),
        }
    }

    fn levels(&self) -> Vec<(ItemId, LocationId)> {
        vec![(self.item_id, self.location_id)]
    }

    fn expires_at(&self) -> Option<Timestamp> {
        match self.status {
            ReservationStatus::Active => self.expires_at,
            _ => None,
        }
    }
}
