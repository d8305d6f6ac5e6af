//! A query as the engine is asked it. Every clause has a score of its own making, so that an order does not change with what
//! else is in the index.

use super::document::{MARK_LENGTH, cut, folded_code, mark, pair};
use crate::search::text::{is_compact, mistakes_max, parts};
use crate::search::{BUCKETS_MAX, Facet, MATCHES_MAX, Place, SearchQuery, Sort};
use serde_json::{Value, json};
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;

/// Scores of codes, and what words get on top, so that the one never comes before the other.
pub(super) const CODE: f64 = 500.0;
pub(super) const CODE_FOLDED: f64 = 400.0;
pub(super) const CODE_PREFIX: f64 = 300.0;
const WORDS: f64 = 100.0;
/// What a word may mean: itself, a beginning, a part, a misspelling.
const ITSELF: f64 = 1.0;
const BEGINNING: f64 = 0.9;
const PART: f64 = 0.7;
const ONE_MISTAKE: f64 = 0.6;
/// In whichever field.
const TWO_MISTAKES: f64 = 0.3;
/// A description counts half of a name.
const FIELDS: [(&str, f64); 2] = [("name", 1.0), ("description", 0.5)];
/// The words of all fields: what may have two mistakes is looked for once, since the engine spends milliseconds on the question.
pub(super) const ALL_FIELDS: &str = "words";
/// The longest beginning that is indexed, the mark included.
pub(super) const PREFIX_LENGTH_MAX: usize = 19;
const EXPANSIONS_MAX: u32 = 50;

/// How many of the words an item must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Must {
    /// All.
    All,
    /// All but one.
    AllButOne,
}

/// How many mistakes a word may have at most, where it is long enough for so many. One in the first letter counts as two: it is
/// rare, and without it the engine looks at the words of one letter instead of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mistakes {
    /// None.
    None,
    /// One, in another letter than the first.
    One,
    /// Two, or one in the first letter.
    Two,
}

/// A word that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sought<'a> {
    word: &'a str,
    most: Mistakes,
}

impl<'a> Sought<'a> {
    /// A word, with at most so many mistakes where it may have any.
    pub(super) fn new(word: &'a str, most: Mistakes) -> Self {
        Self { word, most: if mistakes_max(word) == 0 { Mistakes::None } else { most } }
    }
}

fn scored(filter: Value, score: f64) -> Value {
    json!({ "constant_score": { "filter": filter, "boost": score } })
}

fn fuzzy(field: &str, marked: &str, mistakes: u32, most: Mistakes) -> Value {
    let right = match most {
        Mistakes::None | Mistakes::One => MARK_LENGTH + 1,
        Mistakes::Two => MARK_LENGTH,
    };
    let what = json!({ "value": marked, "fuzziness": mistakes, "prefix_length": right,
        "max_expansions": EXPANSIONS_MAX, "transpositions": true });
    json!({ "fuzzy": { field: what } })
}

/// What a word may mean, in any field.
fn word(mark: &str, sought: Sought<'_>) -> Value {
    let (word, most) = (cut(sought.word), sought.most);
    let marked = format!("{mark}{word}");
    let length = word.chars().count();
    let mut meanings = Vec::new();
    for (field, weight) in FIELDS {
        #[expect(clippy::float_arithmetic, reason = "scores are no quantities")]
        let mut may_be = |filter: Value, score: f64| meanings.push(scored(filter, score * weight));
        may_be(json!({ "term": { field: marked } }), ITSELF);
        if length >= 2 {
            may_be(json!({ "prefix": { field: marked } }), BEGINNING);
        }
        if is_compact(word) && length >= 2 {
            let all: Vec<_> =
                parts(word).iter().map(|part| json!({ "term": { field: format!("{mark}{part}") } })).collect();
            may_be(json!({ "bool": { "filter": all } }), PART);
        }
        if most > Mistakes::None {
            may_be(fuzzy(field, &marked, 1, most), ONE_MISTAKE);
        }
    }
    if most == Mistakes::Two && mistakes_max(word) >= 2 {
        meanings.push(scored(fuzzy(ALL_FIELDS, &marked, 2, most), TWO_MISTAKES));
    }
    json!({ "dis_max": { "queries": meanings } })
}

fn codes(text: &str) -> Vec<Value> {
    let (code, folded) = (text.trim(), folded_code(text));
    let mut ways = vec![scored(json!({ "term": { "codes": code } }), CODE)];
    // Every code begins like nothing.
    if !folded.is_empty() {
        ways.push(scored(json!({ "term": { "codes_folded": folded } }), CODE_FOLDED));
        ways.push(scored(json!({ "prefix": { "codes_folded": folded } }), CODE_PREFIX));
    }
    ways
}

