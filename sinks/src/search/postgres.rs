//! Search in the ledger's own database: never behind, nothing to run besides. What finds items is `search_items` (migrations
//! 0020 and on); what is here filters, counts and sorts them under the tenant's row-level security, in one statement.

use super::text::is_compact;
use super::{BUCKETS_MAX, Bucket, Facet, Found, Hit, HitLevel, MATCHES_MAX, Match, SearchQuery, Sort};
use crate::postgres::queries::reflects;
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::{BTreeMap, HashMap};
use twh_domain::decimal::Quantity;
use twh_domain::id::TenantId;
use uuid::Uuid;

/// How long a search may take: filters without words look through all items.
const DEADLINE: &str = "set local statement_timeout = '3s'";
/// PostgreSQL's code of a statement that was cancelled.
const CANCELLED: &str = "57014";

/// Whether a search has failed because it took too long.
#[must_use]
pub fn took_too_long(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(CANCELLED))
}

/// The statement's answer, as JSON.
#[derive(Deserialize)]
struct Rows {
    candidates: i64,
    total: i64,
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
    levels: Vec<LevelJson>,
}

#[derive(Deserialize)]
struct LevelJson {
    location_id: Uuid,
    location_code: String,
    on_hand_micro: i64,
    reserved_micro: i64,
}

/// The column that an order goes by, its type, and whether the greatest comes first.
const fn order(sort: Sort) -> (&'static str, &'static str, bool) {
    match sort {
        Sort::Relevance => ("f.tier * 100 + f.score", "float8", true),
        Sort::Name => ("f.name_key", "text", false),
        Sort::Sku => ("f.code", "text", false),
        Sort::Updated => ("f.updated_at", "timestamptz", true),
        Sort::Available => ("f.available", "bigint", true),
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
        "(select coalesce(sum(l.on_hand_micro - l.reserved_micro), 0)::bigint as available,
                 coalesce(bool_or(l.on_hand_micro > l.reserved_micro), false) as is_available, count(*) > 0 as is_known
          from stock_levels l
          where l.tenant_id = $1 and l.item_id = i.id and ($3::uuid is null or l.location_id = $3))"
    } else {
        "(select null::bigint as available, null::boolean as is_available, true as is_known)"
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
             order by place {direction}, f.id limit $11)
         select json_build_object(
             'candidates', {candidates}, 'total', (select count(*) from filtered),
             'facets', json_build_object({facets}),
             'hits', (select coalesce(json_agg(json_build_object('id', h.id, 'tier', h.tier, 'score', h.score,
                     'place', h.place::text, 'document', h.document, 'levels', h.levels) order by h.place {direction}, h.id), '[]')
                 from (select p.*, i.document, (
                           select coalesce(json_agg(json_build_object('location_id', l.location_id, 'location_code', o.code,
                               'on_hand_micro', l.on_hand_micro, 'reserved_micro', l.reserved_micro) order by o.code), '[]')
                           from stock_levels l join locations o on o.tenant_id = $1 and o.id = l.location_id
                           where l.tenant_id = $1 and l.item_id = p.id) as levels
                       from page p join items i on i.tenant_id = $1 and i.id = p.id) h))::text as found"
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

/// Tells of hits where there is how much of them, and gives the locations of a facet their codes.
pub async fn add_stock(connection: &mut PgConnection, tenant: TenantId, found: &mut Found) -> Result<(), sqlx::Error> {
    let ids: Vec<_> = found.hits.iter().map(|hit| hit.item_id).collect();
    if !ids.is_empty() {
        let rows = sqlx::query(
            "select l.item_id, l.location_id, o.code, l.on_hand_micro, l.reserved_micro
             from unnest($2::uuid[]) as asked (item_id)
             join stock_levels l on l.tenant_id = $1 and l.item_id = asked.item_id
             join locations o on o.tenant_id = $1 and o.id = l.location_id
             order by o.code",
        )
        .bind(tenant.0)
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
        let mut levels: HashMap<Uuid, Vec<HitLevel>> = HashMap::new();
        for row in rows {
            levels.entry(row.try_get("item_id")?).or_default().push(level_of(LevelJson {
                location_id: row.try_get("location_id")?,
                location_code: row.try_get("code")?,
                on_hand_micro: row.try_get("on_hand_micro")?,
                reserved_micro: row.try_get("reserved_micro")?,
            })?);
        }
        for hit in &mut found.hits {
            hit.levels = levels.remove(&hit.item_id).unwrap_or_default();
        }
    }
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
    tx.commit().await?;
    let rows: Rows = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Found {
        total: rows.total.min(MATCHES_MAX),
        total_is_exact: rows.total.max(rows.candidates) <= MATCHES_MAX,
        facets: rows.facets,
        hits: rows.hits.into_iter().map(hit).collect::<Result<_, sqlx::Error>>()?,
        reflects,
    })
}

fn hit(row: HitRow) -> Result<Hit, sqlx::Error> {
    let levels = row.levels.into_iter().map(level_of).collect::<Result<_, sqlx::Error>>()?;
    let matched = match row.tier {
        4.. => Match::Code,
        3 => Match::CodePrefix,
        1..=2 => Match::Words,
        _ => Match::Everything,
    };
    Ok(Hit { item_id: row.id, matched, score: row.score, place: row.place, document: row.document, levels })
}

fn level_of(level: LevelJson) -> Result<HitLevel, sqlx::Error> {
    let quantity = |micros: i64| {
        Quantity::from_micros(micros)
            .ok_or_else(|| sqlx::Error::Decode(format!("a level is out of range: {micros}").into()))
    };
    Ok(HitLevel {
        location_id: level.location_id,
        location_code: level.location_code,
        on_hand: quantity(level.on_hand_micro)?,
        reserved: quantity(level.reserved_micro)?,
    })
}
