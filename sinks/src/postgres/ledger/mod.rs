//! The ledger's store: what a batch touches is loaded in a handful of set-based queries, what it makes is written in one
//! transaction, and the partition's row makes that exactly once and fences every other writer.

pub mod acknowledged;
pub mod halts;
mod load;
mod write;

pub use load::load;
pub(super) use load::load_on;
pub use write::commit;

use super::failure::{Failure, described};
use super::outbox::OutboxRecord;
use crate::kafka::{Mark, Reached};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use std::collections::BTreeMap;
use std::sync::Arc;
use twh_domain::entity::{CodeKey, Entity, EntityKey, LevelKey};
use twh_domain::event::AuditRecord;
use twh_domain::id::TenantId;
use twh_domain::level::StockLevel;
use twh_domain::movement::Movement;
use twh_domain::outcome::Outcome;
use twh_domain::state::{IdempotencyKey, LedgerHead};
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another writer owns the partition now: nothing was changed, and this one must stop.
    #[error(
        "another writer owns partition {partition}: this one (epoch {epoch}, at offset {expected_offset}) is fenced"
    )]
    Fenced {
        /// Which partition.
        partition: i32,
        /// This writer's epoch.
        epoch: i64,
        /// Where this writer thought the ledger stood.
        expected_offset: i64,
    },
    /// The partition's row was made against another Kafka cluster: its offsets mean something else there.
    #[error(
        "the ledger was written from Kafka cluster {ledger}, but this is cluster {connected}: connect to the right one, \
         or start an empty database"
    )]
    OtherCluster {
        /// The cluster that the ledger knows.
        ledger: String,
        /// The cluster connected to.
        connected: String,
    },
    /// A halt of the partition is written down: nobody works on it until a person has cleared that.
    #[error("partition {partition} is halted since {since}: {why}; twh ledger halts shows what was found")]
    Halted {
        /// Which partition.
        partition: i32,
        /// Since when.
        since: Timestamp,
        /// Why.
        why: String,
    },
    /// An id or a code that the batch takes as new is there already: nothing was changed.
    #[error("what a batch takes as new is there already: {0}")]
    Taken(String),
    /// The database failed or cannot be reached.
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The database does not take what a batch writes, whenever it is asked: nothing was changed.
    #[error("the database refuses what a batch writes: {}", described(.0))]
    Refused(#[source] sqlx::Error),
    /// A stored value does not read as what it must be.
    #[error("a stored {what} cannot be read: {reason}")]
    Corrupt {
        /// What.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refusal) if refusal.is_unique_violation() => Self::Taken(error.to_string()),
            _ if Failure::of(&error) == Failure::Data => Self::Refused(error),
            _ => Self::Database(error),
        }
    }
}

impl LedgerError {
    /// Whether it is of one of the batches that were to be written together, and not of all of them.
    #[must_use]
    pub const fn is_of_one(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Taken(_) | Self::Refused(_) | Self::Corrupt { .. })
    }

    /// The stable name, as a metric label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "fenced",
            Self::OtherCluster { .. } => "other_cluster",
            Self::Halted { .. } => "halted",
            Self::Taken(_) => "taken",
            Self::Database(_) => "database",
            Self::Refused(_) => "refused",
            Self::Corrupt { .. } => "corrupt",
        }
    }
}

/// A writer's hold on a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Which partition.
    pub partition: i32,
    /// Rises with every claim; a lower one is fenced.
    pub epoch: i64,
    /// How far it is applied.
    pub reached: Reached,
}

impl Claim {
    /// What is told to a writer that holds the partition no longer.
    #[must_use]
    pub const fn fenced(&self) -> LedgerError {
        LedgerError::Fenced { partition: self.partition, epoch: self.epoch, expected_offset: self.reached.next_offset }
    }
}

/// One command's row among the outcomes.
#[derive(Debug, Clone)]
pub struct OutcomeRow {
    /// The decision.
    pub outcome: Outcome,
    /// The key it was decided under; absent for a repeat.
    pub idempotency_key: Option<String>,
    /// What was asked.
    pub fingerprint: String,
}

/// A document that a batch wrote.
#[derive(Debug)]
pub struct Written {
    /// As it is after the batch.
    pub entity: Arc<Entity>,
    /// The same, as the public resource.
    pub document: Arc<str>,
    /// The batch made it.
    pub new: bool,
}

