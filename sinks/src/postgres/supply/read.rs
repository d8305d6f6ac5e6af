//! What is asked of supply. Every query carries its tenant and the build that answers.

use super::write::{optional_quantity, optional_time, quantity};
use crate::postgres::builds::Build;
use crate::postgres::page::{self, Page};
use crate::postgres::sqlx::{self, PgConnection, Row as _, postgres::PgRow};
use crate::postgres::totals::total;
use time::{Date, OffsetDateTime};
use twh_domain::decimal::Quantity;
use twh_domain::documents::item::Item;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use uuid::Uuid;

/// What there is of an item, what comes and what goes.
#[derive(Debug, Clone)]
pub struct ItemSupply {
    /// Of what.
    pub item_id: Uuid,
    /// What the client calls it.
    pub sku: String,
    /// What people call it.
    pub name: Option<String>,
    /// The availability at which more should be ordered.
    pub reorder_point: Option<Quantity>,
    /// Since when there is no more than that.
    pub low_since: Option<Timestamp>,
    /// Physically there.
    pub on_hand: Total,
    /// Promised.
    pub reserved: Total,
    /// Still to come of purchase orders.
    pub incoming: Total,
    /// On its way between locations.
    pub in_transit: Total,
    /// Still to go of sales orders.
    pub outgoing: Total,
    /// What of that is not reserved.
    pub backordered: Total,
}

impl ItemSupply {
    /// Of an item of which nothing was ever there, or ordered.
    #[must_use]
    pub fn none(item: &Item) -> Self {
        let zero = Total::ZERO;
        Self {
            item_id: item.id.0,
            sku: item.sku.clone(),
            name: item.name.clone(),
            reorder_point: item.reorder_point,
            low_since: None,
            on_hand: zero,
            reserved: zero,
            incoming: zero,
            in_transit: zero,
            outgoing: zero,
            backordered: zero,
        }
    }
}

/// Sums over lines.
const SUMS: &str = "
    cross join lateral (
        select coalesce(sum(quantity_micro) filter (where document_kind = 'purchase_order'), 0)::text as incoming_micro,
               coalesce(sum(quantity_micro) filter (where document_kind = 'transfer'), 0)::text as in_transit_micro,
               coalesce(sum(quantity_micro) filter (where document_kind = 'sales_order'), 0)::text as outgoing_micro,
               coalesce(sum(backordered_micro), 0)::text as backordered_micro
        from supply_open_lines where build = $1 and tenant_id = $2 and item_id = i.item_id) o";

const COLUMNS: &str = "i.item_id, i.sku, i.name, i.reorder_point_micro, i.low_since, i.on_hand_micro::text as on_hand_micro,
    i.reserved_micro::text as reserved_micro,     o.incoming_micro, o.in_transit_micro, o.outgoing_micro, o.backordered_micro";

fn supply(row: &PgRow) -> Result<ItemSupply, sqlx::Error> {
    Ok(ItemSupply {
        item_id: row.try_get("item_id")?,
        sku: row.try_get("sku")?,
        name: row.try_get("name")?,
        reorder_point: optional_quantity(row, "reorder_point_micro")?,
        low_since: optional_time(row, "low_since")?,
        on_hand: total(row, "on_hand_micro")?,
        reserved: total(row, "reserved_micro")?,
        incoming: total(row, "incoming_micro")?,
        in_transit: total(row, "in_transit_micro")?,
        outgoing: total(row, "outgoing_micro")?,
        backordered: total(row, "backordered_micro")?,
    })
}

/// An item's supply; `None` where it holds no stock, or is not known.
pub async fn item_supply(
    connection: &mut PgConnection,
    tenant: TenantId,
    build: &Build,
    item: Uuid,
) -> Result<Option<ItemSupply>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from supply_items i {SUMS} where i.build = $1 and i.tenant_id = $2 and i.item_id = $3"
    );
    let row = sqlx::query(&sql).bind(build.number).bind(tenant.0).bind(item).fetch_optional(connection).await?;
    row.as_ref().map(supply).transpose()
}

