//! Kafka: producing records that are durable when this says so, and what is kept of those that were read.

mod reached;

pub use reached::{Mark, Reached};

mod client;

use client::{Client, Threaded};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use twh_domain::limits::MESSAGE_BYTES_MAX;

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
    /// True for a record that is larger than the producer or the topic takes: the same record will never be taken.
    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        use RDKafkaErrorCode::{InvalidMessageSize, MessageSizeTooLarge};
        matches!(self, Self::NotAcknowledged(KafkaError::MessageProduction(MessageSizeTooLarge | InvalidMessageSize)))
    }

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

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// A record that was handed over: it resolves once the log has it.
pub type Pending = oneshot::Receiver<Result<Delivery, KafkaError>>;

/// Many records that were handed over, and whether the log has them all.
#[derive(Default)]
struct Group {
    open: AtomicUsize,
    failed: Mutex<Option<KafkaError>>,
    settled: Notify,
}

impl Group {
    fn one_is_settled(&self, result: Result<(), KafkaError>) {
        if let Err(error) = result {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_one();
        }
    }
}

/// Who wants to know what became of a record.
enum Waiter {
    One(oneshot::Sender<Result<Delivery, KafkaError>>),
    Group(Arc<Group>),
}

/// Tells those who wait; runs on the producer's own thread.
struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Waiter>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiter: Box<Waiter>) {
        match *waiter {
            Waiter::One(sender) => {
                let delivery = match result {
                    Ok(message) => Ok(Delivery { partition: message.partition(), offset: message.offset() }),
                    Err((error, _)) => Err(error.clone()),
                };
                // Who has stopped waiting does not need it.
                let _ = sender.send(delivery);
            }
            Waiter::Group(group) => {
                group.one_is_settled(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()))
            }
        }
    }
}

/// Produces with `acks=all` and idempotence: a record acknowledged is on the log once, in order.
///
/// Below it a client that fails for good is replaced by another ([`client`]). What it had under way fails, and is not sent again
/// here: who waits for it knows whether it may be.
#[derive(Clone)]
pub struct Producer {
    client: Arc<Client>,
}

impl Producer {
    /// A producer that gives up on a record after `timeout`; with a timeout of zero it never does. A record leaves at once;
    /// what gathers while one request is out makes the next batch.
    pub fn new(brokers: &str, client_id: &str, timeout: Duration) -> Result<Self, KafkaError> {
        Self::lingering(brokers, client_id, timeout, Duration::ZERO)
    }

    /// A producer like [`Self::new`]'s that gives a record `linger` to be joined by others: fewer requests, where nobody waits
    /// for the record.
    pub fn lingering(brokers: &str, client_id: &str, timeout: Duration, linger: Duration) -> Result<Self, KafkaError> {
        let mut config = client_config(brokers, client_id);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // librdkafka's own bound is a quarter of what the topics take.
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("linger.ms", linger.as_millis().to_string())
            .set("max.in.flight.requests.per.connection", "1")
            .set("compression.type", "lz4")
            // Keys land where any Java client would put them.
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", timeout.as_millis().to_string());
        Ok(Self { client: Arc::new(Client::new(client_id, config)?) })
    }

    /// Hands a record over. Never waits.
    pub fn enqueue(&self, record: Outgoing<'_>) -> Result<Pending, ProduceError> {
        let (sender, pending) = oneshot::channel();
        let client = self.client()?;
        hand_over(&client, record, Waiter::One(sender))?;
        Ok(pending)
    }

    fn client(&self) -> Result<Arc<Threaded>, ProduceError> {
        self.client.get().map_err(ProduceError::NotAcknowledged)
    }

    /// Produces records in order and waits until all are on the log.
    pub async fn produce_all<'a>(&self, records: impl Iterator<Item = Outgoing<'a>>) -> Result<(), ProduceError> {
        // All of them over one client: where it fails in between, those behind must not be on the log before the one that failed.
        let client = self.client()?;
        // One stays open until all are handed over, so that the group is not settled before.
        let group = Arc::new(Group { open: AtomicUsize::new(1), ..Group::default() });
        let mut handed_over = Ok(());
        for record in records {
            handed_over = hand_over_waiting(&client, record, &group).await;
            if handed_over.is_err() {
                break;
            }
        }
        group.one_is_settled(Ok(()));
        while group.open.load(Ordering::Acquire) > 0 {
            group.settled.notified().await;
        }
        handed_over?;
        let failed = group.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), |error| Err(ProduceError::NotAcknowledged(error)))
    }

    /// True when the cluster answers within `timeout`. Blocks.
    pub fn reaches_cluster(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.client.get()?.client().fetch_metadata(None, timeout).map(|_| ())
    }

    /// The cluster's id: offsets mean something only within it. Blocks.
    #[must_use]
    pub fn cluster_id(&self, timeout: Duration) -> Option<String> {
        self.client.get().ok()?.client().fetch_cluster_id(timeout)
    }

    /// How many partitions a topic has. Blocks.
    pub fn partitions(&self, topic: &str, timeout: Duration) -> Result<usize, KafkaError> {
        let metadata = self.client.get()?.client().fetch_metadata(Some(topic), timeout)?;
        Ok(metadata.topics().first().map_or(0, |topic| topic.partitions().len()))
    }
}

fn hand_over(client: &Threaded, record: Outgoing<'_>, waiter: Waiter) -> Result<(), ProduceError> {
    let mut outgoing: BaseRecord<'_, [u8], [u8], Box<Waiter>> =
        BaseRecord::with_opaque_to(record.topic, Box::new(waiter)).key(record.key).payload(record.payload);
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(value.as_ref()) });
        }
        outgoing = outgoing.headers(headers);
    }
    outgoing.partition = record.partition;
    client.send(outgoing).map_err(|(error, _)| match error {
        KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => ProduceError::QueueFull,
        other => ProduceError::NotAcknowledged(other),
    })
}

async fn hand_over_waiting(client: &Threaded, record: Outgoing<'_>, group: &Arc<Group>) -> Result<(), ProduceError> {
    loop {
        group.open.fetch_add(1, Ordering::AcqRel);
        match hand_over(client, record, Waiter::Group(Arc::clone(group))) {
            Ok(()) => return Ok(()),
            Err(error) => {
                group.open.fetch_sub(1, Ordering::AcqRel);
                let ProduceError::QueueFull = error else { return Err(error) };
                tokio::time::sleep(QUEUE_FULL_PAUSE).await;
            }
        }
    }
}

/// Waits for a record that was handed over.
pub async fn settle(pending: Pending) -> Result<Delivery, ProduceError> {
    match pending.await {
        Ok(Ok(delivery)) => Ok(delivery),
        Ok(Err(error)) => Err(ProduceError::NotAcknowledged(error)),
        Err(_) => Err(ProduceError::Ended),
    }
}
