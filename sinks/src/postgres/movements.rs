//! Movements, a page at a time.

use super::columns::{micros, time};
use super::page::{self, Page};
use super::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use twh_domain::decimal::Quantity;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

const MOVEMENT: &str = "sequence, item_id, location_id, kind, level_version, on_hand_change_micro, reserved_change_micro,
    on_hand_after_micro, reserved_after_micro, reference_kind, reference_id, reference_line, reason, command_id, partition,
    log_offset, occurred_at, recorded_at, hash";

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
