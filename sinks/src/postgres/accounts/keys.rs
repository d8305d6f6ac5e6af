//! API keys, kept as keyed hashes.

use super::granted::Granted;
use crate::postgres::page::{self, Page};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, PgPool, Row};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// A key, without its secret.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its id, as it stands in audit records.
    pub id: Uuid,
    /// Whose.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// Its first characters.
    pub hint: String,
    /// What it is to the tenant.
    pub role: String,
    /// What it may do, where that is less than its role may.
    pub scopes: Option<Vec<String>>,
    /// Networks it may be used from; from everywhere where absent.
    pub ip_allowed: Option<Vec<String>>,
    /// Who made it: a person or a key.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Option<Timestamp>,
    /// When it was last seen, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was ended.
    pub revoked_at: Option<Timestamp>,
    /// The key that took its place.
    pub rotated_to: Option<Uuid>,
}

/// A key as the one who calls with it.
#[derive(Debug, Clone)]
pub struct KeyOwner {
    /// The key.
    pub key: Key,
    /// Its tenant's plan.
    pub plan: String,
    /// Its tenant's environment.
    pub environment: String,
}

const COLUMNS: &str = "k.key_id, k.tenant_id, k.name, k.hint, k.role, k.scopes, k.ip_allowed, k.created_by, k.created_at, \
     k.expires_at, k.last_used_at, k.revoked_at, k.rotated_to";

fn moment(row: &PgRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row.try_get::<Option<OffsetDateTime>, _>(column)?.map(Timestamp::from))
}

fn key(row: &PgRow) -> Result<Key, sqlx::Error> {
    Ok(Key {
        id: row.try_get("key_id")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        name: row.try_get("name")?,
        hint: row.try_get("hint")?,
        role: row.try_get("role")?,
        scopes: row.try_get("scopes")?,
        ip_allowed: row.try_get("ip_allowed")?,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
        expires_at: moment(row, "expires_at")?,
        last_used_at: moment(row, "last_used_at")?,
        revoked_at: moment(row, "revoked_at")?,
        rotated_to: row.try_get("rotated_to")?,
    })
}

/// Adds a key, kept as a hash.
pub async fn insert(connection: &mut PgConnection, key: Granted<&Key>, hash: &[u8; 32]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into api_keys (key_id, tenant_id, key_hash, name, hint, role, scopes, ip_allowed, created_by, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(key.id)
    .bind(key.tenant.0)
    .bind(hash.as_slice())
    .bind(&key.name)
    .bind(&key.hint)
    .bind(&key.role)
    .bind(&key.scopes)
    .bind(&key.ip_allowed)
    .bind(&key.created_by)
    .bind(key.created_at.datetime())
    .bind(key.expires_at.map(Timestamp::datetime))
    .execute(connection)
    .await?;
    Ok(())
}

/// Whose the key with one of these hashes is.
pub async fn find_by_hash(pool: &PgPool, hashes: &[[u8; 32]]) -> Result<Option<KeyOwner>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS}, t.plan, t.environment from api_keys k join tenants t using (tenant_id) where k.key_hash = any($1)"
    );
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let row = sqlx::query(&sql).bind(hashes).fetch_optional(pool).await?;
    row.map(|row| {
        Ok(KeyOwner { key: key(&row)?, plan: row.try_get("plan")?, environment: row.try_get("environment")? })
    })
    .transpose()
}

/// One key of a tenant, locked until the transaction ends.
pub async fn find_for_change(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<Key>, sqlx::Error> {
    let sql = format!("select {COLUMNS} from api_keys k where tenant_id = $1 and key_id = $2 for update");
    let row = sqlx::query(&sql).bind(tenant.0).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(key).transpose()
}

/// One key of a tenant.
pub async fn find(executor: impl PgExecutor<'_>, tenant: TenantId, id: Uuid) -> Result<Option<Key>, sqlx::Error> {
    let sql = format!("select {COLUMNS} from api_keys k where tenant_id = $1 and key_id = $2");
    let row = sqlx::query(&sql).bind(tenant.0).bind(id).fetch_optional(executor).await?;
    row.as_ref().map(key).transpose()
}

/// A page of a tenant's keys, newest first.
pub async fn list(pool: &PgPool, tenant: TenantId, after: Option<Uuid>, limit: i64) -> Result<Page<Key>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from api_keys k where tenant_id = $1 and ($2::uuid is null or key_id < $2)
         order by key_id desc limit $3"
    );
    let query = sqlx::query(&sql).bind(tenant.0).bind(after).bind(limit.saturating_add(1));
    page::read(&mut pool.acquire().await?, query, limit, key).await
}

/// Ends a key now.
pub async fn revoke(connection: &mut PgConnection, key: Granted<&Key>, at: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query("update api_keys set revoked_at = $2 where key_id = $1")
        .bind(key.id)
        .bind(at.datetime())
        .execute(connection)
        .await?;
    Ok(())
}

/// Lets a key be good until then at most, and says which takes its place.
pub async fn rotate(
    connection: &mut PgConnection,
    key: Granted<&Key>,
    until: Timestamp,
    to: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query("update api_keys set expires_at = least(expires_at, $2), rotated_to = $3 where key_id = $1")
        .bind(key.id)
        .bind(until.datetime())
        .bind(to)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes when keys were last used.
pub async fn used(pool: &PgPool, at: &BTreeMap<Uuid, Timestamp>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update api_keys k set last_used_at = greatest(k.last_used_at, n.at)
         from unnest($1::uuid[], $2::timestamptz[]) as n (id, at) where k.key_id = n.id",
    )
    .bind(at.keys().copied().collect::<Vec<_>>())
    .bind(at.values().map(|at| at.datetime()).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}
