//! Pages of the ledger's rows as the rules know them. A row that cannot be read so is a finding, not an error.

use super::super::accounts::state;
use super::super::tree::KEPT_EVERY;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;
use twh_domain::actor::Actor;
use twh_domain::commands::CommandKind;
use twh_domain::decimal::Quantity;
use twh_domain::entity::{Entity, EntityKind};
use twh_domain::event::{AuditRecord, ControlRecord};
use twh_domain::id::{CommandId, ItemId, LocationId, TenantId};
use twh_domain::level::StockLevel;
use twh_domain::movement::{Hash, Movement, MovementKind};
use twh_domain::outcome::Position;
use twh_domain::state::LedgerHead;
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use uuid::Uuid;

/// The item and the location of a level.
pub(super) type Place = (Uuid, Uuid);

/// A row that is there and does not read as what it must be.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) row: String,
    pub(super) problem: String,
}

type Page<T> = Result<Vec<Result<T, Unreadable>>, sqlx::Error>;

fn text_error(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn time(row: &PgRow, column: &str) -> Result<Timestamp, String> {
    row.try_get::<OffsetDateTime, _>(column).map(Timestamp::from).map_err(text_error)
}

fn quantity(row: &PgRow, column: &str) -> Result<Quantity, String> {
    let micros: i64 = row.try_get(column).map_err(text_error)?;
    Quantity::from_micros(micros).ok_or_else(|| format!("{column} is out of range: {micros}"))
}

fn hash(row: &PgRow, column: &str) -> Result<Hash, String> {
    let bytes: &[u8] = row.try_get(column).map_err(text_error)?;
    bytes.try_into().map_err(|_| format!("{column} is not 32 bytes long"))
}

fn entity_kind(row: &PgRow, column: &str) -> Result<EntityKind, String> {
    let name: &str = row.try_get(column).map_err(text_error)?;
    EntityKind::from_name(name).ok_or_else(|| format!("{column} is no kind of document: {name:?}"))
}

fn movement(row: &PgRow) -> Result<Movement, String> {
    let get = |column: &str| row.try_get::<Uuid, _>(column).map_err(text_error);
    let int = |column: &str| row.try_get::<i64, _>(column).map_err(text_error);
    let kind: &str = row.try_get("kind").map_err(text_error)?;
    Ok(Movement {
        tenant: TenantId(get("tenant_id")?),
        sequence: int("sequence")?,
        item: ItemId(get("item_id")?),
        location: LocationId(get("location_id")?),
        kind: MovementKind::from_name(kind).ok_or_else(|| format!("there is no kind of movement {kind:?}"))?,
        level_version: int("level_version")?,
        on_hand_change: quantity(row, "on_hand_change_micro")?,
        reserved_change: quantity(row, "reserved_change_micro")?,
        on_hand_after: quantity(row, "on_hand_after_micro")?,
        reserved_after: quantity(row, "reserved_after_micro")?,
        reference_kind: entity_kind(row, "reference_kind")?,
        reference: get("reference_id")?,
        reference_line: row.try_get("reference_line").map_err(text_error)?,
        reason: row.try_get::<Option<&str>, _>("reason").map_err(text_error)?.map(Arc::from),
        command: CommandId(get("command_id")?),
        position: Position { partition: row.try_get("partition").map_err(text_error)?, offset: int("log_offset")? },
        occurred_at: time(row, "occurred_at")?,
        recorded_at: time(row, "recorded_at")?,
        hash: hash(row, "hash")?,
    })
}

fn audit(row: &PgRow) -> Result<AuditRecord, String> {
    let get = |column: &str| row.try_get::<Uuid, _>(column).map_err(text_error);
    let text = |column: &str| row.try_get::<String, _>(column).map_err(text_error);
    let action: &str = row.try_get("action").map_err(text_error)?;
    Ok(AuditRecord {
        tenant: TenantId(get("tenant_id")?),
        sequence: row.try_get("sequence").map_err(text_error)?,
        operation_index: row.try_get("operation_index").map_err(text_error)?,
        action: CommandKind::of(action).ok_or_else(|| format!("there is no action {action:?}"))?.name,
        entity_kind: entity_kind(row, "entity_kind")?,
        entity: get("entity_id")?,
        entity_version: row.try_get("entity_version").map_err(text_error)?,
        document: text("document")?.into(),
        actor: Actor {
            kind: text("actor_kind")?,
            id: text("actor_id")?,
            ip: row.try_get("ip").map_err(text_error)?,
            user_agent: row.try_get("user_agent").map_err(text_error)?,
        }
        .into(),
        request_id: text("request_id")?.into(),
        command: CommandId(get("command_id")?),
        recorded_at: time(row, "recorded_at")?,
        hash: hash(row, "hash")?,
    })
}

fn page<T>(rows: &[PgRow], noun: &str, read: fn(&PgRow) -> Result<T, String>) -> Page<T> {
    rows.iter()
        .map(|row| {
            let sequence: i64 = row.try_get("sequence")?;
            Ok(read(row).map_err(|problem| Unreadable { row: format!("{noun} {sequence}"), problem }))
        })
        .collect()
}

/// Movements in the order of the ledger.
pub(super) async fn movements(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: i64,
    limit: i64,
) -> Page<Movement> {
    let rows =
        sqlx::query("select * from stock_movements where tenant_id = $1 and sequence > $2 order by sequence limit $3")
            .bind(tenant.0)
            .bind(after)
            .bind(limit)
            .fetch_all(connection)
            .await?;
    page(&rows, "movement", movement)
}

/// Movements level by level, in order within each.
pub(super) async fn movements_by_level(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: (Place, i64),
    limit: i64,
) -> Page<Movement> {
    let ((item, location), sequence) = after;
    let rows = sqlx::query(
        "select * from stock_movements where tenant_id = $1 and (item_id, location_id, sequence) > ($2, $3, $4)
         order by item_id, location_id, sequence limit $5",
    )
    .bind(tenant.0)
    .bind(item)
    .bind(location)
    .bind(sequence)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    page(&rows, "movement", movement)
}

/// The kept subtrees of the lowest kept level that movements after `after` complete, by their index.
pub(super) async fn subtrees(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: i64,
    movements: i64,
) -> Result<BTreeMap<i64, Vec<u8>>, sqlx::Error> {
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "select index, hash from ledger_tree where tenant_id = $1 and level = $2 and index between $3 and $4",
    )
    .bind(tenant.0)
    .bind(i64::from(KEPT_EVERY))
    .bind(after >> KEPT_EVERY)
    .bind((after + movements) >> KEPT_EVERY)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Levels after a place, up to another where one is given.
pub(super) async fn levels(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: Place,
    through: Option<Place>,
) -> Result<BTreeMap<Place, Result<StockLevel, String>>, sqlx::Error> {
    let rows = sqlx::query(
        "select * from stock_levels where tenant_id = $1 and (item_id, location_id) > ($2, $3)
             and ($4::uuid is null or (item_id, location_id) <= ($4, $5))",
    )
    .bind(tenant.0)
    .bind(after.0)
    .bind(after.1)
    .bind(through.map(|place| place.0))
    .bind(through.map(|place| place.1))
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(((row.try_get("item_id")?, row.try_get("location_id")?), level(row)))).collect()
}

