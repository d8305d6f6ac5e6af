//! Publishes what the ledger has committed: from memory at once, from the table on start and after trouble; in order for each
//! partition, again and again until Kafka has it. Event ids are the command's, so a consumer drops a repeat.
//!
//! It never publishes what is not committed, and never forgets a batch that Kafka has not acknowledged.

use crate::runtime::Backoff;
use crate::seams::{Log, Store};
use prometheus::{IntCounter, register_int_counter};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twh_sinks::kafka::Outgoing;
use twh_sinks::postgres::ledger::Batch;
use twh_sinks::postgres::outbox::OutboxRecord;

/// Committed batches that may wait in memory for Kafka; then the ledger waits too.
const QUEUE_BATCHES_MAX: usize = 16;
/// Stands before every offset.
pub(crate) const NOTHING_PUBLISHED: i64 = -1;
/// When nothing comes for this long, what is published is deleted from the table without waiting for the next commit.
const IDLE: Duration = Duration::from_millis(500);
/// How long a drain may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static PUBLISHED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("twh_outbox_published_total", "Records of the outbox published.")
        .expect("the metric's name is unique")
});
#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static FAILED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("twh_outbox_retries_total", "Batches of the outbox that had to be published again.")
        .expect("the metric's name is unique")
});

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
    /// A batch that was just committed.
    Batch(i64, Arc<Batch>),
    /// Something may be in the table that did not come this way.
    Sweep,
}

/// A partition's publisher, as the ledger sees it.
pub struct Publisher {
    work: mpsc::Sender<Work>,
    published_through: Arc<AtomicI64>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Begins with what the table still holds.
    #[must_use]
    pub fn start<S: Store, L: Log>(publishing: Publishing<S, L>, partition: i32) -> Self {
        let (work, inbox) = mpsc::channel(QUEUE_BATCHES_MAX);
        let published_through = Arc::new(AtomicI64::new(NOTHING_PUBLISHED));
        let stop = CancellationToken::new();
        let task = Task {
            publishing,
            partition,
            published_through: Arc::clone(&published_through),
            stop: stop.clone(),
            deleted_through: NOTHING_PUBLISHED,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
        };
        Self { work, published_through, stop, task: tokio::spawn(task.run(inbox)) }
    }

    /// Where committed batches are handed in.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        Inbox(self.work.clone())
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
        drop(self.work);
        let mut task = self.task;
        if tokio::time::timeout(DRAIN_DEADLINE, &mut task).await.is_err() {
            self.stop.cancel();
            let _ = task.await;
        }
    }
}

/// The way to a partition's publisher; a publisher that is drained waits until there is none left.
#[derive(Clone)]
pub struct Inbox(mpsc::Sender<Work>);

impl Inbox {
    /// Publishes a batch that is committed; waits while too many wait already.
    pub async fn publish(&self, next_offset: i64, batch: Arc<Batch>) {
        // A publisher ends only when it is drained.
        let _ = self.0.send(Work::Batch(next_offset, batch)).await;
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
    async fn run(mut self, mut inbox: mpsc::Receiver<Work>) {
        if self.sweep().await.is_err() {
            return;
        }
        loop {
            match tokio::time::timeout(IDLE, inbox.recv()).await {
                Ok(Some(first)) => {
                    if self.work(first, &mut inbox).await.is_err() {
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
                Work::Batch(next_offset, batch) => batches.push((next_offset, batch)),
                Work::Sweep => sweep = true,
            }
            next = if sweep { None } else { inbox.try_recv().ok() };
        }
        batches.retain(|(next_offset, _)| *next_offset > self.published());
        if let Some((next_offset, _)) = batches.last() {
            let records: Vec<_> = batches.iter().flat_map(|(_, batch)| &batch.outbox).collect();
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
        loop {
            // A log that never gives up is left waiting when the partition goes to another process.
            let appended = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                appended = self.publishing.log.append(&outgoing) => appended,
            };
            match appended {
                Ok(()) => break,
                Err(error) => {
                    FAILED.inc();
                    self.pause("a committed batch is not on Kafka yet", &error).await?;
                }
            }
        }
        self.backoff.reset();
        PUBLISHED.inc_by(u64::try_from(records.len()).unwrap_or_default());
        self.published_through.store(next_offset, Ordering::Release);
        Ok(())
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
