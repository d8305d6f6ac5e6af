//! The catalogue: the one table from which topics are made, schemas registered and the documentation written.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::time::Duration;

pub use crate::markdown::to_markdown;

/// What a new schema of a subject must be able to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    /// Today's reader reads everything ever written.
    BackwardTransitive,
    /// Every reader reads everything, old and new.
    FullTransitive,
}

impl Compatibility {
    /// The registry's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }
}

/// How many partitions a topic has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitions {
    /// As configured; a tenant lives on one of them.
    Configured,
    /// This many.
    Fixed(i32),
}

/// How long records stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// For ever: the log is the history.
    Forever,
    /// This many hours.
    Hours(i64),
    /// The newest of each key.
    Compacted,
}

/// A schema and what may become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueSchema {
    /// The Avro schema.
    pub avsc: &'static str,
    /// What a new version must be able to read.
    pub compatibility: Compatibility,
}

/// A topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    /// Its name, without the environment's prefix.
    pub name: &'static str,
    /// What its key is.
    pub key: &'static str,
    /// Its value; `None` for records that are kept untouched.
    pub value: Option<ValueSchema>,
    /// How it is cut.
    pub partitions: Partitions,
    /// How long records stay.
    pub retention: Retention,
    /// True when the broker's clock stamps the records.
    pub log_append_time: bool,
    /// What stands on it, for those who read it.
    pub about: &'static str,
}

impl Topic {
    /// Its full name in an environment.
    #[must_use]
    pub fn full_name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name)
    }

    /// The registry's subject of its value.
    #[must_use]
    pub fn subject(&self, prefix: &str) -> String {
        format!("{prefix}{}-value", self.name)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = match self.retention {
            Retention::Forever => vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", "-1".to_owned())],
            Retention::Hours(hours) => {
                vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", (hours * 3_600_000).to_string())]
            }
            Retention::Compacted => vec![("cleanup.policy", "compact".to_owned())],
        };
        if self.log_append_time {
            settings.push(("message.timestamp.type", "LogAppendTime".to_owned()));
        }
        settings
    }
}

const fn schema(avsc: &'static str, compatibility: Compatibility) -> Option<ValueSchema> {
    Some(ValueSchema { avsc, compatibility })
}

/// What clients asked for, in the order in which it is decided.
pub const COMMANDS: Topic = Topic {
    name: "commands",
    key: "tenant id",
    value: schema(include_str!("../avro/Command.avsc"), Compatibility::BackwardTransitive),
    partitions: Partitions::Configured,
    retention: Retention::Forever,
    log_append_time: true,
    about: "What clients asked for, in the order in which it is decided. The ledger is a fold over this topic: replayed, it gives the same ledger to the byte. \
            Its timestamps are the broker's, and the ledger's only clock.",
};

/// What became of commands.
pub const OUTCOMES: Topic = Topic {
    name: "command.outcomes",
    key: "command id",
    value: schema(include_str!("../avro/CommandOutcome.avsc"), Compatibility::FullTransitive),
    partitions: Partitions::Fixed(12),
    retention: Retention::Hours(1),
    log_append_time: false,
    about: "What became of commands, sent to the partition that the process which took the command reads. Not for other readers: use domain.events.",
};

/// What happened.
pub const EVENTS: Topic = Topic {
    name: "domain.events",
    key: "tenant id",
    value: schema(include_str!("../avro/DomainEvent.avsc"), Compatibility::FullTransitive),
    partitions: Partitions::Configured,
    retention: Retention::Forever,
    log_append_time: false,
    about: "What happened, one record a document written, in order for each tenant. CloudEvents attributes travel as headers.",
};

/// The ledger.
pub const MOVEMENTS: Topic = Topic {
    name: "stock.movements",
    key: "tenant id",
    value: schema(include_str!("../avro/StockMovement.avsc"), Compatibility::FullTransitive),
    partitions: Partitions::Configured,
    retention: Retention::Forever,
    log_append_time: false,
    about: "The ledger: one record a movement, in order for each tenant. The sum of the changes of an item at a location is its level.",
};

/// The levels.
pub const LEVELS: Topic = Topic {
    name: "stock.levels",
    key: "tenant id/item id/location id",
    value: schema(include_str!("../avro/StockLevel.avsc"), Compatibility::FullTransitive),
    partitions: Partitions::Configured,
    retention: Retention::Compacted,
    log_append_time: false,
    about: "The newest level of each item at each location. Read from the beginning, it is a copy of all stock.",
};

/// Commands that could not be read.
pub const LEDGER_DLQ: Topic = Topic {
    name: "ledger.dlq",
    key: "as on commands",
    value: None,
    partitions: Partitions::Fixed(1),
    retention: Retention::Forever,
    log_append_time: false,
    about: "Records of commands that could never be decoded, untouched. Headers say why (twh-dlq-reason), where (twh-dlq-topic, twh-dlq-partition, \
            twh-dlq-offset), when (twh-dlq-timestamp) and by which group (twh-dlq-group).",
};

/// Every topic.
pub const TOPICS: &[Topic] = &[COMMANDS, OUTCOMES, EVENTS, MOVEMENTS, LEVELS, LEDGER_DLQ];

/// The catalogue's own name of a topic, if it is in the catalogue.
#[must_use]
pub fn known_topic(name: &str) -> Option<&'static str> {
    TOPICS.iter().find(|topic| topic.name == name).map(|topic| topic.name)
}

/// Why the topics are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The cluster failed or cannot be reached.
    #[error("the topics could not be made: {0}")]
    Kafka(#[from] KafkaError),
    /// The broker refused one.
    #[error("the topic {topic} could not be made: {code}")]
    Refused {
        /// Which.
        topic: String,
        /// Why.
        code: RDKafkaErrorCode,
    },
}

/// Makes the topics that are missing. Those that are there stay as they are: a topic's partitions never change afterwards,
/// for a tenant would move to another one.
pub async fn create_topics(
    client: &ClientConfig,
    prefix: &str,
    partitions: i32,
    replication: i32,
) -> Result<(), TopicError> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let names: Vec<String> = TOPICS.iter().map(|topic| topic.full_name(prefix)).collect();
    let settings: Vec<_> = TOPICS.iter().map(Topic::settings).collect();
    let new = TOPICS.iter().zip(&names).zip(&settings).map(|((topic, name), settings)| {
        let count = match topic.partitions {
            Partitions::Configured => partitions,
            Partitions::Fixed(count) => count,
        };
        let topic = NewTopic::new(name, count, TopicReplication::Fixed(replication));
        settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
    });
    let new: Vec<_> = new.collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(Duration::from_secs(30)))
        .request_timeout(Some(Duration::from_secs(30)));
    for result in admin.create_topics(&new, &options).await? {
        match result {
            Ok(name) => tracing::info!(topic = name, "topic made"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicError::Refused { topic, code }),
        }
    }
    Ok(())
}
