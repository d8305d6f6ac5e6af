//! Documents: what the ledger keeps of each kind. Data only; the rules that change them are in `commands`.

pub mod adjustment;
pub mod count;
pub mod item;
pub mod location;
pub mod purchase_order;
pub mod reservation;
pub mod returns;
pub mod sales_order;
pub(crate) mod status;
pub mod supplier;
pub mod transfer;

use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId};
use crate::timestamp::Timestamp;
use std::collections::BTreeMap;

/// Stock that a document holds for somebody: of what, where, how much.
pub type Hold = (ItemId, LocationId, Quantity);

/// What is asked of documents of every kind.
pub(crate) trait Document {
    /// The tenant's own unique code for it (SKU, code, number), where the kind has one.
    fn code(&self) -> Option<&str>;

    /// Where it stands in its life, where the kind has one.
    fn status(&self) -> Option<&'static str> {
        None
    }

    /// How many lines it has.
    fn lines(&self) -> usize {
        0
    }

    /// The client's own pairs, where the kind has them.
    fn metadata(&self) -> Option<&BTreeMap<String, String>> {
        None
    }

    /// The stock that it holds for somebody.
    fn holds(&self) -> Vec<Hold> {
        Vec::new()
    }

    /// The levels that commands upon it may change.
    fn levels(&self) -> Vec<(ItemId, LocationId)> {
        Vec::new()
    }

    /// When it lapses by itself, where it does.
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }
}
