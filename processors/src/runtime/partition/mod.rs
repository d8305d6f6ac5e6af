//! One partition, from its assignment to its revocation: claim, seek, then batch after batch.

use super::continuity::{IDLE_CHECK, has_all, look};
use super::standing::Standing;
use super::suspects::{Guilt, Search, Suspects};
use super::{ApplyError, Claimed, DeadLetters, DecodeError, Decoded, Group, Loss, Record, Source, Watermarks, Worker};
use crate::seams::Log;
use futures::FutureExt as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use twh_sinks::kafka::Reached;
use twh_sinks::tasks::{Backoff, said};

/// A batch is begun before the one before it is written when it has this part of what a batch may hold.
const LARGE: usize = 4;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A loss is one when it is still there after so long: what a broker says as it starts may be less than it has.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

twh_sinks::metrics! {
    BATCH_RECORDS: HistogramVec = "twh_batch_records", "Records applied in one batch.", labels ["group"], buckets [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];
    APPLY_SECONDS: HistogramVec = "twh_batch_apply_seconds", "Time to apply a batch, in seconds.", labels ["group"], buckets [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];
    NEXT_OFFSET: IntGaugeVec = "twh_next_offset", "The first offset that the group has not applied.", labels ["group", "partition"];
    TROUBLE: IntCounterVec = "twh_partition_trouble_total", "What held a partition up: unavailable, halted, fenced, poison, refused, gap, panicked.", labels ["group", "kind"];
}

/// Everything that a partition's task works with.
pub struct Seat<G, S, L> {
    /// What takes the partition.
    pub group: Arc<G>,
    /// The group's full name, for metrics and log lines.
    pub name: String,
    /// The partition's log.
    pub source: S,
    /// Which partition.
    pub partition: i32,
    /// How much goes into a batch.
    pub limits: Limits,
    /// Where undecodable records go.
    pub dead_letters: DeadLetters<L>,
    /// What `/ready` says of the partition.
    pub standing: Standing,
    /// Ends the task once what is under way is finished.
    pub stop: CancellationToken,
}

/// How much goes into a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most records.
    pub records_max: usize,
    /// Most bytes of values.
    pub bytes_max: usize,
}

/// Why a partition's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Another process owns the partition.
    Fenced,
}

/// Why a partition's task stops working, for good or until it has claimed the partition again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Left {
    /// It ends.
    Ended(Ended),
    /// The log is not the one that was read: a claim says what that means.
    LogChanged,
    /// The store refuses something of what was taken on: less is taken on at once.
    Searching,
    /// Going on past an offset would be wrong until someone looks.
    Halted(i64, String),
}

impl From<Ended> for Left {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// Works on a partition until it is told to stop or fenced. Neither a panic nor a record that the store refuses ends it: the
/// partition is claimed again, and goes on at its checkpoint.
pub async fn run<G: Group, S: Source, L: Log>(mut seat: Seat<G, S, L>) -> Ended {
    let mut suspects = Suspects::default();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        // What a worker knew when it panicked goes with it.
        match AssertUnwindSafe(attempt(&mut seat, &mut suspects)).catch_unwind().await {
            Ok(Left::Ended(ended)) => return ended,
            Ok(Left::LogChanged) => {}
            Ok(Left::Searching) => continue,
            Ok(Left::Halted(at, reason)) => {
                seat.note(&reason, Some(at)).await;
                seat.trouble(&ApplyError::Halted(reason), "the partition stands");
            }
            Err(panic) => seat.panicked(&said(panic.as_ref()), &mut suspects).await,
        }
        if let Err(ended) = seat.pause(&mut backoff).await {
            return ended;
        }
    }
}

async fn attempt<G: Group, S: Source, L: Log>(seat: &mut Seat<G, S, L>, suspects: &mut Suspects) -> Left {
    let (mut worker, reached) = match claim(seat).await {
        Ok(claimed) => claimed,
        Err(ended) => return ended.into(),
    };
    suspects.claimed();
    seat.goes_on(reached.next_offset).await;
    worker.begin();
    let left = work(seat, &mut worker, reached, suspects).await;
    worker.drain().await;
    left
}

