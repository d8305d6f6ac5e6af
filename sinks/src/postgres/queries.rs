//! Read queries: every one carries its tenant, walks an index, and gives rows a page at a time.

use super::page::{self, Page};
use super::tenant::TenantConnection;
use super::totals::total;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row};
use time::OffsetDateTime;
use twh_domain::decimal::Quantity;
use twh_domain::entity::EntityKind;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use uuid::Uuid;

/// Whether a query was cancelled because it took longer than it may (PostgreSQL's code 57014).
#[must_use]
pub fn took_too_long(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("57014"))
}

/// A stored document, as it is answered.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its id.
    pub id: Uuid,
    /// Its version.
    pub version: i64,
    /// It, byte for byte.
    pub json: String,
}

fn document(row: &PgRow) -> Result<Document, sqlx::Error> {
    Ok(Document { id: row.try_get("id")?, version: row.try_get("version")?, json: row.try_get("document")? })
}

/// One document.
pub async fn find_document(
    connection: &mut PgConnection,
    kind: EntityKind,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<Document>, sqlx::Error> {
    let sql = format!(
        "select id, version, document::text as document from {} where tenant_id = $1 and id = $2",
        kind.collection()
    );
    let row = sqlx::query(&sql).bind(tenant.0).bind(id).fetch_optional(&mut *connection).await?;
    row.as_ref().map(document).transpose()
}

/// What documents are asked for; empty fields ask for nothing.
#[derive(Debug, Clone, Default)]
pub struct DocumentFilter {
    /// Exactly this SKU, code or number.
    pub code: Option<String>,
    /// Exactly this status.
    pub status: Option<String>,
    /// The item with this barcode.
    pub barcode: Option<String>,
    /// Items whose name begins like this, in whatever case.
    pub name_prefix: Option<String>,
    /// Items of this type.
    pub item_type: Option<String>,
}

/// A page of documents by id: ids are made in the order of time.
pub async fn list_documents(
    connection: &mut TenantConnection,
    kind: EntityKind,
    tenant: TenantId,
    filter: &DocumentFilter,
    after: Option<Uuid>,
    newest_first: bool,
    limit: i64,
) -> Result<Page<Document>, sqlx::Error> {
    let (beyond, order) = if newest_first { ("<", "desc") } else { (">", "asc") };
    // Filters on names and barcodes stand only where items do, so that other tables need no such columns.
    let items_only = match kind {
        // A beginning is a range, as an index has it: from itself to itself with the last of all characters.
        EntityKind::Item => {
            "and ($5::text is null or id in (select item_id from item_barcodes where tenant_id = $1 and barcode = $5))
             and ($6::text is null or (name_key >= lower($6) and name_key < lower($6) || chr(1114111)))
             and ($7::text is null or document ->> 'type' = $7)"
        }
        _ => "and $5::text is null and $6::text is null and $7::text is null",
    };
    let sql = format!(
        "select id, version, document::text as document from {}
         where tenant_id = $1 and ($2::uuid is null or id {beyond} $2) and ($3::text is null or code = $3)
           and ($4::text is null or status = $4) {items_only}
         order by id {order} limit $8",
        kind.collection()
    );
    let query = sqlx::query(&sql)
        .bind(tenant.0)
        .bind(after)
        .bind(filter.code.as_deref())
        .bind(filter.status.as_deref())
        .bind(filter.barcode.as_deref())
        .bind(filter.name_prefix.as_deref())
        .bind(filter.item_type.as_deref())
        .bind(limit.saturating_add(1));
    page::read(connection.pooled(), query, limit, document).await
}

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

pub(crate) fn micros(row: &PgRow, column: &str) -> Result<Quantity, sqlx::Error> {
    let micros: i64 = row.try_get(column)?;
    Quantity::from_micros(micros)
        .ok_or_else(|| sqlx::Error::Decode(format!("{column} is out of range: {micros}").into()))
}

pub(super) fn time(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Ok(row.try_get::<OffsetDateTime, _>(column)?.into())
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

/// Most locations that an item's stock tells of one by one. Its sums are over all.
const ITEM_LOCATIONS_MAX: i64 = 1_000;

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

/// A movement, as it is answered.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the columns of stock_movements")]
pub struct MovementRow {
    pub sequence: i64,
    pub item_id: Uuid,
    pub location_id: Uuid,
    pub kind: String,
    pub level_version: i64,
    pub on_hand_change: Quantity,
    pub reserved_change: Quantity,
    pub on_hand_after: Quantity,
    pub reserved_after: Quantity,
    pub reference_kind: String,
    pub reference_id: Uuid,
    pub reference_line: i32,
    pub reason: Option<String>,
    pub command_id: Uuid,
    pub position: Position,
    pub occurred_at: Timestamp,
    pub recorded_at: Timestamp,
    pub hash: Vec<u8>,
}

/// Which movements are asked for.
#[derive(Debug, Clone, Default)]
pub struct MovementFilter {
    /// Of this item.
    pub item_id: Option<Uuid>,
    /// At this location.
    pub location_id: Option<Uuid>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this document.
    pub reference_id: Option<Uuid>,
}

const MOVEMENT: &str = "sequence, item_id, location_id, kind, level_version, on_hand_change_micro, reserved_change_micro,
    on_hand_after_micro, reserved_after_micro, reference_kind, reference_id, reference_line, reason, command_id, partition,
    log_offset, occurred_at, recorded_at, hash";

/// A page of movements, newest first.
pub async fn list_movements(
    connection: &mut TenantConnection,
    tenant: TenantId,
    filter: &MovementFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Page<MovementRow>, sqlx::Error> {
    let sql = format!(
        "select {MOVEMENT} from stock_movements
         where tenant_id = $1 and ($2::uuid is null or item_id = $2) and ($3::uuid is null or location_id = $3)
           and ($4::text is null or kind = $4) and ($5::uuid is null or reference_id = $5)
           and ($6::bigint is null or sequence < $6)
         order by sequence desc limit $7"
    );
    let query = sqlx::query(&sql)
        .bind(tenant.0)
        .bind(filter.item_id)
        .bind(filter.location_id)
        .bind(filter.kind.as_deref())
        .bind(filter.reference_id)
        .bind(before)
        .bind(limit.saturating_add(1));
    page::read(connection.pooled(), query, limit, movement).await
}

/// One movement, by its number in the ledger.
pub async fn find_movement(
    connection: &mut PgConnection,
    tenant: TenantId,
    sequence: i64,
) -> Result<Option<MovementRow>, sqlx::Error> {
    let sql = format!("select {MOVEMENT} from stock_movements where tenant_id = $1 and sequence = $2");
    let row = sqlx::query(&sql).bind(tenant.0).bind(sequence).fetch_optional(connection).await?;
    row.as_ref().map(movement).transpose()
}

fn movement(row: &PgRow) -> Result<MovementRow, sqlx::Error> {
    Ok(MovementRow {
        sequence: row.try_get("sequence")?,
        item_id: row.try_get("item_id")?,
        location_id: row.try_get("location_id")?,
        kind: row.try_get("kind")?,
        level_version: row.try_get("level_version")?,
        on_hand_change: micros(row, "on_hand_change_micro")?,
        reserved_change: micros(row, "reserved_change_micro")?,
        on_hand_after: micros(row, "on_hand_after_micro")?,
        reserved_after: micros(row, "reserved_after_micro")?,
        reference_kind: row.try_get("reference_kind")?,
        reference_id: row.try_get("reference_id")?,
        reference_line: row.try_get("reference_line")?,
        reason: row.try_get("reason")?,
        command_id: row.try_get("command_id")?,
        position: Position { partition: row.try_get("partition")?, offset: row.try_get("log_offset")? },
        occurred_at: time(row, "occurred_at")?,
        recorded_at: time(row, "recorded_at")?,
        hash: row.try_get("hash")?,
    })
}

/// How many bytes each of a tenant's documents has, of those that are there.
pub async fn document_lengths(
    connection: &mut PgConnection,
    kind: EntityKind,
    tenant: TenantId,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, usize)>, sqlx::Error> {
    // The table's name comes from the code, never from a client.
    let sql = format!(
        "select id, octet_length(document::text) as length from {} where tenant_id = $1 and id = any($2)",
        kind.collection()
    );
    let rows = sqlx::query(&sql).bind(tenant.0).bind(ids).fetch_all(connection).await?;
    let length =
        |row: &PgRow| row.try_get::<i32, _>("length").map(|length| usize::try_from(length).unwrap_or_default());
    rows.iter().map(|row| Ok((row.try_get("id")?, length(row)?))).collect()
}

/// How far the ledger has come on a partition.
pub async fn applied_through(connection: &mut PgConnection, partition: i32) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("select next_offset from ledger_partitions where partition = $1")
        .bind(partition)
        .fetch_optional(&mut *connection)
        .await
}

/// The partition that a tenant's commands are on, for good; `None` before its first. Outcomes are forgotten, other traces are not.
pub async fn partition_of(connection: &mut PgConnection, tenant: TenantId) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar(&format!("select {PARTITION_OF}")).bind(tenant.0).fetch_one(connection).await
}

const PARTITION_OF: &str = "coalesce((select partition from command_outcomes where tenant_id = $1 limit 1),
    (select partition from stock_movements where tenant_id = $1 limit 1),
    (select partition from projection_progress where tenant_id = $1 limit 1))";

/// The last command that the tenant's tables reflect; `None` before its first.
pub async fn reflects(connection: &mut PgConnection, tenant: TenantId) -> Result<Option<Position>, sqlx::Error> {
    let row = sqlx::query(&format!(
        "select p.partition, p.next_offset - 1 as log_offset from ledger_partitions p where p.partition = {PARTITION_OF}"
    ))
    .bind(tenant.0)
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(Position { partition: row.try_get("partition")?, offset: row.try_get("log_offset")? })).transpose()
}
