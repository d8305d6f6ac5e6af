//! The level of an item at a location: the fold of its movements.

use crate::decimal::Quantity;
use crate::movement::{Movement, MovementKind};
use crate::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

/// How much there is, and how much of it is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StockLevel {
    /// Physically there.
    pub on_hand: Quantity,
    /// Promised to orders and reservations.
    pub reserved: Quantity,
    /// How many movements made it.
    pub version: i64,
    /// The last physical count.
    pub last_counted_at: Option<Timestamp>,
    /// The last movement.
    pub updated_at: Timestamp,
}

impl StockLevel {
    /// What may still be promised: on hand less reserved. `None` beyond eighteen digits.
    #[must_use]
    pub fn available(&self) -> Option<Quantity> {
        self.on_hand.checked_sub(self.reserved)
    }

    /// The level after a movement. The whole of history folded this way is the level: `twh verify` and replays rely on it.
    pub fn evolve(&mut self, movement: &Movement) {
        self.on_hand = movement.on_hand_after;
        self.reserved = movement.reserved_after;
        self.version += 1;
        self.updated_at = movement.recorded_at;
        if movement.kind == MovementKind::Count {
            self.last_counted_at = Some(movement.occurred_at);
        }
    }
}
