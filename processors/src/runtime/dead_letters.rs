//! Dead letters: a record that can never be decoded, untouched, with why, where and when in its headers. One that is too large for
//! that is named by its place alone.

use super::Record;
use crate::seams::Log;
use twh_sinks::kafka::{Outgoing, ProduceError, RecordHeader};

/// What is told of a reason, in characters: it may quote the record.
const REASON_LENGTH_MAX: usize = 1_000;

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
        let key = record.key.as_deref().unwrap_or_default();
        let mut headers = record.headers.clone();
        headers.extend(self.headers(record, reason));
        let whole = Outgoing { topic: &self.topic, partition: None, key, headers: &headers, payload: &record.payload };
        match self.log.append(&[whole]).await {
            // Compressed, as its producer may have sent it, it is smaller than here.
            Err(error) if error.is_too_large() => {
                let mut headers = self.headers(record, reason);
                headers.push(("twh-dlq-left-out".into(), record.payload.len().to_string().into()));
                let place = Outgoing { topic: &self.topic, partition: None, key: &[], headers: &headers, payload: &[] };
                self.log.append(&[place]).await
            }
            sent => sent,
        }
    }

    fn headers(&self, record: &Record, reason: &str) -> Vec<RecordHeader> {
        let reason: String = reason.chars().take(REASON_LENGTH_MAX).collect();
        vec![
            ("twh-dlq-reason".into(), reason.into()),
            ("twh-dlq-group".into(), self.group.clone().into()),
            ("twh-dlq-topic".into(), self.source.clone().into()),
            ("twh-dlq-partition".into(), record.partition.to_string().into()),
            ("twh-dlq-offset".into(), record.offset.to_string().into()),
            ("twh-dlq-timestamp".into(), record.timestamp.to_string().into()),
        ]
    }
}
