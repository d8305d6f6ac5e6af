//! Search over the catalogue: what is asked and what is found are the same, whatever answers.
//!
//! [`postgres`] looks into the ledger's own database and is never behind it; [`elastic`] looks into an index that is made of the
//! ledger's events. A query's text is data to it: it has no syntax that
//! could be wrong, and chooses no tenant.

pub mod elastic;
pub mod postgres;
pub mod text;

use crate::postgres::page::PAGE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use twh_domain::decimal::Quantity;
use twh_domain::outcome::Position;
use twh_domain::total::Total;
use uuid::Uuid;

/// Longest text of a query, in characters: longer than any name.
pub const TEXT_LENGTH_MAX: usize = 300;
/// Most words of a query: each is looked up with all that it may mean.
pub const WORDS_MAX: usize = 16;
/// Most matches that are counted, sorted and told apart by facets.
pub const MATCHES_MAX: i64 = 10_000;
/// Most locations that a hit tells of one by one: those whose codes come first.
pub const LEVELS_MAX: i64 = 100;
/// Most values of a facet that are told.
pub const BUCKETS_MAX: i64 = 50;

/// The order of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// The best first.
    Relevance,
    /// By name, in whatever case.
    Name,
    /// By SKU.
    Sku,
    /// The last changed first.
    Updated,
    /// The most available first.
    Available,
}

/// What matches can be told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Facet {
    /// The pair `category` of their metadata.
    Category,
    /// The locations where something of them is available.
    Location,
    /// Whether something of them is available.
    InStock,
    /// Whether they hold stock.
    Type,
}

impl Facet {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Category, Self::Location, Self::InStock, Self::Type];

    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Category => "category",
            Self::Location => "location",
            Self::InStock => "in_stock",
            Self::Type => "type",
        }
    }
}

/// Where a page ended: the last hit's place in the order, and its id.
pub type Place = (String, Uuid);

/// What is asked. Empty fields ask for nothing; an empty text finds everything.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// What people typed.
    pub text: String,
    /// Known at this location; availability is looked at there.
    pub location_id: Option<Uuid>,
    /// Whether something is available.
    pub in_stock: Option<bool>,
    /// With this pair `category` in the metadata.
    pub category: Option<String>,
    /// Of this type.
    pub item_type: Option<&'static str>,
    /// With all of these pairs.
    pub metadata: BTreeMap<String, String>,
    /// The order.
    pub sort: Sort,
    /// What is to be told apart.
    pub facets: Vec<Facet>,
    /// Where the page before ended.
    pub after: Option<Place>,
    /// Hits in the page.
    pub limit: i64,
}

/// Why an item was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Its SKU or a barcode is what was asked for.
    Code,
    /// Its SKU or a barcode begins like that.
    CodePrefix,
    /// Its name or description.
    Words,
    /// Nothing was asked for.
    Everything,
}

/// An item that was found.
#[derive(Debug)]
pub struct Hit {
    /// Its id.
    pub item_id: Uuid,
    /// Why.
    pub matched: Match,
    /// How well: of use only beside another hit of the same answer.
    pub score: f64,
    /// Its place in the order.
    pub place: String,
    /// It, byte for byte.
    pub document: Box<RawValue>,
    /// Where it is.
    pub stock: HitStock,
}

/// How much there is of an item, and where.
#[derive(Debug, Default)]
pub struct HitStock {
    /// What can be promised, over all locations.
    pub available: Total,
    /// How many locations have held it.
    pub locations: i64,
    /// At each of them, or at the first [`LEVELS_MAX`].
    pub levels: Vec<HitLevel>,
}

/// How much of an item a location holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HitLevel {
    /// Where.
    pub location_id: Uuid,
    /// Where.
    pub location_code: String,
    /// Physically there.
    pub on_hand: Quantity,
    /// Promised.
    pub reserved: Quantity,
}

/// A value of a facet, and how many matches have it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Bucket {
    /// The value.
    pub value: String,
    /// How many.
    pub count: i64,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// A page of it: as many as were asked for, or as many as an answer may hold.
    pub hits: Vec<Hit>,
    /// Whether there is another page.
    pub has_more: bool,
    /// How many matches there are, counted up to [`MATCHES_MAX`].
    pub total: i64,
    /// False where there are more than were counted.
    pub total_is_exact: bool,
    /// What was asked to be told apart.
    pub facets: BTreeMap<Facet, Vec<Bucket>>,
    /// The last command that it reflects; `None` before the tenant's first.
    pub reflects: Option<Position>,
}

/// The page of some hits, of which there is one more than asked for where there is another page; and whether there is one.
fn page(mut hits: Vec<Hit>, limit: i64) -> (Vec<Hit>, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = 0_usize;
    let fits = |hit: &&Hit| {
        bytes = bytes.saturating_add(hit.document.get().len());
        bytes <= PAGE_BYTES_MAX
    };
    let count = hits.iter().take(limit).take_while(fits).count().max(1);
    let has_more = hits.len() > count;
    hits.truncate(count);
    (hits, has_more)
}
