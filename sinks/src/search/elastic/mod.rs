//! Search in Elasticsearch (or what speaks its protocol): made of events, apart from the ledger, and as much behind it as it
//! says.
//!
//! An item's version is the tenant's last event that changed it, and the engine refuses an older one over a newer
//! (`version_type=external_gte`), so whoever writes late or again does no harm. A tenant is told apart by routing and by a
//! filter, never by what is typed.

mod document;
mod query;

pub use document::{IndexedItem, id};

use super::{Bucket, Found, Hit, HitStock, Match, SearchQuery, Sort, page};
use crate::search::text::{mistakes_max, words};
use elasticsearch::auth::Credentials;
use elasticsearch::http::StatusCode;
use elasticsearch::http::response::Response;
use elasticsearch::http::transport::{BuildError, SingleNodeConnectionPool, TransportBuilder};
use elasticsearch::indices::{
    IndicesCreateParts, IndicesDeleteParts, IndicesExistsParts, IndicesGetAliasParts, IndicesRefreshParts,
};
use elasticsearch::params::Refresh;
use elasticsearch::{BulkParts, Elasticsearch, MgetParts, SearchParts};
use query::{Mistakes, Must, Sought};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use twh_domain::id::{ItemId, TenantId};
use twh_domain::timestamp::Timestamp;
use url::Url;
use uuid::Uuid;

/// How long a search may take before something else answers.
const SEARCH_DEADLINE: Duration = Duration::from_secs(2);
/// How long whatever is no search may take.
const WORK_DEADLINE: Duration = Duration::from_secs(60);
/// What goes into a request, once it is so much: the engine takes 100 MB.
const BULK_BYTES: usize = 8 * 1024 * 1024;
/// How soon what is written is found: each time the engine marks what was replaced in every segment that has any of it, and makes
/// another segment.
const REFRESH_INTERVAL: &str = "1s";
/// Segments of about one size: half of what the engine would keep. A search looks into each segment, and all that a word may be a
/// misspelling of it looks up in each.
const SEGMENTS_PER_TIER: u32 = 5;
/// What an error of the engine is cut to, in characters.
const REASON_LENGTH_MAX: usize = 300;
/// What the engine calls an index that is not there.
const NO_INDEX: &str = "index_not_found_exception";

/// Why the engine does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ElasticError {
    /// The address is not one.
    #[error("the search engine's address is not usable: {0}")]
    Address(String),
    /// It is away, slow, or has too much to do.
    #[error("the search engine does not answer: {0}")]
    Away(String),
    /// An index that should be there is not.
    #[error("the index {0} is not there")]
    NoIndex(String),
    /// It answers that it will not.
    #[error("the search engine refuses: {0}")]
    Refused(String),
    /// It does not take a document, or gives one that is not understood, whenever it is asked; others it does.
    #[error("the search engine refuses a document: {0}")]
    Document(String),
}

impl From<elasticsearch::Error> for ElasticError {
    fn from(error: elasticsearch::Error) -> Self {
        // Its text names the URL, which may hold a password.
        let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
        let kind = if error.is_timeout() { "no answer in time" } else { "no connection, or not what was expected" };
        Self::Away(format!("{kind}{source}"))
    }
}

impl From<BuildError> for ElasticError {
    fn from(error: BuildError) -> Self {
        Self::Address(error.to_string())
    }
}

/// What became of documents that were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// They stand as they were written.
    pub written: usize,
    /// A newer one stands there.
    pub outdated: usize,
}

impl Written {
    const fn add(&mut self, other: Self) {
        self.written += other.written;
        self.outdated += other.outdated;
    }
}

/// The search engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Elastic {
    search: Elasticsearch,
    work: Elasticsearch,
}

