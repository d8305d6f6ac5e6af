//! The baseline: the same behaviour with one transaction a request, as it is mostly built. Idempotency, a level under a row
//! lock, a movement, an outbox row: seven round trips. No audit, no documents, no chain of hashes, no publication: it does
//! less than the ledger does.

use crate::workload::{Catalogue, Spread, sku};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use twh_domain::id::TenantId;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::sqlx::{self, Executor as _, Row as _};
use uuid::Uuid;

const TABLES: &str = "
create schema naive;
create table naive.idempotency (tenant_id uuid, key text, fingerprint text not null, response text not null,
    created_at timestamptz not null default now(), primary key (tenant_id, key));
create table naive.levels (tenant_id uuid, sku text, location text, on_hand bigint not null, reserved bigint not null,
    version bigint not null, updated_at timestamptz not null, primary key (tenant_id, sku, location));
create table naive.movements (id bigserial primary key, tenant_id uuid not null, sku text not null, location text not null,
    kind text not null, on_hand_change bigint not null, reserved_change bigint not null, on_hand_after bigint not null,
    reserved_after bigint not null, reason text, command_id uuid not null, occurred_at timestamptz not null,
    recorded_at timestamptz not null default now());
create index on naive.movements (tenant_id, sku, location, id);
create table naive.outbox (id bigserial primary key, topic text not null, key text not null, payload text not null);
";

/// Makes the tables and a level for every SKU.
pub(crate) async fn prepare(pool: &PgPool, catalogue: &Catalogue) -> Result<()> {
    pool.execute(TABLES).await?;
    for tenant in &catalogue.tenants {
        let skus: Vec<String> = (0..catalogue.skus).map(sku).collect();
        sqlx::query("insert into naive.levels select $1, s, 'MAIN', 0, 0, 0, now() from unnest($2::text[]) s")
            .bind(tenant.0)
            .bind(skus)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// Why a correction was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NaiveError {
    #[error("the key was used for another request")]
    Mismatch,
    #[error("not enough stock")]
    Shortage,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// One correction in one transaction: what the client is answered.
pub(crate) async fn adjust(
    pool: &PgPool,
    tenant: TenantId,
    key: &str,
    fingerprint: &str,
    sku: &str,
    quantity: i64,
) -> Result<String, NaiveError> {
    let id = Uuid::now_v7();
    let mut tx = pool.begin().await?;
    let response = format!(r#"{{"id":"{id}","sku":"{sku}","quantity":{quantity}}}"#);
    let first = sqlx::query(
        "insert into naive.idempotency (tenant_id, key, fingerprint, response) values ($1, $2, $3, $4) on conflict do nothing",
    )
    .bind(tenant.0)
    .bind(key)
    .bind(fingerprint)
    .bind(&response)
    .execute(&mut *tx)
    .await?;
    if first.rows_affected() == 0 {
        let row = sqlx::query("select fingerprint, response from naive.idempotency where tenant_id = $1 and key = $2")
            .bind(tenant.0)
            .bind(key)
            .fetch_one(&mut *tx)
            .await?;
        let same = row.try_get::<&str, _>("fingerprint")? == fingerprint;
        return if same { Ok(row.try_get("response")?) } else { Err(NaiveError::Mismatch) };
    }
    let level = sqlx::query(
        "select on_hand, reserved from naive.levels where tenant_id = $1 and sku = $2 and location = 'MAIN' for update",
    )
    .bind(tenant.0)
    .bind(sku)
    .fetch_one(&mut *tx)
    .await?;
    let (on_hand, reserved): (i64, i64) = (level.try_get("on_hand")?, level.try_get("reserved")?);
    let after = on_hand + quantity;
    if after < reserved {
        return Err(NaiveError::Shortage);
    }
    sqlx::query(
        "insert into naive.movements (tenant_id, sku, location, kind, on_hand_change, reserved_change, on_hand_after,
             reserved_after, reason, command_id, occurred_at) values ($1, $2, 'MAIN', 'ADJUST', $3, 0, $4, $5, 'benchmark', $6, now())",
    )
    .bind(tenant.0)
    .bind(sku)
    .bind(quantity)
    .bind(after)
    .bind(reserved)
    .bind(id)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update naive.levels set on_hand = $3, version = version + 1, updated_at = now()
         where tenant_id = $1 and sku = $2 and location = 'MAIN'",
    )
    .bind(tenant.0)
    .bind(sku)
    .bind(after)
    .execute(&mut *tx)
    .await?;
    sqlx::query("insert into naive.outbox (topic, key, payload) values ('stock.movements', $1, $2)")
        .bind(tenant.to_string())
        .bind(&response)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(response)
}

/// Corrections a second over so many connections.
pub(crate) async fn drive(
    pool: &PgPool,
    catalogue: &Catalogue,
    spread: Spread,
    connections: usize,
    time: Duration,
) -> Result<f64> {
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let workers = (0..connections).map(|number| {
        let (pool, done, mut catalogue) = (pool.clone(), Arc::clone(&done), catalogue.seeded(number));
        tokio::spawn(async move {
            while begun.elapsed() < time {
                let (tenant, item) = catalogue.draw(spread);
                let key = Uuid::new_v4().to_string();
                adjust(&pool, catalogue.tenant(tenant), &key, &key, &sku(item), 1).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker??;
    }
    Ok(crate::per_second(done.load(Ordering::Relaxed), begun.elapsed()))
}