fn level(row: &PgRow) -> Result<StockLevel, String> {
    Ok(StockLevel {
        on_hand: quantity(row, "on_hand_micro")?,
        reserved: quantity(row, "reserved_micro")?,
        version: row.try_get("version").map_err(text_error)?,
        last_counted_at: row
            .try_get::<Option<OffsetDateTime>, _>("last_counted_at")
            .map_err(text_error)?
            .map(Timestamp::from),
        updated_at: time(row, "updated_at")?,
    })
}

/// Audit records in order.
pub(super) async fn audit_records(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: i64,
    limit: i64,
) -> Page<AuditRecord> {
    let rows = sqlx::query(
        "select tenant_id, sequence, operation_index, action, entity_kind, entity_id, entity_version, document::text as document,
             actor_kind, actor_id, ip, user_agent, request_id, command_id, recorded_at, hash
         from audit_log where tenant_id = $1 and sequence > $2 order by sequence limit $3",
    )
    .bind(tenant.0)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    page(&rows, "audit record", audit)
}

/// A control record, its hash, and the row that the record before it of the same row holds.
pub(super) struct Control {
    pub(super) record: ControlRecord,
    pub(super) hash: Hash,
    pub(super) before: Option<String>,
}

fn control(row: &PgRow) -> Result<Control, String> {
    let get = |column: &str| row.try_get::<Uuid, _>(column).map_err(text_error);
    let text = |column: &str| row.try_get::<String, _>(column).map_err(text_error);
    let optional = |column: &str| row.try_get::<Option<String>, _>(column).map_err(text_error);
    let record = ControlRecord {
        tenant: TenantId(get("tenant_id")?),
        sequence: row.try_get("sequence").map_err(text_error)?,
        action: text("action")?,
        entity_kind: text("entity_kind")?,
        entity: get("entity_id")?,
        old: optional("old")?,
        new: optional("new")?,
        actor: Actor {
            kind: text("actor_kind")?,
            id: text("actor_id")?,
            ip: optional("ip")?,
            user_agent: optional("user_agent")?,
        },
        request_id: text("request_id")?,
        recorded_at: time(row, "recorded_at")?,
    };
    Ok(Control { record, hash: hash(row, "hash")?, before: optional("before")? })
}

