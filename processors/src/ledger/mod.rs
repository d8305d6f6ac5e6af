//! The consumer group `ledger`: turns commands into movements, one writer a partition, many commands a transaction.
//!
//! A batch is decided on the state that the writer keeps (it alone writes it), and written with the partition's checkpoint in
//! one transaction, compare-and-set on offset and epoch: applied exactly once, and never by two. The next batch is decided
//! while one is written. What is in doubt after a failure is settled by reading the checkpoint, never by guessing.

mod records;

use crate::outbox::{NOTHING_PUBLISHED, Publisher, Publishing};
use crate::runtime::{ApplyError, Claimed, DecodeError, Decoded, Group, Loss, Record, Worker, owned};
use crate::seams::{Log, Store};
use prometheus::{IntCounterVec, register_int_counter_vec};
use records::Records;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use tokio::task::JoinHandle;
use twh_domain::commands::{Command, RULES_VERSION};
use twh_domain::entity::LevelKey;
use twh_domain::outcome::{Outcome, Position, Verdict};
use twh_domain::state::{IdempotencyKey, Need, PriorOutcome, State};
use twh_domain::{Decision, Needs, Recorded, decide, prefetch};
use twh_schemas::{Schemas, headers};
use twh_sinks::kafka::Reached;
use twh_sinks::postgres::ledger::halts::Halt;
use twh_sinks::postgres::ledger::{Batch, Claim, Commit, LedgerError, OutcomeRow, Written};
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

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static DECIDED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "twh_commands_decided_total",
        "Commands decided, by kind and what became of them.",
        &["kind", "outcome"]
    )
    .expect("the metric's name is unique")
});

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static FAILED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "twh_ledger_failures_total",
        "Batches that were not decided or written, by why.",
        &["kind"]
    )
    .expect("the metric's name is unique")
});

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

    /// Decides a batch on the state that the ones before it leave, as far as its bound on what is written reaches.
    async fn decide_batch(&mut self, batch: &[Decoded<Command>], next_offset: i64) -> Result<Decided, LedgerError> {
        let fresh: Vec<_> =
            batch.iter().filter(|decoded| decoded.record.offset >= self.claim.reached.next_offset).collect();
        let new_names = self.preload(&fresh).await?;
        let loaded_before = self.state.young_bytes();
        let mut output = 0;
        let mut count = batch.len() - fresh.len();
        let mut through = next_offset - 1;
        let schemas = Arc::clone(&self.shared.schemas);
        let mut writes = Batch::default();
        let mut records = Records::new(&schemas);
        let mut awaited = Vec::new();
        for decoded in fresh {
            let decision = self.decide(decoded).await?;
            count += 1;
            output += weight(&decision);
            let here = self.is_awaited_here(&decoded.record);
            if here {
                awaited.push(decision.outcome.clone());
            }
            if self.publisher.is_some() {
                records.add(decoded, &decision, !here)?;
            }
            tell(&decoded.item, &decision);
            self.add(decoded, decision, &mut writes);
            if output.max(self.state.young_bytes().saturating_sub(loaded_before)) > OUTPUT_BYTES_MAX {
                if count < batch.len() {
                    through = decoded.record.offset;
                }
                break;
            }
        }
        self.confirm(new_names).await?;
        self.state.end_batch(YOUNG_MAX, YOUNG_BYTES_MAX);
        if self.publisher.is_some() {
            writes.outbox = records.finish(&writes.levels, through, self.claim.partition)?;
        }
        Ok(Decided { writes, awaited, count })
    }

    fn is_awaited_here(&self, record: &Record) -> bool {
        self.shared.awaited.as_ref().is_some_and(|ours| record.header(headers::REPLY_PROCESS) == Some(&ours.process))
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

    /// Loads what the batch touches, in as few queries as its references are deep. What is new by all appearances is taken
    /// for absent and returned, to be confirmed.
    async fn preload(&mut self, batch: &[&Decoded<Command>]) -> Result<BTreeSet<Need>, LedgerError> {
        let mut new_names = BTreeSet::new();
        for _ in 0..LOAD_ROUNDS_MAX {
            let mut needs = Needs::default();
            for decoded in batch {
                prefetch(&self.state, &decoded.item, &mut needs);
            }
            if self.careful > 0 {
                needs.load.append(&mut needs.new_names);
            }
            // Only documents and codes name further things.
            let names_more = needs.load.iter().any(|need| matches!(need, Need::Entity(_) | Need::Code(_)));
            let all = self.load_within_bounds(needs.load).await?;
            // What another command asks for by name is loaded by now, and stays as it is.
            for need in needs.new_names.into_iter().filter(|need| !self.state.has(need)).collect::<Vec<_>>() {
                self.state.load_absent(need.clone());
                new_names.insert(need);
            }
            if !names_more || !all {
                break;
            }
        }
        Ok(new_names)
    }

    /// Loads what is needed, large documents a few at a time, until the bound on what they weigh; says whether that is all. What is
    /// left out is loaded when it is asked for.
    async fn load_within_bounds(&mut self, needs: BTreeSet<Need>) -> Result<bool, LedgerError> {
        let is_large = |need: &Need| matches!(need, Need::Entity(key) if key.kind.has_lines());
        let (large, small): (Vec<_>, Vec<_>) = needs.into_iter().partition(is_large);
        if !small.is_empty() {
            self.shared.store.load(&mut self.state, small.into_iter().collect()).await?;
        }
        let before = self.state.young_bytes();
        for some in large.chunks(LARGE_DOCUMENTS) {
            if self.state.young_bytes().saturating_sub(before) > OUTPUT_BYTES_MAX {
                return Ok(false);
            }
            self.shared.store.load(&mut self.state, some.iter().cloned().collect()).await?;
        }
        Ok(true)
    }

    /// What was taken for absent and became a document is confirmed by the database, whose keys are unique. The rest, of
    /// commands that were refused, is confirmed here.
    async fn confirm(&mut self, new_names: BTreeSet<Need>) -> Result<(), LedgerError> {
        let open: BTreeSet<_> = new_names.into_iter().filter(|need| self.state.is_absent(need)).collect();
        if open.is_empty() {
            return Ok(());
        }
        open.iter().for_each(|need| self.state.forget(need));
        self.shared.store.load(&mut self.state, open.clone()).await?;
        match open.iter().find(|need| !self.state.is_absent(need)) {
            None => Ok(()),
            Some(need) => Err(LedgerError::Taken(format!("{need:?}"))),
        }
    }

    async fn decide(&mut self, decoded: &Decoded<Command>) -> Result<Decision, LedgerError> {
        let record = &decoded.record;
        let recorded = Recorded {
            position: Position { partition: record.partition, offset: record.offset },
            at: record.timestamp,
        };
        loop {
            match decide(&self.state, &decoded.item, recorded) {
                Ok(decision) => return Ok(decision),
                // What preloading missed; each round loads something new, so this ends.
                Err(need) => self.shared.store.load(&mut self.state, BTreeSet::from([need])).await?,
            }
        }
    }

    /// Moves on by a decision: the state, and what the batch writes.
    fn add(&mut self, decoded: &Decoded<Command>, decision: Decision, writes: &mut Batch) {
        let Decision { outcome, effects, first } = decision;
        let command = &decoded.item;
        let key = IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() };
        for movement in &effects.movements {
            let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
            let level = writes.levels.entry(key).or_insert_with(|| self.state.level(&key).unwrap_or_default());
            level.evolve(movement);
        }
        self.state.evolve(&effects);
        writes.movements.extend(effects.movements);
        writes.audit.extend(effects.audit);
        writes.barcodes.extend(effects.barcodes);
        writes.heads.extend(effects.head);
        for (key, entity, document) in effects.documents {
            let new = entity.version() == 1 || writes.documents.get(&key).is_some_and(|written| written.new);
            writes.documents.insert(key, Written { entity, document, new });
        }
        if first && matches!(self.state.outcome(&key), Ok(Some(_))) {
            writes.expired_keys.push(key.clone());
        }
        if first {
            let prior = PriorOutcome {
                command_id: command.command_id,
                fingerprint: command.fingerprint.clone(),
                position: outcome.position,
                recorded_at: outcome.recorded_at,
                verdict: Arc::clone(&outcome.verdict),
            };
            self.state.remember(key, prior);
        }
        writes.outcomes.push(OutcomeRow {
            idempotency_key: first.then(|| command.idempotency_key.clone()),
            fingerprint: command.fingerprint.clone(),
            outcome,
        });
    }
}

