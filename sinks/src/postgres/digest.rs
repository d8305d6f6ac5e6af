//! What a ledger holds, as one hash for each tenant: two databases with the same hashes hold the same ledgers, to the byte.

use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use std::collections::BTreeMap;
use twh_domain::entity::EntityKind;
use twh_domain::id::TenantId;
use twh_domain::movement::Hash;

/// What a ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digest {
    /// For each partition of `commands`, the first offset that is not applied.
    pub next_offsets: BTreeMap<i32, i64>,
    /// For each tenant, a hash over every column of every row of its ledger: movements, levels, audit records, documents,
    /// barcodes and head.
    pub tenants: BTreeMap<TenantId, Hash>,
}

/// Digests the ledgers of a database, all as of one moment.
pub async fn digest(pool: &PgPool) -> Result<Digest, sqlx::Error> {
    let mut tx = pool.begin_with(crate::postgres::SNAPSHOT).await?;
    sqlx::query("set local timezone to 'UTC'").execute(&mut *tx).await?;
    let offsets: Vec<(i32, i64)> =
        sqlx::query_as("select partition, next_offset from ledger_partitions").fetch_all(&mut *tx).await?;
    let mut digest = Digest { next_offsets: offsets.into_iter().collect(), tenants: BTreeMap::new() };
    for tenant in super::verification::tenants_of(&mut tx).await? {
        let hash = tenant_digest(&mut tx, tenant).await?;
        digest.tenants.insert(tenant, hash);
    }
    tx.commit().await?;
    Ok(digest)
}

async fn tenant_digest(connection: &mut PgConnection, tenant: TenantId) -> Result<Hash, sqlx::Error> {
    let tables = [
        ("stock_movements", "sequence"),
        ("stock_levels", "item_id, location_id"),
        ("audit_log", "sequence"),
        ("ledger_heads", "tenant_id"),
        ("item_barcodes", "barcode"),
    ];
    let documents = EntityKind::ALL.iter().map(|kind| (kind.collection(), "id"));
    let mut hash = Sha256::new();
    for (table, key) in tables.into_iter().chain(documents) {
        hash.update(table);
        let sql = format!("select t::text from {table} t where tenant_id = $1 order by {key}");
        let mut rows = sqlx::query_scalar::<_, String>(&sql).bind(tenant.0).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            hash.update([0]);
            hash.update(row);
        }
    }
    Ok(hash.finalize().into())
}
