//! One partition, from its assignment to its revocation: claim, seek, then batch after batch.

use super::backoff::Backoff;
use super::consumer::{GroupConsumer, Membership, Options};
use super::{ApplyError, DeadLetters, DecodeError, Decoded, Group, Record, Watermarks, Worker};
use prometheus::{
    HistogramVec, IntCounterVec, IntGaugeVec, register_histogram_vec, register_int_counter_vec, register_int_gauge_vec,
};
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use twh_domain::timestamp::Timestamp;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// A wake-up that got lost costs at most this much.
const IDLE_CHECK: Duration = Duration::from_millis(250);
const SEEK_TRIES_MAX: u32 = 40;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static BATCH_RECORDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];
    register_histogram_vec!("twh_batch_records", "Records applied in one batch.", &["group"], buckets)
        .expect("the metric's name is unique")
});
#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static APPLY_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];
    register_histogram_vec!("twh_batch_apply_seconds", "Time to apply a batch, in seconds.", &["group"], buckets)
        .expect("the metric's name is unique")
});
#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static NEXT_OFFSET: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "twh_next_offset",
        "The first offset that the group has not applied.",
        &["group", "partition"]
    )
    .expect("the metric's name is unique")
});
#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static TROUBLE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "twh_partition_trouble_total",
        "What held a partition up: unavailable, halted, fenced, poison, gap.",
        &["group", "kind"]
    )
    .expect("the metric's name is unique")
});

/// Everything that a partition's task works with.
pub(super) struct Seat<G: Group> {
    pub(super) group: Arc<G>,
    pub(super) consumer: Arc<GroupConsumer<G>>,
    pub(super) queue: PartitionQueue<Membership<G>>,
    pub(super) partition: i32,
    pub(super) options: Options,
    pub(super) dead_letters: DeadLetters,
    pub(super) stop: CancellationToken,
}

/// Why a partition's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to.
    Stopped,
    /// Another process owns the partition.
    Fenced,
}

pub(super) async fn run<G: Group>(mut seat: Seat<G>) -> Ended {
    let ready = Arc::new(Notify::new());
    let waker = Arc::clone(&ready);
    seat.queue.set_nonempty_callback(move || waker.notify_one());
    let (mut worker, next_offset) = match claim(&seat).await {
        Ok(claimed) => claimed,
        Err(ended) => return ended,
    };
    let ended = work(&mut seat, &mut worker, next_offset, &ready).await;
    worker.drain().await;
    ended
}

async fn claim<G: Group>(seat: &Seat<G>) -> Result<(G::Worker, i64), Ended> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        let error = match try_claim(seat).await {
            Ok(claimed) => return Ok(claimed),
            Err(error) => error,
        };
        seat.trouble(&error, "the partition cannot be claimed");
        if matches!(error, ApplyError::Fenced(_)) {
            return Err(Ended::Fenced);
        }
        seat.pause(&mut backoff).await?;
    }
}

async fn try_claim<G: Group>(seat: &Seat<G>) -> Result<(G::Worker, i64), ApplyError> {
    let watermarks = watermarks(seat).await?;
    let claimed = seat.group.claim(seat.partition, watermarks).await?;
    seek(seat, claimed.next_offset).await?;
    tracing::info!(group = %seat.options.group, partition = seat.partition, next_offset = claimed.next_offset, lag = watermarks.high - claimed.next_offset, "partition claimed");
    NEXT_OFFSET.with_label_values(&[&seat.options.group, &seat.partition.to_string()]).set(claimed.next_offset);
    Ok((claimed.worker, claimed.next_offset))
}

async fn watermarks<G: Group>(seat: &Seat<G>) -> Result<Watermarks, ApplyError> {
    let (consumer, topic, partition) = (Arc::clone(&seat.consumer), seat.options.topic.clone(), seat.partition);
    let (low, high) = tokio::task::spawn_blocking(move || consumer.fetch_watermarks(&topic, partition, KAFKA_TIMEOUT))
        .await
        .map_err(ApplyError::unavailable)?
        .map_err(ApplyError::unavailable)?;
    Ok(Watermarks { low, high })
}

/// Moves the paused partition to where its worker begins, and lets it flow.
async fn seek<G: Group>(seat: &Seat<G>, next_offset: i64) -> Result<(), ApplyError> {
    let (consumer, topic, partition) = (Arc::clone(&seat.consumer), seat.options.topic.clone(), seat.partition);
    let moved = tokio::task::spawn_blocking(move || {
        let mut tries = 0;
        loop {
            match consumer.seek(&topic, partition, Offset::Offset(next_offset), KAFKA_TIMEOUT) {
                // Right after an assignment the client does not know the partition's place yet, for a moment.
                Err(KafkaError::Seek(_)) if tries < SEEK_TRIES_MAX => tries += 1,
                moved => break moved?,
            }
            std::thread::sleep(RETRY_FIRST);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, partition);
        consumer.resume(&list)
    });
    moved.await.map_err(ApplyError::unavailable)?.map_err(ApplyError::unavailable)
}

