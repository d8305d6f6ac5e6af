//! librdkafka's producer, and another in its place when it has failed for good.
//!
//! An idempotent producer that loses its place in a log (`OUT_OF_ORDER_SEQUENCE_NUMBER` and its like) is in a fatal state, which
//! is final: it refuses every record, also those of other topics. Source: librdkafka's INTRODUCTION.md, "Fatal errors".

use super::Reports;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, PurgeConfig, ThreadedProducer};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A cause that stays would make one client after another: no more than one in so long.
const REPLACED_AFTER: Duration = Duration::from_secs(1);
/// How long requests of the one that failed may still be answered; the rest is not known to be on the log.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

crate::metrics! {
    REPLACED: IntCounter = "twh_kafka_producers_replaced_total", "Producers that failed for good and were replaced.";
}

pub(super) type Threaded = ThreadedProducer<Reports>;

struct Current {
    producer: Arc<Threaded>,
    made: Instant,
}

pub(super) struct Client {
    id: String,
    config: ClientConfig,
    current: RwLock<Current>,
}

impl Client {
    pub(super) fn new(id: &str, config: ClientConfig) -> Result<Self, KafkaError> {
        let current = RwLock::new(Current::make(&config)?);
        Ok(Self { id: id.to_owned(), config, current })
    }

    /// A producer that has not failed for good.
    pub(super) fn get(&self) -> Result<Arc<Threaded>, KafkaError> {
        let producer = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).producer);
        match producer.client().fatal_error() {
            None => Ok(producer),
            Some(cause) => self.replace(&producer, cause),
        }
    }

    fn replace(
        &self,
        failed: &Arc<Threaded>,
        (code, reason): (RDKafkaErrorCode, String),
    ) -> Result<Arc<Threaded>, KafkaError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Of those who find it failed at once the first replaces it.
        if Arc::ptr_eq(failed, &current.producer) {
            if current.made.elapsed() < REPLACED_AFTER {
                return Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fatal));
            }
            let old = std::mem::replace(&mut *current, Current::make(&self.config)?);
            REPLACED.inc();
            tracing::error!(client = self.id, %code, reason, "kafka: a producer failed for good and is replaced");
            end(old.producer);
        }
        Ok(Arc::clone(&current.producer))
    }
}

impl Current {
    fn make(config: &ClientConfig) -> Result<Self, KafkaError> {
        Ok(Self { producer: Arc::new(config.create_with_context(Reports)?), made: Instant::now() })
    }
}

/// Ends a producer on a thread of its own, since that waits; who waits for its records is told.
fn end(producer: Arc<Threaded>) {
    let ending = std::thread::Builder::new().name("producer-end".to_owned()).spawn(move || {
        if let Err(error) = producer.flush(ANSWERED_WITHIN) {
            tracing::warn!(%error, "kafka: records of a producer that failed are not known to be on the log");
        }
        // Who waits for one holds the producer, too: that alone must not keep it waiting.
        producer.purge(PurgeConfig::default().queue().inflight());
    });
    if let Err(error) = ending {
        tracing::error!(%error, "kafka: a producer that failed was ended without waiting for its answers");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outgoing, Producer};
    use super::*;
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    use twh_faults::fail_for_good;

    fn record(topic: &str) -> Outgoing<'_> {
        Outgoing { topic, partition: Some(0), key: b"key", headers: &[], payload: b"value" }
    }

    #[tokio::test]
    async fn a_producer_that_failed_for_good_is_replaced_and_its_records_are_not_sent_again() {
        let brokers = std::env::var("TWH_KAFKA_BROKERS").unwrap_or_else(|_| "127.0.0.1:19092".to_owned());
        let topic = format!("sinks-test-{}", uuid::Uuid::new_v4().simple());
        let admin: AdminClient<DefaultClientContext> = super::super::client_config(&brokers, "test").create().unwrap();
        let options = AdminOptions::new();
        let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
        admin.create_topics([&new], &options).await.unwrap();
        // It never gives up: what waits is settled by the failure, or by nothing.
        let producer = Producer::lingering(&brokers, "sinks-test", Duration::ZERO, Duration::from_millis(300)).unwrap();
        let other_handle = producer.clone();
        producer.produce_all([record(&topic)].into_iter()).await.unwrap();
        tokio::time::sleep(REPLACED_AFTER).await;

        let waiting = producer.enqueue(record(&topic)).unwrap();
        let failed = producer.client.get().unwrap();
        fail_for_good(failed.client());
        assert!(failed.client().fatal_error().is_some());
        drop(failed);
        let asked = other_handle.clone();
        let reached = tokio::task::spawn_blocking(move || asked.reaches_cluster(Duration::from_secs(10)));
        reached.await.unwrap().expect("who asks for readiness asks the producer that is used, and gets another");
        other_handle.produce_all([record(&topic)].into_iter()).await.expect("every handle has the new one");
        let lost = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it is settled");
        assert!(lost.unwrap().is_err(), "what waited is told that it is not known to be on the log");

        // A second failure right after is an error, and no storm of clients; after a moment it is replaced, too.
        fail_for_good(producer.client.get().unwrap().client());
        producer.produce_all([record(&topic)].into_iter()).await.expect_err("it was replaced a moment ago");
        tokio::time::sleep(REPLACED_AFTER).await;
        let last = producer.enqueue(record(&topic)).unwrap().await.unwrap().unwrap();
        assert_eq!(last.offset, 2, "three are there: the one that was lost was not sent again");
        admin.delete_topics(&[&topic], &options).await.unwrap();
    }
}
