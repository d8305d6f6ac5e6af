//! Postgres: the ledger's store, its read queries, and who may call. All SQL of the platform stands below here.

pub mod accounts;
pub mod audit;
pub mod builds;
pub(crate) mod columns;
pub mod committer;
pub mod digest;
pub mod documents;
pub mod failure;
pub mod ledger;
pub mod levels;
mod migrations;
pub mod movements;
pub mod noted;
pub mod outbox;
pub mod outcomes;
pub mod page;
pub mod positions;
pub mod rehearsal;
pub mod standing;
pub(crate) mod statement;
pub mod supply;
pub mod tenant;
pub(crate) mod totals;
pub mod tree;
pub mod verification;
pub mod webhooks;
mod writable;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::str::FromStr;
use std::time::Duration;

pub use sqlx::{self, PgPool};
pub use writable::takes_writes;

/// Begins a transaction that reads all as of one moment, and writes nothing.
pub const SNAPSHOT: &str = "begin transaction isolation level repeatable read read only";
/// How long a query waits for a free connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a transaction may stand between two of its statements before PostgreSQL ends it. A writer that is frozen, or
/// whose machine is gone, holds its partition's row, and the next owner's claim waits for it: so this is less than the time
/// after which the group gives its partitions to others, by default 10 s (`TWH_GROUP_SESSION_MS`).
const IDLE_IN_TRANSACTION_MAX: &str = "5s";

/// A pool of at most `connections_max` connections. Connects when first used, so a database that is down is met by the one who asks.
pub fn connect(url: &str, connections_max: u32, application: &str) -> Result<PgPool, sqlx::Error> {
    Ok(writers(connections_max).connect_lazy_with(options(url, application)?.options(WRITER)))
}

/// A pool like [`connect`]'s for those who try again what fails: its connections are not asked for a sign of life before
/// each use.
pub fn connect_persistent(url: &str, connections_max: u32, application: &str) -> Result<PgPool, sqlx::Error> {
    let pool = writers(connections_max).test_before_acquire(false);
    let options = options(url, application)?.options(WRITER).options(PLANNED_ONCE);
    Ok(pool.connect_lazy_with(options.statement_cache_capacity(STATEMENTS_KEPT)))
}

/// A pool like [`connect`]'s whose transactions cannot write: for those who only look.
pub fn connect_read_only(url: &str, connections_max: u32, application: &str) -> Result<PgPool, sqlx::Error> {
    Ok(pool(connections_max).connect_lazy_with(options(url, application)?.options(READER)))
}

/// What a connection that may write is told.
const WRITER: [(&str, &str); 1] = [("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_MAX)];
/// What a connection that writes batches is told besides: each statement is planned once, since its rows come as arguments and
/// the best plan is the same for any of them. A batch's statement has some fifteen parts, and planning it costs milliseconds.
const PLANNED_ONCE: [(&str, &str); 1] = [("plan_cache_mode", "force_generic_plan")];
/// Statements that such a connection keeps prepared: a batch's depends on which kinds of document are in it.
const STATEMENTS_KEPT: usize = 400;
/// What a connection that only reads is told.
const READER: [(&str, &str); 2] = [("default_transaction_read_only", "on"), ("timezone", "UTC")];

fn options(url: &str, application: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(url)?.application_name(application))
}

fn pool(connections_max: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections_max).acquire_timeout(ACQUIRE_TIMEOUT)
}

fn writers(connections_max: u32) -> PgPoolOptions {
    writable::keep_writable(pool(connections_max))
}

/// Brings the tables up to date; processes that start together take turns.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    Migrator::new(migrations::Embedded).await?.run(pool).await?;
    accounts::state::baseline(pool).await.map_err(MigrateError::Execute)
}

/// True when the database answers.
pub async fn ping(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("select 1").execute(pool).await.map(|_| ())
}
