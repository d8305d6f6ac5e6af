//! Levels, now and as of a moment, and what is on its way to them.

use super::columns::time;
use super::page::{self, Page};
use super::totals::total;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use uuid::Uuid;

/// Most locations that an item's stock tells of one by one. Its sums are over all.
const ITEM_LOCATIONS_MAX: i64 = 1_000;

/// A level, with the codes that people know it by.
#[derive(Debug, Clone)]
pub struct LevelRow {
    /// Of what.
    pub item_id: Uuid,
    /// Of what.
    pub sku: String,
    /// Where.
    pub location_id: Uuid,
    /// Where.
    pub location_code: String,
    /// Physically there. As of when things happened, it is a sum.
    pub on_hand: Total,
    /// Promised.
    pub reserved: Total,
    /// The last count, where it is known.
    pub last_counted_at: Option<Timestamp>,
    /// How many movements made it.
    pub version: i64,
    /// The last movement.
    pub updated_at: Timestamp,
}

/// Which levels are asked for.
#[derive(Debug, Clone, Default)]
pub struct LevelFilter {
    /// Of this item.
    pub item_id: Option<Uuid>,
    /// Of the item with this SKU.
    pub sku: Option<String>,
    /// At this location.
    pub location_id: Option<Uuid>,
    /// At the location with this code.
    pub location_code: Option<String>,
}

/// The moment of which levels are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// What the books say now.
    Now,
    /// What the books said once they had this many movements.
    Sequence(i64),
    /// What was true at a time, as far as is known now: late entries count.
    Occurred(Timestamp),
}

fn level(row: &PgRow) -> Result<LevelRow, sqlx::Error> {
    Ok(LevelRow {
        item_id: row.try_get("item_id")?,
        sku: row.try_get("sku")?,
        location_id: row.try_get("location_id")?,
        location_code: row.try_get("location_code")?,
        on_hand: total(row, "on_hand_micro")?,
        reserved: total(row, "reserved_micro")?,
        last_counted_at: row.try_get::<Option<OffsetDateTime>, _>("last_counted_at")?.map(Timestamp::from),
        version: row.try_get("version")?,
        updated_at: time(row, "updated_at")?,
    })
}

/// A page of levels by item and location, as of a moment.
///
/// Every movement says the level after it, so the past costs one look into an index for each level asked for, however long
/// its history is. Only [`Moment::Occurred`] has to add movements up.
pub async fn list_levels(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &LevelFilter,
    moment: Moment,
    after: Option<(Uuid, Uuid)>,
    limit: i64,
) -> Result<Page<LevelRow>, sqlx::Error> {
    let then = match moment {
        Moment::Now => {
            "(select l.on_hand_micro, l.reserved_micro, l.last_counted_at, l.version, l.updated_at where $9::bigint is null and $10::timestamptz is null)"
        }
        Moment::Sequence(_) => {
            "(select m.on_hand_after_micro as on_hand_micro, m.reserved_after_micro as reserved_micro,
                  (select c.occurred_at from stock_movements c where c.tenant_id = $1 and c.item_id = l.item_id
                       and c.location_id = l.location_id and c.kind = 'COUNT' and c.sequence <= $9
                   order by c.sequence desc limit 1) as last_counted_at,
                  m.level_version as version, m.recorded_at as updated_at
              from stock_movements m where m.tenant_id = $1 and m.item_id = l.item_id and m.location_id = l.location_id
                  and m.sequence <= $9 and $10::timestamptz is null
              order by m.sequence desc limit 1)"
        }
        Moment::Occurred(_) => {
            "(select sum(m.on_hand_change_micro) as on_hand_micro, sum(m.reserved_change_micro) as reserved_micro,
                  max(m.occurred_at) filter (where m.kind = 'COUNT') as last_counted_at, count(*) as version, max(m.occurred_at) as updated_at
              from stock_movements m where m.tenant_id = $1 and m.item_id = l.item_id and m.location_id = l.location_id
                  and m.occurred_at <= $10 and $9::bigint is null
              having count(*) > 0)"
        }
    };
    let sql = format!(
        "select l.item_id, i.code as sku, l.location_id, p.code as location_code, t.on_hand_micro::text as on_hand_micro,
                t.reserved_micro::text as reserved_micro, t.last_counted_at, t.version, t.updated_at
         from stock_levels l
         join items i on i.tenant_id = $1 and i.id = l.item_id
         join locations p on p.tenant_id = $1 and p.id = l.location_id
         cross join lateral {then} t
         where l.tenant_id = $1 and ($2::uuid is null or l.item_id = $2) and ($3::text is null or i.code = $3)
           and ($4::uuid is null or l.location_id = $4) and ($5::text is null or p.code = $5)
           and ($6::uuid is null or (l.item_id, l.location_id) > ($6, $7))
         order by l.item_id, l.location_id limit $8"
    );
    let (sequence, occurred) = match moment {
        Moment::Now => (None, None),
        Moment::Sequence(sequence) => (Some(sequence), None),
        Moment::Occurred(at) => (None, Some(at.datetime())),
    };
    let query = sqlx::query(&sql)
        .bind(tenant.0)
        .bind(filter.item_id)
        .bind(filter.sku.as_deref())
        .bind(filter.location_id)
        .bind(filter.location_code.as_deref())
        .bind(after.map(|after| after.0))
        .bind(after.map(|after| after.1))
        .bind(limit.saturating_add(1))
        .bind(sequence)
        .bind(occurred);
    page::take(query.fetch(connection), limit, level).await
}