/// A page of the items of which there is no more than their reorder point, oldest first.
pub async fn low_items(
    connection: &mut PgConnection,
    tenant: TenantId,
    build: &Build,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Page<ItemSupply>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from supply_items i {SUMS}
         where i.build = $1 and i.tenant_id = $2 and i.low_since is not null and ($3::uuid is null or i.item_id > $3)
         order by i.item_id limit $4"
    );
    let query = sqlx::query(&sql).bind(build.number).bind(tenant.0).bind(after).bind(limit.saturating_add(1));
    page::take(query.fetch(connection), limit, supply).await
}

/// What came and went at a location on a day.
#[derive(Debug, Clone)]
pub struct DayRow {
    /// When, UTC.
    pub day: Date,
    /// What came.
    pub came: Total,
    /// What went.
    pub went: Total,
    /// What was there at the day's end.
    pub on_hand: Total,
}

/// An item's days at a location.
#[derive(Debug, Clone)]
pub struct History {
    /// Where.
    pub location_id: Uuid,
    /// Where.
    pub location_code: String,
    /// What was there before the first day.
    pub opening: Total,
    /// Days on which something came or went.
    pub days: Vec<DayRow>,
}

/// An item's days at each location, from one day through another; `None` where they are more than an answer may hold.
pub async fn history(
    connection: &mut PgConnection,
    tenant: TenantId,
    build: &Build,
    item: Uuid,
    location: Option<Uuid>,
    (first, last): (Date, Date),
) -> Result<Option<Vec<History>>, sqlx::Error> {
    let query = sqlx::query(
        "select d.location_id, p.code, d.day, d.in_micro::text as in_micro, d.out_micro::text as out_micro,
                d.on_hand_micro::text as on_hand_micro
         from (select location_id, day, in_micro, out_micro,
                      sum(in_micro - out_micro) over (partition by location_id order by day) as on_hand_micro,
                      lead(day) over (partition by location_id order by day) as next
               from supply_days
               where build = $1 and tenant_id = $2 and item_id = $3 and ($4::uuid is null or location_id = $4) and day <= $6) d
         join locations p on p.tenant_id = $2 and p.id = d.location_id
         where d.day >= $5 or d.next is null or d.next >= $5
         order by d.location_id, d.day",
    )
    .bind(build.number)
    .bind(tenant.0)
    .bind(item)
    .bind(location)
    .bind(first)
    .bind(last);
    let read = |row: &PgRow| {
        let day = DayRow {
            day: row.try_get("day")?,
            came: total(row, "in_micro")?,
            went: total(row, "out_micro")?,
            on_hand: total(row, "on_hand_micro")?,
        };
        Ok((row.try_get::<Uuid, _>("location_id")?, row.try_get::<String, _>("code")?, day))
    };
    let found = page::take(query.fetch(connection), i64::MAX, read).await?;
    if found.has_more {
        return Ok(None);
    }
    let mut histories: Vec<History> = Vec::new();
    for (location_id, location_code, day) in found.rows {
        if histories.last().is_none_or(|history| history.location_id != location_id) {
            histories.push(History { location_id, location_code, opening: Total::ZERO, days: Vec::new() });
        }
        let Some(history) = histories.last_mut() else { continue };
        // The last day before the first one that is asked for says what was there.
        if day.day < first {
            history.opening = day.on_hand;
        } else {
            history.days.push(day);
        }
    }
    Ok(Some(histories))
}

/// A line of which something is still to come, to arrive or to go.
#[derive(Debug, Clone)]
pub struct OpenLineRow {
    /// The kind of document.
    pub document_kind: String,
    /// The document.
    pub document_id: Uuid,
    /// Its number.
    pub number: String,
    /// The line, from 1.
    pub line: i32,
    /// Of what.
    pub item_id: Uuid,
    /// Of what.
    pub sku: String,
    /// Where to, or where from for what goes.
    pub location_id: Uuid,
    /// Where.
    pub location_code: String,
    /// How much.
    pub quantity: Quantity,
    /// How much of it is neither shipped nor reserved.
    pub backordered: Quantity,
    /// Since when.
    pub since: Timestamp,
}

/// Which lines are asked for.
#[derive(Debug, Clone, Default)]
pub struct OpenLineFilter {
    /// Of this kind of document.
    pub document_kind: Option<&'static str>,
    /// Of this item.
    pub item_id: Option<Uuid>,
    /// Only those with a backorder.
    pub backordered: bool,
}

