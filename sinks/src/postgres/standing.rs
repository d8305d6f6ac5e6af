//! How far the ledger is, and where a tenant is on it.

use sqlx::{PgConnection, Row as _};
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;

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
