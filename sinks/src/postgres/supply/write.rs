//! What a batch of events changes, in one statement with the move of its partition: so it is applied once.

use super::crossings::{self, Crossing};
use super::{Change, Day, Item, LineKey, Receipt};
use crate::kafka::Reached;
use crate::postgres::PgPool;
use crate::postgres::builds::{Build, Progress, advance_by, reflected};
use crate::postgres::positions::{Hold, PositionError};
use crate::postgres::sqlx::{self, PgConnection, Row as _, postgres::PgRow};
use crate::postgres::statement::{Columns, Rows, Sql, Statement};
use crate::postgres::totals::total;
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use twh_domain::decimal::Quantity;
use twh_domain::entity::EntityKind;
use twh_domain::id::{ItemId, LocationId, TenantId};
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// A line of which something is still to come, to arrive or to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of which kind of document.
    pub kind: EntityKind,
    /// The document's number.
    pub number: String,
    /// Of what.
    pub item: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// Where to, or where from for what goes.
    pub location: LocationId,
    /// How much.
    pub quantity: Quantity,
    /// How much of it is neither shipped nor reserved.
    pub backordered: Quantity,
    /// Since when it is so.
    pub since: Timestamp,
}

/// What a batch of events changes: the state after it, except for days, which are added to.
#[derive(Debug, Default)]
pub struct Batch {
    /// Items that changed.
    pub items: Vec<Item>,
    /// What came and went.
    pub days: BTreeMap<Day, Change>,
    /// Lines of documents that changed; `None` where nothing of them is outstanding any more.
    pub lines: BTreeMap<LineKey, Option<Line>>,
    /// Lines of purchase orders that were sent or received.
    pub receipts: BTreeMap<LineKey, Receipt>,
    /// Items that came down to their reorder point, of which the ledger is to tell.
    pub crossings: Vec<Crossing>,
}

pub(super) fn quantity(row: &PgRow, column: &str) -> Result<Quantity, sqlx::Error> {
    let micros: i64 = row.try_get(column)?;
    Quantity::from_micros(micros)
        .ok_or_else(|| sqlx::Error::Decode(format!("{column} is out of range: {micros}").into()))
}

pub(super) fn optional_quantity(row: &PgRow, column: &str) -> Result<Option<Quantity>, sqlx::Error> {
    let is_there = row.try_get::<Option<i64>, _>(column)?.is_some();
    is_there.then(|| quantity(row, column)).transpose()
}

pub(super) fn optional_time(row: &PgRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row.try_get::<Option<OffsetDateTime>, _>(column)?.map(Timestamp::from))
}

/// What a build holds of some items, and the last event of each of some tenants that it reflects. The partition was held when
/// the items had been read, so nobody else had changed them: events added to anything else would come to what never was.
pub async fn held(
    pool: &PgPool,
    build: &Build,
    hold: &Hold,
    of: &[(TenantId, ItemId)],
    tenants: &[TenantId],
) -> Result<(HashMap<ItemId, Item>, HashMap<TenantId, i64>), PositionError> {
    let mut connection = pool.acquire().await?;
    let held = items(&mut connection, build, of).await?;
    let reflected = reflected(&mut connection, build, tenants).await?;
    hold.check(&mut connection).await?;
    Ok((held, reflected))
}