/// What a decision adds to what its batch writes and publishes, in bytes.
fn weight(decision: &Decision) -> usize {
    let Decision { outcome, effects, .. } = decision;
    let audit = effects.audit.iter().map(|record| record.document.len()).sum::<usize>();
    let events = effects.events.iter().map(|event| event.data.len()).sum::<usize>();
    let answered = match outcome.verdict.as_ref() {
        Verdict::Accepted { resources, .. } => resources.iter().map(|resource| resource.document.len()).sum(),
        Verdict::Rejected(refusal) => refusal.details.len(),
    };
    audit + events + answered + effects.movements.len() * MOVEMENT_BYTES
}

/// Counts a decision, and logs it.
fn tell(command: &Command, decision: &Decision) {
    let kind = match command.operations.as_slice() {
        [only] => only.payload.kind().name,
        _ => "atomic",
    };
    let outcome = match (decision.outcome.replay_of, decision.outcome.verdict.as_ref()) {
        (Some(_), _) => "replayed",
        (None, Verdict::Accepted { .. }) => "accepted",
        (None, Verdict::Rejected(_)) => "rejected",
    };
    DECIDED.with_label_values(&[kind, outcome]).inc();
    tracing::debug!(
        request_id = %command.request_id,
        tenant_id = %command.tenant_id,
        command_id = %command.command_id,
        position = %decision.outcome.position,
        kind,
        outcome,
        "decided"
    );
}
