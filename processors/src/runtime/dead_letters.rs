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
            ("twh-dlq-reason".to_owned(), reason.to_owned()),
            ("twh-dlq-group".to_owned(), self.group.clone()),
            ("twh-dlq-topic".to_owned(), self.source.clone()),
            ("twh-dlq-partition".to_owned(), record.partition.to_string()),
            ("twh-dlq-offset".to_owned(), record.offset.to_string()),
            ("twh-dlq-timestamp".to_owned(), record.timestamp.to_string()),
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