/// A page of open lines, by document and line.
pub async fn open_lines(
    connection: &mut PgConnection,
    tenant: TenantId,
    build: &Build,
    filter: &OpenLineFilter,
    after: Option<(Uuid, i32)>,
    limit: i64,
) -> Result<Page<OpenLineRow>, sqlx::Error> {
    let query = sqlx::query(
        "select o.document_kind, o.document_id, o.number, o.line, o.item_id, o.sku, o.location_id, p.code as location_code,
                o.quantity_micro, o.backordered_micro, o.since
         from supply_open_lines o join locations p on p.tenant_id = $2 and p.id = o.location_id
         where o.build = $1 and o.tenant_id = $2 and ($3::text is null or o.document_kind = $3)
           and ($4::uuid is null or o.item_id = $4) and (not $5 or o.backordered_micro > 0)
           and ($6::uuid is null or (o.document_id, o.line) > ($6, $7))
         order by o.document_id, o.line limit $8",
    )
    .bind(build.number)
    .bind(tenant.0)
    .bind(filter.document_kind)
    .bind(filter.item_id)
    .bind(filter.backordered)
    .bind(after.map(|after| after.0))
    .bind(after.map(|after| after.1))
    .bind(limit.saturating_add(1));
    let line = |row: &PgRow| {
        Ok(OpenLineRow {
            document_kind: row.try_get("document_kind")?,
            document_id: row.try_get("document_id")?,
            number: row.try_get("number")?,
            line: row.try_get("line")?,
            item_id: row.try_get("item_id")?,
            sku: row.try_get("sku")?,
            location_id: row.try_get("location_id")?,
            location_code: row.try_get("location_code")?,
            quantity: quantity(row, "quantity_micro")?,
            backordered: quantity(row, "backordered_micro")?,
            since: row.try_get::<OffsetDateTime, _>("since")?.into(),
        })
    };
    page::take(query.fetch(connection), limit, line).await
}

/// How long a supplier took, in days, over lines that came whole.
#[derive(Debug, Clone)]
pub struct LeadTimes {
    /// Lines that came whole.
    pub lines: i64,
    /// Lines that have not.
    pub lines_outstanding: i64,
    /// Shortest, median, nine of ten, longest and mean; `None` before the first line.
    pub days: Option<[f64; 5]>,
}

/// A supplier's lead times, of all lines or those of an item, ordered since a time.
pub async fn lead_times(
    connection: &mut PgConnection,
    tenant: TenantId,
    build: &Build,
    supplier: Uuid,
    item: Option<Uuid>,
    since: Option<Timestamp>,
) -> Result<LeadTimes, sqlx::Error> {
    let row = sqlx::query(
        "select lines, lines_outstanding, round(shortest::numeric, 2)::float8 as shortest, round(median::numeric, 2)::float8 as median,
                round(nine_of_ten::numeric, 2)::float8 as nine_of_ten, round(longest::numeric, 2)::float8 as longest,
                round(mean::numeric, 2)::float8 as mean
         from (select count(days) as lines, count(*) filter (where awaited) as lines_outstanding, min(days) as shortest,
                percentile_cont(0.5) within group (order by days) as median,
                percentile_cont(0.9) within group (order by days) as nine_of_ten, max(days) as longest, avg(days) as mean
         from (select case when received_at is not null
                    then greatest(extract(epoch from received_at - ordered_at), 0)::float8 / 86400 end as days,
                      received_at is null and closed_at is null as awaited
               from supply_receipts
               where build = $1 and tenant_id = $2 and supplier_id = $3 and ($4::uuid is null or item_id = $4)
                 and ($5::timestamptz is null or ordered_at >= $5)) r) d",
    )
    .bind(build.number)
    .bind(tenant.0)
    .bind(supplier)
    .bind(item)
    .bind(since.map(Timestamp::datetime))
    .fetch_one(connection)
    .await?;
    let lines: i64 = row.try_get("lines")?;
    let days = if lines == 0 {
        None
    } else {
        Some([
            row.try_get("shortest")?,
            row.try_get("median")?,
            row.try_get("nine_of_ten")?,
            row.try_get("longest")?,
            row.try_get("mean")?,
        ])
    };
    Ok(LeadTimes { lines, lines_outstanding: row.try_get("lines_outstanding")?, days })
}