async fn items(
    connection: &mut PgConnection,
    build: &Build,
    of: &[(TenantId, ItemId)],
) -> Result<HashMap<ItemId, Item>, sqlx::Error> {
    let (tenants, items): (Vec<Uuid>, Vec<Uuid>) = of.iter().map(|(tenant, item)| (tenant.0, item.0)).unzip();
    let rows = sqlx::query(
        "select s.tenant_id, s.item_id, s.sku, s.name, s.reorder_point_micro, s.on_hand_micro::text as on_hand_micro,
                s.reserved_micro::text as reserved_micro, s.low_since
         from unnest($2::uuid[], $3::uuid[]) as asked (tenant_id, item_id)
         join supply_items s on s.build = $1 and s.tenant_id = asked.tenant_id and s.item_id = asked.item_id",
    )
    .bind(build.number)
    .bind(&tenants)
    .bind(&items)
    .fetch_all(connection)
    .await?;
    let item = |row: &PgRow| {
        Ok(Item {
            tenant: TenantId(row.try_get("tenant_id")?),
            item: ItemId(row.try_get("item_id")?),
            sku: row.try_get("sku")?,
            name: row.try_get("name")?,
            reorder_point: optional_quantity(row, "reorder_point_micro")?,
            on_hand: total(row, "on_hand_micro")?,
            reserved: total(row, "reserved_micro")?,
            low_since: optional_time(row, "low_since")?,
        })
    };
    rows.iter().map(|row| item(row).map(|item| (item.item, item))).collect()
}

const ITEMS: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("item_id", Sql::Uuid),
    ("sku", Sql::Text),
    ("name", Sql::Text),
    ("reorder_point_micro", Sql::Bigint),
    ("on_hand_micro", Sql::Numeric),
    ("reserved_micro", Sql::Numeric),
    ("low_since", Sql::Timestamptz),
];
const DAYS: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("item_id", Sql::Uuid),
    ("location_id", Sql::Uuid),
    ("day", Sql::Integer),
    ("in_micro", Sql::Numeric),
    ("out_micro", Sql::Numeric),
];
const ENDED: Columns = &[("tenant_id", Sql::Uuid), ("document_id", Sql::Uuid), ("line", Sql::Integer)];
const LINES: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("document_id", Sql::Uuid),
    ("line", Sql::Integer),
    ("document_kind", Sql::Text),
    ("number", Sql::Text),
    ("item_id", Sql::Uuid),
    ("sku", Sql::Text),
    ("location_id", Sql::Uuid),
    ("quantity_micro", Sql::Bigint),
    ("backordered_micro", Sql::Bigint),
    ("since", Sql::Timestamptz),
];
const RECEIPTS: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("order_id", Sql::Uuid),
    ("line", Sql::Integer),
    ("supplier_id", Sql::Uuid),
    ("item_id", Sql::Uuid),
    ("ordered_at", Sql::Timestamptz),
    ("first_received_at", Sql::Timestamptz),
    ("received_at", Sql::Timestamptz),
    ("closed_at", Sql::Timestamptz),
];

/// Adds a part that writes rows of a build, over those that are there as `conflict` says.
pub(super) fn upsert(
    statement: &mut Statement,
    build: &Build,
    table: &str,
    columns: Columns,
    rows: &Rows,
    conflict: &str,
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let given = statement.given(columns, rows)?;
    let names = columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let values = names.replace("day,", "date '1970-01-01' + day,");
    statement.part(
        &format!("into_{table}"),
        &format!(
            "insert into {table} as t (build, {names}) select {}, {values} from {given} on conflict {conflict}",
            build.number
        ),
    );
    Ok(())
}

