//! The log: topics of partitions of records. An append may fail before anything is there, after a part of it, or after all of
//! it; a reader may be given a record again, or miss one until it asks once more. In some runs a partition of commands loses its
//! end, and what is appended next takes the same offsets again.

use crate::world::Incarnation;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::{BTreeMap, BTreeSet};
use twh_domain::limits::VALUE_BYTES_MAX;
use twh_domain::timestamp::Timestamp;
use twh_processors::runtime::{ApplyError, Record, Source, Watermarks};
use twh_processors::seams::Log;
use twh_schemas::catalogue::COMMANDS;
use twh_schemas::partition::partition_of;
use twh_sinks::kafka::{Outgoing, ProduceError};

/// Every topic.
pub(crate) struct Topics {
    partitions: i32,
    records: BTreeMap<(String, i32), Vec<Record>>,
    /// Partitions of commands that have lost their end.
    cut: BTreeSet<i32>,
    /// How often the broker went away, which is when an end gets lost: every client is told.
    restarts: u64,
}

impl Topics {
    pub(crate) const fn new(partitions: i32) -> Self {
        Self { partitions, records: BTreeMap::new(), cut: BTreeSet::new(), restarts: 0 }
    }

    pub(crate) fn of(&self, topic: &str, partition: i32) -> &[Record] {
        self.records.get(&(topic.to_owned(), partition)).map_or(&[], Vec::as_slice)
    }

    /// Where the commands of a partition end.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        i64::try_from(self.of(COMMANDS.name, partition).len()).unwrap_or(i64::MAX)
    }

    /// Whether a partition of commands has lost its end.
    pub(crate) fn is_cut(&self, partition: i32) -> bool {
        self.cut.contains(&partition)
    }

    /// The broker goes away and comes back; a partition of commands loses its last records by that.
    pub(crate) fn lose_end(&mut self, partition: i32, count: usize) {
        self.restarts += 1;
        if let Some(records) = self.records.get_mut(&(COMMANDS.name.to_owned(), partition)) {
            records.truncate(records.len().saturating_sub(count));
            self.cut.insert(partition);
        }
    }

    fn push(&mut self, record: &Outgoing<'_>, at: Timestamp) {
        let partition = record.partition.unwrap_or_else(|| partition_of(record.key, self.partitions));
        let records = self.records.entry((record.topic.to_owned(), partition)).or_default();
        records.push(Record {
            partition,
            offset: i64::try_from(records.len()).unwrap_or(i64::MAX),
            timestamp: at,
            key: Some(record.key.to_vec()),
            payload: record.payload.to_vec(),
            headers: record.headers.to_vec(),
        });
    }
}

/// A process's producer.
#[derive(Clone)]
pub(crate) struct SimLog(pub(crate) Incarnation);

const fn not_acknowledged() -> ProduceError {
    ProduceError::NotAcknowledged(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut))
}

impl Log for SimLog {
    async fn append(&self, records: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        self.0.live(self.try_append(records)).await
    }
}

impl SimLog {
    async fn try_append(&self, records: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        let world = &self.0.world;
        if world.fault(60) {
            world.pause(200, 4_000).await
        } else {
            world.pause(0, 3).await
        }
        if world.fault(60) {
            world.lock().stats.failures += 1;
            return Err(not_acknowledged());
        }
        let cut = if world.fault(40) { usize::try_from(world.below(records.len() as u64)).ok() } else { None };
        for (number, record) in records.iter().enumerate() {
            if record.payload.len() > VALUE_BYTES_MAX {
                return Err(ProduceError::NotAcknowledged(KafkaError::MessageProduction(
                    RDKafkaErrorCode::MessageSizeTooLarge,
                )));
            }
            if cut == Some(number) {
                world.lock().stats.lost_acknowledgements += 1;
                world.trace(|| format!("{}: an append ends after {number} of {} records", self.0.name, records.len()));
                return Err(not_acknowledged());
            }
            // Between two records others get their turn, and the process may crash.
            if world.one_in(6) {
                world.pause(0, 2).await;
            }
            let at = world.now();
            let checked = {
                let mut inner = world.lock();
                let inner = &mut *inner;
                inner.topics.push(record, at);
                inner.stats.commands += u64::from(record.topic == COMMANDS.name);
                inner.model.appended(record, &world.schemas)
            };
            world.check(checked);
        }
        world.pause(0, 2).await;
        if world.fault(30) {
            world.lock().stats.lost_acknowledgements += 1;
            world.trace(|| format!("{}: the acknowledgement of {} records is lost", self.0.name, records.len()));
            return Err(not_acknowledged());
        }
        Ok(())
    }
}

/// A partition of `commands`, as a process reads it.
pub(crate) struct SimSource {
    incarnation: Incarnation,
    partition: i32,
    next: Option<i64>,
    /// What was asked for last. It is not missed once more: the loop takes that for a gap in the log itself.
    asked: i64,
    /// The broker's restarts, as many as were looked into.
    restarts: u64,
}

impl SimSource {
    pub(crate) fn new(incarnation: Incarnation, partition: i32) -> Self {
        let restarts = incarnation.world.lock().topics.restarts;
        Self { incarnation, partition, next: None, asked: 0, restarts }
    }
}

impl Source for SimSource {
    async fn watermarks(&mut self) -> Result<Watermarks, ApplyError> {
        let world = &self.incarnation.world;
        self.incarnation.live(world.pause(0, 5)).await;
        if world.fault(20) {
            return Err(ApplyError::unavailable("the broker does not answer"));
        }
        Ok(Watermarks { low: 0, high: world.lock().topics.end(self.partition) })
    }

    async fn seek(&mut self, next_offset: i64) -> Result<(), ApplyError> {
        let world = &self.incarnation.world;
        self.incarnation.live(world.pause(0, 5)).await;
        if world.fault(20) {
            return Err(ApplyError::unavailable("the broker does not answer"));
        }
        self.next = Some(next_offset);
        self.asked = next_offset;
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Record, String>> {
        let world = &self.incarnation.world;
        let mut next = self.next?;
        if self.incarnation.crashed.is_cancelled() || world.one_in(4) {
            return None;
        }
        if world.fault(100) {
            return Some(Err("a fetch failed".to_owned()));
        }
        if world.fault(50) {
            // Fetched once more.
            next = (next - 3).max(0);
        } else if next != self.asked && world.fault(80) {
            next += 1;
        }
        let record = world.lock().topics.of(COMMANDS.name, self.partition).get(usize::try_from(next).ok()?).cloned()?;
        self.next = Some(next + 1);
        Some(Ok(record))
    }

    fn disturbed(&mut self) -> bool {
        let restarts = self.incarnation.world.lock().topics.restarts;
        std::mem::replace(&mut self.restarts, restarts) != restarts || self.incarnation.world.fault(2_000)
    }

    async fn ready(&mut self) {
        let world = &self.incarnation.world;
        self.incarnation.live(world.pause(1, 20)).await;
    }

    fn checkpoint(&self, _: i64) {}
}
