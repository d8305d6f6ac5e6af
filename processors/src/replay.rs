//! Applies the log of commands once more, from where a database stands, to that database, and publishes nothing.
//!
//! The same writer decides and commits as in the live ledger, so that the same log gives the same ledger.

use crate::ledger::Ledger;
use crate::runtime::{
    ApplyError, Claimed, DecodeError, Decoded, Group, Limits, Loss, Record, Watermarks, Worker, comparable, record,
    same, within,
};
use crate::seams::{Log, Store};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use twh_domain::timestamp::Timestamp;
use twh_sinks::kafka::Reached;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Batches that are read ahead.
const READ_AHEAD: usize = 2;

/// Why a replay did not come to its end. What it has applied stays; started again, it goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Kafka(#[from] KafkaError),
    /// The log is not the one that the database was made from.
    #[error("partition {partition}: {loss}")]
    Lost {
        /// Which partition.
        partition: i32,
        /// What is lost of it.
        loss: Loss,
    },
    /// The database or the registry did not do what it was asked.
    #[error("partition {partition}: {reason}")]
    Refused {
        /// Which partition.
        partition: i32,
        /// Why.
        reason: String,
    },
}

/// Where the log is.
#[derive(Debug, Clone)]
pub struct Source {
    /// The cluster.
    pub brokers: String,
    /// The full name of `commands`.
    pub topic: String,
}

/// A connection that tells the offsets of a topic.
pub struct Watch {
    consumer: BaseConsumer,
    topic: String,
}

impl Watch {
    /// The offsets that each partition holds now. Blocks.
    pub fn watermarks(&self) -> Result<Vec<Watermarks>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), KAFKA_TIMEOUT)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        (0..i32::try_from(partitions).unwrap_or(i32::MAX))
            .map(|partition| {
                let (low, high) = self.consumer.fetch_watermarks(&self.topic, partition, KAFKA_TIMEOUT)?;
                Ok(Watermarks { low, high })
            })
            .collect()
    }
}

/// Up to where a partition is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// The first offset that is left out.
    pub offset: i64,
    /// The first record after this time is left out, and all after it.
    pub time: Option<Timestamp>,
}

/// What was done to a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Commands applied.
    pub commands: u64,
    /// Records that the live ledger put to the dead letters, and that were passed over here.
    pub poison: u64,
    /// Where the partition stands now.
    pub next_offset: i64,
}

