//! Search: items by what people type, with where they are, told apart and sorted.

use crate::reader::{Read, Reader};
use crate::text::Text;
use actix_web::body::BoxBody;
use actix_web::{HttpRequest, HttpResponse, Responder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use twh_domain::decimal::Quantity;
use twh_domain::documents::item::{Item, ItemType};
use twh_domain::outcome::Position;
use twh_domain::total::Total;
use twh_edge::access::{Scope, SearchItems};
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::openapi::{Describe, Operation};
use twh_edge::query::{self, Query};
use twh_sinks::search::text::{highlighted, words};
use twh_sinks::search::{
    self, Bucket, Facet, Found, Hit, LEVELS_MAX, Match, Place, SearchQuery, Sort, TEXT_LENGTH_MAX, WORDS_MAX, postgres,
};
use uuid::Uuid;

/// Hits in a page where the client does not say.
const LIMIT_DEFAULT: i64 = 20;
/// Most hits in a page.
const LIMIT_MAX: i64 = 100;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchParameters {
    /// What people type: a SKU or barcode or the beginning of one, or words of names and descriptions, misspelt or not, with or
    /// without accents. At most 300 characters and 16 words. Without it, everything is found.
    q: Option<Text>,
    /// Hits in the page; 20 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before, with the other parameters unchanged.
    cursor: Option<String>,
    /// Known at this location, by id; `in_stock` and `sort=available` then look there. Needs the scope `read:stock`.
    location_id: Option<Uuid>,
    /// The same, by code.
    location_code: Option<Text>,
    /// Whether something is available. Needs the scope `read:stock`.
    in_stock: Option<bool>,
    /// With this value of `category` in their metadata.
    category: Option<Text>,
    /// Of this type.
    #[serde(rename = "type")]
    item_type: Option<ItemType>,
    /// With all of these pairs in their metadata: a JSON object of texts, such as `{"color":"red"}`.
    metadata: Option<Text>,
    /// The order: `relevance` by default where there is a `q`, `sku` where there is none.
    #[schemars(extend("enum" = ["relevance", "name", "sku", "updated", "available"]))]
    sort: Option<String>,
    /// What matches are to be told apart by, with commas between: `category`, `location`, `in_stock`, `type`.
    facets: Option<String>,
}

/// Where a page ended, and of which order.
#[derive(Serialize, Deserialize)]
struct Ended {
    sort: Sort,
    place: Place,
    /// Whether the search engine has answered: places of one order differ between the two.
    by_engine: bool,
}

/// What was found.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SearchResult {
    /// A page of hits.
    data: Vec<SearchHit>,
    /// Send it as `cursor` for the next page; `null` at the end.
    next_cursor: Option<String>,
    total: SearchTotal,
    /// The facets that were asked for, each with its most frequent values (50 at most).
    facets: BTreeMap<&'static str, Vec<FacetValue>>,
}

/// How many matches there are.
#[derive(Serialize, JsonSchema)]
struct SearchTotal {
    count: i64,
    /// False where there are more than 10,000, or were before filters: then only the first 10,000 were filtered, sorted and
    /// told apart.
    is_exact: bool,
}

/// A value that matches can have.
#[derive(Serialize, JsonSchema)]
struct FacetValue {
    value: String,
    /// How many matches have it.
    count: i64,
}

/// An item that was found.
#[derive(Serialize, JsonSchema)]
struct SearchHit {
    #[schemars(with = "Item")]
    item: Box<RawValue>,
    /// `code` where a SKU or barcode is what was asked for, `code_prefix` where it begins like that, `words` where name or
    /// description have the words, `everything` where nothing was asked for.
    #[schemars(extend("enum" = ["code", "code_prefix", "words", "everything"]))]
    matched: &'static str,
    /// How well: of use only beside another hit of the same answer.
    score: f64,
    highlights: Highlights,
    /// Where it is; `null` for a caller without the scope `read:stock`.
    stock: Option<HitStock>,
}

/// Texts as HTML with what was asked for between `<em>` and `</em>`; `null` where it is not in them.
#[derive(Serialize, JsonSchema)]
struct Highlights {
    name: Option<String>,
    description: Option<String>,
}

/// How much there is of an item, and where.
#[derive(Serialize, JsonSchema)]
struct HitStock {
    /// What can be promised, over all locations.
    available: Total,
    /// At the first 100 locations by their codes.
    levels: Vec<HitLevel>,
    /// Whether there are more: `GET /v1/stock` with its `item_id` lists all, page by page.
    has_more_levels: bool,
}

/// How much of an item a location holds.
#[derive(Serialize, JsonSchema)]
struct HitLevel {
    location_id: Uuid,
    location_code: String,
    qty_on_hand: Quantity,
    qty_reserved: Quantity,
    available: Total,
}

/// What was found, what found it, and the last command that it reflects.
pub(crate) struct SearchAnswer {
    result: SearchResult,
    reflects: Option<Position>,
    by: &'static str,
}

