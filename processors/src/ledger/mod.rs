//! The consumer group `ledger`: turns commands into movements, one writer a partition, many commands a transaction.
//!
//! A batch is decided on the state that the writer keeps (it alone writes it), and written with the partition's checkpoint in
//! one transaction, compare-and-set on offset and epoch: applied exactly once, and never by two. The next batch is decided
//! while one is written. What is in doubt after a failure is settled by reading the checkpoint, never by guessing.

mod deciding;
mod records;

use crate::outbox::{NOTHING_PUBLISHED, Publisher, Publishing};
use crate::runtime::{ApplyError, Claimed, DecodeError, Decoded, Group, Loss, Record, Worker, owned};
use crate::seams::{Log, Store};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinHandle;
use twh_domain::commands::{Command, RULES_VERSION};
use twh_domain::outcome::Outcome;
use twh_domain::state::State;
use twh_schemas::Schemas;
use twh_sinks::kafka::Reached;
use twh_sinks::postgres::ledger::halts::Halt;
use twh_sinks::postgres::ledger::{Batch, Claim, Commit, LedgerError};
use twh_sinks::postgres::sqlx;

/// The group's name, without the environment's prefix.
pub const GROUP: &str = "ledger";
/// Things that a writer keeps loaded in one of its two generations: its memory's bound, some tens of megabytes.
const YOUNG_MAX: usize = 25_000;
/// And what their documents may weigh.
const YOUNG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a batch may write: it ends with the command that passes it. Larger ones keep the commands behind them waiting, and a small
/// command can write much.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a movement takes in what is written and published, roughly.
const MOVEMENT_BYTES: usize = 512;
/// Documents with lines that are loaded at once.
const LARGE_DOCUMENTS: usize = 64;
/// Batches for which a writer is careful once it was too hopeful.
const CAREFUL_BATCHES: u32 = 64;
/// Rounds of loading before a command that still asks for more is taken for a defect.
const LOAD_ROUNDS_MAX: usize = 8;

twh_sinks::metrics! {
    DECIDED: IntCounterVec = "twh_commands_decided_total", "Commands decided, by kind and what became of them.", labels ["kind", "outcome"];
    FAILED: IntCounterVec = "twh_ledger_failures_total", "Batches that were not decided or written, by why.", labels ["kind"];
}

/// How far the rules of a newer process may be ahead, which is at work during an upgrade: its commands wait for ours to be
/// upgraded. What is further ahead is no version of ours, and must not keep a partition waiting.
const VERSIONS_AHEAD_MAX: i32 = 10;

/// What the group works with; shared by all partitions.
#[derive(Clone)]
pub struct Ledger<S, L> {
    /// Where the ledger is.
    pub store: S,
    /// The contract of the topics.
    pub schemas: Arc<Schemas>,
    /// How committed batches get to Kafka; absent where nothing is to be published.
    pub publishing: Option<Publishing<S, L>>,
    /// The cluster that offsets are of.
    pub kafka_cluster_id: String,
    /// Who we are, in the partition's row.
    pub owner: String,
    /// How many partitions the topic has.
    pub partitions: i32,
    /// Who awaits outcomes in this process; absent where nobody does.
    pub awaited: Option<Awaited>,
}

/// Those who await outcomes in the ledger's own process: they are told as soon as a batch is committed, and not by way of
/// the log.
#[derive(Clone)]
pub struct Awaited {
    /// The process, as commands name it.
    pub process: String,
    /// Tells who awaits it.
    pub tell: Arc<dyn Fn(&Outcome) + Send + Sync>,
}

impl Awaited {
    fn tell_all(&self, outcomes: &[Outcome]) {
        outcomes.iter().for_each(|outcome| (self.tell)(outcome));
    }
}

impl<S: Store, L: Log> Group for Ledger<S, L> {
    type Item = Command;
    type Worker = Writer<S, L>;

