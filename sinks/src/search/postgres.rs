//! Search in the ledger's own database: never behind, nothing to run besides. What finds items is `search_items` (migrations
//! 0020 and on); what is here filters, counts and sorts them under the tenant's row-level security, in one statement.

use super::text::is_compact;
use super::{
    BUCKETS_MAX, Bucket, Facet, Found, Hit, HitLevel, HitStock, LEVELS_MAX, MATCHES_MAX, Match, SearchQuery, Sort, page,
};
use crate::postgres::columns::micros;
use crate::postgres::page::PAGE_BYTES_MAX;
use crate::postgres::standing::reflects;
use crate::postgres::totals::total;
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::{BTreeMap, HashMap};
use twh_domain::id::TenantId;
use uuid::Uuid;

/// How long a search may take: filters without words look through all items.
const DEADLINE: &str = "set local statement_timeout = '3s'";

/// The statement's answer, as JSON.
#[derive(Deserialize)]
struct Rows {
    candidates: i64,
    total: i64,
    /// How many hits the page has, also those that are beyond what an answer may hold.
    in_page: usize,
    hits: Vec<HitRow>,
    facets: BTreeMap<Facet, Vec<Bucket>>,
}

#[derive(Deserialize)]
struct HitRow {
    id: Uuid,
    tier: i32,
    score: f64,
    place: String,
    document: Box<RawValue>,
}

/// The column that an order goes by, its type, and whether the greatest comes first.
const fn order(sort: Sort) -> (&'static str, &'static str, bool) {
    match sort {
        Sort::Relevance => ("f.tier * 100 + f.score", "float8", true),
        Sort::Name => ("f.name_key", "text", false),
        Sort::Sku => ("f.code", "text", false),
        Sort::Updated => ("f.updated_at", "timestamptz", true),
        Sort::Available => ("f.available", "numeric", true),
    }
}

fn facet(facet: Facet) -> String {
    let counted = match facet {
        Facet::Category => {
            "select f.category as value, count(*) from filtered f where f.category is not null group by 1"
        }
        Facet::InStock => "select f.is_available::text as value, count(*) from filtered f group by 1",
        Facet::Type => "select f.item_type as value, count(*) from filtered f group by 1",
        Facet::Location => {
            "select p.code as value, count(*) from filtered f
             join stock_levels l on l.tenant_id = $1 and l.item_id = f.id and l.on_hand_micro > l.reserved_micro
             join locations p on p.tenant_id = $1 and p.id = l.location_id group by 1"
        }
    };
    format!(
        "'{}', (select coalesce(json_agg(b order by b.count desc, b.value), '[]')
                from (select * from ({counted}) c order by c.count desc, c.value limit {BUCKETS_MAX}) b)",
        facet.name()
    )
}

