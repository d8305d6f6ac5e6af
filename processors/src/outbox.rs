//! Publishes what the ledger has committed: from memory at once, from the table on start and after trouble; in order for each
//! partition, again and again until Kafka has it. Event ids are the command's, so a consumer drops a repeat.
//!
//! It never publishes what is not committed, and never forgets a batch that Kafka has not acknowledged.

use crate::runtime::Backoff;
use crate::seams::{Log, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use twh_schemas::catalogue::LEDGER_DLQ;
use twh_sinks::kafka::{Outgoing, ProduceError};
use twh_sinks::postgres::ledger::Batch;
use twh_sinks::postgres::outbox::OutboxRecord;
use twh_sinks::tasks;

/// Committed batches of a partition that may wait in memory for Kafka, and their bytes; then the ledger waits too.
const QUEUE_BATCHES_MAX: usize = 16;
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Semaphores count in these.
const UNIT_BYTES: usize = 1_024;
/// Stands before every offset.
pub(crate) const NOTHING_PUBLISHED: i64 = -1;
/// When nothing comes for this long, what is published is deleted from the table without waiting for the next commit.
const IDLE: Duration = Duration::from_millis(500);
/// How long a drain may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

twh_sinks::metrics! {
    PUBLISHED: IntCounter = "twh_outbox_published_total", "Records of the outbox published.";
    FAILED: IntCounter = "twh_outbox_retries_total", "Batches of the outbox that had to be published again.";
    SET_ASIDE: IntCounter = "twh_outbox_set_aside_total", "Records of the outbox that their topics do not take: too large.";
}

/// Full names of topics, by their names in the catalogue.
pub type TopicNames = Arc<dyn Fn(&'static str) -> String + Send + Sync>;

/// What publishing needs; shared by all partitions.
#[derive(Clone)]
pub struct Publishing<S, L> {
    /// Where the outbox is.
    pub store: S,
    /// Where its records go.
    pub log: L,
    /// The full name of a topic.
    pub full_name: TopicNames,
}

enum Work {
    /// A batch that was just committed, and its share of the queue's bytes.
    Batch(i64, Arc<Batch>, Option<OwnedSemaphorePermit>),
    /// Something may be in the table that did not come this way.
    Sweep,
}

/// A partition's publisher, as the ledger sees it. One that is let go of without being drained publishes nothing more, so that it
/// does not come after its successor.
pub struct Publisher {
    work: mpsc::Sender<Work>,
    bytes: Arc<Semaphore>,
    published_through: Arc<AtomicI64>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Begins with what the table still holds.
    #[must_use]
    pub fn start<S: Store, L: Log>(publishing: Publishing<S, L>, partition: i32) -> Self {
        let (work, inbox) = mpsc::channel(QUEUE_BATCHES_MAX);
        let published_through = Arc::new(AtomicI64::new(NOTHING_PUBLISHED));
        let stop = CancellationToken::new();
        let (inbox, stopped, through) = (Arc::new(Mutex::new(inbox)), stop.clone(), Arc::clone(&published_through));
        // A batch that a panic takes along is in the table, where each beginning looks first.
        let task = tasks::keep("ledger", "outbox", move || {
            let task = Task {
                publishing: publishing.clone(),
                partition,
                published_through: Arc::clone(&through),
                stop: stopped.clone(),
                deleted_through: NOTHING_PUBLISHED,
                backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            };
            let inbox = Arc::clone(&inbox);
            async move { task.run(&mut *inbox.lock().await).await }
        });
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES_MAX / UNIT_BYTES));
        Self { work, bytes, published_through, stop: stop.drop_guard(), task }
    }

    /// Where committed batches are handed in.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        Inbox { work: self.work.clone(), bytes: Arc::clone(&self.bytes) }
    }

    /// Looks into the table, for a batch whose commit was in doubt.
    pub async fn sweep(&self) {
        let _ = self.work.send(Work::Sweep).await;
    }

    /// Batches up to this offset are on Kafka; their rows can go.
    #[must_use]
    pub fn published_through(&self) -> i64 {
        self.published_through.load(Ordering::Acquire)
    }

    /// Publishes what is waiting, within a deadline; the rest is in the table for the partition's next owner.
    pub async fn drain(self) {
        let Self { work, mut task, stop, .. } = self;
        drop(work);
        if tokio::time::timeout(DRAIN_DEADLINE, &mut task).await.is_err() {
            drop(stop);
            let _ = task.await;
        }
    }
}