    async fn claim(&self, partition: i32) -> Result<Claimed<Writer<S, L>>, ApplyError> {
        let claim = match self.store.claim(partition, &self.kafka_cluster_id, &self.owner).await {
            Err(error @ LedgerError::Halted { .. }) => {
                self.publish_the_rest(partition).await;
                return Err(apply_error(error));
            }
            claim => claim.map_err(apply_error)?,
        };
        let writer = Writer {
            shared: self.clone(),
            claim,
            state: State::default(),
            publisher: self.publishing.clone().map(|publishing| Publisher::start(publishing, partition)),
            taken: VecDeque::new(),
            under_way: None,
            in_doubt: false,
            careful: 0,
        };
        Ok(Claimed { worker: writer, reached: claim.reached })
    }

    /// Whatever is lost of the log of commands, acknowledged commands are lost with it, or would be skipped.
    async fn lost(&self, worker: &Writer<S, L>, loss: Loss) -> ApplyError {
        let halt = Halt { why: why(loss), expected: loss.expected(), found: loss.found() };
        let halted = ApplyError::Halted(halt.why.clone());
        match self.store.halt(worker.claim, halt).await {
            Ok(()) => halted,
            Err(error) => apply_error(error),
        }
    }

    async fn acknowledged(&self, partition: i32) -> Result<i64, ApplyError> {
        Ok(self.store.acknowledged(partition, &self.kafka_cluster_id).await?)
    }

    async fn stands(&self, partition: i32, why: &str, at_offset: Option<i64>) -> Result<(), ApplyError> {
        Ok(self.store.stands(partition, why, at_offset).await?)
    }

    async fn goes_on(&self, partition: i32, reached: i64) -> Result<Option<i64>, ApplyError> {
        Ok(self.store.goes_on(partition, reached).await?)
    }
}

impl<S: Store, L: Log> Ledger<S, L> {
    /// What is committed goes out, also while the partition is halted.
    async fn publish_the_rest(&self, partition: i32) {
        if let Some(publishing) = &self.publishing {
            Publisher::start(publishing.clone(), partition).drain().await;
        }
    }
}

fn why(loss: Loss) -> String {
    let meaning = match loss {
        Loss::Beginning { .. } => "commands are lost to retention",
        Loss::End { .. } | Loss::Acknowledged { .. } => {
            "the topic lost its end, or was made again, or restored from an older copy"
        }
        Loss::Replaced { .. } => {
            "the topic lost its end and has grown again, or was made again: commands on it would be skipped"
        }
    };
    format!("{loss}: {meaning}")
}

fn apply_error(error: LedgerError) -> ApplyError {
    match error {
        LedgerError::Fenced { .. } => ApplyError::Fenced(error.to_string()),
        LedgerError::OtherCluster { .. }
        | LedgerError::Halted { .. }
        | LedgerError::Corrupt { .. }
        | LedgerError::Taken(_) => ApplyError::Halted(error.to_string()),
        LedgerError::Database(_) => ApplyError::Unavailable(error.to_string()),
        LedgerError::Refused(_) => ApplyError::Refused(error.to_string()),
    }
}

/// A batch that is not known to be committed.
struct Taken {
    batch: Batched,
    reached: Reached,
    /// Outcomes that are awaited in this process, once it is decided.
    awaited: Arc<[Outcome]>,
}

/// Commands of a batch, or of what is left of one.
#[derive(Clone)]
struct Batched {
    of: Arc<Vec<Decoded<Command>>>,
    range: Range<usize>,
}

impl Batched {
    fn commands(&self) -> &[Decoded<Command>] {
        self.of.get(self.range.clone()).unwrap_or_default()
    }

    /// The first so many, and the others, where there are any.
    fn split(&self, count: usize) -> (Self, Option<Self>) {
        let middle = self.range.start.saturating_add(count).min(self.range.end);
        let part = |range: Range<usize>| Self { of: Arc::clone(&self.of), range };
        (part(self.range.start..middle), (middle < self.range.end).then(|| part(middle..self.range.end)))
    }
}

