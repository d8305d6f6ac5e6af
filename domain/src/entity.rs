//! What the ledger keeps a document of: one enum over all kinds, so that loading, storing and audit are written once.

use crate::documents::adjustment::Adjustment;
use crate::documents::count::Count;
use crate::documents::item::Item;
use crate::documents::location::Location;
use crate::documents::purchase_order::PurchaseOrder;
use crate::documents::reservation::Reservation;
use crate::documents::returns::Return;
use crate::documents::sales_order::SalesOrder;
use crate::documents::supplier::Supplier;
use crate::documents::transfer::Transfer;
use crate::documents::{Document, Hold};
use crate::id::{ItemId, LocationId, TenantId};
use crate::timestamp::Timestamp;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use uuid::Uuid;

/// What holds for some kinds of documents only.
struct Flags {
    is_final: bool,
    has_lines: bool,
}

const NO_FLAGS: Flags = Flags { is_final: false, has_lines: false };

macro_rules! entities {
    ($($variant:ident, $name:literal, $noun:literal, $table:literal, $prefix:literal $(, $flag:ident)*;)*) => {
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
                self.flags().is_final
            }
            /// True where a document has lines, up to [`crate::validate::LINES_MAX`] of them.
            #[must_use]
            pub const fn has_lines(self) -> bool {
                self.flags().has_lines
            }
            #[allow(clippy::needless_update, reason = "some kinds have every flag")]
            const fn flags(self) -> Flags {
                match self { $(Self::$variant => Flags { $($flag: true,)* ..NO_FLAGS },)* }
            }
            /// What begins the number that is made for a document whose client gave none; empty where the kind has no numbers.
            const fn number_prefix(self) -> &'static str {
                match self { $(Self::$variant => $prefix,)* }
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
            fn as_document(&self) -> &dyn Document {
                match self { $(Self::$variant(e) => e,)* }
            }
            pub(crate) fn stamp(&mut self, version: i64, created_at: Timestamp, updated_at: Timestamp) {
                match self { $(Self::$variant(e) => { e.version = version; e.created_at = created_at; e.updated_at = updated_at; })* }
            }
        }

        impl EntityKind {
            /// The JSON Schema of its documents, as a schema of its own.
            #[must_use]
            pub fn root_schema(self) -> Schema {
                let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
                match self { $(Self::$variant => generator.into_root_schema_for::<$variant>(),)* }
            }
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
    Item, "item", "item", "items", "";
    Location, "location", "location", "locations", "";
    Supplier, "supplier", "supplier", "suppliers", "";
    PurchaseOrder, "purchase_order", "purchase order", "purchase_orders", "PO", has_lines;
    SalesOrder, "sales_order", "sales order", "sales_orders", "SO", has_lines;
    Transfer, "transfer", "transfer", "transfers", "TR", has_lines;
    Return, "return", "return", "returns", "RET", is_final, has_lines;
    Adjustment, "adjustment", "adjustment", "adjustments", "ADJ", is_final, has_lines;
    Count, "count", "count", "counts", "CNT", is_final, has_lines;
    Reservation, "reservation", "reservation", "reservations", "";
}

/// What a document takes in memory without its lines and pairs, and what each of these takes, roughly.
const DOCUMENT_BYTES: usize = 1_024;
const LINE_BYTES: usize = 256;
const PAIR_BYTES: usize = 64;

impl Entity {
    /// The tenant's own unique code for it (SKU, code, number), where the kind has one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.as_document().code()
    }

    /// Where it stands in its life, where the kind has one.
    #[must_use]
    pub fn status(&self) -> Option<&'static str> {
        self.as_document().status()
    }

    /// The stock that it holds for somebody: what is reserved at a level is what all documents hold there, no more and no less.
    #[must_use]
    pub fn holds(&self) -> Vec<Hold> {
        self.as_document().holds()
    }

    /// The levels that commands upon it may change.
    pub(crate) fn levels(&self) -> Vec<(ItemId, LocationId)> {
        self.as_document().levels()
    }

    /// About how many bytes it takes in memory: what is bounded by bytes is counted by it.
    #[must_use]
    pub fn weight(&self) -> usize {
        let document = self.as_document();
        let pairs = document.metadata().into_iter().flatten();
        let pairs = pairs.map(|(key, value)| key.len() + value.len() + PAIR_BYTES);
        DOCUMENT_BYTES + document.lines() * LINE_BYTES + pairs.sum::<usize>()
    }

    /// When it lapses by itself, where it does.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.as_document().expires_at()
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
fn number_from_id(prefix: &str, id: Uuid) -> String {
    // Crockford's base 32: no I, L, O, U, which people misread.
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let tail = id.as_u128();
    let digits = (0..10).rev().filter_map(|index| {
        let digit = usize::try_from((tail >> (index * 5)) & 31).ok()?;
        ALPHABET.get(digit).copied().map(char::from)
    });
    format!("{prefix}-{}", digits.collect::<String>())
}

impl EntityKind {
    /// A number for a document whose client gave none; `None` where the kind has no numbers.
    #[must_use]
    pub fn number(self, id: Uuid) -> Option<String> {
        let prefix = self.number_prefix();
        (!prefix.is_empty()).then(|| number_from_id(prefix, id))
    }
}