async fn claim<G: Group, S: Source, L: Log>(seat: &mut Seat<G, S, L>) -> Result<(G::Worker, Reached), Ended> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        let error = match try_claim(seat).await {
            Ok(claimed) => return Ok(claimed),
            Err(error) => error,
        };
        seat.trouble(&error, "the partition cannot be claimed");
        match &error {
            ApplyError::Fenced(_) => return Err(Ended::Fenced),
            ApplyError::Halted(reason) => seat.note(reason, None).await,
            ApplyError::Unavailable(_) | ApplyError::Refused(_) => {}
        }
        seat.pause(&mut backoff).await?;
    }
}

async fn try_claim<G: Group, S: Source, L: Log>(seat: &mut Seat<G, S, L>) -> Result<(G::Worker, Reached), ApplyError> {
    let Claimed { worker, reached } = seat.group.claim(seat.partition).await?;
    let looked = match seat.look(reached).await? {
        Ok(watermarks) => Ok(watermarks),
        Err(_) => {
            tokio::time::sleep(CONFIRM_AFTER).await;
            seat.look(reached).await?
        }
    };
    let watermarks = match looked {
        Ok(watermarks) => watermarks,
        Err(loss) => return Err(seat.group.lost(&worker, loss).await),
    };
    let next_offset = reached.next_offset;
    seat.source.seek(next_offset).await?;
    tracing::info!(group = %seat.name, partition = seat.partition, next_offset, lag = watermarks.high - next_offset, "partition claimed");
    NEXT_OFFSET.with_label_values(&[&seat.name, &seat.partition.to_string()]).set(next_offset);
    Ok((worker, reached))
}

/// Records that have arrived and are not taken on.
#[derive(Default)]
struct Waiting {
    records: Vec<Record>,
    bytes: usize,
}

impl Waiting {
    /// What is to come next, behind what was taken on.
    fn expected(&self, taken: Reached) -> i64 {
        self.records.last().map_or(taken.next_offset, |record| record.offset + 1)
    }

    /// How far the log was read, behind what was taken on.
    fn reached(&self, taken: Reached) -> Reached {
        self.records.last().map_or(taken, |record| record.mark().into())
    }
}

/// Why the log has to be looked at before reading on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Offsets are missing. Control records leave such gaps, and so does a log that has lost its beginning.
    Gap,
    /// An offset came that was read already, though nobody asked for it: the client was sent back.
    Back,
    /// The connection to the log was in trouble.
    Disturbed,
}

async fn work<G: Group, S: Source, L: Log>(
    seat: &mut Seat<G, S, L>,
    worker: &mut G::Worker,
    reached: Reached,
    suspects: &mut Suspects,
) -> Left {
    let mut waiting = Waiting::default();
    let mut taken = reached;
    let mut known_gap = None;
    while !seat.stop.is_cancelled() {
        if let Some(doubt) = seat.gather(&mut waiting, taken, known_gap, suspects) {
            let reached = waiting.reached(taken);
            if let Err(left) = seat.make_sure(reached).await {
                return left;
            }
            // It is read once more before it is believed that the log itself has the gap: nothing is skipped by accident.
            known_gap = (doubt == Doubt::Gap).then_some(reached.next_offset);
        }
        let busy = worker.applied_through() < taken.next_offset;
        let stepped = match waiting.records.last() {
            // While a batch is written, the next one gathers; it is begun before that only when it is a large one.
            Some(last) if !busy || (seat.is_large(&waiting) && !suspects.waits(last.offset)) => {
                taken = last.mark().into();
                let records = std::mem::take(&mut waiting).records;
                suspects.taken(&records);
                seat.take_on(worker, records, taken, suspects).await
            }
            _ if busy => {
                tokio::select! {
                    biased;
                    () = seat.stop.cancelled() => Ok(()),
                    written = worker.written() => match written {
                        Ok(()) => Ok(()),
                        Err(error) => {
                            tracing::debug!(group = %seat.name, partition = seat.partition, ?error, "a batch was not written; trying again");
                            let again = worker.finish().await;
                            seat.insist(worker, again, suspects).await
                        }
                    },
                    () = seat.source.ready() => Ok(()),
                }
            }
            _ => {
                tokio::select! {
                    biased;
                    () = seat.stop.cancelled() => {}
                    () = seat.source.ready() => {}
                    () = tokio::time::sleep(IDLE_CHECK) => {}
                }
                Ok(())
            }
        };
        if let Err(left) = stepped {
            return left;
        }
        suspects.written(worker.applied_through());
        seat.checkpoint(worker.applied_through());
        if seat.is_past_what_is_noted(worker.applied_through()) {
            seat.goes_on(worker.applied_through()).await;
        }
    }
    Ended::Stopped.into()
}

