//! What the processors stand on, as narrow as they need it: where the ledger is kept, and the log that records are put on.
//!
//! Production has one implementation of each, in this file. The simulator has others, which fail in every way that the real
//! ones can, at every point where they can.

use std::collections::BTreeSet;
use std::future::Future;
use twh_domain::state::{Need, State};
use twh_schemas::catalogue::known_topic;
use twh_sinks::kafka::{Outgoing, ProduceError, Producer};
use twh_sinks::postgres::committer::Committer;
use twh_sinks::postgres::ledger::acknowledged;
use twh_sinks::postgres::ledger::halts::{self, Halt};
use twh_sinks::postgres::ledger::{self, Claim, Commit, LedgerError};
use twh_sinks::postgres::noted;
use twh_sinks::postgres::outbox::{self, OutboxBatch};
use twh_sinks::postgres::{PgPool, sqlx};

/// Where the ledger, its checkpoints and its outbox are kept.
pub trait Store: Clone + Send + Sync + 'static {
    /// Takes a partition: raises its epoch, which fences whoever held it, and says where to go on.
    fn claim(
        &self,
        partition: i32,
        kafka_cluster_id: &str,
        owner: &str,
    ) -> impl Future<Output = Result<Claim, LedgerError>> + Send;

    /// Where a partition stands now, whoever owns it.
    fn current(&self, partition: i32) -> impl Future<Output = Result<Option<Claim>, LedgerError>> + Send;

    /// Loads what a decision needs.
    fn load(&self, state: &mut State, needs: BTreeSet<Need>) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Writes a batch and moves the partition, all or nothing.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Past the highest offset of a partition of a cluster's log that clients were told of. Who takes no commands knows of none.
    fn acknowledged(
        &self,
        _partition: i32,
        _kafka_cluster_id: &str,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send {
        std::future::ready(Ok(0))
    }

    /// Writes down that the partition stands until a person has looked; the one who claimed it is fenced by that.
    fn halt(&self, claim: Claim, halt: Halt) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Writes down that the partition stands until the cause is gone. Who keeps nothing for people to look at needs none.
    fn stands(
        &self,
        _partition: i32,
        _why: &str,
        _at_offset: Option<i64>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Notes that the partition has reached an offset after it stood; says where it stands otherwise.
    fn goes_on(&self, _partition: i32, _reached: i64) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send {
        std::future::ready(Ok(None))
    }

    /// The oldest batch of the outbox after `after`.
    fn oldest_after(
        &self,
        partition: i32,
        after: i64,
    ) -> impl Future<Output = Result<Option<OutboxBatch>, sqlx::Error>> + Send;

    /// Forgets the outbox through `next_offset`: it is published.
    fn forget(&self, partition: i32, next_offset: i64) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// The ledger in Postgres.
#[derive(Clone)]
pub struct LedgerStore {
    pool: PgPool,
    committer: Committer,
}

impl LedgerStore {
    /// A store on a database, with so many transactions at once. Starts tasks of its own: call it within a runtime.
    #[must_use]
    pub fn new(pool: PgPool, transactions_max: usize) -> Self {
        Self { committer: Committer::start(&pool, transactions_max), pool }
    }
}

impl Store for LedgerStore {
    async fn claim(&self, partition: i32, kafka_cluster_id: &str, owner: &str) -> Result<Claim, LedgerError> {
        ledger::claim(&self.pool, partition, kafka_cluster_id, owner).await
    }

    async fn current(&self, partition: i32) -> Result<Option<Claim>, LedgerError> {
        ledger::current(&self.pool, partition).await
    }

    async fn load(&self, state: &mut State, needs: BTreeSet<Need>) -> Result<(), LedgerError> {
        ledger::load(&self.pool, state, needs).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        self.committer.commit(commit).await
    }

    async fn halt(&self, claim: Claim, halt: Halt) -> Result<(), LedgerError> {
        halts::halt(&self.pool, &claim, &halt).await
    }

    async fn acknowledged(&self, partition: i32, kafka_cluster_id: &str) -> Result<i64, sqlx::Error> {
        acknowledged::of(&self.pool, partition, kafka_cluster_id).await
    }

    async fn stands(&self, partition: i32, why: &str, at_offset: Option<i64>) -> Result<(), sqlx::Error> {
        noted::stands(&self.pool, noted::LEDGER, partition, why, at_offset).await
    }

    async fn goes_on(&self, partition: i32, reached: i64) -> Result<Option<i64>, sqlx::Error> {
        noted::goes_on(&self.pool, noted::LEDGER, partition, reached).await
    }

    async fn oldest_after(&self, partition: i32, after: i64) -> Result<Option<OutboxBatch>, sqlx::Error> {
        outbox::oldest_after(&self.pool, partition, after, known_topic).await
    }

    async fn forget(&self, partition: i32, next_offset: i64) -> Result<(), sqlx::Error> {
        outbox::published(&self.pool, partition, next_offset).await
    }
}

/// A log that records are put on.
pub trait Log: Clone + Send + Sync + 'static {
    /// Puts records there in order, and returns when all are durable. After an error some of them may be there.
    fn append(&self, records: &[Outgoing<'_>]) -> impl Future<Output = Result<(), ProduceError>> + Send;
}

impl Log for Producer {
    async fn append(&self, records: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        self.produce_all(records.iter().copied()).await
    }
}
