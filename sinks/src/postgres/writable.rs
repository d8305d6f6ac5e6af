//! Whether connections write: one that was opened while the database took no writes is not kept.
//!
//! Whether a session may write is settled when it begins: by `default_transaction_read_only` of the database or the role, and by
//! whether the server is a standby. A session that began read-only stays so after the database takes writes again, or after the
//! address has become another server's. So each new connection is asked once, and where one may not write, all that were opened
//! until then live for a second more. Nobody overrides that setting: who makes a database read-only (a provider whose disk is
//! full, a person who moves it) means it.

use super::PgPool;
use super::failure::is_away;
use sqlx::Connection as _;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection is used that may be read-only: some queries only read, and each does not need one of its own.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Between asking a new connection and its entry in the pool, at most: its age counts from then.
const SLACK: Duration = Duration::from_secs(1);

const ASK: &str = "select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";

/// When a connection of a pool was last found read-only.
#[derive(Debug, Clone, Default)]
struct ReadOnly(Arc<Mutex<Option<Instant>>>);

impl ReadOnly {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection of this age is used on: it was opened after that, or just now.
    fn keeps(&self, age: Duration) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| age <= KEPT_FOR || last.elapsed() > age + SLACK)
    }
}

/// Has a pool keep no connection that cannot write.
pub(super) fn keep_writable(pool: PgPoolOptions) -> PgPoolOptions {
    let read_only = ReadOnly::default();
    let seen = read_only.clone();
    pool.after_connect(move |connection, _| {
        let seen = seen.clone();
        Box::pin(async move {
            if why_not(connection).await?.is_some() {
                seen.note();
            }
            Ok(())
        })
    })
    .before_acquire(move |_, PoolConnectionMetadata { age, .. }| {
        let keeps = read_only.keeps(age);
        Box::pin(async move { Ok(keeps) })
    })
}

/// Why a connection cannot write, where it cannot.
async fn why_not(connection: &mut PgConnection) -> Result<Option<&'static str>, sqlx::Error> {
    let (standby, read_only): (bool, bool) = sqlx::query_as(ASK).persistent(false).fetch_one(connection).await?;
    Ok(match (standby, read_only) {
        (true, _) => Some("the server is a standby"),
        (false, true) => Some("its transactions are read-only"),
        (false, false) => None,
    })
}

/// Fails where what a pool gives cannot write; says why. A pool that is in use to its last connection is not waited for.
pub async fn takes_writes(pool: &PgPool) -> Result<(), String> {
    let connections_max = pool.options().get_max_connections();
    let mut left = connections_max;
    loop {
        if pool.num_idle() == 0 && pool.size() >= connections_max {
            return Ok(());
        }
        let mut connection = pool.acquire().await.map_err(|error| error.to_string())?;
        match why_not(&mut connection).await {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => return Err(format!("no writes are taken: {why}")),
            // Each that has died meanwhile is thrown away; a new one comes after the last of them.
            Err(error) if left > 0 && is_away(&error) => {
                let _ = connection.detach().close_hard().await;
                left -= 1;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_opened_until_a_read_only_connection_was_is_not_used_for_long() {
        let read_only = ReadOnly::default();
        let (young, old) = (KEPT_FOR / 2, Duration::from_secs(60));
        assert!(read_only.keeps(young) && read_only.keeps(old));
        read_only.note();
        assert!(read_only.keeps(young) && !read_only.keeps(old));
        let opened_after = KEPT_FOR + SLACK / 2;
        *read_only.0.lock().unwrap() = Instant::now().checked_sub(opened_after + SLACK * 2);
        assert!(read_only.keeps(opened_after) && !read_only.keeps(old));
    }
}
