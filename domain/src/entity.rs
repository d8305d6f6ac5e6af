//! What the ledger keeps a document of: one enum over all kinds, so that loading, storing and audit are written once.

use crate::adjustment::Adjustment;
use crate::count::Count;
use crate::decimal::Quantity;
use crate::id::{ItemId, LocationId, TenantId};
use crate::item::Item;
use crate::location::Location;
use crate::purchase_order::PurchaseOrder;
use crate::reservation::{Reservation, ReservationStatus};
use crate::returns::Return;
use crate::sales_order::SalesOrder;
use crate::supplier::Supplier;
use crate::timestamp::Timestamp;
use crate::transfer::Transfer;
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use uuid::Uuid;

macro_rules! entities {
    ($($variant:ident, $name:literal, $noun:literal, $table:literal;)*) => {
        /// The kinds of documents.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each variant is documented by the struct of its name")]
        pub enum EntityKind { $($variant,)* }

        impl EntityKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable name, as in events, audit and movements: `sales_order`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// The name in a sentence: `sales order`.
            #[must_use]
            pub const fn noun(self) -> &'static str {
                match self { $(Self::$variant => $noun,)* }
            }
            /// The collection: the table of its documents and the path segment of its resources, `sales_orders`.
            #[must_use]
            pub const fn collection(self) -> &'static str {
                match self { $(Self::$variant => $table,)* }
            }
            /// True where nothing acts upon a document once it is made.
            #[must_use]
            pub const fn is_final(self) -> bool {
                matches!(self, Self::Return | Self::Adjustment | Self::Count)
            }
            /// True where a document has lines, up to [`crate::validate::LINES_MAX`] of them.
            #[must_use]
            pub const fn has_lines(self) -> bool {
                !matches!(self, Self::Item | Self::Location | Self::Supplier | Self::Reservation)
            }
            /// The kind with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }

        /// A document of any kind; its JSON form is the public resource.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        #[allow(missing_docs, reason = "each variant is documented by the struct of its name")]
        pub enum Entity { $($variant($variant),)* }

        impl Entity {
            /// Which kind it is.
            #[must_use]
            pub const fn kind(&self) -> EntityKind {
                match self { $(Self::$variant(_) => EntityKind::$variant,)* }
            }
            /// Reads a stored document.
            pub fn from_document(kind: EntityKind, document: &str) -> Result<Self, serde_json::Error> {
                match kind { $(EntityKind::$variant => serde_json::from_str(document).map(Self::$variant),)* }
            }
            /// Its id.
            #[must_use]
            pub fn id(&self) -> Uuid {
                match self { $(Self::$variant(e) => e.id.into(),)* }
            }
            /// How often it was written; its `ETag`.
            #[must_use]
            pub const fn version(&self) -> i64 {
                match self { $(Self::$variant(e) => e.version,)* }
            }
            /// When it was made.
            #[must_use]
            pub const fn created_at(&self) -> Timestamp {
                match self { $(Self::$variant(e) => e.created_at,)* }
            }
            /// When it last changed.
            #[must_use]
            pub const fn updated_at(&self) -> Timestamp {
                match self { $(Self::$variant(e) => e.updated_at,)* }
            }
            pub(crate) fn stamp(&mut self, version: i64, created_at: Timestamp, updated_at: Timestamp) {
                match self { $(Self::$variant(e) => { e.version = version; e.created_at = created_at; e.updated_at = updated_at; })* }
            }
        }

        impl EntityKind {
            /// The JSON Schema of its documents.
            pub fn schema(self, schemas: &mut SchemaGenerator) -> Schema {
                match self { $(Self::$variant => schemas.subschema_for::<$variant>(),)* }
            }
        }

        $(impl From<$variant> for Entity {
            fn from(entity: $variant) -> Self { Self::$variant(entity) }
        })*
    };
}

entities! {
    Item, "item", "item", "items";
    Location, "location", "location", "locations";
    Supplier, "supplier", "supplier", "suppliers";
    PurchaseOrder, "purchase_order", "purchase order", "purchase_orders";
    SalesOrder, "sales_order", "sales order", "sales_orders";
    Transfer, "transfer", "transfer", "transfers";
    Return, "return", "return", "returns";
    Adjustment, "adjustment", "adjustment", "adjustments";
    Count, "count", "count", "counts";
    Reservation, "reservation", "reservation", "reservations";
}

