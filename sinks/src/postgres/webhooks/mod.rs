//! Webhooks as they are kept: subscriptions, events, deliveries and replays.

pub mod backlogs;
pub mod deliveries;
pub mod events;
pub mod replays;
pub mod subscriptions;

use sqlx::PgConnection;
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;

fn optional_time(at: Option<OffsetDateTime>) -> Option<Timestamp> {
    at.map(Timestamp::from)
}

/// Tells who sends that something of a tenant's has changed, within the transaction of the change; from now on the tenant's
/// events are kept.
pub async fn touch(connection: &mut PgConnection, tenant: TenantId) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into webhook_tenants as t (tenant_id, version, changed_at) values ($1, 1, clock_timestamp())
         on conflict (tenant_id) do update set version = t.version + 1, changed_at = excluded.changed_at",
    )
    .bind(tenant.0)
    .execute(connection)
    .await
    .map(|_| ())
}