fn client(url: &Url, deadline: Duration) -> Result<Elasticsearch, ElasticError> {
    let mut plain = url.clone();
    let credentials = url.password().map(|password| {
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        Credentials::Basic(decoded(url.username()), decoded(password))
    });
    let unsound = || ElasticError::Address("its user or password cannot be taken out".to_owned());
    plain.set_username("").map_err(|()| unsound())?;
    plain.set_password(None).map_err(|()| unsound())?;
    let mut transport = TransportBuilder::new(SingleNodeConnectionPool::new(plain)).timeout(deadline).disable_proxy();
    if let Some(credentials) = credentials {
        transport = transport.auth(credentials);
    }
    Ok(Elasticsearch::new(transport.build()?))
}

/// The answer, or what it says went wrong.
async fn accepted(response: Response) -> Result<Response, ElasticError> {
    let status = response.status_code();
    if status.is_success() {
        return Ok(response);
    }
    let body: Value = response.json().await.unwrap_or_default();
    let of_error = |field: &str| body.pointer(field).and_then(Value::as_str);
    let reason = of_error("/error/reason").or_else(|| of_error("/error")).unwrap_or_default();
    let reason: String = format!("{status}: {reason}").chars().take(REASON_LENGTH_MAX).collect();
    if of_error("/error/type") == Some(NO_INDEX) {
        return Err(ElasticError::NoIndex(of_error("/error/index").unwrap_or_default().to_owned()));
    }
    Err(match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => ElasticError::Away(reason),
        status if status.is_server_error() => ElasticError::Away(reason),
        StatusCode::PAYLOAD_TOO_LARGE => ElasticError::Document(reason),
        _ => ElasticError::Refused(reason),
    })
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, ElasticError> {
    let text = accepted(response).await?.text().await?;
    serde_json::from_str(&text).map_err(|error| ElasticError::Refused(format!("its answer is not understood: {error}")))
}

/// The name under which an index is written: once the index is gone nothing brings it back.
fn writing(index: &str) -> String {
    format!("{index}-write")
}

fn definition(index: &str) -> Value {
    let keyword = json!({ "type": "keyword", "ignore_above": 8_000 });
    let unsorted = json!({ "type": "keyword", "doc_values": false, "ignore_above": 8_000 });
    let words = json!({ "type": "text", "analyzer": "whitespace", "norms": false, "index_options": "docs" });
    let text = json!({ "type": "text", "analyzer": "whitespace", "norms": false, "index_options": "docs",
        "index_prefixes": { "min_chars": document::MARK_LENGTH + 1, "max_chars": query::PREFIX_LENGTH_MAX },
        "copy_to": query::ALL_FIELDS });
    let long = json!({ "type": "long" });
    json!({
        "settings": { "index": {
            "number_of_shards": 1, "auto_expand_replicas": "0-1", "refresh_interval": REFRESH_INTERVAL,
            "merge.policy.segments_per_tier": SEGMENTS_PER_TIER } },
        "mappings": { "dynamic": false, "_routing": { "required": true }, "properties": {
            "tenant": keyword, "item": keyword, "sequence": long, "document": { "type": "object", "enabled": false },
            "sku": keyword, "codes": unsorted, "codes_folded": unsorted, "name_sort": keyword, "name": text,
            "description": text, (query::ALL_FIELDS): words, "brevity": { "type": "float" }, "item_type": keyword, "category": keyword,
            "pairs": unsorted, "updated_at": long, "locations": unsorted, "available_at": keyword } },
        "aliases": { (writing(index)): {} },
    })
}

#[derive(Deserialize)]
struct Got {
    docs: Vec<GotOne>,
}

#[derive(Deserialize)]
struct GotOne {
    #[serde(rename = "_source")]
    source: Option<Box<RawValue>>,
    error: Option<Failure>,
}

/// What the engine says went wrong with a document.
#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct BulkAnswer {
    items: Vec<BulkItem>,
}

#[derive(Deserialize)]
struct BulkItem {
    index: BulkResult,
}

#[derive(Deserialize)]
struct BulkResult {
    status: u16,
    error: Option<Failure>,
}

