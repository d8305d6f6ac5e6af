//! The group's membership: a thread that polls, and starts and stops a task for each partition that Kafka gives and takes.
//!
//! Records do not pass through it: each partition's task reads its own queue, so a slow partition holds up no other, and
//! librdkafka stops fetching for it by itself once that queue is full.

use super::partition::{self, Ended, Limits, Seat};
use super::queue::Queue;
use super::standing::Standing;
use super::{DeadLetters, Group};
use crate::seams::Log;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twh_sinks::tasks::{Backoff, guarded, guarded_blocking};

/// How often the membership thread looks up from polling.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a revoked partition may take to finish what is under way.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// After so long without leaving the group, what went wrong before is over.
const QUIET: Duration = Duration::from_secs(60);

/// What a group needs to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The role that the group is of: `/ready` tells of its partitions under this name.
    pub role: &'static str,
    /// Where the cluster is.
    pub brokers: String,
    /// Who we are, in the brokers' logs.
    pub client_id: String,
    /// The group's full name.
    pub group: String,
    /// The topic's full name.
    pub topic: String,
    /// How long the group waits for a silent member before its partitions are given to others.
    pub session: Duration,
    /// How much goes into a batch.
    pub limits: Limits,
}

/// Why a group could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Kafka's client refused.
    #[error("the consumer group could not start: {0}")]
    Kafka(#[from] KafkaError),
    /// The consumer failed for good: a process that begins again has another.
    #[error("the consumer of the group failed for good: {0}")]
    Failed(String),
    /// The membership thread ended unexpectedly.
    #[error("the membership thread of the consumer group ended unexpectedly")]
    Thread,
}

pub(super) type GroupConsumer<G, L> = BaseConsumer<Membership<G, L>>;

struct Task {
    stop: CancellationToken,
    handle: JoinHandle<()>,
}

/// Receives the group's assignments; lives inside the consumer.
pub(super) struct Membership<G: Group, L: Log> {
    group: Arc<G>,
    options: Options,
    dead_letters: DeadLetters<L>,
    runtime: Handle,
    consumer: OnceLock<Weak<GroupConsumer<G, L>>>,
    tasks: Mutex<HashMap<i32, Task>>,
    rejoin: Arc<AtomicBool>,
    /// How often the connection to the cluster was in trouble.
    troubles: AtomicU64,
}

impl<G: Group, L: Log> ClientContext for Membership<G, L> {
    fn error(&self, error: KafkaError, reason: &str) {
        self.had_trouble();
        tracing::warn!(group = %self.options.group, %error, reason, "kafka: the client reports an error");
    }
}

impl<G: Group, L: Log> ConsumerContext for Membership<G, L> {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            self.stop(&partitions(list));
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // Nothing is read before the claim says where to begin.
                if let Err(error) = consumer.pause(list) {
                    tracing::warn!(group = %self.options.group, %error, "new partitions could not be paused");
                }
                for partition in partitions(list) {
                    self.start(partition);
                }
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => {
                tracing::warn!(group = %self.options.group, %error, "rebalance failed; the group tries again")
            }
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition).collect()
}

impl<G: Group, L: Log> Membership<G, L> {
    /// A cluster that was away may come back with another log: each partition's task looks before it reads on.
    pub(super) fn had_trouble(&self) {
        self.troubles.fetch_add(1, Ordering::Release);
    }

    pub(super) fn troubles(&self) -> u64 {
        self.troubles.load(Ordering::Acquire)
    }

    fn start(&self, partition: i32) {
        let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else { return };
        let Some(source) = Queue::split(consumer, &self.options.topic, partition) else {
            tracing::error!(group = %self.options.group, partition, "the partition has no queue of its own; asking the group again");
            self.rejoin.store(true, Ordering::Release);
            return;
        };
        let stop = CancellationToken::new();
        let standing = Standing::new(self.options.role, &self.options.group, partition);
        let seat = Seat {
            group: Arc::clone(&self.group),
            name: self.options.group.clone(),
            source,
            partition,
            limits: self.options.limits,
            dead_letters: self.dead_letters.clone(),
            standing: standing.clone(),
            stop: stop.clone(),
        };
        let rejoin = Arc::clone(&self.rejoin);
        let handle = self.runtime.spawn(async move {
            let run = guarded("partition", partition::run(seat));
            let ended = tokio::select! {
                ended = run => ended,
                () = standing.watch() => return,
            };
            // A panic that the partition itself does not survive: whoever is given it next claims it.
            if ended != Ok(Ended::Stopped) {
                rejoin.store(true, Ordering::Release);
            }
        });
        self.lock().insert(partition, Task { stop, handle });
        tracing::info!(group = %self.options.group, partition, "partition assigned");
    }