async fn work<G: Group>(seat: &mut Seat<G>, worker: &mut G::Worker, mut next_offset: i64, ready: &Notify) -> Ended {
    let mut known_gap = None;
    while !seat.stop.is_cancelled() {
        let (records, gap) = seat.gather(next_offset, known_gap);
        if let Some(expected) = gap {
            // Read once more from there before believing that the log itself has the gap: nothing is skipped by accident.
            match seek(seat, expected).await {
                Ok(()) => known_gap = Some(expected),
                Err(error) => seat.trouble(&error, "the partition cannot be read again from a gap"),
            }
        }
        let Some(last) = records.last() else {
            tokio::select! {
                () = ready.notified() => {}
                () = seat.stop.cancelled() => {}
                () = tokio::time::sleep(IDLE_CHECK) => {}
            }
            continue;
        };
        let through = last.offset + 1;
        let applied = async {
            let batch = seat.decode(worker, records).await?;
            seat.apply(worker, &batch, through).await
        };
        match applied.await {
            Ok(()) => next_offset = through,
            Err(ended) => return ended,
        }
        seat.checkpoint(next_offset);
    }
    Ended::Stopped
}

impl<G: Group> Seat<G> {
    /// What has arrived, up to a batch; a batch is whatever came while the last one was applied, never a timer.
    /// Ends early at an offset that is missing and not known to be, and says which.
    fn gather(&self, next_offset: i64, known_gap: Option<i64>) -> (Vec<Record>, Option<i64>) {
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        while records.len() < self.options.batch_records_max && bytes < self.options.batch_bytes_max {
            match self.queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let expected = records.last().map_or(next_offset, |record: &Record| record.offset + 1);
                    if message.offset() < expected {
                        continue;
                    }
                    if message.offset() > expected && known_gap != Some(expected) {
                        TROUBLE.with_label_values(&[self.options.group.as_str(), "gap"]).inc();
                        tracing::warn!(group = %self.options.group, partition = self.partition, expected, found = message.offset(), "offsets are missing from the log (control records leave such gaps); reading again");
                        return (records, Some(expected));
                    }
                    bytes += message.payload_len();
                    records.push(record(&message));
                }
                Some(Err(error)) => {
                    tracing::warn!(group = %self.options.group, partition = self.partition, %error, "kafka: reading failed; the client tries again");
                    break;
                }
            }
        }
        (records, None)
    }

    async fn decode(&self, worker: &mut G::Worker, records: Vec<Record>) -> Result<Vec<Decoded<G::Item>>, Ended> {
        let mut batch = Vec::with_capacity(records.len());
        for mut record in records {
            if let Some(item) = self.decode_one(worker, &record).await? {
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
                Err(DecodeError::Poison(reason)) => match self.dead_letters.send(record, &reason).await {
                    Ok(()) => {
                        TROUBLE.with_label_values(&[self.options.group.as_str(), "poison"]).inc();
                        tracing::error!(group = %self.options.group, partition = self.partition, offset = record.offset, reason, "an undecodable record went to the dead letters");
                        return Ok(None);
                    }
                    Err(error) => format!("the dead letters cannot be written: {error}"),
                },
            };
            self.trouble(&ApplyError::Unavailable(error), "a record cannot be decoded yet");
            self.pause(&mut backoff).await?;
        }
    }

    async fn apply(&self, worker: &mut G::Worker, batch: &[Decoded<G::Item>], next_offset: i64) -> Result<(), Ended> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let begun = Instant::now();
            let error = match worker.apply(batch, next_offset).await {
                Ok(()) => {
                    APPLY_SECONDS.with_label_values(&[&self.options.group]).observe(begun.elapsed().as_secs_f64());
                    BATCH_RECORDS
                        .with_label_values(&[&self.options.group])
                        .observe(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
                    return Ok(());
                }
                Err(error) => error,
            };
            self.trouble(&error, "a batch cannot be applied");
            if matches!(error, ApplyError::Fenced(_)) {
                return Err(Ended::Fenced);
            }
            self.pause(&mut backoff).await?;
        }
    }

    fn checkpoint(&self, next_offset: i64) {
        NEXT_OFFSET.with_label_values(&[&self.options.group, &self.partition.to_string()]).set(next_offset);
        // Only what lag is read from: the worker's own checkpoint is committed already.
        if let Err(error) = self.consumer.store_offset(&self.options.topic, self.partition, next_offset - 1) {
            tracing::debug!(group = %self.options.group, partition = self.partition, %error, "the offset was not stored; the partition is being given up");
        }
    }

    fn trouble(&self, error: &ApplyError, what: &str) {
        let (kind, reason) = match error {
            ApplyError::Unavailable(reason) => ("unavailable", reason),
            ApplyError::Fenced(reason) => ("fenced", reason),
            ApplyError::Halted(reason) => ("halted", reason),
        };
        TROUBLE.with_label_values(&[self.options.group.as_str(), kind]).inc();
        tracing::warn!(group = %self.options.group, partition = self.partition, kind, reason, "{what}");
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), Ended> {
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => Ok(()),
            () = self.stop.cancelled() => Err(Ended::Stopped),
        }
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .filter_map(|header| Some((header.key.to_owned(), std::str::from_utf8(header.value?).ok()?.to_owned())))
            .collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default()),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
        headers,
    }
}
