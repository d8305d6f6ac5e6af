//! The account of changes that are not the ledger's: one chain a tenant.

use super::state;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use std::ops::{Deref, DerefMut};
use time::OffsetDateTime;
use twh_domain::actor::Actor;
use twh_domain::event::{CONTROL_CHAIN, ControlRecord};
use twh_domain::id::TenantId;
use twh_domain::movement::genesis;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// Who does something, by which request, when.
#[derive(Debug, Clone)]
pub struct Deed {
    /// To whose things.
    pub tenant: TenantId,
    /// Who, from where.
    pub actor: Actor,
    /// By which request.
    pub request_id: String,
    /// When.
    pub at: Timestamp,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// Such as `api_key.create`.
    pub action: &'a str,
    /// The kind of thing it was done to.
    pub entity_kind: &'a str,
    /// What it was done to.
    pub entity: Uuid,
    /// The values before; absent for something new.
    pub old: Option<Value>,
    /// The values after; absent for something that is gone. The row as it stands now is added to them.
    pub new: Option<Value>,
}

/// A change of who may call, of subscriptions and the like, under way: a transaction that holds the accounts of those it changes.
///
/// An account's end is locked before any other row, of several tenants in their order. So changes of one tenant come one after
/// the other, and whatever each locks further on, no two of them wait for each other.
#[derive(Debug)]
pub struct ControlChange(Transaction<'static, Postgres>);

impl Deref for ControlChange {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for ControlChange {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl ControlChange {
    /// Begins a change of these tenants. One that the change itself makes is held from its first record on: nobody else knows it.
    pub async fn begin(pool: &PgPool, tenants: &[TenantId]) -> Result<Self, sqlx::Error> {
        let mut this = Self(pool.begin().await?);
        let mut tenants = tenants.to_vec();
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            hold(&mut this, tenant).await?;
        }
        Ok(this)
    }

    /// Adds a record, after what it tells.
    pub async fn record(&mut self, deed: &Deed, change: Change<'_>) -> Result<(), sqlx::Error> {
        record(self, deed, change).await
    }

    /// Makes it so.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }
}

/// Holds the end of a tenant's account, and says where and what it is; `None` for a tenant that is not there.
async fn hold(connection: &mut PgConnection, tenant: TenantId) -> Result<Option<(i64, Vec<u8>)>, sqlx::Error> {
    let select = "select sequence, hash from control_audit_heads where tenant_id = $1 for update";
    let head = sqlx::query_as(select).bind(tenant.0).fetch_optional(&mut *connection).await?;
    if head.is_some() {
        return Ok(head);
    }
    sqlx::query(
        "insert into control_audit_heads (tenant_id, sequence, hash) select tenant_id, 0, $2 from tenants where tenant_id = $1
         on conflict do nothing",
    )
    .bind(tenant.0)
    .bind(genesis(CONTROL_CHAIN, tenant).as_slice())
    .execute(&mut *connection)
    .await?;
    sqlx::query_as(select).bind(tenant.0).fetch_optional(connection).await
}

async fn record(connection: &mut PgConnection, deed: &Deed, mut change: Change<'_>) -> Result<(), sqlx::Error> {
    let (sequence, previous) = hold(connection, deed.tenant).await?.ok_or(sqlx::Error::RowNotFound)?;
    // Read once the head is locked: the newest record of a row then holds what the row is, whoever changed it meanwhile.
    state::with_kept(connection, deed.tenant, &mut change).await?;
    let last: Option<OffsetDateTime> =
        sqlx::query_scalar("select recorded_at from control_audit where tenant_id = $1 and sequence = $2")
            .bind(deed.tenant.0)
            .bind(sequence)
            .fetch_optional(&mut *connection)
            .await?;
    let previous = previous.try_into().map_err(|_| sqlx::Error::Decode("a hash is not 32 bytes long".into()))?;
    let record = ControlRecord {
        tenant: deed.tenant,
        sequence: sequence + 1,
        action: change.action.to_owned(),
        entity_kind: change.entity_kind.to_owned(),
        entity: change.entity,
        old: change.old.map(|value| value.to_string()),
        new: change.new.map(|value| value.to_string()),
        actor: deed.actor.clone(),
        request_id: deed.request_id.clone(),
        // Who waited for another's change, or whose clock is behind, comes after it all the same.
        recorded_at: last.map_or(deed.at, |last| deed.at.max(last.into())),
    };
    let hash = record.chain(&previous);
    sqlx::query(
        "with head as (update control_audit_heads set sequence = $2, hash = $14 where tenant_id = $1)
         insert into control_audit (tenant_id, sequence, action, entity_kind, entity_id, old, new, actor_kind, actor_id, ip,
             user_agent, request_id, recorded_at, hash)
         values ($1, $2, $3, $4, $5, $6::json, $7::json, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(record.tenant.0)
    .bind(record.sequence)
    .bind(&record.action)
    .bind(&record.entity_kind)
    .bind(record.entity)
    .bind(&record.old)
    .bind(&record.new)
    .bind(&record.actor.kind)
    .bind(&record.actor.id)
    .bind(&record.actor.ip)
    .bind(&record.actor.user_agent)
    .bind(&record.request_id)
    .bind(record.recorded_at.datetime())
    .bind(hash.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}