/// What a document takes in memory without its lines and pairs, and what each of these takes, roughly.
const DOCUMENT_BYTES: usize = 1_024;
const LINE_BYTES: usize = 256;
const PAIR_BYTES: usize = 64;

impl Entity {
    /// The tenant's own unique code for it (SKU, code, number), where the kind has one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Item(e) => Some(&e.sku),
            Self::Location(e) => Some(&e.code),
            Self::Supplier(e) => Some(&e.code),
            Self::PurchaseOrder(e) => Some(&e.number),
            Self::SalesOrder(e) => Some(&e.number),
            Self::Transfer(e) => Some(&e.number),
            Self::Return(e) => Some(&e.number),
            Self::Adjustment(e) => Some(&e.number),
            Self::Count(e) => Some(&e.number),
            Self::Reservation(_) => None,
        }
    }

    /// Where it stands in its life, where the kind has one.
    #[must_use]
    pub const fn status(&self) -> Option<&'static str> {
        match self {
            Self::PurchaseOrder(e) => Some(e.status.name()),
            Self::SalesOrder(e) => Some(e.status.name()),
            Self::Transfer(e) => Some(e.status.name()),
            Self::Reservation(e) => Some(e.status.name()),
            _ => None,
        }
    }

    /// The stock that it holds for somebody: what is reserved at a level is what all documents hold there, no more and no less.
    #[must_use]
    pub fn holds(&self) -> Vec<(ItemId, LocationId, Quantity)> {
        match self {
            Self::SalesOrder(order) => order
                .lines
                .iter()
                .filter(|line| line.stocked && !line.quantity_allocated.is_zero())
                .map(|line| (line.item_id, line.location_id, line.quantity_allocated))
                .collect(),
            Self::Reservation(reservation) if reservation.status == ReservationStatus::Active => {
                vec![(reservation.item_id, reservation.location_id, reservation.quantity)]
            }
            _ => Vec::new(),
        }
    }

    /// About how many bytes it takes in memory: what is bounded by bytes is counted by it.
    #[must_use]
    pub fn weight(&self) -> usize {
        let (lines, metadata) = match self {
            Self::Item(e) => (e.barcodes.len(), Some(&e.metadata)),
            Self::PurchaseOrder(e) => (e.lines.len(), Some(&e.metadata)),
            Self::SalesOrder(e) => (e.lines.len(), Some(&e.metadata)),
            Self::Transfer(e) => (e.lines.len(), Some(&e.metadata)),
            Self::Return(e) => (e.lines.len(), None),
            Self::Adjustment(e) => (e.lines.len(), None),
            Self::Count(e) => (e.lines.len(), None),
            Self::Location(_) | Self::Supplier(_) | Self::Reservation(_) => (0, None),
        };
        let pairs = metadata.into_iter().flatten().map(|(key, value)| key.len() + value.len() + PAIR_BYTES);
        DOCUMENT_BYTES + lines * LINE_BYTES + pairs.sum::<usize>()
    }

    /// When it lapses by itself, where it does.
    #[must_use]
    pub const fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Self::Reservation(e) => e.pending_expiry(),
            _ => None,
        }
    }
}

/// A document's full name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityKey {
    /// Whose.
    pub tenant: TenantId,
    /// Which kind.
    pub kind: EntityKind,
    /// Which one.
    pub id: Uuid,
}

/// What a code is unique within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CodeSpace {
    /// SKUs, location codes, order numbers: one space a kind.
    Entity(EntityKind),
    /// Barcodes of items.
    Barcode,
}

/// A code's full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodeKey {
    /// Whose.
    pub tenant: TenantId,
    /// Within what.
    pub space: CodeSpace,
    /// The code.
    pub code: String,
}

/// A stock level's full name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LevelKey {
    /// Whose.
    pub tenant: TenantId,
    /// Of what.
    pub item: ItemId,
    /// Where.
    pub location: LocationId,
}

/// A number for a document whose client gave none: unique because the id is, short enough to read out.
#[must_use]
pub fn number_from_id(prefix: &str, id: Uuid) -> String {
    // Crockford's base 32: no I, L, O, U, which people misread.
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let tail = id.as_u128();
    let digits = (0..10).rev().filter_map(|index| {
        let digit = usize::try_from((tail >> (index * 5)) & 31).ok()?;
        ALPHABET.get(digit).copied().map(char::from)
    });
    format!("{prefix}-{}", digits.collect::<String>())
}