/// The statement for a query: of fixed parts only, since values are bound.
fn statement(query: &SearchQuery) -> String {
    let wants = |one: Facet| query.facets.contains(&one);
    let (matched, kept, candidates) = if query.text.is_empty() {
        let all = "select i.id as item_id, 0 as tier, 0::float8 as score from items i where i.tenant_id = $1";
        (all, "not materialized", "0")
    } else {
        let some = "select s.item_id, max(s.tier) as tier, max(s.score)::float8 as score from search_items($2, $12 + 1) s group by s.item_id";
        (some, "materialized", "(select count(*) from matched)")
    };
    // What is not asked for is not computed: a document is read once for each column.
    let name = if query.sort == Sort::Name { "lower(coalesce(i.document ->> 'name', ''))" } else { "null::text" };
    let category = if wants(Facet::Category) { "i.document -> 'metadata' ->> 'category'" } else { "null::text" };
    let item_type = if wants(Facet::Type) { "i.document ->> 'type'" } else { "null::text" };
    let of_stock = query.location_id.is_some()
        || query.in_stock.is_some()
        || query.sort == Sort::Available
        || wants(Facet::InStock);
    let stock = if of_stock {
        "(select coalesce(sum(l.on_hand_micro - l.reserved_micro), 0) as available,
                 coalesce(bool_or(l.on_hand_micro > l.reserved_micro), false) as is_available, count(*) > 0 as is_known
          from stock_levels l
          where l.tenant_id = $1 and l.item_id = i.id and ($3::uuid is null or l.location_id = $3))"
    } else {
        "(select null::numeric as available, null::boolean as is_available, true as is_known)"
    };
    let (column, of_type, greatest_first) = order(query.sort);
    let (beyond, direction) = if greatest_first { ("<", "desc") } else { (">", "asc") };
    let facets = query.facets.iter().map(|one| facet(*one)).collect::<Vec<_>>().join(", ");
    format!(
        "with matched as {kept} ({matched}),
         filtered as materialized (
             select i.id, i.code, i.updated_at, m.tier, m.score, s.available, s.is_available, {name} as name_key, {category} as category,
                    {item_type} as item_type
             from matched m join items i on i.tenant_id = $1 and i.id = m.item_id
             cross join lateral {stock} s
             where ($3::uuid is null or s.is_known) and ($4::boolean is null or s.is_available = $4)
               and ($5::text is null or i.document -> 'metadata' ->> 'category' = $5)
               and ($6::text is null or i.document ->> 'type' = $6)
               and ($7::text[] is null or not exists (select from unnest($7, $8::text[]) p (key, value)
                    where i.document -> 'metadata' ->> p.key is distinct from p.value))
             limit $12 + 1),
         page as (
             select f.id, f.tier, f.score, {column} as place from filtered f
             where $9::text is null or {column} {beyond} $9::{of_type} or ({column} = $9::{of_type} and f.id > $10)
             order by place {direction}, f.id limit $11),
         sized as (
             select p.*, i.document, sum(octet_length(i.document::text)) over (order by p.place {direction}, p.id)
                        - octet_length(i.document::text) as bytes_before
             from page p join items i on i.tenant_id = $1 and i.id = p.id)
         select json_build_object(
             'candidates', {candidates}, 'total', (select count(*) from filtered), 'in_page', (select count(*) from page),
             'facets', json_build_object({facets}),
             'hits', (select coalesce(json_agg(json_build_object('id', h.id, 'tier', h.tier, 'score', h.score,
                     'place', h.place::text, 'document', h.document) order by h.place {direction}, h.id), '[]')
                 from sized h where h.bytes_before < {PAGE_BYTES_MAX}))::text as found"
    )
}

/// The location with a code.
pub async fn location_of_code(
    connection: &mut PgConnection,
    tenant: TenantId,
    code: &str,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select id from locations where tenant_id = $1 and code = $2")
        .bind(tenant.0)
        .bind(code)
        .fetch_optional(connection)
        .await
}

/// Those of some words that no word of the tenant's items ever was or began like: they can be nothing but misspellings. The words of
/// scripts without spaces, which may be parts of others, are none of these.
pub async fn unknown_words(
    connection: &mut PgConnection,
    tenant: TenantId,
    words: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    let words: Vec<_> = words.iter().map(String::as_str).filter(|word| !is_compact(word)).collect();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    // The first word that does not come before it begins like it, if any does: one look into the index.
    sqlx::query_scalar(
        "select asked.word
         from unnest($2::text[]) asked (word)
         left join lateral (
             select s.word from search_words s where s.tenant_id = $1 and s.word >= left(asked.word, 64)
             order by s.word limit 1) nearest on true
         where nearest.word is null or not starts_with(nearest.word, left(asked.word, 64))",
    )
    .bind(tenant.0)
    .bind(words)
    .fetch_all(connection)
    .await
}