/// What `X-TWH-Search` says.
const BY_POSTGRES: &str = "postgres";
const BY_ELASTICSEARCH: &str = "elasticsearch";
/// There is a search engine, and it is away or does not reflect what was asked for.
const BY_FALLBACK: &str = "postgres-fallback";

impl Responder for SearchAnswer {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        response.insert_header(("x-twh-search", self.by));
        if let Some(position) = self.reflects {
            response.insert_header(("x-twh-reflects", position.to_string()));
        }
        response.json(&self.result)
    }
}

impl Describe for SearchAnswer {
    fn describe(operation: &mut Operation<'_>) {
        let schema = json!(operation.output::<SearchResult>());
        operation.answers(200, "OK", Some(&schema), &["X-TWH-Search", "X-TWH-Reflects"]);
    }
}

fn text_asked(text: Option<Text>) -> Result<String, ApiError> {
    let text: String = text.map(Text::into).unwrap_or_default();
    if text.chars().count() > TEXT_LENGTH_MAX {
        return Err(query::invalid("q", &format!("must be at most {TEXT_LENGTH_MAX} characters")));
    }
    let text = text.trim().to_owned();
    if words(&text).len() > WORDS_MAX {
        return Err(query::invalid("q", &format!("must be at most {WORDS_MAX} words")));
    }
    Ok(text)
}

fn sort_asked(name: Option<&str>, has_text: bool) -> Result<Sort, ApiError> {
    match name {
        None => Ok(if has_text { Sort::Relevance } else { Sort::Sku }),
        Some("relevance") => Ok(Sort::Relevance),
        Some("name") => Ok(Sort::Name),
        Some("sku") => Ok(Sort::Sku),
        Some("updated") => Ok(Sort::Updated),
        Some("available") => Ok(Sort::Available),
        Some(_) => Err(query::invalid("sort", "must be relevance, name, sku, updated or available")),
    }
}

fn facets_asked(names: Option<&str>) -> Result<Vec<Facet>, ApiError> {
    let Some(names) = names else { return Ok(Vec::new()) };
    let mut facets = names
        .split(',')
        .map(|name| Facet::ALL.into_iter().find(|facet| facet.name() == name.trim()))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| {
            query::invalid("facets", "must be of category, location, in_stock and type, with commas between")
        })?;
    facets.sort();
    facets.dedup();
    Ok(facets)
}

fn metadata_asked(text: Option<Text>) -> Result<BTreeMap<String, String>, ApiError> {
    let Some(text) = text else { return Ok(BTreeMap::new()) };
    let pairs: BTreeMap<String, String> = serde_json::from_str(&String::from(text))
        .map_err(|_| query::invalid("metadata", "must be a JSON object of texts, such as {\"color\":\"red\"}"))?;
    if pairs.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        return Err(query::invalid("metadata", "must not hold NUL"));
    }
    Ok(pairs)
}

async fn location_asked(reader: &Read, id: Option<Uuid>, code: Option<Text>) -> Result<Option<Uuid>, ApiError> {
    let Some(code) = code.map(String::from) else { return Ok(id) };
    if id.is_some() {
        return Err(query::invalid("location_code", "must not be given beside location_id"));
    }
    let found = postgres::location_of_code(&mut *reader.ledger().await?, reader.tenant_id, &code).await;
    let found = found.map_err(ApiError::database)?;
    found.map(Some).ok_or_else(|| query::invalid("location_code", "is the code of none of your locations"))
}

/// Refuses what would let on how much there is to a caller who may not see it.
fn may_ask_for_stock(reader: &Read, query: &SearchQuery) -> Result<(), ApiError> {
    let asks = query.location_id.is_some()
        || query.in_stock.is_some()
        || query.sort == Sort::Available
        || query.facets.iter().any(|facet| matches!(facet, Facet::Location | Facet::InStock));
    if !asks || reader.scopes.has(Scope::ReadStock) {
        return Ok(());
    }
    let message = "location, in_stock and available need the scope read:stock";
    let details = json!([{ "needs_one_of": [Scope::ReadStock.name()], "scopes": reader.scopes.names() }]);
    Err(ApiError::new(ErrorCode::Forbidden, message).details(details))
}

/// The query, and whether the page before it is the search engine's.
async fn read(reader: &Read, asked: SearchParameters) -> Result<(SearchQuery, Option<bool>), ApiError> {
    let text = text_asked(asked.q)?;
    let limit = match asked.limit {
        None => LIMIT_DEFAULT,
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => limit,
        Some(_) => return Err(query::invalid("limit", &format!("must be 1 to {LIMIT_MAX}"))),
    };
    let sort = sort_asked(asked.sort.as_deref(), !text.is_empty())?;
    let after = match asked.cursor.as_deref().map(cursor::decode::<Ended>).transpose()? {
        Some(ended) if ended.sort != sort => {
            return Err(query::invalid("cursor", "is of another order: leave the other parameters as they were"));
        }
        ended => ended.map(|ended| checked(sort, ended.place).map(|place| (place, ended.by_engine))).transpose()?,
    };
    let (after, by_engine) = after.unzip();
    let location_id = location_asked(reader, asked.location_id, asked.location_code).await?;
    let query = SearchQuery {
        text,
        location_id,
        in_stock: asked.in_stock,
        category: asked.category.map(Text::into),
        item_type: asked.item_type.map(ItemType::name),
        metadata: metadata_asked(asked.metadata)?,
        sort,
        facets: facets_asked(asked.facets.as_deref())?,
        after,
        limit,
    };
    Ok((query, by_engine))
}

