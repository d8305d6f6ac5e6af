//! What everything in a run shares: the one source of chance, virtual time, the faults, the trace, and what was found.

use crate::database::Tables;
use crate::log::Topics;
use crate::model::Model;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_schemas::Schemas;

/// Lines of the trace that a finding shows.
const TRACE_LINES: usize = 50;
/// Of so many seeds, one is a run in which partitions lose their ends: clients get less done then.
const LOSES_ENDS_EVERY: u64 = 3;
/// Virtual time begins here: 2026-01-01T00:00:00Z, in milliseconds.
const EPOCH_MILLIS: i64 = 1_767_225_600_000;

/// A protection that is taken away, at a seam, to see that the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// The database takes a batch whatever the partition's epoch and offset are.
    Fence,
    /// The database never finds an earlier answer under an Idempotency-Key.
    Idempotency,
    /// A batch is published before it is committed.
    PublishEarly,
    /// The database forgets which record of a partition was applied last.
    ForgetLast,
}

/// What happened in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands on the log.
    pub commands: u64,
    /// Batches committed.
    pub commits: u64,
    /// Batches refused to a writer that no longer owns its partition.
    pub fenced: u64,
    /// Commits and records whose acknowledgement was lost.
    pub lost_acknowledgements: u64,
    /// Calls that failed before they did anything.
    pub failures: u64,
    /// Batches that the database refused for what was in them.
    pub refused: u64,
    /// Batches committed while one tenant's commands were refused.
    pub commits_while_refused: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Partitions that changed hands.
    pub rebalances: u64,
    /// Partitions that lost their end.
    pub lost_ends: u64,
    /// Halts that a person cleared.
    pub cleared: u64,
    /// Answers that clients got.
    pub answers: u64,
    /// Virtual time, in milliseconds.
    pub virtual_millis: u64,
}

impl Stats {
    /// Adds another run.
    pub const fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.commits += other.commits;
        self.fenced += other.fenced;
        self.lost_acknowledgements += other.lost_acknowledgements;
        self.failures += other.failures;
        self.refused += other.refused;
        self.commits_while_refused += other.commits_while_refused;
        self.crashes += other.crashes;
        self.rebalances += other.rebalances;
        self.lost_ends += other.lost_ends;
        self.cleared += other.cleared;
        self.answers += other.answers;
        self.virtual_millis += other.virtual_millis;
    }
}

/// The state of a run.
pub(crate) struct Inner {
    pub(crate) random: fastrand::Rng,
    pub(crate) tables: Tables,
    pub(crate) topics: Topics,
    pub(crate) model: Model,
    pub(crate) stats: Stats,
    /// Whether things fail now.
    pub(crate) faults: bool,
    /// Until when the database is down.
    pub(crate) database_down_until: Option<Instant>,
    /// Whose commands the database refuses, and until when.
    pub(crate) refuses: Option<(TenantId, Instant)>,
    trace: VecDeque<String>,
    trace_hash: Sha256,
    finding: Option<String>,
}

/// A handle on a run.
#[derive(Clone)]
pub(crate) struct World {
    inner: Arc<Mutex<Inner>>,
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) partitions: i32,
    /// Whether partitions of commands lose their ends in this run.
    pub(crate) loses_ends: bool,
    begun: Instant,
    /// Cancelled by the first finding.
    pub(crate) over: CancellationToken,
}

impl World {
    pub(crate) fn new(seed: u64, partitions: i32, schemas: Arc<Schemas>, sabotage: Option<Sabotage>) -> Self {
        let inner = Inner {
            random: fastrand::Rng::with_seed(seed),
            tables: Tables::default(),
            topics: Topics::new(partitions),
            model: Model::default(),
            stats: Stats::default(),
            faults: true,
            database_down_until: None,
            refuses: None,
            trace: VecDeque::new(),
            trace_hash: Sha256::new(),
            finding: None,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            schemas,
            sabotage,
            partitions,
            loses_ends: seed.is_multiple_of(LOSES_ENDS_EVERY) || sabotage == Some(Sabotage::ForgetLast),
            begun: Instant::now(),
            over: CancellationToken::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.lock().random.u64(0..bound.max(1))
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// True once in `n` times while things fail.
    pub(crate) fn fault(&self, n: u64) -> bool {
        let mut inner = self.lock();
        inner.faults && inner.random.u64(0..n) == 0
    }

    /// Lets some virtual milliseconds pass.
    pub(crate) async fn pause(&self, least: u64, most: u64) {
        let millis = least + self.below(most - least + 1);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// Virtual milliseconds since the beginning.
    pub(crate) fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(EPOCH_MILLIS + i64::try_from(self.elapsed_millis()).unwrap_or_default())
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        let line = format!("{:>8} ms  {}", self.elapsed_millis(), line());
        let mut inner = self.lock();
        inner.trace_hash.update(line.as_bytes());
        inner.trace.push_back(line);
        if inner.trace.len() > TRACE_LINES {
            inner.trace.pop_front();
        }
    }

    /// Something is not as it must be: the run is over.
    pub(crate) fn found(&self, what: String) {
        self.trace(|| format!("FOUND: {what}"));
        self.lock().finding.get_or_insert(what);
        self.over.cancel();
    }

    /// Takes what a check says.
    pub(crate) fn check(&self, checked: Result<(), String>) {
        if let Err(what) = checked {
            self.found(what);
        }
    }

    pub(crate) fn finding(&self) -> Option<(String, Vec<String>)> {
        let inner = self.lock();
        inner.finding.clone().map(|what| (what, inner.trace.iter().cloned().collect()))
    }

    /// Whose commands the database refuses now.
    pub(crate) fn refuses(&self) -> Option<TenantId> {
        let inner = self.lock();
        inner.refuses.filter(|(_, until)| inner.faults && Instant::now() < *until).map(|(tenant, _)| tenant)
    }

    /// A hash over everything that happened.
    pub(crate) fn trace_hash(&self) -> [u8; 32] {
        self.lock().trace_hash.clone().finalize().into()
    }
}

/// A process from its start to its crash: what belongs to it stops at whatever await it stands, and never goes on.
#[derive(Clone)]
pub(crate) struct Incarnation {
    pub(crate) world: World,
    pub(crate) name: Arc<str>,
    pub(crate) crashed: CancellationToken,
}

impl Incarnation {
    /// Does something unless the process crashes; what it held (a transaction, a lock) is let go when it does.
    pub(crate) async fn live<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.crashed.cancelled() => {}
            done = work => return done,
        }
        std::future::pending().await
    }
}
