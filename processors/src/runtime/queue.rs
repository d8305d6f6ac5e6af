//! A partition's log in Kafka: the partition's own queue of the group's consumer.

use super::consumer::{GroupConsumer, Membership};
use super::{ApplyError, Group, Record, Source, Watermarks};
use crate::seams::Log;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use twh_domain::timestamp::Timestamp;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
const SEEK_PAUSE: Duration = Duration::from_millis(50);
const SEEK_TRIES_MAX: u32 = 40;

/// One partition of a topic, paused until the first seek.
pub(super) struct Queue<G: Group, L: Log> {
    consumer: Arc<GroupConsumer<G, L>>,
    records: PartitionQueue<Membership<G, L>>,
    topic: String,
    partition: i32,
    ready: Arc<Notify>,
    /// The troubles of the connection, as many as were looked into.
    troubles: u64,
}

impl<G: Group, L: Log> Queue<G, L> {
    /// Splits the partition's records off the consumer's queue; `None` when the consumer has no such partition.
    pub(super) fn split(consumer: Arc<GroupConsumer<G, L>>, topic: &str, partition: i32) -> Option<Self> {
        let troubles = consumer.context().troubles();
        let mut records = consumer.split_partition_queue(topic, partition)?;
        let ready = Arc::new(Notify::new());
        let waker = Arc::clone(&ready);
        records.set_nonempty_callback(move || waker.notify_one());
        Some(Self { consumer, records, topic: topic.to_owned(), partition, ready, troubles })
    }
}

impl<G: Group, L: Log> Source for Queue<G, L> {
    async fn watermarks(&mut self) -> Result<Watermarks, ApplyError> {
        let (consumer, topic, partition) = (Arc::clone(&self.consumer), self.topic.clone(), self.partition);
        let (low, high) =
            tokio::task::spawn_blocking(move || consumer.fetch_watermarks(&topic, partition, KAFKA_TIMEOUT))
                .await
                .map_err(ApplyError::unavailable)?
                .map_err(ApplyError::unavailable)?;
        Ok(Watermarks { low, high })
    }

    async fn seek(&mut self, next_offset: i64) -> Result<(), ApplyError> {
        let (consumer, topic, partition) = (Arc::clone(&self.consumer), self.topic.clone(), self.partition);
        let moved = tokio::task::spawn_blocking(move || {
            let mut tries = 0;
            loop {
                match consumer.seek(&topic, partition, Offset::Offset(next_offset), KAFKA_TIMEOUT) {
                    // Right after an assignment the client does not know the partition's place yet, for a moment.
                    Err(KafkaError::Seek(_)) if tries < SEEK_TRIES_MAX => tries += 1,
                    moved => break moved?,
                }
                std::thread::sleep(SEEK_PAUSE);
            }
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, partition);
            consumer.resume(&list)
        });
        moved.await.map_err(ApplyError::unavailable)?.map_err(ApplyError::unavailable)
    }

    fn poll(&mut self) -> Option<Result<Record, String>> {
        let polled = self.records.poll(Duration::ZERO)?;
        Some(polled.map(|message| record(&message)).map_err(|error| {
            self.consumer.context().had_trouble();
            error.to_string()
        }))
    }

    fn disturbed(&mut self) -> bool {
        let troubles = self.consumer.context().troubles();
        std::mem::replace(&mut self.troubles, troubles) != troubles
    }

    async fn ready(&mut self) {
        self.ready.notified().await;
    }

    fn checkpoint(&self, next_offset: i64) {
        // Only what lag is read from: the worker's own checkpoint is committed already.
        if let Err(error) = self.consumer.store_offset(&self.topic, self.partition, next_offset - 1) {
            tracing::debug!(topic = self.topic, partition = self.partition, %error, "the offset was not stored; the partition is being given up");
        }
    }
}

/// A record as the loop knows it.
pub(crate) fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .filter_map(|header| {
                let value = std::str::from_utf8(header.value?).ok()?;
                Some((header.key.to_owned().into(), value.to_owned().into()))
            })
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
