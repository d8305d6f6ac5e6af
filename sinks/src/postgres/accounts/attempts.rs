//! Attempts that failed, counted over all processes.

use sqlx::{PgConnection, PgPool, Row as _};
use std::time::Duration;

/// What an attempt is counted by.
pub type Key = [u8; 32];

/// Rows that are forgotten for one that is counted, at most.
const FORGOTTEN_AT_ONCE: i64 = 10;

/// What stands against a key.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Failures {
    /// How many.
    pub count: f64,
    /// How long ago the last was.
    pub since: Duration,
}

/// What stands against keys, in their order. They stay locked until the transaction ends, so that attempts that come at once
/// are counted one after another.
pub async fn lock(connection: &mut PgConnection, keys: &[Key]) -> Result<Vec<Failures>, sqlx::Error> {
    // Locks are taken in one order by all, or two could wait for each other.
    sqlx::query(
        "insert into failed_attempts (key, count, last_at)
         select key, 0, clock_timestamp() from unnest($1::bytea[]) key order by key on conflict do nothing",
    )
    .bind(keys)
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query(
        "select key, count, greatest(extract(epoch from clock_timestamp() - last_at), 0)::float8 as since
         from failed_attempts where key = any($1) order by key for update",
    )
    .bind(keys)
    .fetch_all(connection)
    .await?;
    let found = rows
        .iter()
        .map(|row| {
            let since = Duration::try_from_secs_f64(row.try_get("since")?).unwrap_or_default();
            Ok((row.try_get::<Vec<u8>, _>("key")?, Failures { count: row.try_get("count")?, since }))
        })
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    let of = |key: &Key| found.iter().find(|(found, _)| found == key).map_or_else(Failures::default, |(_, is)| *is);
    Ok(keys.iter().map(of).collect())
}

/// Sets what stands against keys from now on, and forgets some of what is older than `forget`.
pub async fn set(connection: &mut PgConnection, counts: &[(Key, f64)], forget: Duration) -> Result<(), sqlx::Error> {
    let (keys, counts): (Vec<Key>, Vec<f64>) = counts.iter().copied().unzip();
    sqlx::query(
        "with forgotten as (
             delete from failed_attempts where key in (
                 select key from failed_attempts
                 where last_at < clock_timestamp() - make_interval(secs => $3) and key <> all ($1)
                 order by last_at limit $4 for update skip locked)
         )
         update failed_attempts a set count = given.count, last_at = clock_timestamp()
         from unnest($1::bytea[], $2::float8[]) as given (key, count) where a.key = given.key",
    )
    .bind(&keys)
    .bind(&counts)
    .bind(forget.as_secs_f64())
    .bind(FORGOTTEN_AT_ONCE)
    .execute(connection)
    .await
    .map(|_| ())
}

/// Counts one less against a key.
pub async fn give_back(pool: &PgPool, key: &Key) -> Result<(), sqlx::Error> {
    sqlx::query("update failed_attempts set count = greatest(count - 1, 0) where key = $1")
        .bind(key.as_slice())
        .execute(pool)
        .await
        .map(|_| ())
}

/// Takes an attempt back that did not fail; `all` keys are those against which nothing stands any more.
pub async fn take_back(pool: &PgPool, one: &Key, all: &Key) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    // In the order of `lock`.
    sqlx::query("select from failed_attempts where key = any($1) order by key for update")
        .bind([one, all].map(|key| key.as_slice()))
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "update failed_attempts set count = case when key = $2 then 0 else greatest(count - 1, 0) end
         where key in ($1, $2)",
    )
    .bind(one.as_slice())
    .bind(all.as_slice())
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