/// Writes what a batch changes, and moves the partition past it: both or neither.
pub async fn write(
    pool: &PgPool,
    build: &Build,
    hold: &Hold,
    reached: Reached,
    progress: &[Progress],
    batch: &Batch,
) -> Result<(), PositionError> {
    let mut statement = Statement::default();
    advance_by(&mut statement, build, hold, reached, progress)?;
    let bigint = |row: &mut crate::postgres::statement::Row<'_>, value: i64| {
        row.bigint(value);
    };
    let time = |row: &mut crate::postgres::statement::Row<'_>, value: Timestamp| {
        row.timestamp(value);
    };
    let items = Rows::of(batch.items.iter(), |row, item| {
        row.uuid(item.tenant.0)
            .uuid(item.item.0)
            .text(&item.sku)
            .optional_text(item.name.as_deref())
            .optional(item.reorder_point.map(Quantity::micros), bigint)
            .numeric(item.on_hand.micros())
            .numeric(item.reserved.micros())
            .optional(item.low_since, time);
    });
    upsert(
        &mut statement,
        build,
        "supply_items",
        ITEMS,
        &items,
        "(build, tenant_id, item_id) do update set sku = excluded.sku, name = excluded.name,
             reorder_point_micro = excluded.reorder_point_micro, on_hand_micro = excluded.on_hand_micro,
             reserved_micro = excluded.reserved_micro, low_since = excluded.low_since",
    )?;
    let days = Rows::of(batch.days.iter(), |row, (at, change)| {
        row.uuid(at.tenant.0)
            .uuid(at.item.0)
            .uuid(at.location.0)
            .integer(at.day)
            .numeric(change.came.micros())
            .numeric(change.went.micros());
    });
    upsert(
        &mut statement,
        build,
        "supply_days",
        DAYS,
        &days,
        "(build, tenant_id, item_id, location_id, day) do update set in_micro = t.in_micro + excluded.in_micro,
             out_micro = t.out_micro + excluded.out_micro",
    )?;
    let open =
        Rows::of(batch.lines.iter().filter_map(|(key, line)| Some((key, line.as_ref()?))), |row, (key, line)| {
            row.uuid(key.tenant.0)
                .uuid(key.document)
                .integer(key.line)
                .text(line.kind.name())
                .text(&line.number)
                .uuid(line.item.0)
                .text(&line.sku)
                .uuid(line.location.0)
                .bigint(line.quantity.micros())
                .bigint(line.backordered.micros())
                .timestamp(line.since);
        });
    upsert(
        &mut statement,
        build,
        "supply_open_lines",
        LINES,
        &open,
        "(build, tenant_id, document_id, line) do update set quantity_micro = excluded.quantity_micro,
             backordered_micro = excluded.backordered_micro",
    )?;
    let ended = Rows::of(batch.lines.iter().filter(|(_, line)| line.is_none()), |row, (key, _)| {
        row.uuid(key.tenant.0).uuid(key.document).integer(key.line);
    });
    if !ended.is_empty() {
        let given = statement.given(ENDED, &ended)?;
        statement.part(
            "ended",
            &format!(
                "delete from supply_open_lines l using {given} where l.build = {} and l.tenant_id = given.tenant_id
                     and l.document_id = given.document_id and l.line = given.line",
                build.number
            ),
        );
    }
    let receipts = Rows::of(batch.receipts.iter(), |row, (key, receipt)| {
        row.uuid(key.tenant.0)
            .uuid(key.document)
            .integer(key.line)
            .uuid(receipt.supplier)
            .uuid(receipt.item.0)
            .timestamp(receipt.ordered_at)
            .optional(receipt.first_received_at, time)
            .optional(receipt.received_at, time)
            .optional(receipt.closed_at, time);
    });
    upsert(
        &mut statement,
        build,
        "supply_receipts",
        RECEIPTS,
        &receipts,
        "(build, tenant_id, order_id, line) do update
             set first_received_at = coalesce(t.first_received_at, excluded.first_received_at),
                 received_at = coalesce(t.received_at, excluded.received_at),
                 closed_at = coalesce(t.closed_at, excluded.closed_at)",
    )?;
    crossings::insert_by(&mut statement, build, hold.partition, &batch.crossings)?;
    statement.run(pool).await.map_err(|error| hold.refused(error))
}

/// Deletes all that a build holds.
pub async fn delete(pool: &PgPool, build: &Build) -> Result<(), sqlx::Error> {
    for table in ["supply_items", "supply_days", "supply_open_lines", "supply_receipts", "supply_crossings"] {
        sqlx::query(&format!("delete from {table} where build = $1")).bind(build.number).execute(pool).await?;
    }
    Ok(())
}