/// What was decided of a batch.
struct Decided {
    writes: Batch,
    /// Outcomes that are awaited in this process.
    awaited: Vec<Outcome>,
    /// How many commands it is, from the first.
    count: usize,
}

/// The writer of one partition.
pub struct Writer<S, L> {
    shared: Ledger<S, L>,
    claim: Claim,
    state: State,
    publisher: Option<Publisher>,
    /// What was taken on, oldest first.
    taken: VecDeque<Taken>,
    /// Writes the oldest of it.
    under_way: Option<JoinHandle<Result<(), LedgerError>>>,
    /// Something failed in a way that does not say whether a commit went through.
    in_doubt: bool,
    /// For so many batches, loads also what is new by all appearances: a batch was refused because something was not, and
    /// clients that repeat themselves seldom do it once.
    careful: u32,
}

impl<S: Store, L: Log> Worker for Writer<S, L> {
    type Item = Command;

    /// An acknowledged command is decided, or waits for somebody to look.
    const LEAVES_OUT: bool = false;

    async fn decode(&mut self, record: &Record) -> Result<Command, DecodeError> {
        let command: Command = self.shared.schemas.commands.decode(&record.payload).await?;
        owned(record, command.tenant_id, self.shared.partitions)?;
        if command.rules_version > RULES_VERSION + VERSIONS_AHEAD_MAX {
            return Err(DecodeError::Poison(format!("there is no rules version {}", command.rules_version)));
        }
        if command.rules_version > RULES_VERSION {
            return Err(DecodeError::Unavailable(format!(
                "the command follows rules version {}, this process knows up to {RULES_VERSION}: upgrade the ledger first",
                command.rules_version
            )));
        }
        Ok(command)
    }

    async fn apply(&mut self, batch: Vec<Decoded<Command>>, reached: Reached) -> Result<(), ApplyError> {
        let batch = Batched { range: 0..batch.len(), of: Arc::new(batch) };
        self.taken.push_back(Taken { batch, reached, awaited: Arc::default() });
        self.advance(false).await
    }

    async fn written(&mut self) -> Result<(), ApplyError> {
        let written = self.until_written().await;
        written.map_err(|error| {
            self.doubt(&error);
            apply_error(error)
        })
    }

    async fn finish(&mut self) -> Result<(), ApplyError> {
        self.advance(true).await
    }

    fn applied_through(&self) -> i64 {
        self.claim.reached.next_offset
    }

    async fn drain(self) {
        if let Some(write) = self.under_way {
            // However it ends, the next owner reads how far the ledger is.
            let _ = write.await;
        }
        if let Some(publisher) = self.publisher {
            publisher.drain().await;
        }
    }
}

impl<S: Store, L: Log> Writer<S, L> {
    /// Decides what is not decided and begins to write it; with `all`, waits until it is written.
    async fn advance(&mut self, all: bool) -> Result<(), ApplyError> {
        loop {
            let Err(error) = self.try_advance(all).await else { return Ok(()) };
            let new_cause = matches!(error, LedgerError::Taken(_)) && self.careful == 0;
            self.doubt(&error);
            if !new_cause {
                return Err(apply_error(error));
            }
            tracing::debug!(partition = self.claim.partition, %error, "deciding a batch again, with everything loaded");
        }
    }

    /// What was decided may not be what is committed: begin from the database again.
    fn doubt(&mut self, error: &LedgerError) {
        FAILED.with_label_values(&[error.kind()]).inc();
        self.state = State::default();
        self.in_doubt = true;
        if matches!(error, LedgerError::Taken(_)) {
            self.careful = CAREFUL_BATCHES;
        }
    }

