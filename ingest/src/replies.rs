//! Waits for outcomes: reads this process's reply partition of `command.outcomes` and wakes the request that waits for each.
//!
//! Two processes may share a partition: each passes over what it did not ask for. It never decides anything: an outcome that
//! nobody waits for any more is found by `GET /v1/commands/{id}` or by a retry with the same Idempotency-Key.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use twh_domain::id::CommandId;
use twh_domain::outcome::Outcome;
use twh_schemas::Schemas;
use twh_sinks::tasks;
use uuid::Uuid;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Between one consumer and the next.
const REPLACE_PAUSE: Duration = Duration::from_secs(1);

/// Those who wait, by command.
#[derive(Default)]
struct Waiting(Mutex<HashMap<CommandId, oneshot::Sender<Outcome>>>);

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CommandId, oneshot::Sender<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes those who wait, from outside.
#[derive(Clone)]
pub struct Waker(Arc<Waiting>);

impl Waker {
    /// Tells an outcome to who waits for it, if anyone does.
    pub fn tell(&self, outcome: &Outcome) {
        let sender = self.0.lock().remove(&outcome.command_id);
        // Who has stopped waiting has been answered already.
        drop(sender.map(|sender| sender.send(outcome.clone())));
    }
}

/// The outcomes that come to this process.
pub struct Replies {
    waiting: Arc<Waiting>,
    partition: i32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A place in the queue for one outcome; given up when dropped.
pub struct Ticket {
    command: CommandId,
    waiting: Arc<Waiting>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Ticket {
    /// The outcome, or `None` when it has not come within `wait`.
    pub async fn outcome(&mut self, wait: Duration) -> Option<Outcome> {
        tokio::time::timeout(wait, &mut self.outcome).await.ok()?.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.command);
    }
}

impl Replies {
    /// Takes a reply partition at random and reads it from its end on. Blocks until that end is known: a command sent after
    /// this cannot be answered before it.
    pub fn start(brokers: &str, client_id: &str, topic: &str, schemas: Arc<Schemas>) -> Result<Self, KafkaError> {
        let mut config = twh_sinks::kafka::client_config(brokers, client_id);
        config
            // Never a member of a group: the partition is chosen here.
            .set("group.id", client_id)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "latest")
            .set("fetch.wait.max.ms", "100");
        let consumer: BaseConsumer = config.create()?;
        let (partition, next_offset) = choose(&consumer, topic)?;
        assign(&consumer, topic, partition, next_offset)?;
        let waiting = Arc::new(Waiting::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            config,
            topic: topic.to_owned(),
            partition,
            next_offset,
            consumer,
            waiting: Arc::clone(&waiting),
            schemas,
            runtime: Handle::current(),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("replies".to_owned())
            .spawn(move || tasks::kept_blocking("ingest", "replies", || reader.run()))
            .map_err(|_| {
                KafkaError::ClientCreation("the thread that reads outcomes could not be started".to_owned())
            })?;
        Ok(Self { waiting, partition, stop, thread: Some(thread) })
    }

    /// Wakes those who wait here.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.waiting))
    }

    /// The partition that outcomes must be sent to.
    #[must_use]
    pub const fn partition(&self) -> i32 {
        self.partition
    }

    /// Begins to wait for a command's outcome. Call before the command is sent.
    #[must_use]
    pub fn expect(&self, command: CommandId) -> Ticket {
        let (sender, outcome) = oneshot::channel();
        self.waiting.lock().insert(command, sender);
        Ticket { command, waiting: Arc::clone(&self.waiting), outcome }
    }
}

/// A partition at random and where it ends. A broker that has just made the topic may need a moment to say.
fn choose(consumer: &BaseConsumer, topic: &str) -> Result<(i32, i64), KafkaError> {
    let begun = Instant::now();
    loop {
        let metadata = consumer.fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len()).max(1);
        let partition = i32::try_from(Uuid::new_v4().as_u128() % partitions as u128).unwrap_or_default();
        match consumer.fetch_watermarks(topic, partition, KAFKA_TIMEOUT) {
            Ok((_, end)) => return Ok((partition, end)),
            Err(error) if begun.elapsed() > KAFKA_TIMEOUT => return Err(error),
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

fn assign(consumer: &BaseConsumer, topic: &str, partition: i32, next_offset: i64) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(next_offset))?;
    consumer.assign(&assignment)
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Reader {
    config: ClientConfig,
    topic: String,
    partition: i32,
    /// Where the next consumer would read on.
    next_offset: i64,
    consumer: BaseConsumer,
    waiting: Arc<Waiting>,
    schemas: Arc<Schemas>,
    runtime: Handle,
    stop: Arc<AtomicBool>,
}

impl Reader {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            if let Some((code, reason)) = self.consumer.client().fatal_error() {
                tracing::error!(%code, reason, "kafka: the consumer of outcomes failed for good and is replaced");
                if let Err(error) = self.replace() {
                    tracing::warn!(%error, "kafka: the consumer of outcomes cannot be replaced; trying again");
                }
                std::thread::sleep(REPLACE_PAUSE);
            }
            match self.consumer.poll(POLL_INTERVAL) {
                None => {}
                Some(Ok(message)) => {
                    // First: what makes it panic is not read again.
                    self.next_offset = message.offset() + 1;
                    self.deliver(&message);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "kafka: outcomes cannot be read now; the client tries again")
                }
            }
        }
    }

    fn replace(&mut self) -> Result<(), KafkaError> {
        let consumer: BaseConsumer = self.config.create()?;
        assign(&consumer, &self.topic, self.partition, self.next_offset)?;
        self.consumer = consumer;
        Ok(())
    }

    /// Wakes who waits for the outcome; its key is the command's id, so others' are passed over unread.
    fn deliver(&self, message: &BorrowedMessage<'_>) {
        let command = message.key().and_then(|key| std::str::from_utf8(key).ok()?.parse::<CommandId>().ok());
        let Some(sender) = command.and_then(|command| self.waiting.lock().remove(&command)) else { return };
        let payload = message.payload().unwrap_or_default();
        match self.runtime.block_on(self.schemas.outcomes.decode(payload)) {
            // Who has stopped waiting has been answered already.
            Ok(outcome) => drop(sender.send(outcome)),
            Err(error) => {
                tracing::error!(%error, offset = message.offset(), "an outcome cannot be decoded; its request is answered with 202")
            }
        }
    }
}