impl Source {
    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        twh_sinks::kafka::client_config(&self.brokers, "twh-replay")
            // Never joins a group: it only lends its name to nothing.
            .set("group.id", "twh-replay")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .create()
    }

    /// What tells the offsets that each partition holds, again and again.
    pub fn watch(&self) -> Result<Watch, KafkaError> {
        Ok(Watch { consumer: self.consumer()?, topic: self.topic.clone() })
    }

    /// The offsets that each partition holds. Blocks.
    pub fn watermarks(&self) -> Result<Vec<Watermarks>, KafkaError> {
        self.watch()?.watermarks()
    }

    /// The first records at or after an offset, so many at most. Blocks.
    pub fn records(&self, partition: i32, from: i64, count: usize, end: i64) -> Result<Vec<Record>, KafkaError> {
        let consumer = self.consumer()?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.topic, partition, Offset::Offset(from))?;
        consumer.assign(&assignment)?;
        let begun = Instant::now();
        let mut records: Vec<Record> = Vec::new();
        while records.len() < count && records.last().is_none_or(|last| last.offset + 1 < end) {
            match consumer.poll(POLL_INTERVAL) {
                Some(Ok(message)) => records.push(record(&message)),
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => return Err(error),
                None if begun.elapsed() > KAFKA_TIMEOUT => {
                    return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
                }
                None => {}
            }
        }
        Ok(records)
    }

    /// Refuses a log that is not the one that was read so far.
    async fn check(&self, partition: i32, reached: Reached, watermarks: Watermarks) -> Result<(), ReplayError> {
        let lost = |loss| ReplayError::Lost { partition, loss };
        within(reached, watermarks, false).map_err(lost)?;
        let Some(last) = comparable(reached, watermarks) else { return Ok(()) };
        let source = self.clone();
        let reading =
            tokio::task::spawn_blocking(move || source.records(partition, last.offset, 1, watermarks.high)).await;
        let records = reading.map_err(|error| ReplayError::Refused { partition, reason: error.to_string() })??;
        records.first().map_or(Ok(()), |found| same(last, found.mark()).map_err(lost))
    }

    /// Reads a partition from an offset to before another, batch by batch. Blocks while the receiver is slower.
    fn read(
        &self,
        partition: i32,
        from: i64,
        until: Until,
        limits: Limits,
        batches: &mpsc::Sender<Vec<Record>>,
    ) -> Result<(), KafkaError> {
        let consumer = self.consumer()?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.topic, partition, Offset::Offset(from))?;
        consumer.assign(&assignment)?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        loop {
            match consumer.poll(POLL_INTERVAL) {
                Some(Ok(message)) => {
                    let record = record(&message);
                    if record.offset >= until.offset || until.time.is_some_and(|time| record.timestamp > time) {
                        break;
                    }
                    bytes += record.payload.len();
                    let last = record.offset + 1 >= until.offset;
                    batch.push(record);
                    if last {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => return Err(error),
                None => {}
            }
            if batch.len() >= limits.records_max || bytes >= limits.bytes_max {
                bytes = 0;
                if batches.blocking_send(std::mem::take(&mut batch)).is_err() {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() {
            // Who no longer receives has an error of its own to tell.
            let _ = batches.blocking_send(batch);
        }
        Ok(())
    }
}

/// Replays a partition; `applied` is told how many records were dealt with after each batch.
pub async fn partition<S: Store, L: Log>(
    ledger: &Ledger<S, L>,
    source: &Source,
    partition: i32,
    watermarks: Watermarks,
    until: Until,
    limits: Limits,
    applied: impl Fn(u64),
) -> Result<Replayed, ReplayError> {
    let refused = |reason: String| ReplayError::Refused { partition, reason };
    let Claimed { mut worker, reached } = ledger.claim(partition).await.map_err(|error| refused(reason(error)))?;
    source.check(partition, reached, watermarks).await?;
    let next_offset = reached.next_offset;
    let mut done = Replayed { next_offset, ..Replayed::default() };
    if next_offset >= until.offset {
        return Ok(done);
    }
    let (batches, mut inbox) = mpsc::channel(READ_AHEAD);
    let reader = source.clone();
    let reading = tokio::task::spawn_blocking(move || reader.read(partition, next_offset, until, limits, &batches));
    while let Some(records) = inbox.recv().await {
        let through = records.last().map_or(Reached::before(done.next_offset), |record| record.mark().into());
        let count = u64::try_from(records.len()).unwrap_or_default();
        let mut batch = Vec::with_capacity(records.len());
        for mut record in records {
            match worker.decode(&record).await {
                Ok(item) => {
                    record.payload = Vec::new();
                    batch.push(Decoded { record, item });
                }
                Err(DecodeError::Poison(_)) => done.poison += 1,
                Err(DecodeError::Unavailable(reason)) => return Err(refused(reason)),
            }
        }
        done.commands += u64::try_from(batch.len()).unwrap_or_default();
        worker.apply(batch, through).await.map_err(|error| refused(reason(error)))?;
        done.next_offset = through.next_offset;
        applied(count);
    }
    reading.await.map_err(|error| refused(error.to_string()))??;
    worker.finish().await.map_err(|error| refused(reason(error)))?;
    worker.drain().await;
    Ok(done)
}

fn reason(error: ApplyError) -> String {
    match error {
        ApplyError::Unavailable(reason)
        | ApplyError::Fenced(reason)
        | ApplyError::Halted(reason)
        | ApplyError::Refused(reason) => reason,
    }
}
