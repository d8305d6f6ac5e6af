//! What stands in the tables of everything that is not the ledger's (`control_state`), as control records carry it.
//!
//! A record of a change holds, as `kept`, the whole row as the change left it. It is read back from the table in the change's own
//! transaction, so that a new column is covered without another word here, and `twh verify` compares the two.

use super::audit::{Change, ControlChange, Deed};
use serde_json::{Map, Value};
use sqlx::{PgConnection, PgPool};
use twh_domain::actor::Actor;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// The kinds of row that records carry.
pub(in crate::postgres) const KINDS: &[&str] =
    &["tenant", "api_key", "member", "invitation", "identity_provider", "webhook_subscription"];
/// What changes a person, which is part of its row as a member.
pub(in crate::postgres) const OF_PERSONS: &[&str] = &["user.password", "user.password_reset", "user.update"];
/// What leaves no row, or one that is marked as gone.
pub(in crate::postgres) const REMOVALS: &[&str] = &["member.remove", "identity_provider.delete", "webhook.delete"];
/// Where a record holds the row.
const KEPT: &str = "kept";
/// Rows that get their first record in one transaction.
const BASELINE_BATCH: i64 = 500;

/// The row that a change left, by itself or with the values that a record tells.
pub(super) async fn with_kept(
    connection: &mut PgConnection,
    tenant: TenantId,
    change: &mut Change<'_>,
) -> Result<(), sqlx::Error> {
    let kind = if OF_PERSONS.contains(&change.action) { "member" } else { change.entity_kind };
    if !KINDS.contains(&kind) || REMOVALS.contains(&change.action) {
        return Ok(());
    }
    let state: Option<String> = sqlx::query_scalar(
        "select state::text from control_state where tenant_id = $1 and kind = $2 and id = $3 and not gone",
    )
    .bind(tenant.0)
    .bind(kind)
    .bind(change.entity)
    .fetch_optional(connection)
    .await?;
    let Some(state) = state else { return Ok(()) };
    let state: Value = serde_json::from_str(&state).map_err(|error| sqlx::Error::Decode(error.into()))?;
    if let Value::Object(fields) = change.new.get_or_insert_with(|| Value::Object(Map::new())) {
        fields.insert(KEPT.to_owned(), state);
    }
    Ok(())
}

/// Writes the first record of each row that stood before records carried rows. Processes that start together share the work.
pub(in crate::postgres) async fn baseline(pool: &PgPool) -> Result<(), sqlx::Error> {
    loop {
        let mut tx = ControlChange::begin(pool, &[]).await?;
        // Heads are locked in the order of tenants by all who lock several.
        let rows: Vec<(Uuid, String, Uuid)> = sqlx::query_as(
            "with taken as (
                 delete from control_unaccounted where (tenant_id, kind, id) in (
                     select tenant_id, kind, id from control_unaccounted
                     order by tenant_id, kind, id limit $1 for update skip locked)
                 returning tenant_id, kind, id)
             select * from taken order by tenant_id, kind, id",
        )
        .bind(BASELINE_BATCH)
        .fetch_all(&mut *tx)
        .await?;
        if rows.is_empty() {
            return tx.commit().await;
        }
        for (tenant, kind, id) in rows {
            let actor = Actor { kind: "system".to_owned(), id: "upgrade".to_owned(), ip: None, user_agent: None };
            let at = Timestamp::from(time::OffsetDateTime::now_utc());
            let deed = Deed { tenant: TenantId(tenant), actor, request_id: Uuid::now_v7().to_string(), at };
            let action = format!("{kind}.baseline");
            let change = Change { action: &action, entity_kind: &kind, entity: id, old: None, new: None };
            tx.record(&deed, change).await?;
        }
        tx.commit().await?;
    }
}
