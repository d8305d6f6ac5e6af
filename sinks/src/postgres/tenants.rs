//! Tenants and their API keys. A key is kept only as its SHA-256: 244 random bits need no slower hash.

use sha2::{Digest, Sha256};
use sqlx::{PgPool, Row};
use twh_domain::id::TenantId;
use uuid::Uuid;

/// A new tenant and its first key, which nobody can show again.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its id.
    pub tenant_id: TenantId,
    /// The key, in the clear.
    pub api_key: String,
}

/// Whom a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyOwner {
    /// The key's id, as it stands in audit records.
    pub key_id: Uuid,
    /// The tenant.
    pub tenant_id: TenantId,
}

/// What is kept of a key.
#[must_use]
pub fn key_hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Makes a tenant with one key.
pub async fn create_tenant(pool: &PgPool, name: &str) -> Result<NewTenant, sqlx::Error> {
    let tenant_id = TenantId(Uuid::now_v7());
    // Two version 4 UUIDs: 244 bits from the operating system.
    let api_key = format!("twh_test_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let mut tx = pool.begin().await?;
    sqlx::query("insert into tenants (tenant_id, name) values ($1, $2)")
        .bind(tenant_id.0)
        .bind(name)
        .execute(&mut *tx)
        .await?;
    sqlx::query("insert into api_keys (key_id, tenant_id, key_hash) values ($1, $2, $3)")
        .bind(Uuid::now_v7())
        .bind(tenant_id.0)
        .bind(key_hash(&api_key))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(NewTenant { tenant_id, api_key })
}

/// Whom the key with this hash belongs to.
pub async fn find_key(pool: &PgPool, hash: &[u8; 32]) -> Result<Option<KeyOwner>, sqlx::Error> {
    let row = sqlx::query("select key_id, tenant_id from api_keys where key_hash = $1")
        .bind(hash)
        .fetch_optional(pool)
        .await?;
    row.map(|row| Ok(KeyOwner { key_id: row.try_get("key_id")?, tenant_id: TenantId(row.try_get("tenant_id")?) }))
        .transpose()
}