/// How many movements a tenant's ledger had when the last of them was recorded at or before a time.
pub async fn sequence_at(connection: &mut PgConnection, tenant: TenantId, at: Timestamp) -> Result<i64, sqlx::Error> {
    let sql = last_sequence("m.recorded_at <= $2");
    sqlx::query_scalar(&sql).bind(tenant.0).bind(at.datetime()).fetch_one(connection).await
}

/// How many movements a tenant's ledger had once the command at a position was applied. The tenant's commands are all on
/// that partition.
pub async fn sequence_through(
    connection: &mut PgConnection,
    tenant: TenantId,
    position: Position,
) -> Result<i64, sqlx::Error> {
    let sql = last_sequence("m.log_offset <= $2");
    sqlx::query_scalar(&sql).bind(tenant.0).bind(position.offset).fetch_one(connection).await
}

/// The last sequence for which something holds that, once it no longer holds, never holds again: found by halving, with one
/// look at the primary key for each step. The middle is a column of its own: row-level security lets no calculation choose where
/// an index is looked at, since its errors might tell of rows that are not to be seen.
fn last_sequence(holds: &str) -> String {
    format!(
        "with recursive search (low, high, middle) as (
             select 0::bigint, h.high, (h.high + 1) / 2
             from (select coalesce((select movement_sequence from ledger_heads where tenant_id = $1), 0) as high) h
             union all
             select n.low, n.high, (n.low + n.high + 1) / 2
             from search join stock_movements m on m.tenant_id = $1 and m.sequence = search.middle
             cross join lateral (select case when {holds} then m.sequence else low end,
                 case when {holds} then high else m.sequence - 1 end) n (low, high)
             where search.low < search.high)
         select low from search where low = high"
    )
}

/// Where an item is.
#[derive(Debug)]
pub struct ItemStock {
    /// Physically there, over all locations.
    pub on_hand: Total,
    /// Promised, over all locations.
    pub reserved: Total,
    /// How many movements made all of its levels.
    pub version: i64,
    /// At each location; not at all of them where there are very many.
    pub levels: Page<LevelRow>,
    /// On its way to all locations.
    pub on_its_way: Total,
    /// On its way, by the location that it goes to.
    pub in_transit: Page<(Uuid, Total)>,
}

/// Where an item is, all as of one moment: goods that arrive meanwhile are neither counted twice nor left out. `None`
/// when there is no such item.
pub async fn item_stock(
    connection: &mut PgConnection,
    tenant: TenantId,
    item: Uuid,
) -> Result<Option<ItemStock>, sqlx::Error> {
    let mut tx = connection.begin_with(crate::postgres::SNAPSHOT).await?;
    let exists: bool = sqlx::query_scalar("select exists (select from items where tenant_id = $1 and id = $2)")
        .bind(tenant.0)
        .bind(item)
        .fetch_one(&mut *tx)
        .await?;
    if !exists {
        return Ok(None);
    }
    let filter = LevelFilter { item_id: Some(item), ..LevelFilter::default() };
    let levels = list_levels(&mut tx, tenant, &filter, Moment::Now, None, ITEM_LOCATIONS_MAX).await?;
    let sums = sqlx::query(
        "select coalesce(sum(on_hand_micro), 0)::text as on_hand_micro, coalesce(sum(reserved_micro), 0)::text as reserved_micro,
                coalesce(sum(version), 0)::bigint as version
         from stock_levels where tenant_id = $1 and item_id = $2",
    )
    .bind(tenant.0)
    .bind(item)
    .fetch_one(&mut *tx)
    .await?;
    let (on_its_way, in_transit) = in_transit(&mut tx, tenant, item).await?;
    tx.commit().await?;
    Ok(Some(ItemStock {
        on_hand: total(&sums, "on_hand_micro")?,
        reserved: total(&sums, "reserved_micro")?,
        version: sums.try_get("version")?,
        levels,
        on_its_way,
        in_transit,
    }))
}

/// What of an item is on its way: in all, and by the location that it goes to.
async fn in_transit(
    connection: &mut PgConnection,
    tenant: TenantId,
    item: Uuid,
) -> Result<(Total, Page<(Uuid, Total)>), sqlx::Error> {
    let query = sqlx::query(
        "select location_id, trunc(quantity * 1000000)::text as quantity_micro,
                trunc(sum(quantity) over () * 1000000)::text as all_micro
         from (select (t.document ->> 'to_location_id')::uuid as location_id,
                      sum((line ->> 'quantity_in_transit')::numeric) as quantity
               from transfers t, json_array_elements(t.document -> 'lines') line
               where t.tenant_id = $1 and t.status in ('in_transit', 'partially_received') and line ->> 'item_id' = $2::text
               group by 1) coming
         order by location_id limit $3",
    )
    .bind(tenant.0)
    .bind(item.to_string())
    .bind(ITEM_LOCATIONS_MAX + 1);
    let row =
        |row: &PgRow| Ok((total(row, "all_micro")?, (row.try_get("location_id")?, total(row, "quantity_micro")?)));
    let Page { rows, has_more } = page::take(query.fetch(connection), ITEM_LOCATIONS_MAX, row).await?;
    let all = rows.first().map_or(Total::ZERO, |(all, _)| *all);
    Ok((all, Page { rows: rows.into_iter().map(|(_, coming)| coming).collect(), has_more }))
}