/// The way to a partition's publisher; a publisher that is drained waits until there is none left.
#[derive(Clone)]
pub struct Inbox {
    work: mpsc::Sender<Work>,
    bytes: Arc<Semaphore>,
}

impl Inbox {
    /// Publishes a batch that is committed; waits while too many wait already.
    pub async fn publish(&self, next_offset: i64, batch: Arc<Batch>) {
        let bytes: usize = batch.outbox.iter().map(|record| record.payload.len()).sum();
        let units = u32::try_from(bytes.min(QUEUE_BYTES_MAX) / UNIT_BYTES).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.bytes).acquire_many_owned(units).await.ok();
        // A publisher ends only when it is drained.
        let _ = self.work.send(Work::Batch(next_offset, batch, share)).await;
    }
}

struct Task<S, L> {
    publishing: Publishing<S, L>,
    partition: i32,
    published_through: Arc<AtomicI64>,
    stop: CancellationToken,
    deleted_through: i64,
    backoff: Backoff,
}

/// The task was told to stop.
struct Stopped;

impl<S: Store, L: Log> Task<S, L> {
    async fn run(mut self, inbox: &mut mpsc::Receiver<Work>) {
        if self.sweep().await.is_err() {
            return;
        }
        loop {
            match tokio::time::timeout(IDLE, inbox.recv()).await {
                Ok(Some(first)) => {
                    if self.work(first, inbox).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(_idle) => self.delete().await,
            }
        }
        self.delete().await;
    }

    /// Does what waits: the batches among it go together.
    async fn work(&mut self, first: Work, inbox: &mut mpsc::Receiver<Work>) -> Result<(), Stopped> {
        let (mut batches, mut sweep) = (Vec::new(), false);
        let mut next = Some(first);
        while let Some(work) = next {
            match work {
                Work::Batch(next_offset, batch, share) => batches.push((next_offset, batch, share)),
                Work::Sweep => sweep = true,
            }
            next = if sweep { None } else { inbox.try_recv().ok() };
        }
        batches.retain(|(next_offset, ..)| *next_offset > self.published());
        if let Some((next_offset, ..)) = batches.last() {
            let records: Vec<_> = batches.iter().flat_map(|(_, batch, _)| &batch.outbox).collect();
            self.publish(*next_offset, &records).await?;
        }
        if sweep { self.sweep().await } else { Ok(()) }
    }

    fn published(&self) -> i64 {
        self.published_through.load(Ordering::Acquire)
    }

    /// Publishes what the table holds beyond what is published, oldest first.
    async fn sweep(&mut self) -> Result<(), Stopped> {
        loop {
            match self.publishing.store.oldest_after(self.partition, self.published()).await {
                Ok(Some(batch)) => {
                    self.publish(batch.next_offset, &batch.records.iter().collect::<Vec<_>>()).await?;
                }
                Ok(None) => return Ok(()),
                Err(error) => self.pause("the outbox cannot be read", &error).await?,
            }
        }
    }

    /// Puts records on Kafka, all of them in order, however often that takes.
    async fn publish(&mut self, next_offset: i64, records: &[&OutboxRecord]) -> Result<(), Stopped> {
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        for record in records {
            names.entry(record.topic).or_insert_with(|| (self.publishing.full_name)(record.topic));
        }
        let outgoing: Vec<_> = records
            .iter()
            .map(|record| Outgoing {
                topic: names.get(record.topic).map_or(record.topic, String::as_str),
                partition: record.partition,
                key: &record.key,
                headers: &record.headers,
                payload: &record.payload,
            })
            .collect();
        if self.append(&outgoing).await?.is_err() {
            // One is too large. The others go on, in their order; those that are there already come a second time.
            for record in &outgoing {
                if let Err(error) = self.append(std::slice::from_ref(record)).await? {
                    self.set_aside(record, &error).await?;
                }
            }
        }
        self.backoff.reset();
        PUBLISHED.inc_by(u64::try_from(records.len()).unwrap_or_default());
        self.published_through.store(next_offset, Ordering::Release);
        Ok(())
    }

    /// Puts records on Kafka, however often that takes; an error is one that will stay: a record is too large.
    async fn append(&mut self, records: &[Outgoing<'_>]) -> Result<Result<(), ProduceError>, Stopped> {
        loop {
            // A log that never gives up is left waiting when the partition goes to another process.
            let appended = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                appended = self.publishing.log.append(records) => appended,
            };
            match appended {
                Err(error) if !error.is_too_large() => {
                    FAILED.inc();
                    self.pause("a committed batch is not on Kafka yet", &error).await?;
                }
                appended => return Ok(appended),
            }
        }
    }

    /// Names a record that its topic does not take among the dead letters: the topic takes less than it was made to take. What it told
    /// is in the ledger.
    async fn set_aside(&mut self, record: &Outgoing<'_>, error: &ProduceError) -> Result<(), Stopped> {
        SET_ASIDE.inc();
        let key = String::from_utf8_lossy(record.key).into_owned();
        tracing::error!(partition = self.partition, topic = record.topic, key, bytes = record.payload.len(), %error, "outbox: a record is larger than its topic takes and is not published; see max.message.bytes of the topic");
        let headers = [
            ("twh-dlq-reason".into(), error.to_string().into()),
            ("twh-dlq-topic".into(), record.topic.to_owned().into()),
            ("twh-dlq-left-out".into(), record.payload.len().to_string().into()),
        ];
        let topic = (self.publishing.full_name)(LEDGER_DLQ.name);
        let letter = Outgoing { topic: &topic, partition: None, key: record.key, headers: &headers, payload: &[] };
        // What no topic takes at all is in the log, and counted.
        self.append(&[letter]).await.map(|_| ())
    }

    /// Deletes what is published. A failure costs nothing but a repeat after the next start.
    async fn delete(&mut self) {
        let through = self.published();
        if through <= self.deleted_through {
            return;
        }
        match self.publishing.store.forget(self.partition, through).await {
            Ok(()) => self.deleted_through = through,
            Err(error) => {
                tracing::warn!(partition = self.partition, %error, "published rows of the outbox are still there; they go with the next commit")
            }
        }
    }

    async fn pause(&mut self, what: &str, error: &(dyn std::error::Error + Send + Sync)) -> Result<(), Stopped> {
        tracing::warn!(partition = self.partition, error = %error, "outbox: {what}; trying again");
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(self.backoff.pause()) => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "what becomes of a panic is what is tested")]
mod tests {
    use super::*;
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use twh_domain::state::{Need, State};
    use twh_sinks::postgres::ledger::halts::Halt;
    use twh_sinks::postgres::ledger::{Claim, Commit, LedgerError};
    use twh_sinks::postgres::outbox::OutboxBatch;
    use twh_sinks::postgres::sqlx;
    use twh_sinks::tasks::health::standing;