/// All of some words, or all but one: a short name counts more than a long one.
fn all_words(mark: &str, sought: &[Sought<'_>], must: Must) -> Value {
    let each: Vec<_> = sought.iter().map(|one| word(mark, *one)).collect();
    let least = match must {
        Must::All => each.len(),
        Must::AllButOne => each.len().saturating_sub(1).max(1),
    };
    let factor = json!({ "field": "brevity", "missing": 0 });
    let sum = json!({ "function_score": {
        "query": { "bool": { "should": each, "minimum_should_match": least } },
        "functions": [{ "weight": 1 }, { "field_value_factor": factor }],
        "score_mode": "sum", "boost_mode": "multiply" } });
    json!({ "bool": { "must": [sum], "should": [scored(json!({ "match_all": {} }), WORDS)] } })
}

/// What is available, somewhere or at the location that is asked for: there it must be known.
fn in_stock(query: &SearchQuery, is: bool) -> Value {
    let available = match query.location_id {
        Some(location) => json!({ "term": { "available_at": location } }),
        None => json!({ "exists": { "field": "available_at" } }),
    };
    if is { available } else { json!({ "bool": { "must_not": available } }) }
}

/// What narrows a query, the tenant first of all.
fn filters(tenant: TenantId, query: &SearchQuery) -> Vec<Value> {
    let mut all = vec![json!({ "term": { "tenant": tenant.0 } }), json!({ "exists": { "field": "item_type" } })];
    all.extend(query.location_id.map(|location| json!({ "term": { "locations": location } })));
    all.extend(query.in_stock.map(|is| in_stock(query, is)));
    all.extend(query.category.as_ref().map(|category| json!({ "term": { "category": category } })));
    all.extend(query.item_type.map(|item_type| json!({ "term": { "item_type": item_type } })));
    all.extend(query.metadata.iter().map(|(key, value)| json!({ "term": { "pairs": pair(key, value) } })));
    all
}

fn facet(query: &SearchQuery, facet: Facet) -> Value {
    let terms = |field: &str| json!({ "terms": { "field": field, "size": BUCKETS_MAX, "order": [{ "_count": "desc" }, { "_key": "asc" }] } });
    match facet {
        Facet::Category => terms("category"),
        Facet::Type => terms("item_type"),
        Facet::InStock => {
            json!({ "filters": { "filters": { "true": in_stock(query, true), "false": in_stock(query, false) } } })
        }
        Facet::Location => terms("available_at"),
    }
}

/// The order; `None` where the engine does not know what is to be sorted by.
fn sort(sort: Sort) -> Option<Value> {
    let by = match sort {
        Sort::Relevance => json!({ "_score": "desc" }),
        Sort::Name => json!({ "name_sort": "asc" }),
        Sort::Sku => json!({ "sku": "asc" }),
        Sort::Updated => json!({ "updated_at": "desc" }),
        Sort::Available => return None,
    };
    Some(json!([by, { "item": "asc" }]))
}

/// A place as the engine takes it; `None` where it is none of ours.
fn place(sort: Sort, (value, item): &Place) -> Option<Value> {
    let value = match sort {
        Sort::Name | Sort::Sku => json!(value),
        Sort::Relevance => json!(value.parse::<f64>().ok()?),
        Sort::Available => return None,
        Sort::Updated => json!(value.parse::<Timestamp>().ok()?.micros()),
    };
    Some(json!([value, item]))
}

/// The request for a page; `None` in an order that the engine does not know. Fewer words may be looked for than were typed.
pub(super) fn page(tenant: TenantId, query: &SearchQuery, sought: &[Sought<'_>], must: Must) -> Option<Value> {
    let mut ways = Vec::new();
    if !query.text.is_empty() {
        ways.extend(codes(&query.text));
        if !sought.is_empty() {
            ways.push(all_words(&mark(tenant), sought, must));
        }
    }
    let text = if ways.is_empty() { json!({ "match_all": {} }) } else { json!({ "dis_max": { "queries": ways } }) };
    let facets: serde_json::Map<_, _> =
        query.facets.iter().map(|one| (one.name().to_owned(), facet(query, *one))).collect();
    let mut body = json!({
        "query": { "bool": { "filter": filters(tenant, query), "must": text } },
        "size": query.limit + 1,
        "sort": sort(query.sort)?,
        // Where it is sorted by, a hit's place in the order says it; the engine would compute it once more.
        "track_scores": query.sort != Sort::Relevance,
        "track_total_hits": MATCHES_MAX,
        "_source": ["item", "document"],
        "aggs": facets,
    });
    let after = query.after.as_ref().and_then(|after| place(query.sort, after));
    if let (Some(after), Some(body)) = (after, body.as_object_mut()) {
        body.insert("search_after".to_owned(), after);
    }
    Some(body)
}

/// The request that tells which words mean anything to a tenant, and whether an item has all of them.
pub(super) fn known(tenant: TenantId, sought: &[Sought<'_>]) -> Value {
    let mark = mark(tenant);
    let mut aggs: serde_json::Map<_, _> = sought
        .iter()
        .enumerate()
        .map(|(number, one)| (number.to_string(), json!({ "filter": word(&mark, *one) })))
        .collect();
    aggs.insert("all".to_owned(), json!({ "filter": all_words(&mark, sought, Must::All) }));
    json!({
        "query": { "bool": { "filter": [{ "term": { "tenant": tenant.0 } }] } },
        "size": 0, "track_total_hits": false, "aggs": aggs,
    })
}