    /// Tells the tasks to stop, then waits for each to finish what is under way. Runs on the membership thread.
    fn stop(&self, partitions: &[i32]) {
        let tasks: Vec<_> =
            partitions.iter().filter_map(|partition| Some((*partition, self.lock().remove(partition)?))).collect();
        for (_, task) in &tasks {
            task.stop.cancel();
        }
        for (partition, task) in tasks {
            let abort = task.handle.abort_handle();
            let drained = self.runtime.block_on(async { tokio::time::timeout(DRAIN_DEADLINE, task.handle).await });
            if drained.is_err() {
                abort.abort();
                tracing::warn!(group = %self.options.group, partition, "partition given up before its work was finished; its next owner goes on from the checkpoint");
            } else {
                tracing::info!(group = %self.options.group, partition, "partition given up");
            }
        }
    }

    fn stop_all(&self) {
        let all: Vec<i32> = self.lock().keys().copied().collect();
        self.stop(&all);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many heartbeats may be lost before a session ends.
const HEARTBEATS: u32 = 10;

fn config(options: &Options) -> ClientConfig {
    let mut config = twh_sinks::kafka::client_config(&options.brokers, &options.client_id);
    config
        .set("group.id", &options.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Where the client may jump to, to the beginning or to the end of a log that was cut: the partition's task sees that the
        // offset is not the next one, and looks at the log. With "error" a group's first start, which has no offset yet, would
        // leave the client in a state where it cannot seek.
        .set("auto.offset.reset", "earliest")
        // The checkpoint is the worker's; Kafka's copy of it serves lag metrics.
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("enable.auto.offset.store", "false")
        .set("session.timeout.ms", options.session.as_millis().to_string())
        .set("heartbeat.interval.ms", (options.session / HEARTBEATS).as_millis().to_string())
        .set("max.poll.interval.ms", "300000")
        .set("fetch.wait.max.ms", "100")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "32768");
    config
}

/// Runs the group until `stop`; partitions are drained before it returns, however it ends.
pub async fn run<G: Group, L: Log>(
    group: G,
    options: Options,
    dead_letters: DeadLetters<L>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let consumer = join(group, &options, dead_letters)?;
    stay(consumer, options, stop).await
}

fn join<G: Group, L: Log>(
    group: G,
    options: &Options,
    dead_letters: DeadLetters<L>,
) -> Result<Arc<GroupConsumer<G, L>>, KafkaError> {
    let membership = Membership {
        group: Arc::new(group),
        options: options.clone(),
        dead_letters,
        runtime: Handle::current(),
        consumer: OnceLock::new(),
        tasks: Mutex::default(),
        rejoin: Arc::default(),
        troubles: AtomicU64::default(),
    };
    let consumer: Arc<GroupConsumer<G, L>> = Arc::new(config(options).create_with_context(membership)?);
    // The context reaches the consumer that it lives in, without keeping it alive.
    let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
    Ok(consumer)
}

async fn stay<G: Group, L: Log>(
    consumer: Arc<GroupConsumer<G, L>>,
    options: Options,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let polling = move || {
        let left = guarded_blocking("consumer", || poll(&consumer, &options, &stop)).unwrap_or(Err(RunError::Thread));
        consumer.context().stop_all();
        if matches!(left, Err(RunError::Failed(_))) {
            // librdkafka (2.12.1) waits for ever when a consumer that failed is destroyed. It is left as it is: the process ends.
            let _ = ManuallyDrop::new(consumer);
        }
        left
    };
    tokio::task::spawn_blocking(polling).await.map_err(|_| RunError::Thread)?
}

fn poll<G: Group, L: Log>(
    consumer: &Arc<GroupConsumer<G, L>>,
    options: &Options,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let mut rejoined: Option<Instant> = None;
    consumer.subscribe(&[&options.topic])?;
    while !stop.is_cancelled() {
        match consumer.poll(POLL_INTERVAL) {
            // Records come by the partitions' own queues; one here was fetched before its queue was split off, and is
            // read again from there.
            None | Some(Ok(_)) => {}
            Some(Err(error)) => {
                consumer.context().had_trouble();
                tracing::warn!(group = %options.group, %error, "kafka: polling failed; the client tries again")
            }
        }
        if let Some((code, reason)) = consumer.client().fatal_error() {
            return Err(RunError::Failed(format!("{code}: {reason}")));
        }
        if consumer.context().rejoin.swap(false, Ordering::AcqRel) {
            // What went well for a while is no reason to wait longer than at first.
            if rejoined.is_none_or(|at| at.elapsed() > QUIET) {
                backoff.reset();
            }
            rejoined = Some(Instant::now());
            let pause = backoff.pause();
            tracing::warn!(group = %options.group, pause_ms = pause.as_millis(), "leaving the group and joining it again");
            consumer.unsubscribe();
            consumer.context().stop_all();
            std::thread::sleep(pause);
            consumer.subscribe(&[&options.topic])?;
        }
    }
    consumer.context().stop_all();
    consumer.unsubscribe();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{ApplyError, Claimed, DecodeError, Decoded, Loss, Record, Worker};
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    use twh_faults::fail_for_good;
    use twh_sinks::kafka::{Outgoing, Producer, Reached};

    /// A group that counts what it reads.
    #[derive(Clone, Default)]
    struct Reads(Arc<Mutex<Vec<i64>>>, Arc<AtomicBool>);

    impl Reads {
        fn offsets(&self) -> Vec<i64> {
            self.0.lock().unwrap().clone()
        }
    }

    impl Group for Reads {
        type Item = i64;
        type Worker = Self;

        async fn claim(&self, _: i32) -> Result<Claimed<Self>, ApplyError> {
            Ok(Claimed { worker: self.clone(), reached: Reached::before(self.applied_through()) })
        }

        async fn lost(&self, _: &Self, loss: Loss) -> ApplyError {
            ApplyError::Halted(loss.to_string())
        }
    }

    impl Worker for Reads {
        type Item = i64;

        const LEAVES_OUT: bool = false;

        async fn decode(&mut self, record: &Record) -> Result<i64, DecodeError> {
            Ok(record.offset)
        }

        async fn apply(&mut self, batch: Vec<Decoded<i64>>, _: Reached) -> Result<(), ApplyError> {
            self.0.lock().unwrap().extend(batch.iter().map(|one| one.item));
            Ok(())
        }

        async fn written(&mut self) -> Result<(), ApplyError> {
            Ok(())
        }

        async fn finish(&mut self) -> Result<(), ApplyError> {
            Ok(())
        }

        fn applied_through(&self) -> i64 {
            self.offsets().last().map_or(0, |last| last + 1)
        }

        async fn drain(self) {
            self.1.store(true, Ordering::Release);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_consumer_that_failed_for_good_drains_its_partitions_and_ends_the_group() {
        let brokers = std::env::var("TWH_KAFKA_BROKERS").unwrap_or_else(|_| "127.0.0.1:19092".to_owned());
        let topic = format!("processors-test-{}", uuid::Uuid::new_v4().simple());
        let config = twh_sinks::kafka::client_config(&brokers, "test");
        let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
        let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
        admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
        let producer = Producer::new(&brokers, "test", Duration::from_secs(10)).unwrap();
        let record = || Outgoing { topic: &topic, partition: None, key: b"", headers: &[], payload: b"" };
        producer.produce_all(std::iter::once(record())).await.unwrap();

        let reads = Reads::default();
        let options = Options {
            role: "consumer_test",
            brokers,
            client_id: "test".to_owned(),
            group: topic.clone(),
            topic: topic.clone(),
            session: Duration::from_secs(6),
            limits: Limits { records_max: 10, bytes_max: 1_000 },
        };
        let dead_letters = DeadLetters::new(producer.clone(), String::new(), String::new(), String::new());
        let consumer = join(reads.clone(), &options, dead_letters).unwrap();
        let (failing, begun) = (Arc::downgrade(&consumer), Instant::now());
        let running = tokio::spawn(stay(consumer, options, CancellationToken::new()));
        while reads.offsets() != [0] {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", reads.offsets());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fail_for_good(failing.upgrade().unwrap().client());
        let ended = tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends").unwrap();
        assert!(matches!(ended, Err(RunError::Failed(_))), "{ended:?}");
        assert!(reads.1.load(Ordering::Acquire), "its partition was drained");
        admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
    }
}