/// A page of a tenant's control records.
pub(super) async fn control_records(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: i64,
    limit: i64,
) -> Page<Control> {
    let rows = sqlx::query(
        "select c.tenant_id, c.sequence, c.action, c.entity_kind, c.entity_id, c.old::text as old, c.new::text as new, c.actor_kind,
             c.actor_id, c.ip, c.user_agent, c.request_id, c.recorded_at, c.hash, b.kept::text as before
         from (select * from control_audit where tenant_id = $1 and sequence > $2 order by sequence limit $3) c
         left join lateral (
             select p.new -> 'kept' as kept from control_audit p
             where p.tenant_id = c.tenant_id and p.entity_id = c.entity_id and p.sequence < c.sequence
                 and (p.entity_kind = any($4) or p.action = any($5))
                 and case when p.action = any($5) then 'member' else p.entity_kind end
                     = case when c.action = any($5) then 'member' else c.entity_kind end
             order by p.sequence desc limit 1) b on c.entity_kind = any($4) or c.action = any($5)
         order by c.sequence",
    )
    .bind(tenant.0)
    .bind(after)
    .bind(limit)
    .bind(state::KINDS)
    .bind(state::OF_PERSONS)
    .fetch_all(connection)
    .await?;
    page(&rows, "control record", control)
}

/// How many control records a tenant has, and the hash of the last; `None` where it has none.
pub(super) async fn control_head(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<Option<Result<(i64, Hash), String>>, sqlx::Error> {
    let row = sqlx::query("select sequence, hash from control_audit_heads where tenant_id = $1")
        .bind(tenant.0)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| Ok((row.try_get("sequence").map_err(text_error)?, hash(&row, "hash")?))))
}

/// A tenant's head; `None` where it has none.
pub(super) async fn head(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<Option<Result<LedgerHead, String>>, sqlx::Error> {
    let row = sqlx::query("select * from ledger_heads where tenant_id = $1")
        .bind(tenant.0)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| {
        Ok(LedgerHead {
            movement_sequence: row.try_get("movement_sequence").map_err(text_error)?,
            movement_hash: hash(&row, "movement_hash")?,
            event_sequence: row.try_get("event_sequence").map_err(text_error)?,
            audit_sequence: row.try_get("audit_sequence").map_err(text_error)?,
            audit_hash: hash(&row, "audit_hash")?,
            recorded_at: time(&row, "recorded_at")?,
        })
    }))
}

/// What the account of a document's changes says it is now.
pub(super) struct Newest {
    pub(super) key: DocumentKey,
    pub(super) kind: Result<EntityKind, String>,
    pub(super) document: String,
}

/// Documents in the order of their ids, and of their kinds where kinds share an id: an id is unique within its kind only. Kinds go
/// by the bytes of their names.
pub(super) type DocumentKey = (Uuid, String);

/// The newest audit record of each document, in order.
pub(super) async fn newest(
    connection: &mut PgConnection,
    tenant: TenantId,
    (id, kind): &DocumentKey,
    limit: i64,
) -> Result<Vec<Newest>, sqlx::Error> {
    let rows = sqlx::query(
        r#"select distinct on (entity_id, entity_kind collate "C") entity_id, entity_kind, document::text as document
         from audit_log
         where tenant_id = $1 and entity_id >= $2 and (entity_id > $2 or entity_kind collate "C" > $3)
         order by entity_id, entity_kind collate "C", entity_version desc limit $4"#,
    )
    .bind(tenant.0)
    .bind(id)
    .bind(kind)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Newest {
                key: (row.try_get("entity_id")?, row.try_get("entity_kind")?),
                kind: entity_kind(row, "entity_kind"),
                document: row.try_get("document")?,
            })
        })
        .collect()
}