    /// A log whose topics take ten bytes.
    #[derive(Clone, Default)]
    struct Narrow(Arc<Mutex<Vec<(String, usize)>>>);

    impl Log for Narrow {
        async fn append(&self, records: &[Outgoing<'_>]) -> Result<(), ProduceError> {
            for record in records {
                if record.payload.len() > 10 {
                    let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
                    return Err(ProduceError::NotAcknowledged(error));
                }
                self.0.lock().unwrap().push((record.topic.to_owned(), record.payload.len()));
            }
            Ok(())
        }
    }

    /// A table that holds one batch, or nothing.
    #[derive(Clone, Default)]
    struct Table {
        holds: Option<i64>,
    }

    impl Store for Table {
        async fn claim(&self, _: i32, _: &str, _: &str) -> Result<Claim, LedgerError> {
            Err(LedgerError::Database(sqlx::Error::PoolClosed))
        }

        async fn current(&self, _: i32) -> Result<Option<Claim>, LedgerError> {
            Ok(None)
        }

        async fn load(&self, _: &mut State, _: BTreeSet<Need>) -> Result<(), LedgerError> {
            Ok(())
        }

        async fn commit(&self, _: Commit) -> Result<(), LedgerError> {
            Ok(())
        }

        async fn halt(&self, _: Claim, _: Halt) -> Result<(), LedgerError> {
            Ok(())
        }

