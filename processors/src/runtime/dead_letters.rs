//! Dead letters: a record that can never be decoded, untouched, with why, where and when in its headers.

use super::Record;
use crate::seams::Log;
use twh_sinks::kafka::{Outgoing, ProduceError};

/// The `<group>.dlq` of a group.
#[derive(Clone)]
pub struct DeadLetters<L> {
    log: L,
    group: String,
    source: String,
    topic: String,
}

impl<L: Log> DeadLetters<L> {
    /// Dead letters of `group`, which reads `source`, go to `topic`; all full names.
    #[must_use]
    pub const fn new(log: L, group: String, source: String, topic: String) -> Self {
        Self { log, group, source, topic }
    }

    /// Puts a record there, durably.
    pub async fn send(&self, record: &Record, reason: &str) -> Result<(), ProduceError> {
        let mut headers = record.headers.clone();
        headers.extend([
            ("twh-dlq-reason".into(), reason.to_owned().into()),
            ("twh-dlq-group".into(), self.group.clone().into()),
            ("twh-dlq-topic".into(), self.source.clone().into()),
            ("twh-dlq-partition".into(), record.partition.to_string().into()),
            ("twh-dlq-offset".into(), record.offset.to_string().into()),
            ("twh-dlq-timestamp".into(), record.timestamp.to_string().into()),
        ]);
        let outgoing = Outgoing {
            topic: &self.topic,
            partition: None,
            key: record.key.as_deref().unwrap_or_default(),
            headers: &headers,
            payload: &record.payload,
        };
        self.log.append(&[outgoing]).await
    }
}
