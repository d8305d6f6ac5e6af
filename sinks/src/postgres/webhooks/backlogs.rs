//! Backlogs: events that are kept, and whose deliveries are queued later, a bounded number at a time.

use super::deliveries::{NewDelivery, insert};
use crate::postgres::positions::Hold;
use crate::postgres::statement::{Columns, Rows, Sql, Statement};
use sqlx::{PgConnection, PgPool, Row};
use twh_domain::id::TenantId;
use uuid::Uuid;

/// A tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Whose.
    pub tenant: TenantId,
    /// All is queued through this event.
    pub at_sequence: i64,
    /// Of the next event all is queued through this subscription.
    pub at_subscription: Option<Uuid>,
}

const NEW: Columns = &[("tenant_id", Sql::Uuid), ("at_sequence", Sql::Bigint)];

/// Begins backlogs behind a sequence of each tenant, as a part of a statement.
pub(super) fn begin_by(statement: &mut Statement, begun: &[(TenantId, i64)]) -> Result<(), sqlx::Error> {
    if begun.is_empty() {
        return Ok(());
    }
    let rows = Rows::of(begun.iter(), |row, (tenant, sequence)| {
        row.uuid(tenant.0).bigint(*sequence);
    });
    let given = statement.given(NEW, &rows)?;
    statement.part(
        "into_webhook_backlogs",
        &format!(
            "insert into webhook_backlogs (tenant_id, at_sequence) select tenant_id, at_sequence from {given}
             on conflict do nothing"
        ),
    );
    Ok(())
}

/// The tenants that have one.
pub async fn all(pool: &PgPool) -> Result<Vec<TenantId>, sqlx::Error> {
    let tenants: Vec<Uuid> = sqlx::query_scalar("select tenant_id from webhook_backlogs").fetch_all(pool).await?;
    Ok(tenants.into_iter().map(TenantId).collect())
}

/// A tenant's, held until the transaction ends.
pub async fn for_step(connection: &mut PgConnection, tenant: TenantId) -> Result<Option<Backlog>, sqlx::Error> {
    let row = sqlx::query("select at_sequence, at_subscription from webhook_backlogs where tenant_id = $1 for update")
        .bind(tenant.0)
        .fetch_optional(connection)
        .await?;
    let backlog = |row: sqlx::postgres::PgRow| {
        let (at_sequence, at_subscription) = (row.try_get("at_sequence")?, row.try_get("at_subscription")?);
        Ok(Backlog { tenant, at_sequence, at_subscription })
    };
    row.map(backlog).transpose()
}

/// Queues deliveries and says how far that is, within the step's transaction.
pub async fn step(connection: &mut PgConnection, backlog: &Backlog, queued: &[NewDelivery]) -> Result<(), sqlx::Error> {
    insert(connection, queued).await?;
    sqlx::query("update webhook_backlogs set at_sequence = $2, at_subscription = $3 where tenant_id = $1")
        .bind(backlog.tenant.0)
        .bind(backlog.at_sequence)
        .bind(backlog.at_subscription)
        .execute(connection)
        .await
        .map(|_| ())
}

/// Ends a tenant's; says whether it did. Only who holds the partition may: another might be keeping events for it.
pub async fn end(pool: &PgPool, hold: &Hold, tenant: TenantId) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query(
        "with held as (
             select from consumer_positions where consumer_group = $2 and partition = $3 and epoch = $4 for share)
         delete from webhook_backlogs where tenant_id = $1 and exists (select from held)",
    )
    .bind(tenant.0)
    .bind(&hold.group)
    .bind(hold.partition)
    .bind(hold.epoch)
    .execute(pool)
    .await?;
    Ok(ended.rows_affected() > 0)
}

/// How many deliveries wait for a tenant's subscriptions that are sent to, counted no further than `limit`.
pub async fn waiting(connection: &mut PgConnection, tenant: TenantId, limit: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from (
             select from webhook_subscriptions s
             cross join lateral (
                 select from webhook_deliveries d where d.subscription_id = s.id and d.state = 'pending' limit $2) d
             where s.tenant_id = $1 and s.state = 'active' limit $2) few",
    )
    .bind(tenant.0)
    .bind(limit)
    .fetch_one(connection)
    .await
}