impl<G: Group, S: Source, L: Log> Seat<G, S, L> {
    async fn panicked(&self, said: &str, suspects: &mut Suspects) {
        let at = suspects.first_unwritten();
        if suspects.panicked(said) {
            let reason = format!("one record after another panics, this one with: {said}");
            self.note(&reason, at).await;
            self.trouble(&ApplyError::Halted(reason), "the partition's task panicked");
        } else {
            self.trouble_of_kind("panicked", said, "the partition's task panicked; it is claimed again");
        }
    }

    /// Writes down that the partition stands, where it is not written down yet.
    async fn note(&self, why: &str, at: Option<i64>) {
        let now = (why.to_owned(), at.unwrap_or(i64::MIN));
        if self.standing.noted().as_ref() == Some(&now) {
            return;
        }
        match self.group.stands(self.partition, why, at).await {
            Ok(()) => *self.standing.noted() = Some(now),
            Err(error) => {
                tracing::warn!(group = %self.name, partition = self.partition, ?error, "that the partition stands is not written down");
            }
        }
    }

    fn is_past_what_is_noted(&self, reached: i64) -> bool {
        self.standing.noted().as_ref().is_some_and(|(_, at)| reached > *at)
    }

    /// Takes away what is written down of a stand that is over.
    async fn goes_on(&self, reached: i64) {
        match self.group.goes_on(self.partition, reached).await {
            Ok(left) => {
                let mut noted = self.standing.noted();
                let kept = left.map(|at| (noted.take().map_or_else(String::new, |(why, _)| why), at));
                *noted = kept;
            }
            Err(error) => {
                tracing::debug!(group = %self.name, partition = self.partition, ?error, "that the partition goes on is not written down yet");
                *self.standing.noted() = Some((String::new(), i64::MIN));
            }
        }
    }

    /// Looks whether the log is still the one that was read so far.
    async fn look(&mut self, reached: Reached) -> Result<Result<Watermarks, Loss>, ApplyError> {
        // Before the log is asked how far it goes: what is acknowledged after that is not missed.
        let acknowledged = self.group.acknowledged(self.partition).await?;
        let looked = look(&mut self.source, reached, self.group.may_begin_late()).await?;
        Ok(looked.and_then(|watermarks| has_all(acknowledged, watermarks).map(|()| watermarks)))
    }

