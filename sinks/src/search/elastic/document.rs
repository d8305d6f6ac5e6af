//! An item as it stands in an index, and what changes it: its own document, and where something of it is available.

use crate::search::text::{is_compact, parts, words};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use twh_domain::id::{ItemId, LocationId, TenantId};
use uuid::Uuid;

/// Longest word that is kept, in characters.
const WORD_LENGTH_MAX: usize = 64;
/// Most words of a text that are looked at.
const WORDS_MAX: usize = 3_000;

/// An item as it stands in an index. Texts are folded and told apart here, the same way as a query's: an index needs no
/// analysis of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexedItem {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub item: ItemId,
    /// The tenant's last event that changed it: the version of what stands in the index.
    pub sequence: i64,
    /// As the API shows it; absent where only its stock is known yet.
    pub document: Option<Box<RawValue>>,
    /// As a code is written.
    pub sku: String,
    /// SKU and barcodes.
    pub codes: Vec<String>,
    /// The same, folded.
    pub codes_folded: Vec<String>,
    /// The name, as names are sorted.
    pub name_sort: String,
    /// The words of the name, each led by the mark of its tenant.
    pub name: String,
    /// The words of the description.
    pub description: String,
    /// Greater for shorter names.
    pub brevity: f32,
    /// `stock` or `service`; absent where the document is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub item_type: String,
    /// The pair `category` of its metadata.
    pub category: Option<String>,
    /// All pairs of its metadata that are texts.
    pub pairs: Vec<String>,
    /// When it was last changed, in microseconds.
    pub updated_at: i64,
    /// The locations that ever had any of it.
    pub locations: BTreeSet<LocationId>,
    /// Those of them where something of it is available. How much, the ledger says: it changes far more often than this.
    pub available_at: BTreeSet<LocationId>,
}

/// What of an item's document is looked at.
#[derive(Deserialize)]
struct Fields {
    sku: String,
    name: Option<String>,
    description: Option<String>,
    #[serde(default)]
    barcodes: Vec<String>,
    #[serde(rename = "type")]
    item_type: String,
    #[serde(default)]
    metadata: BTreeMap<String, serde_json::Value>,
    updated_at: twh_domain::timestamp::Timestamp,
}

/// What leads every word of a tenant: likeness is looked for among its own words, whoever else is in the index.
pub(super) fn mark(tenant: TenantId) -> String {
    let id = tenant.0.simple().to_string();
    format!("{}:", id.get(24..).unwrap_or_default())
}

/// The characters of a [`mark`].
pub(super) const MARK_LENGTH: usize = 9;

/// A pair of metadata as one term.
pub(super) fn pair(key: &str, value: &str) -> String {
    format!("{key}\u{1f}{value}")
}

/// A code as it is compared without case.
pub(super) fn folded_code(code: &str) -> String {
    crate::search::text::folded(code.trim())
}

/// A word as it is kept.
pub(super) fn cut(word: &str) -> &str {
    word.char_indices().nth(WORD_LENGTH_MAX).and_then(|(at, _)| word.get(..at)).unwrap_or(word)
}

/// A text's words as they stand in the index: in scripts without spaces, their parts too.
fn marked_words(mark: &str, text: &str) -> (String, usize) {
    let words = words(text);
    let mut marked = String::with_capacity(text.len() + words.len() * (MARK_LENGTH + 1));
    let mut push = |word: &str| {
        if !marked.is_empty() {
            marked.push(' ');
        }
        marked.push_str(mark);
        marked.push_str(cut(word));
    };
    for word in words.iter().take(WORDS_MAX) {
        push(word);
        if is_compact(word) {
            parts(word).iter().for_each(|part| push(part));
        }
    }
    (marked, words.len())
}

impl IndexedItem {
    /// An item of which nothing is known yet.
    #[must_use]
    pub fn new(tenant: TenantId, item: ItemId) -> Self {
        Self {
            tenant,
            item,
            sequence: 0,
            document: None,
            sku: String::new(),
            codes: Vec::new(),
            codes_folded: Vec::new(),
            name_sort: String::new(),
            name: String::new(),
            description: String::new(),
            brevity: 0.0,
            item_type: String::new(),
            category: None,
            pairs: Vec::new(),
            updated_at: 0,
            locations: BTreeSet::new(),
            available_at: BTreeSet::new(),
        }
    }

    /// Takes its document as it is from now on. The error is a document that is none of an item.
    pub fn describe(&mut self, json: &str) -> Result<(), serde_json::Error> {
        let fields: Fields = serde_json::from_str(json)?;
        let mark = mark(self.tenant);
        let name = fields.name.unwrap_or_default();
        let (marked, count) = marked_words(&mark, &name);
        self.document = Some(RawValue::from_string(json.to_owned())?);
        self.codes = std::iter::once(fields.sku.clone()).chain(fields.barcodes).collect();
        self.codes_folded = self.codes.iter().map(|code| folded_code(code)).collect();
        self.sku = fields.sku;
        self.name_sort = name.to_lowercase();
        self.name = marked;
        self.description = marked_words(&mark, &fields.description.unwrap_or_default()).0;
        #[expect(
            clippy::cast_precision_loss,
            clippy::float_arithmetic,
            reason = "a score, of a name that has few words"
        )]
        let brevity = 1.0 / (2.0 + count as f32);
        self.brevity = brevity;
        self.item_type = fields.item_type;
        let texts = fields.metadata.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
        self.pairs = texts.map(|(key, value)| pair(key, value)).collect();
        self.category = fields.metadata.get("category").and_then(|value| value.as_str()).map(str::to_owned);
        self.updated_at = fields.updated_at.micros();
        Ok(())
    }

    /// Takes what is known of a location from now on.
    pub fn is_at(&mut self, location: LocationId, available: bool) {
        self.locations.insert(location);
        if available {
            self.available_at.insert(location);
        } else {
            self.available_at.remove(&location);
        }
    }

    /// What it stands under in an index.
    #[must_use]
    pub fn id(&self) -> String {
        id(self.tenant, self.item.0)
    }
}

/// What an item stands under in an index.
#[must_use]
pub fn id(tenant: TenantId, item: Uuid) -> String {
    format!("{}.{}", tenant.0.simple(), item.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_what_its_last_events_say() {
        let tenant = TenantId(Uuid::from_u128(7));
        let mut item = IndexedItem::new(tenant, ItemId(Uuid::from_u128(8)));
        let [north, south] = [1, 2].map(|id| LocationId(Uuid::from_u128(id)));
        item.is_at(north, true);
        item.is_at(south, true);
        item.is_at(north, false);
        assert_eq!((item.locations.len(), &item.available_at), (2, &BTreeSet::from([south])));
        let json = r#"{"sku":"Mug-1","name":"Crème  brûlée","description":null,"barcodes":["400"],"type":"stock","metadata":{"category":"kitchen","n":1},"updated_at":"2026-03-01T09:30:00Z"}"#;
        item.describe(json).unwrap();
        assert_eq!(item.name, "00000007:creme 00000007:brulee");
        assert_eq!(
            (item.codes_folded.as_slice(), item.pairs.len()),
            (["mug-1".to_owned(), "400".to_owned()].as_slice(), 1)
        );
        assert_eq!(item.document.as_ref().unwrap().get(), json);
        assert!(item.describe("{}").is_err());
        let (marked, _) = marked_words("m:", "白色蜡烛");
        assert_eq!(marked, "m:白色蜡烛 m:白色 m:色蜡 m:蜡烛");
    }
}