impl Elastic {
    /// An engine at an address such as `http://127.0.0.1:9200` or `https://user:password@search.example.com`. Does not connect.
    pub fn new(url: &str) -> Result<Self, ElasticError> {
        let url = Url::parse(url).map_err(|error| ElasticError::Address(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ElasticError::Address("it must begin with http:// or https://".to_owned()));
        }
        Ok(Self { search: client(&url, SEARCH_DEADLINE)?, work: client(&url, WORK_DEADLINE)? })
    }

    /// Makes an index; one that is there stays as it is.
    pub async fn create(&self, index: &str) -> Result<(), ElasticError> {
        if self.exists(index).await? {
            return Ok(());
        }
        let made = self.work.indices().create(IndicesCreateParts::Index(index)).body(definition(index)).send().await?;
        match accepted(made).await {
            Ok(_) => Ok(()),
            // Somebody else was quicker.
            Err(error) => {
                if self.exists(index).await? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Whether an index is there.
    pub async fn exists(&self, index: &str) -> Result<bool, ElasticError> {
        let answer = self.work.indices().exists(IndicesExistsParts::Index(&[index])).send().await?;
        match answer.status_code() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            other => Err(ElasticError::Away(other.to_string())),
        }
    }

    /// Deletes an index, if it is there.
    pub async fn delete(&self, index: &str) -> Result<(), ElasticError> {
        let gone =
            self.work.indices().delete(IndicesDeleteParts::Index(&[index])).ignore_unavailable(true).send().await?;
        match accepted(gone).await {
            Ok(_) | Err(ElasticError::NoIndex(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes an index the one that an alias means, and no other, at one moment.
    pub async fn serve(&self, alias: &str, index: &str) -> Result<(), ElasticError> {
        let before = self.work.indices().get_alias(IndicesGetAliasParts::Name(&[alias])).send().await?;
        let before: HashMap<String, Value> =
            if before.status_code() == StatusCode::NOT_FOUND { HashMap::new() } else { read(before).await? };
        let mut actions: Vec<_> = before
            .keys()
            .filter(|other| *other != index)
            .map(|other| json!({ "remove": { "index": other, "alias": alias } }))
            .collect();
        actions.push(json!({ "add": { "index": index, "alias": alias } }));
        let swapped = self.work.indices().update_aliases().body(json!({ "actions": actions })).send().await?;
        accepted(swapped).await.map(|_| ())
    }

    /// Makes what is written findable now.
    pub async fn refresh(&self, index: &str) -> Result<(), ElasticError> {
        accepted(self.work.indices().refresh(IndicesRefreshParts::Index(&[index])).send().await?).await.map(|_| ())
    }

    /// Items as they stand in an index, those that do: also what is not found yet.
    pub async fn items(
        &self,
        index: &str,
        ids: &[(TenantId, ItemId)],
    ) -> Result<HashMap<ItemId, IndexedItem>, ElasticError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let docs: Vec<_> = ids
            .iter()
            .map(|(tenant, item)| json!({ "_id": id(*tenant, item.0), "routing": tenant.0.simple().to_string() }))
            .collect();
        let got = self.work.mget(MgetParts::Index(index)).body(json!({ "docs": docs })).send().await?;
        let got: Got = read(got).await?;
        if let Some(error) = got.docs.iter().find_map(|one| one.error.as_ref()) {
            return Err(if error.kind == NO_INDEX {
                ElasticError::NoIndex(index.to_owned())
            } else {
                ElasticError::Away(error.reason.clone())
            });
        }
        let item = |source: Box<RawValue>| {
            let item: IndexedItem = serde_json::from_str(source.get())
                .map_err(|error| ElasticError::Document(format!("one that stands in it is not understood: {error}")))?;
            Ok((item.item, item))
        };
        got.docs.into_iter().filter_map(|one| one.source).map(item).collect()
    }

    /// Writes items into an index; returns once they are found, where asked to wait for that: the index has one shard, so with the
    /// last of them all are.
    pub async fn write(&self, index: &str, items: &[IndexedItem], until_found: bool) -> Result<Written, ElasticError> {
        let (mut written, mut lines, mut bytes) = (Written::default(), Vec::with_capacity(items.len() * 2), 0);
        for item in items {
            if bytes >= BULK_BYTES {
                written.add(self.bulk(index, std::mem::take(&mut lines), false).await?);
                bytes = 0;
            }
            let action = json!({ "index": { "_id": item.id(), "routing": item.tenant.0.simple().to_string(),
                "version": item.sequence, "version_type": "external_gte" } });
            let document = serde_json::to_string(item).map_err(|error| ElasticError::Refused(error.to_string()))?;
            bytes += document.len();
            lines.extend([action.to_string(), document]);
        }
        if !lines.is_empty() {
            written.add(self.bulk(index, lines, until_found).await?);
        }
        Ok(written)
    }

    async fn bulk(&self, index: &str, lines: Vec<String>, until_found: bool) -> Result<Written, ElasticError> {
        let alias = writing(index);
        let bulk = self.work.bulk(BulkParts::Index(&alias)).require_alias(true);
        let bulk = if until_found { bulk.refresh(Refresh::WaitFor) } else { bulk };
        let answer: BulkAnswer = read(bulk.body(lines).send().await?).await?;
        let mut written = Written::default();
        for BulkItem { index: result } in answer.items {
            match (result.status, result.error) {
                (200..=299, _) => written.written += 1,
                (409, _) => written.outdated += 1,
                (404, _) => return Err(ElasticError::NoIndex(index.to_owned())),
                (status, error) => {
                    let reason = error.map(|error| error.reason).unwrap_or_default();
                    let text = format!("{status}: {}", reason.chars().take(REASON_LENGTH_MAX).collect::<String>());
                    return Err(match status {
                        429 | 500.. => ElasticError::Away(text),
                        400 | 413 => ElasticError::Document(text),
                        _ => ElasticError::Refused(text),
                    });
                }
            }
        }
        Ok(written)
    }

    /// Searches a tenant's items in an index or alias. Hits have no levels yet, and locations no codes. `unknown` are those words of
    /// the query that can be nothing but misspellings.
    pub async fn search(
        &self,
        alias: &str,
        tenant: TenantId,
        query: &SearchQuery,
        unknown: &[String],
    ) -> Result<Found, ElasticError> {
        let words = words(&query.text);
        let with = |most: Mistakes| words.iter().map(|word| Sought::new(word, most)).collect::<Vec<_>>();
        // Beside a size or a code that nothing has, no misspelling helps.
        let helps = unknown.iter().all(|word| mistakes_max(word) > 0);
        let most = |word| if helps && unknown.contains(word) { Mistakes::One } else { Mistakes::None };
        let as_typed: Vec<_> = words.iter().map(|word| Sought::new(word, most(word))).collect();
        let (one, two) = (with(Mistakes::One), with(Mistakes::Two));
        let mut found = self.page(alias, tenant, query, &as_typed, Must::All).await?;
        // Likeness is what the engine works longest for, and two mistakes longest of all: only where nothing has fewer.
        for (before, sought) in [(&as_typed, &one), (&one, &two)] {
            if found.total == 0 && sought != before {
                found = self.page(alias, tenant, query, sought, Must::All).await?;
            }
        }
        if found.total > 0 || words.is_empty() {
            return Ok(found);
        }
        let Some(known) = self.known(alias, tenant, &two).await? else { return Ok(found) };
        // A query of which most words mean nothing here is not answered with the rest.
        if known.is_empty() || known.len() * 2 < words.len() {
            return Ok(found);
        }
        if known.len() < words.len() {
            found = self.page(alias, tenant, query, &known, Must::All).await?;
        }
        if found.total > 0 || known.len() < 2 {
            return Ok(found);
        }
        self.page(alias, tenant, query, &known, Must::AllButOne).await
    }

    async fn ask<T: DeserializeOwned>(&self, alias: &str, tenant: TenantId, body: Value) -> Result<T, ElasticError> {
        let routing = tenant.0.simple().to_string();
        let answer = self.search.search(SearchParts::Index(&[alias])).routing(&[&routing]).body(body).send().await?;
        read(answer).await
    }

    async fn page(
        &self,
        alias: &str,
        tenant: TenantId,
        query: &SearchQuery,
        sought: &[Sought<'_>],
        must: Must,
    ) -> Result<Found, ElasticError> {
        let Some(body) = query::page(tenant, query, sought, must) else {
            return Err(ElasticError::Refused("it does not know how much there is, to sort by it".to_owned()));
        };
        let answer: Answer = self.ask(alias, tenant, body).await?;
        found(answer, query).ok_or_else(|| ElasticError::Refused("its answer is not understood".to_owned()))
    }

    /// Those of some words that mean anything to a tenant; `None` where an item has all of them.
    async fn known<'a>(
        &self,
        alias: &str,
        tenant: TenantId,
        sought: &[Sought<'a>],
    ) -> Result<Option<Vec<Sought<'a>>>, ElasticError> {
        let answer: Answer = self.ask(alias, tenant, query::known(tenant, sought)).await?;
        let count = |name: &str| {
            answer.aggregations.get(name).and_then(|one| one.get("doc_count")?.as_i64()).unwrap_or_default()
        };
        if count("all") > 0 {
            return Ok(None);
        }
        let known = sought.iter().enumerate().filter(|(number, _)| count(&number.to_string()) > 0);
        Ok(Some(known.map(|(_, one)| *one).collect()))
    }
}

#[derive(Deserialize)]
struct Answer {
    hits: Hits,
    #[serde(default)]
    aggregations: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Hits {
    total: Option<Total>,
    hits: Vec<HitAnswer>,
}

#[derive(Deserialize)]
struct Total {
    value: i64,
    relation: String,
}

#[derive(Deserialize)]
struct HitAnswer {
    #[serde(rename = "_score")]
    score: Option<f64>,
    #[serde(rename = "_source")]
    source: Source,
    sort: Vec<Value>,
}

#[derive(Deserialize)]
struct Source {
    item: Uuid,
    document: Option<Box<RawValue>>,
}

fn found(answer: Answer, query: &SearchQuery) -> Option<Found> {
    let total = answer.hits.total?;
    let hits: Option<Vec<_>> = answer.hits.hits.into_iter().map(|one| hit(one, query)).collect();
    let facets = query
        .facets
        .iter()
        .map(|facet| Some((*facet, buckets(answer.aggregations.get(facet.name())?)?)))
        .collect::<Option<_>>()?;
    let (hits, has_more) = page(hits?, query.limit);
    let total_is_exact = total.relation == "eq";
    Some(Found { hits, has_more, total: total.value, total_is_exact, facets, reflects: None })
}

fn buckets(answer: &Value) -> Option<Vec<Bucket>> {
    let bucket =
        |value: &str, one: &Value| Some(Bucket { value: value.to_owned(), count: one.get("doc_count")?.as_i64()? });
    let mut all: Vec<_> = match answer.get("buckets")? {
        Value::Array(all) => all.iter().map(|one| bucket(one.get("key")?.as_str()?, one)).collect::<Option<_>>()?,
        Value::Object(all) => all.iter().map(|(value, one)| bucket(value, one)).collect::<Option<_>>()?,
        _ => return None,
    };
    all.retain(|one| one.count > 0);
    all.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
    Some(all)
}

fn hit(one: HitAnswer, query: &SearchQuery) -> Option<Hit> {
    let place = one.sort.first()?;
    let score = if query.sort == Sort::Relevance { place.as_f64() } else { one.score }.unwrap_or_default();
    let matched = match score {
        _ if query.text.is_empty() => Match::Everything,
        score if score >= query::CODE_FOLDED => Match::Code,
        score if score >= query::CODE_PREFIX => Match::CodePrefix,
        _ => Match::Words,
    };
    let place = match (query.sort, place) {
        (Sort::Updated, micros) => Timestamp::from_micros(micros.as_i64()?).to_string(),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Null) => String::new(),
        (_, other) => other.to_string(),
    };
    Some(Hit {
        item_id: one.source.item,
        matched,
        score,
        place,
        document: one.source.document?,
        stock: HitStock::default(),
    })
}