    async fn try_advance(&mut self, all: bool) -> Result<(), LedgerError> {
        if self.in_doubt {
            self.settle().await?;
        }
        loop {
            let index = usize::from(self.under_way.is_some());
            let Some(next) = self.taken.get(index) else { break };
            let batch = next.batch.clone();
            let decided = self.decide_batch(batch.commands(), next.reached.next_offset).await?;
            let reached = self.take_part(index, decided.count);
            self.until_written().await?;
            self.write(reached, decided.writes, decided.awaited.into());
        }
        if all { self.until_written().await } else { Ok(()) }
    }

    /// Leaves of the batch at `index` what was decided, and what was not as a batch of its own behind it; says where the first ends.
    fn take_part(&mut self, index: usize, count: usize) -> Reached {
        let Some(taken) = self.taken.get_mut(index) else { return self.claim.reached };
        let through = taken.reached;
        let (decided, rest) = taken.batch.split(count);
        if let Some(rest) = rest {
            // What its last record was is not known any more; the one that was written last stands for it.
            let last = self.claim.reached.last;
            let part =
                rest.commands().first().map_or(through, |first| Reached { next_offset: first.record.offset, last });
            (taken.batch, taken.reached) = (decided, part);
            self.taken.insert(index + 1, Taken { batch: rest, reached: through, awaited: Arc::default() });
            return part;
        }
        through
    }

    /// Begins to write the oldest batch, in a task of its own.
    fn write(&mut self, reached: Reached, writes: Batch, awaited: Arc<[Outcome]>) {
        let (store, claim) = (self.shared.store.clone(), self.claim);
        let here = self.shared.awaited.clone();
        if let Some(taken) = self.taken.front_mut() {
            taken.awaited = Arc::clone(&awaited);
        }
        let published_through = self.publisher.as_ref().map_or(NOTHING_PUBLISHED, Publisher::published_through);
        let inbox = self.publisher.as_ref().map(Publisher::inbox);
        self.under_way = Some(tokio::spawn(async move {
            let batch = Arc::new(writes);
            store.commit(Commit { claim, reached, published_through, batch: Arc::clone(&batch) }).await?;
            if let Some(here) = here {
                here.tell_all(&awaited);
            }
            if let Some(inbox) = inbox
                && !batch.outbox.is_empty()
            {
                inbox.publish(reached.next_offset, batch).await;
            }
            Ok(())
        }));
    }

    /// Waits until the batch that is being written is.
    async fn until_written(&mut self) -> Result<(), LedgerError> {
        let Some(write) = self.under_way.as_mut() else { return Ok(()) };
        let written = write.await;
        self.under_way = None;
        written.unwrap_or(Err(LedgerError::Database(sqlx::Error::WorkerCrashed)))?;
        if let Some(taken) = self.taken.pop_front() {
            self.claim.reached = taken.reached;
        }
        self.careful = self.careful.saturating_sub(1);
        Ok(())
    }

    /// Finds out whether the commit in doubt went through, and whether the partition is still ours.
    async fn settle(&mut self) -> Result<(), LedgerError> {
        if let Some(write) = self.under_way.take() {
            // However it ended, the checkpoint tells.
            let _ = write.await;
        }
        let Some(current) = self.shared.store.current(self.claim.partition).await? else {
            return Err(self.claim.fenced());
        };
        if current.epoch != self.claim.epoch {
            return Err(self.claim.fenced());
        }
        if current.reached.next_offset > self.claim.reached.next_offset {
            self.claim = current;
            if let Some(publisher) = &self.publisher {
                publisher.sweep().await;
            }
        }
        let applied = self.claim.reached.next_offset;
        while self.taken.front().is_some_and(|taken| taken.reached.next_offset <= applied) {
            let taken = self.taken.pop_front();
            if let (Some(here), Some(taken)) = (&self.shared.awaited, taken) {
                here.tell_all(&taken.awaited);
            }
        }
        self.in_doubt = false;
        Ok(())
    }
}
