//! Keys that access tokens are signed with; every process of the platform signs with the newest and knows the others.

use sqlx::{PgPool, Row};
use twh_domain::timestamp::Timestamp;

/// A key.
#[derive(Debug, Clone)]
pub struct SigningKeyRow {
    /// Its name in tokens.
    pub kid: String,
    /// The public half: an Ed25519 key, 32 bytes.
    pub public_key: Vec<u8>,
    /// The private half, sealed.
    pub sealed_private: Vec<u8>,
}

/// The keys whose tokens may still live, newest first.
pub async fn list(pool: &PgPool, retired_after: Timestamp) -> Result<Vec<SigningKeyRow>, sqlx::Error> {
    let rows = sqlx::query(
        "select kid, public_key, sealed_private from signing_keys where retired_at is null or retired_at > $1
         order by retired_at desc nulls first, created_at desc",
    )
    .bind(retired_after.datetime())
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(SigningKeyRow {
                kid: row.try_get("kid")?,
                public_key: row.try_get("public_key")?,
                sealed_private: row.try_get("sealed_private")?,
            })
        })
        .collect()
}

/// Adds a key, and retires the ones before it. With `only_first`, does so only where there is none that is not retired.
pub async fn insert(pool: &PgPool, key: &SigningKeyRow, at: Timestamp, only_first: bool) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    // Processes that start together take turns.
    sqlx::query("lock table signing_keys in exclusive mode").execute(&mut *tx).await?;
    sqlx::query(
        "with fresh as (select not $5 or not exists (select from signing_keys where retired_at is null) as wanted),
              retired as (update signing_keys set retired_at = $4 from fresh where wanted and retired_at is null)
         insert into signing_keys (kid, public_key, sealed_private, created_at) select $1, $2, $3, $4 from fresh where wanted",
    )
    .bind(&key.kid)
    .bind(&key.public_key)
    .bind(&key.sealed_private)
    .bind(at.datetime())
    .bind(only_first)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Keeps a key's private half as sealed anew.
pub async fn reseal(pool: &PgPool, kid: &str, sealed_private: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query("update signing_keys set sealed_private = $2 where kid = $1")
        .bind(kid)
        .bind(sealed_private)
        .execute(pool)
        .await?;
    Ok(())
}
