//! How a body names an item or a location: by id, or by the client's own code.

use crate::id::{ItemId, LocationId};
use crate::validate::Problems;

/// An item by id or by SKU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemRef<'a> {
    /// By id.
    Id(ItemId),
    /// By SKU.
    Sku(&'a str),
}

/// A location by id or by code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocationRef<'a> {
    /// By id.
    Id(LocationId),
    /// By code.
    Code(&'a str),
}

/// A body that names an item.
pub trait NamesItem {
    /// The item named; `None` where the body may leave it out and does.
    fn item_ref(&self) -> Option<ItemRef<'_>>;

    /// It is named in exactly one way; `prefix` leads the fields' names.
    fn check_item(&self, prefix: &str, problems: &mut Problems);
}

/// A body that names a location.
pub trait NamesLocation {
    /// The location named; `None` where the body may leave it out and does.
    fn location_ref(&self) -> Option<LocationRef<'_>>;

    /// It is named in exactly one way.
    fn check_location(&self, problems: &mut Problems);
}

macro_rules! names_item {
    ($($body:ident)*) => {$(
        impl crate::references::NamesItem for $body {
            fn item_ref(&self) -> Option<crate::references::ItemRef<'_>> {
                let sku = || self.sku.as_deref().map(crate::references::ItemRef::Sku);
                self.item_id.map(crate::references::ItemRef::Id).or_else(sku)
            }
            fn check_item(&self, prefix: &str, problems: &mut Problems) {
                problems.exactly_one(prefix, ("item_id", self.item_id.is_some()), ("sku", self.sku.is_some()));
            }
        }
    )*};
}
pub(crate) use names_item;

macro_rules! names_location {
    ($($body:ident)*) => {$(
        impl crate::references::NamesLocation for $body {
            fn location_ref(&self) -> Option<crate::references::LocationRef<'_>> {
                let code = || self.location_code.as_deref().map(crate::references::LocationRef::Code);
                self.location_id.map(crate::references::LocationRef::Id).or_else(code)
            }
            fn check_location(&self, problems: &mut Problems) {
                let (id, code) = (self.location_id.is_some(), self.location_code.is_some());
                problems.exactly_one("", ("location_id", id), ("location_code", code));
            }
        }
    )*};
}
pub(crate) use names_location;