    /// Makes sure that the log is still the one that was read so far, however long that takes, and reads on from there.
    async fn make_sure(&mut self, reached: Reached) -> Result<(), Left> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let stop = self.stop.clone();
        loop {
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Stopped.into()),
                looked = self.look_and_seek(reached) => looked,
            };
            let error = match looked {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(loss)) => {
                    // Whether it is so, and for good, is seen by the claim.
                    self.trouble(
                        &ApplyError::Unavailable(loss.to_string()),
                        "the log is not the one that was read; the partition is claimed again",
                    );
                    return Err(Left::LogChanged);
                }
                Err(error) => error,
            };
            self.trouble(&error, "the log cannot be looked at");
            self.pause(&mut backoff).await?;
        }
    }

    async fn look_and_seek(&mut self, reached: Reached) -> Result<Result<(), Loss>, ApplyError> {
        if let Err(loss) = self.look(reached).await? {
            return Ok(Err(loss));
        }
        self.source.seek(reached.next_offset).await.map(Ok)
    }

    /// Adds what has arrived, up to a batch; a batch is whatever came while the last one was applied, never a timer.
    /// Ends early where the log has to be looked at first.
    fn gather(
        &mut self,
        waiting: &mut Waiting,
        taken: Reached,
        known_gap: Option<i64>,
        suspects: &Suspects,
    ) -> Option<Doubt> {
        if self.source.disturbed() {
            return Some(Doubt::Disturbed);
        }
        while waiting.records.len() < self.limits.records_max && waiting.bytes < self.limits.bytes_max {
            let expected = waiting.expected(taken);
            if waiting.records.last().is_some_and(|last| suspects.ends_batch(last.offset)) {
                break;
            }
            match self.source.poll() {
                None => break,
                Some(Ok(record)) => {
                    if record.offset < expected {
                        tracing::warn!(group = %self.name, partition = self.partition, expected, found = record.offset, "an offset came that was read already; looking at the log again");
                        return Some(Doubt::Back);
                    }
                    if record.offset > expected && known_gap != Some(expected) {
                        self.trouble_of_kind(
                            "gap",
                            &format!("expected offset {expected}, found {}", record.offset),
                            "offsets are missing from the log (control records leave such gaps); reading again",
                        );
                        return Some(Doubt::Gap);
                    }
                    waiting.bytes += record.payload.len();
                    waiting.records.push(record);
                }
                Some(Err(error)) => {
                    tracing::warn!(group = %self.name, partition = self.partition, error, "kafka: reading failed; the client tries again");
                    break;
                }
            }
        }
        None
    }

    /// So many wait that they are worth a batch of their own.
    fn is_large(&self, waiting: &Waiting) -> bool {
        waiting.records.len() >= self.limits.records_max.div_ceil(LARGE)
            || waiting.bytes >= self.limits.bytes_max.div_ceil(LARGE)
    }

    /// Decodes records and hands them to the worker.
    async fn take_on(
        &self,
        worker: &mut G::Worker,
        records: Vec<Record>,
        reached: Reached,
        suspects: &mut Suspects,
    ) -> Result<(), Left> {
        self.standing.taken(reached.next_offset);
        let batch = self.decode(worker, records, suspects).await?;
        BATCH_RECORDS
            .with_label_values(&[&self.name])
            .observe(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        let begun = Instant::now();
        let applied = worker.apply(batch, reached).await;
        APPLY_SECONDS.with_label_values(&[&self.name]).observe(begun.elapsed().as_secs_f64());
        self.insist(worker, applied, suspects).await
    }

    /// Tries again what failed, until it is done. What is refused is not tried again: the record at fault is looked for.
    async fn insist(
        &self,
        worker: &mut G::Worker,
        mut applied: Result<(), ApplyError>,
        suspects: &mut Suspects,
    ) -> Result<(), Left> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        while let Err(error) = applied {
            if let ApplyError::Refused(reason) = error {
                return Err(self.search(worker.applied_through(), &reason, suspects));
            }
            self.trouble(&error, "a batch cannot be applied");
            match &error {
                ApplyError::Fenced(_) => return Err(Ended::Fenced.into()),
                ApplyError::Halted(reason) => self.note(reason, Some(worker.applied_through())).await,
                ApplyError::Unavailable(_) | ApplyError::Refused(_) => {}
            }
            self.pause(&mut backoff).await?;
            applied = worker.finish().await;
        }
        Ok(())
    }

    /// Looks for the record that the store refuses, among those that were taken on from an offset.
    fn search(&self, from: i64, reason: &str, suspects: &mut Suspects) -> Left {
        match suspects.refused(from) {
            Search::Goes => {
                tracing::warn!(group = %self.name, partition = self.partition, from, reason, "the store refuses a batch; looking for the record at fault");
                Left::Searching
            }
            Search::Found(offset) if G::Worker::LEAVES_OUT => {
                suspects.blame(offset, reason);
                Left::Searching
            }
            Search::Found(offset) => {
                Left::Halted(offset, format!("the store refuses the record at offset {offset}: {reason}"))
            }
            Search::Failed => Left::Halted(from, format!("the store refuses to move on from offset {from}: {reason}")),
        }
    }

    async fn decode(
        &self,
        worker: &mut G::Worker,
        records: Vec<Record>,
        suspects: &mut Suspects,
    ) -> Result<Vec<Decoded<G::Item>>, Left> {
        let mut batch = Vec::with_capacity(records.len());
        for mut record in records {
            let decoded = match suspects.guilt(record.offset).cloned() {
                Some(Guilt::Panics(said)) => {
                    self.set_aside(&record, "poison", &format!("it makes the task panic: {said}")).await?
                }
                Some(Guilt::Refused(reason)) => {
                    self.leave_out(worker, &record, &reason, suspects).await?;
                    None
                }
                None => self.decode_one(worker, &record).await?,
            };
            if let Some(item) = decoded {
                record.payload = Vec::new();
                batch.push(Decoded { record, item });
            }
        }
        Ok(batch)
    }

    /// The record's item; `None` when it went to the dead letters.
    async fn decode_one(&self, worker: &mut G::Worker, record: &Record) -> Result<Option<G::Item>, Ended> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let error = match worker.decode(record).await {
                Ok(item) => return Ok(Some(item)),
                Err(DecodeError::Unavailable(reason)) => reason,
                Err(DecodeError::Poison(reason)) => return self.set_aside(record, "poison", &reason).await,
            };
            self.trouble(&ApplyError::Unavailable(error), "a record cannot be decoded yet");
            self.pause(&mut backoff).await?;
        }
    }

    /// Leaves a record out that the store refuses, once its worker has noted that.
    async fn leave_out(
        &self,
        worker: &mut G::Worker,
        record: &Record,
        reason: &str,
        suspects: &mut Suspects,
    ) -> Result<(), Left> {
        if !suspects.may_leave_out(record.key.as_deref().unwrap_or_default()) {
            let reason = format!("records of one tenant after another are refused, this one with: {reason}");
            return Err(Left::Halted(record.offset, reason));
        }
        let Some(item) = self.decode_one(worker, record).await? else { return Ok(()) };
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        while let Err(error) = worker.leave_out(&item, reason).await {
            self.trouble(&error, "a record cannot be left out yet");
            if matches!(error, ApplyError::Fenced(_)) {
                return Err(Ended::Fenced.into());
            }
            self.pause(&mut backoff).await?;
        }
        self.set_aside::<G::Item>(record, "refused", &format!("the store refuses it: {reason}")).await?;
        Ok(())
    }

    /// Puts a record to the dead letters, however long that takes: nothing is skipped unseen.
    async fn set_aside<T>(&self, record: &Record, kind: &str, reason: &str) -> Result<Option<T>, Ended> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        while let Err(error) = self.dead_letters.send(record, reason).await {
            let error = format!("the dead letters cannot be written: {error}");
            self.trouble(&ApplyError::Unavailable(error), "a record cannot be set aside yet");
            self.pause(&mut backoff).await?;
        }
        TROUBLE.with_label_values(&[self.name.as_str(), kind]).inc();
        let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
        tracing::error!(group = %self.name, partition = self.partition, offset = record.offset, tenant_id = %key, kind, reason, "a record went to the dead letters");
        Ok(None)
    }

    fn checkpoint(&self, next_offset: i64) {
        NEXT_OFFSET.with_label_values(&[&self.name, &self.partition.to_string()]).set(next_offset);
        self.source.checkpoint(next_offset);
        self.standing.applied(next_offset);
    }

    fn trouble(&self, error: &ApplyError, what: &str) {
        let (kind, reason) = match error {
            ApplyError::Unavailable(reason) => ("unavailable", reason),
            ApplyError::Fenced(reason) => ("fenced", reason),
            ApplyError::Halted(reason) => ("halted", reason),
            ApplyError::Refused(reason) => ("refused", reason),
        };
        self.trouble_of_kind(kind, reason, what);
    }

    fn trouble_of_kind(&self, kind: &str, reason: &str, what: &str) {
        TROUBLE.with_label_values(&[self.name.as_str(), kind]).inc();
        self.standing.failed(kind, reason);
        tracing::warn!(group = %self.name, partition = self.partition, kind, reason, "{what}");
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), Ended> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Ended::Stopped),
            () = tokio::time::sleep(backoff.pause()) => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "what the loop does about panics is what is tested")]
mod tests;