        async fn oldest_after(&self, _: i32, after: i64) -> Result<Option<OutboxBatch>, sqlx::Error> {
            let held = self.holds.filter(|next_offset| after < *next_offset);
            Ok(held.map(|next_offset| OutboxBatch { next_offset, records: Vec::new() }))
        }

        async fn forget(&self, _: i32, _: i64) -> Result<(), sqlx::Error> {
            Ok(())
        }
    }

    fn record(topic: &'static str, bytes: usize) -> OutboxRecord {
        OutboxRecord { topic, partition: None, key: b"key".to_vec(), headers: Vec::new(), payload: vec![0; bytes] }
    }

    #[tokio::test]
    async fn a_record_that_is_too_large_is_named_and_the_others_are_published() {
        let log = Narrow::default();
        let publishing = Publishing {
            store: Table::default(),
            log: log.clone(),
            full_name: Arc::new(|name| format!("test.{name}")),
        };
        let publisher = Publisher::start(publishing, 0);
        let batch = Batch { outbox: vec![record("a", 1), record("b", 11), record("c", 2)], ..Batch::default() };
        publisher.inbox().publish(1, batch.into()).await;
        let batch = Batch { outbox: vec![record("d", 3)], ..Batch::default() };
        publisher.inbox().publish(2, batch.into()).await;
        publisher.drain().await;
        let there = log.0.lock().unwrap().clone();
        let letter = format!("test.{}", LEDGER_DLQ.name);
        let expected = [("test.a", 1), ("test.a", 1), (letter.as_str(), 0), ("test.c", 2), ("test.d", 3)];
        // Both batches may go together, and then the last comes once more.
        let mut seen: Vec<_> = there.iter().map(|(topic, bytes)| (topic.as_str(), *bytes)).collect();
        seen.dedup();
        let mut expected = expected.to_vec();
        expected.dedup();
        assert_eq!(seen, expected);
    }

    /// A log that panics over the first that is put on it.
    #[derive(Clone, Default)]
    struct Panics(Arc<Mutex<Vec<usize>>>, Arc<AtomicI64>);

    impl Log for Panics {
        async fn append(&self, records: &[Outgoing<'_>]) -> Result<(), ProduceError> {
            if self.1.fetch_add(1, Ordering::SeqCst) == 0 {
                panic!("over the first");
            }
            self.0.lock().unwrap().push(records.len());
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_publisher_that_panics_once_publishes_what_it_was_at_from_the_table() {
        let log = Panics::default();
        let names: TopicNames = Arc::new(str::to_owned);
        let publishing = Publishing { store: Table { holds: Some(5) }, log: log.clone(), full_name: names };
        let publisher = Publisher::start(publishing, 0);
        let mut seen_down = false;
        while publisher.published_through() < 5 {
            seen_down |= standing("ledger").iter().any(|one| one.part == "outbox");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(seen_down, "the ledger was not ready meanwhile");
        assert!(standing("ledger").is_empty(), "and is again");
        publisher.drain().await;
        assert_eq!(*log.0.lock().unwrap(), [0], "once");
    }
}