/// Everything that a batch of commands changes.
#[derive(Debug, Default)]
pub struct Batch {
    /// New movements, in order.
    pub movements: Vec<Movement>,
    /// Levels as they are after the batch.
    pub levels: BTreeMap<LevelKey, StockLevel>,
    /// Documents as they are after the batch.
    pub documents: BTreeMap<EntityKey, Written>,
    /// Barcodes as they are after the batch.
    pub barcodes: BTreeMap<CodeKey, Option<Uuid>>,
    /// Tenants' heads after the batch.
    pub heads: BTreeMap<TenantId, LedgerHead>,
    /// New audit records, in order.
    pub audit: Vec<AuditRecord>,
    /// New outcomes, in order.
    pub outcomes: Vec<OutcomeRow>,
    /// Idempotency-Keys whose time is over and that are used anew.
    pub expired_keys: Vec<IdempotencyKey>,
    /// What to publish, in order.
    pub outbox: Vec<OutboxRecord>,
}

/// Takes a partition: raises its epoch, which fences whoever held it, and says where to go on. Refused while a halt is written
/// down.
pub async fn claim(pool: &PgPool, partition: i32, kafka_cluster_id: &str, owner: &str) -> Result<Claim, LedgerError> {
    let row = sqlx::query(
        "insert into ledger_partitions as p (partition, kafka_cluster_id, next_offset, epoch, owner, claimed_at)
         values ($1, $2, 0, 1, $3, now())
         on conflict (partition) do update set epoch = p.epoch + 1, owner = excluded.owner, claimed_at = excluded.claimed_at
             where p.kafka_cluster_id = excluded.kafka_cluster_id and p.halt is null
         returning epoch, next_offset, last_offset, last_digest",
    )
    .bind(partition)
    .bind(kafka_cluster_id)
    .bind(owner)
    .fetch_optional(pool)
    .await?;
    match row {
        Some(row) => claimed(partition, &row),
        None => Err(halts::why_not_claimed(pool, partition, kafka_cluster_id).await?),
    }
}

fn claimed(partition: i32, row: &PgRow) -> Result<Claim, LedgerError> {
    let last = Mark::from_columns(row.try_get("last_offset")?, row.try_get("last_digest")?);
    let reached = Reached { next_offset: row.try_get("next_offset")?, last };
    Ok(Claim { partition, epoch: row.try_get("epoch")?, reached })
}

/// Where a partition stands now, whoever owns it.
pub async fn current(pool: &PgPool, partition: i32) -> Result<Option<Claim>, LedgerError> {
    let row =
        sqlx::query("select epoch, next_offset, last_offset, last_digest from ledger_partitions where partition = $1")
            .bind(partition)
            .fetch_optional(pool)
            .await?;
    row.map(|row| claimed(partition, &row)).transpose()
}

/// A batch to be written, and where the partition moves with it.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Whose it is, and from where the partition moves.
    pub claim: Claim,
    /// To where it moves.
    pub reached: Reached,
    /// The outbox up to here is published, and is forgotten.
    pub published_through: i64,
    /// What is written.
    pub batch: Arc<Batch>,
}

/// Reservations whose time has come, oldest first.
pub async fn due_reservations(pool: &PgPool, limit: i64) -> Result<Vec<(TenantId, Uuid)>, LedgerError> {
    let rows =
        sqlx::query("select tenant_id, id from reservations where expires_at <= now() order by expires_at limit $1")
            .bind(limit)
            .fetch_all(pool)
            .await?;
    rows.iter().map(|row| Ok((TenantId(row.try_get("tenant_id")?), row.try_get("id")?))).collect()
}

/// How much longer than an Idempotency-Key is honoured its row is kept, in microseconds: 7 days. A ledger that lags behind
/// its log by less decides as if nothing had ever been forgotten, and so does a replay.
const FORGET_SLACK_MICROS: i64 = 7 * 24 * 60 * 60 * 1_000_000;

/// Forgets outcomes well past the retention of Idempotency-Keys, a bounded number at a time; says how many.
pub async fn forget_outcomes(pool: &PgPool, limit: i64) -> Result<u64, LedgerError> {
    let done = sqlx::query(
        "delete from command_outcomes where ctid in (select ctid from command_outcomes
             where recorded_at < now() - make_interval(secs => $1::double precision / 1000000) limit $2)",
    )
    .bind(twh_domain::IDEMPOTENCY_RETENTION_MICROS + FORGET_SLACK_MICROS)
    .bind(limit)
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
