//! Supply: what there is of each item, what comes and what goes, as the consumer group `projections-supply` makes it.

mod crossings;
mod read;
mod write;

pub use crossings::{Crossing, crossings, forget_crossings};
pub use read::{
    DayRow, History, ItemSupply, LeadTimes, OpenLineFilter, OpenLineRow, history, item_supply, lead_times, low_items,
    open_lines,
};
pub use write::{Batch, Line, delete, held, write};

use twh_domain::decimal::Quantity;
use twh_domain::id::{ItemId, LocationId, TenantId};
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use uuid::Uuid;

/// An item that holds stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Whose.
    pub tenant: TenantId,
    /// Of what.
    pub item: ItemId,
    /// What the client calls it.
    pub sku: String,
    /// What people call it.
    pub name: Option<String>,
    /// The availability at which more should be ordered.
    pub reorder_point: Option<Quantity>,
    /// Physically there, over all locations.
    pub on_hand: Total,
    /// Promised of it.
    pub reserved: Total,
    /// Since when that is no more than the reorder point; `None` while it is more, or there is no such point.
    pub low_since: Option<Timestamp>,
}

impl Item {
    /// What can be promised over all locations.
    #[must_use]
    pub fn available(&self) -> Total {
        self.on_hand - self.reserved
    }
}

/// Where something came or went, and when: days since 1970-01-01, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day {
    /// Whose.
    pub tenant: TenantId,
    /// Of what.
    pub item: ItemId,
    /// Where.
    pub location: LocationId,
    /// When.
    pub day: i32,
}

/// What came and went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// What came.
    pub came: Total,
    /// What went.
    pub went: Total,
}

/// A line of a document, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineKey {
    /// Whose.
    pub tenant: TenantId,
    /// The document.
    pub document: Uuid,
    /// From 1.
    pub line: i32,
}

/// How long a line of a purchase order took; what is known already stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Whom from.
    pub supplier: Uuid,
    /// Of what.
    pub item: ItemId,
    /// When it was sent to the supplier.
    pub ordered_at: Timestamp,
    /// When the first of it came.
    pub first_received_at: Option<Timestamp>,
    /// When the last of it came.
    pub received_at: Option<Timestamp>,
    /// When its order was closed or cancelled: what has not come by then is not awaited.
    pub closed_at: Option<Timestamp>,
}
