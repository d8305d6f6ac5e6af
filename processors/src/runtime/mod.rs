//! One consumer loop for every group: assign, claim, batch, apply, checkpoint, drain, dead letters.
//!
//! A group brings a [`Group`] (how to take a partition) and a [`Worker`] (what to do with its records). The loop guarantees:
//! a worker sees its partition's records in order and once an assignment; a batch that cannot be applied for want of a
//! database or a registry is tried again until it can, while polling goes on; a record that can never be decoded goes to the
//! dead letters, with its reason, before the partition moves past it, and so do one that makes the worker panic again and
//! again, and one that the worker's store refuses, where the worker can do without; a revoked partition is drained before it is
//! given up.
//!
//! It never skips a record unseen, also not of a log that has lost some and grown again (`continuity`), and never commits an offset to
//! Kafka before the worker has applied everything before it.

mod consumer;
mod continuity;
mod dead_letters;
mod partition;
mod queue;
#[cfg(test)]
mod refusal_tests;
mod standing;
mod suspects;

pub use consumer::{Options, RunError, run};
pub use continuity::Loss;
pub(crate) use continuity::{comparable, same, within};
pub use dead_letters::DeadLetters;
pub(crate) use queue::record;

pub use standing::Standing;
pub use twh_sinks::tasks::Backoff;

pub use partition::{Ended, Limits, Seat, run as run_partition};

use std::fmt::Display;
use std::future::Future;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_schemas::codec;
use twh_schemas::partition::partition_of;
use twh_sinks::kafka::{Mark, Reached, RecordHeader};
use twh_sinks::postgres::failure::{Failure, described};
use twh_sinks::postgres::positions::PositionError;
use twh_sinks::postgres::sqlx;

/// A record as it was read.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The log's timestamp.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub payload: Vec<u8>,
    /// Its headers that are text.
    pub headers: Vec<RecordHeader>,
}

impl Record {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// What is kept of it to know it again; asked while its value is there.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark::of(self.offset, self.timestamp, self.key.as_deref(), &self.payload)
    }
}

/// A decoded record and where it stood.
#[derive(Debug, Clone)]
pub struct Decoded<T> {
    /// The record without its value.
    pub record: Record,
    /// What it held.
    pub item: T,
}

/// Why a record was not decoded.
#[derive(Debug)]
pub enum DecodeError {
    /// It never will be.
    Poison(String),
    /// Something needed for it is away: try again.
    Unavailable(String),
}

impl From<codec::DecodeError> for DecodeError {
    fn from(error: codec::DecodeError) -> Self {
        if error.is_poison() { Self::Poison(error.to_string()) } else { Self::Unavailable(error.to_string()) }
    }
}

/// A tenant's record stands under the tenant's key, on the partition of that key among `partitions`. Anywhere else it would be
/// worked on by one who does not own its tenant.
pub(crate) fn owned(record: &Record, tenant: TenantId, partitions: i32) -> Result<(), DecodeError> {
    let key = tenant.to_string();
    if record.key.as_deref() != Some(key.as_bytes()) {
        return Err(DecodeError::Poison("the record's key is not its tenant".to_owned()));
    }
    let partition = partition_of(key.as_bytes(), partitions);
    if partition != record.partition {
        let found = record.partition;
        return Err(DecodeError::Poison(format!(
            "the tenant's records are on partition {partition}, this is on {found}"
        )));
    }
    Ok(())
}

/// Why a batch was not applied. Nothing of it was, unless it says otherwise.
#[derive(Debug)]
pub enum ApplyError {
    /// Something is away: try again.
    Unavailable(String),
    /// Another process owns the partition: stop, and ask the group for partitions anew.
    Fenced(String),
    /// Going on would be wrong until someone looks: the partition stands still, loudly.
    Halted(String),
    /// The store refuses what is in the batch: trying again does not help, a batch without the record at fault does.
    Refused(String),
}

impl ApplyError {
    /// Something is away.
    pub fn unavailable(reason: impl Display) -> Self {
        Self::Unavailable(reason.to_string())
    }
}

impl From<sqlx::Error> for ApplyError {
    fn from(error: sqlx::Error) -> Self {
        match Failure::of(&error) {
            Failure::Data => Self::Refused(described(&error)),
            // Of a table that is not there, or may not be written, no record is the cause.
            Failure::Away | Failure::Defect => Self::Unavailable(described(&error)),
        }
    }
}

impl From<PositionError> for ApplyError {
    fn from(error: PositionError) -> Self {
        match error {
            PositionError::Fenced { .. } => Self::Fenced(error.to_string()),
            PositionError::OtherCluster { .. } => Self::Halted(error.to_string()),
            PositionError::Database(error) => error.into(),
        }
    }
}