/// Tells of hits how much there is of them, and where.
pub async fn add_stock(connection: &mut PgConnection, tenant: TenantId, hits: &mut [Hit]) -> Result<(), sqlx::Error> {
    if hits.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = hits.iter().map(|hit| hit.item_id).collect();
    let rows = sqlx::query(
        "select asked.item_id, s.available_micro, s.locations, l.location_id, l.code, l.on_hand_micro, l.reserved_micro
         from unnest($2::uuid[]) as asked (item_id)
         cross join lateral (
             select coalesce(sum(on_hand_micro - reserved_micro), 0)::text as available_micro, count(*) as locations
             from stock_levels where tenant_id = $1 and item_id = asked.item_id) s
         cross join lateral (
             select l.location_id, o.code, l.on_hand_micro, l.reserved_micro
             from stock_levels l join locations o on o.tenant_id = $1 and o.id = l.location_id
             where l.tenant_id = $1 and l.item_id = asked.item_id order by o.code limit $3) l",
    )
    .bind(tenant.0)
    .bind(ids)
    .bind(LEVELS_MAX)
    .fetch_all(connection)
    .await?;
    let mut stock: HashMap<Uuid, HitStock> = HashMap::new();
    for row in &rows {
        let of_item = stock.entry(row.try_get("item_id")?).or_default();
        of_item.available = total(row, "available_micro")?;
        of_item.locations = row.try_get("locations")?;
        of_item.levels.push(HitLevel {
            location_id: row.try_get("location_id")?,
            location_code: row.try_get("code")?,
            on_hand: micros(row, "on_hand_micro")?,
            reserved: micros(row, "reserved_micro")?,
        });
    }
    for hit in hits {
        hit.stock = stock.remove(&hit.item_id).unwrap_or_default();
    }
    Ok(())
}

/// Gives the locations of a facet their codes.
pub async fn name_locations(
    connection: &mut PgConnection,
    tenant: TenantId,
    found: &mut Found,
) -> Result<(), sqlx::Error> {
    let Some(buckets) = found.facets.get_mut(&Facet::Location).filter(|buckets| !buckets.is_empty()) else {
        return Ok(());
    };
    let ids: Vec<Uuid> = buckets.iter().filter_map(|bucket| bucket.value.parse().ok()).collect();
    let codes: Vec<(Uuid, String)> =
        sqlx::query_as("select id, code from locations where tenant_id = $1 and id = any($2)")
            .bind(tenant.0)
            .bind(ids)
            .fetch_all(connection)
            .await?;
    let codes: HashMap<_, _> = codes.into_iter().collect();
    for bucket in buckets {
        if let Some(code) = bucket.value.parse().ok().and_then(|id: Uuid| codes.get(&id)) {
            bucket.value.clone_from(code);
        }
    }
    Ok(())
}

/// Searches a tenant's items, all as of one moment.
pub async fn search(
    connection: &mut PgConnection,
    tenant: TenantId,
    query: &SearchQuery,
) -> Result<Found, sqlx::Error> {
    let mut tx = connection.begin_with(crate::postgres::SNAPSHOT).await?;
    sqlx::query(DEADLINE).execute(&mut *tx).await?;
    let reflects = reflects(&mut tx, tenant).await?;
    let (keys, values): (Vec<&str>, Vec<&str>) =
        query.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).unzip();
    let asks_for_pairs = !keys.is_empty();
    // How often a statement is run says nothing of what its text finds: it is planned for what it is given.
    let text: String = sqlx::query_scalar(&statement(query))
        .persistent(false)
        .bind(tenant.0)
        .bind(query.text.as_str())
        .bind(query.location_id)
        .bind(query.in_stock)
        .bind(query.category.as_deref())
        .bind(query.item_type)
        .bind(asks_for_pairs.then_some(keys))
        .bind(asks_for_pairs.then_some(values))
        .bind(query.after.as_ref().map(|after| after.0.as_str()))
        .bind(query.after.as_ref().map(|after| after.1))
        .bind(query.limit + 1)
        .bind(i32::try_from(MATCHES_MAX).unwrap_or(i32::MAX))
        .fetch_one(&mut *tx)
        .await?;
    let rows: Rows = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let read = rows.hits.len();
    let (mut hits, cut) = page(rows.hits.into_iter().map(hit).collect(), query.limit);
    add_stock(&mut tx, tenant, &mut hits).await?;
    tx.commit().await?;
    Ok(Found {
        hits,
        has_more: cut || rows.in_page > read,
        total: rows.total.min(MATCHES_MAX),
        total_is_exact: rows.total.max(rows.candidates) <= MATCHES_MAX,
        facets: rows.facets,
        reflects,
    })
}

fn hit(row: HitRow) -> Hit {
    let matched = match row.tier {
        4.. => Match::Code,
        3 => Match::CodePrefix,
        1..=2 => Match::Words,
        _ => Match::Everything,
    };
    let (score, place, document) = (row.score, row.place, row.document);
    Hit { item_id: row.id, matched, score, place, document, stock: HitStock::default() }
}