/// A place as it can be in this order: what is none of ours is told so, before the database is asked.
fn checked(sort: Sort, place: Place) -> Result<Place, ApiError> {
    let text = place.0.as_str();
    let is_sound = match sort {
        Sort::Relevance => text.parse::<f64>().is_ok_and(f64::is_finite),
        Sort::Available => text.parse::<i128>().is_ok(),
        Sort::Updated => {
            text.len() <= 40
                && text.replacen(' ', "T", 1).replace("+00", "Z").parse::<twh_domain::timestamp::Timestamp>().is_ok()
        }
        Sort::Name | Sort::Sku => !text.contains('\0'),
    };
    if is_sound { Ok(place) } else { Err(query::invalid("cursor", "is not a cursor of ours")) }
}

#[derive(Deserialize)]
struct Texts {
    name: Option<String>,
    description: Option<String>,
}

fn level(level: &search::HitLevel) -> HitLevel {
    HitLevel {
        location_id: level.location_id,
        location_code: level.location_code.clone(),
        qty_on_hand: level.on_hand,
        qty_reserved: level.reserved,
        available: Total::from(level.on_hand) - Total::from(level.reserved),
    }
}

fn hit(found: Hit, asked: &[String], sees_stock: bool) -> SearchHit {
    let texts: Option<Texts> = serde_json::from_str(found.document.get()).ok();
    let marked = |text: Option<&String>| text.and_then(|text| highlighted(text, asked));
    let stock = &found.stock;
    SearchHit {
        matched: match found.matched {
            Match::Code => "code",
            Match::CodePrefix => "code_prefix",
            Match::Words => "words",
            Match::Everything => "everything",
        },
        score: found.score,
        highlights: Highlights {
            name: marked(texts.as_ref().and_then(|texts| texts.name.as_ref())),
            description: marked(texts.as_ref().and_then(|texts| texts.description.as_ref())),
        },
        stock: sees_stock.then(|| HitStock {
            available: stock.available,
            levels: stock.levels.iter().map(level).collect(),
            has_more_levels: stock.locations > LEVELS_MAX,
        }),
        item: found.document,
    }
}

fn result(found: Found, query: &SearchQuery, sees_stock: bool, by: &str) -> SearchResult {
    let last = found.hits.last().filter(|_| found.has_more);
    let next_cursor = last.map(|last| {
        let place = (last.place.clone(), last.item_id);
        cursor::encode(&Ended { sort: query.sort, place, by_engine: by == BY_ELASTICSEARCH })
    });
    let asked = words(&query.text);
    let value = |bucket: Bucket| FacetValue { value: bucket.value, count: bucket.count };
    SearchResult {
        data: found.hits.into_iter().map(|one| hit(one, &asked, sees_stock)).collect(),
        next_cursor,
        total: SearchTotal { count: found.total, is_exact: found.total_is_exact },
        facets: found
            .facets
            .into_iter()
            .map(|(facet, buckets)| (facet.name(), buckets.into_iter().map(value).collect()))
            .collect(),
    }
}

pub(crate) async fn items(
    reader: Reader<SearchItems>,
    query: Query<SearchParameters>,
) -> Result<SearchAnswer, ApiError> {
    let (query, engine) = read(&reader, query.read()?).await?;
    may_ask_for_stock(&reader, &query)?;
    let (mut found, by) = match &reader.engine {
        None => (None, BY_POSTGRES),
        // How much there is only the ledger knows.
        Some(_) if query.sort == Sort::Available => (None, BY_POSTGRES),
        // A page that follows one of PostgreSQL's is PostgreSQL's too.
        Some(_) if engine == Some(false) => (None, BY_FALLBACK),
        Some(engine) => {
            let found = engine.search(&reader, &query).await?;
            let by = if found.is_some() { BY_ELASTICSEARCH } else { BY_FALLBACK };
            (found, by)
        }
    };
    if found.is_none() && engine == Some(true) {
        let message = "the search engine, which the page before is from, does not answer; begin again without a cursor";
        return Err(ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(2));
    }
    let mut found = match found.take() {
        Some(found) => found,
        None => {
            let _turn = match &reader.engine {
                Some(engine) if by == BY_FALLBACK => Some(engine.stand_in().await?),
                _ => None,
            };
            let found = postgres::search(&mut *reader.ledger().await?, reader.tenant_id, &query).await;
            found.map_err(ApiError::database)?
        }
    };
    let reflects = found.reflects.take();
    let sees_stock = reader.scopes.has(Scope::ReadStock);
    Ok(SearchAnswer { result: result(found, &query, sees_stock, by), reflects, by })
}