/// What a claim gives.
pub struct Claimed<W> {
    /// The partition's worker.
    pub worker: W,
    /// How far the partition was read.
    pub reached: Reached,
}

/// The offsets that a partition holds now.
#[derive(Debug, Clone, Copy)]
pub struct Watermarks {
    /// The first offset that is still there.
    pub low: i64,
    /// The offset of the next record to come.
    pub high: i64,
}

/// A partition's log, as the loop reads it.
pub trait Source: Send + 'static {
    /// The offsets that it holds now.
    fn watermarks(&mut self) -> impl Future<Output = Result<Watermarks, ApplyError>> + Send;

    /// Moves to an offset, and lets records flow.
    fn seek(&mut self, next_offset: i64) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// The next record that has arrived; never waits.
    fn poll(&mut self) -> Option<Result<Record, String>>;

    /// True once after the connection to the log was in trouble: the log that answers now may not be the one of before.
    fn disturbed(&mut self) -> bool;

    /// Returns when something may have arrived.
    fn ready(&mut self) -> impl Future<Output = ()> + Send;

    /// Tells the group how far this partition is, for those who watch its lag.
    fn checkpoint(&self, next_offset: i64);
}

/// A consumer group.
pub trait Group: Send + Sync + 'static {
    /// What its records decode to.
    type Item: Send + Sync + 'static;
    /// What works on a partition.
    type Worker: Worker<Item = Self::Item>;

    /// Takes a partition. Called again, with pauses, while it fails with [`ApplyError::Unavailable`] or [`ApplyError::Halted`].
    fn claim(&self, partition: i32) -> impl Future<Output = Result<Claimed<Self::Worker>, ApplyError>> + Send;

    /// Says what it means that a log has lost something, and sees to it that this is not forgotten once the log has grown again.
    fn lost(&self, worker: &Self::Worker, loss: Loss) -> impl Future<Output = ApplyError> + Send;

    /// Past the highest offset of a partition that was acknowledged to whoever wrote it: the log must reach so far.
    fn acknowledged(&self, _partition: i32) -> impl Future<Output = Result<i64, ApplyError>> + Send {
        std::future::ready(Ok(0))
    }

    /// Writes down that a partition stands, at an offset or before it is claimed: people look there. Nothing depends on it.
    fn stands(
        &self,
        _partition: i32,
        _why: &str,
        _at_offset: Option<i64>,
    ) -> impl Future<Output = Result<(), ApplyError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Notes that a partition has reached an offset after it stood; says where it stands otherwise.
    fn goes_on(&self, _partition: i32, _reached: i64) -> impl Future<Output = Result<Option<i64>, ApplyError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Whether who has read nothing may begin at a log whose beginning is gone.
    fn may_begin_late(&self) -> bool {
        false
    }
}

/// What works on a partition, from its claim to its revocation.
pub trait Worker: Send + 'static {
    /// What its records decode to.
    type Item: Send + Sync + 'static;

    /// Whether it can do without a record that its store refuses. Where it cannot, the partition stands at that record.
    const LEAVES_OUT: bool;

    /// The partition is claimed and stands where it is to be read from: called once, before anything else. What works beside
    /// the records begins here, so that a claim that is tried again leaves nothing behind.
    fn begin(&mut self) {}

    /// Decodes a record. Called again while it fails with [`DecodeError::Unavailable`].
    fn decode(&mut self, record: &Record) -> impl Future<Output = Result<Self::Item, DecodeError>> + Send;

    /// Takes on a batch that reaches so far, and works on it as far as it can while the one before is being
    /// written: each is applied whole or not at all, in their order. When it fails, the batch is taken on all the same:
    /// [`Worker::finish`] tries again.
    fn apply(
        &mut self,
        batch: Vec<Decoded<Self::Item>>,
        reached: Reached,
    ) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Waits until what is being written is written; may be dropped while it waits. When it fails, [`Worker::finish`] tries
    /// again, and says whether that is a reason to worry.
    fn written(&mut self) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Applies all that was taken on, trying again what failed. Called again while it fails with
    /// [`ApplyError::Unavailable`].
    fn finish(&mut self) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Notes that a record is left out, so that readers are told that something is missing. Called before the record goes to the
    /// dead letters, again until it succeeds.
    fn leave_out(&mut self, _: &Self::Item, _reason: &str) -> impl Future<Output = Result<(), ApplyError>> + Send {
        std::future::ready(Ok(()))
    }

    /// All before this offset is applied.
    fn applied_through(&self) -> i64;

    /// Called when the partition is given up: finish what is under way, within the deadline that the loop sets.
    fn drain(self) -> impl Future<Output = ()> + Send;
}