/// A document's row: the document and the columns that are drawn from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) document: String,
    pub(super) code: Option<String>,
    pub(super) status: Option<String>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) version: i64,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
}

/// The rows of a kind's documents after one document, up to another where one is given.
pub(super) async fn stored(
    connection: &mut PgConnection,
    kind: EntityKind,
    tenant: TenantId,
    (after, after_kind): &DocumentKey,
    through: Option<&DocumentKey>,
) -> Result<BTreeMap<Uuid, Stored>, sqlx::Error> {
    let (from, to) = (
        if kind.name() > after_kind.as_str() { ">=" } else { ">" },
        if through.is_none_or(|(_, through)| kind.name() <= through.as_str()) { "<=" } else { "<" },
    );
    let sql = format!(
        "select id, code, status, expires_at, version, created_at, updated_at, document::text as document from {}
         where tenant_id = $1 and id {from} $2 and ($3::uuid is null or id {to} $3)",
        kind.collection()
    );
    let through = through.map(|(id, _)| *id);
    let rows = sqlx::query(&sql).bind(tenant.0).bind(after).bind(through).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let stored = Stored {
                document: row.try_get("document")?,
                code: row.try_get("code")?,
                status: row.try_get("status")?,
                expires_at: row.try_get::<Option<OffsetDateTime>, _>("expires_at")?.map(Timestamp::from),
                version: row.try_get("version")?,
                created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
                updated_at: row.try_get::<OffsetDateTime, _>("updated_at")?.into(),
            };
            Ok((row.try_get("id")?, stored))
        })
        .collect()
}

/// Which item has each of these barcodes.
pub(super) async fn barcode_owners(
    connection: &mut PgConnection,
    tenant: TenantId,
    barcodes: &[&str],
) -> Result<BTreeMap<String, Uuid>, sqlx::Error> {
    let rows = sqlx::query("select barcode, item_id from item_barcodes where tenant_id = $1 and barcode = any($2)")
        .bind(tenant.0)
        .bind(barcodes)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((row.try_get("barcode")?, row.try_get("item_id")?))).collect()
}

/// Levels that have something reserved, a page by place.
pub(super) async fn reserved_levels(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: Place,
    limit: i64,
) -> Result<BTreeMap<Place, Total>, sqlx::Error> {
    let rows: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
        "select item_id, location_id, reserved_micro from stock_levels
         where tenant_id = $1 and (item_id, location_id) > ($2, $3) and reserved_micro <> 0
         order by item_id, location_id limit $4",
    )
    .bind(tenant.0)
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(item, location, reserved)| ((item, location), Total::from_micros(reserved.into())))
        .collect())
}

/// Open documents of a kind that may hold stock, a page by id.
pub(super) async fn open_documents(
    connection: &mut PgConnection,
    kind: EntityKind,
    tenant: TenantId,
    after: Uuid,
    limit: i64,
) -> Result<Vec<(Uuid, Result<Entity, String>)>, sqlx::Error> {
    let sql = format!(
        "select id, document::text as document from {} where tenant_id = $1 and id > $2
             and status in ('allocated', 'partially_shipped', 'active') order by id limit $3",
        kind.collection()
    );
    let rows = sqlx::query(&sql).bind(tenant.0).bind(after).bind(limit).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let document: &str = row.try_get("document")?;
            Ok((row.try_get("id")?, Entity::from_document(kind, document).map_err(text_error)))
        })
        .collect()
}

/// Every tenant that has a row in a table of the ledger, in order.
pub(super) async fn tenants(connection: &mut PgConnection, tables: &[&str]) -> Result<Vec<TenantId>, sqlx::Error> {
    // From row to row of the next tenant by the primary key: many rows of one tenant cost one step.
    let each = tables.iter().map(|table| {
        format!(
            "(with recursive t (id) as (
                 (select tenant_id from {table} order by tenant_id limit 1)
                 union all
                 select (select tenant_id from {table} where tenant_id > t.id order by tenant_id limit 1) from t where t.id is not null)
             select id from t where id is not null)"
        )
    });
    let sql = format!("{} order by 1", each.collect::<Vec<_>>().join(" union "));
    sqlx::query_scalar(&sql).fetch_all(connection).await.map(|ids: Vec<Uuid>| ids.into_iter().map(TenantId).collect())
}
