//! Kafka: producing records that are durable when this says so.

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use std::borrow::Cow;
use std::time::Duration;

/// How long to wait for a place in the producer's queue before trying again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);

/// Settings that every client of the cluster shares.
#[must_use]
pub fn client_config(brokers: &str, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", client_id)
        // A broker that restarts is found again within a second, not within ten.
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "60000")
        .set("socket.nagle.disable", "true");
    config
}

/// Why a record is not known to be on the log.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The broker did not take it, or its answer did not come in time: it may still be there.
    #[error("the record is not known to be on the log: {0}")]
    NotAcknowledged(#[source] KafkaError),
    /// The producer's queue is full.
    #[error("the producer's queue is full")]
    QueueFull,
    /// The producer ended.
    #[error("the producer has ended")]
    Ended,
}

impl ProduceError {
    /// The stable name, as a metric label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotAcknowledged(_) => "not_acknowledged",
            Self::QueueFull => "queue_full",
            Self::Ended => "ended",
        }
    }
}

/// A header's name and value.
pub type RecordHeader = (Cow<'static, str>, Cow<'static, str>);

/// A record to produce.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// An explicit partition; by the key where absent.
    pub partition: Option<i32>,
    /// The key.
    pub key: &'a [u8],
    /// Headers.
    pub headers: &'a [RecordHeader],
    /// The value.
    pub payload: &'a [u8],
}

/// Produces with `acks=all` and idempotence: a record acknowledged is on the log once, in order.
#[derive(Clone)]
pub struct Producer {
    inner: FutureProducer,
}

impl Producer {
    /// A producer that gives up on a record after `timeout`; with a timeout of zero it never does.
    pub fn new(brokers: &str, client_id: &str, timeout: Duration) -> Result<Self, KafkaError> {
        let inner = client_config(brokers, client_id)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A record leaves at once; under load, what gathers while one request is out makes the next batch.
            .set("linger.ms", "0")
            .set("compression.type", "lz4")
            // Keys land where any Java client would put them.
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", timeout.as_millis().to_string())
            .create()?;
        Ok(Self { inner })
    }

    /// Hands a record over; the future says where it went. Never waits.
    pub fn enqueue(&self, record: Outgoing<'_>) -> Result<DeliveryFuture, ProduceError> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(value.as_ref()) });
        }
        let mut outgoing = FutureRecord::to(record.topic).key(record.key).payload(record.payload).headers(headers);
        outgoing.partition = record.partition;
        self.inner.send_result(outgoing).map_err(|(error, _)| match error {
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => ProduceError::QueueFull,
            other => ProduceError::NotAcknowledged(other),
        })
    }

    /// Produces records in order and waits until all are on the log.
    pub async fn produce_all<'a>(&self, records: impl Iterator<Item = Outgoing<'a>>) -> Result<(), ProduceError> {
        let mut deliveries = Vec::with_capacity(records.size_hint().0);
        for record in records {
            deliveries.push(self.enqueue_waiting(record).await?);
        }
        for delivery in deliveries {
            settle(delivery).await?;
        }
        Ok(())
    }

    async fn enqueue_waiting(&self, record: Outgoing<'_>) -> Result<DeliveryFuture, ProduceError> {
        loop {
            match self.enqueue(record) {
                Err(ProduceError::QueueFull) => tokio::time::sleep(QUEUE_FULL_PAUSE).await,
                other => return other,
            }
        }
    }

    /// True when the cluster answers within `timeout`. Blocks.
    pub fn reaches_cluster(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.inner.client().fetch_metadata(None, timeout).map(|_| ())
    }

    /// The cluster's id: offsets mean something only within it. Blocks.
    #[must_use]
    pub fn cluster_id(&self, timeout: Duration) -> Option<String> {
        self.inner.client().fetch_cluster_id(timeout)
    }
}

/// Waits for a record that was handed over.
pub async fn settle(delivery: DeliveryFuture) -> Result<Delivery, ProduceError> {
    match delivery.await {
        Ok(Ok(delivery)) => Ok(delivery),
        Ok(Err((error, _))) => Err(ProduceError::NotAcknowledged(error)),
        Err(_) => Err(ProduceError::Ended),
    }
}
