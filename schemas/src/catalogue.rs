//! The catalogue: the one table from which topics are made, schemas registered and the documentation written.

pub use crate::markdown::to_markdown;
pub use crate::topics::{Shortfall, TopicError, create_topics};
use twh_domain::limits::MESSAGE_BYTES_MAX;

/// Acknowledged means that this many replicas have it, where there are enough to lose one and go on.
pub(crate) const REPLICAS_IN_SYNC_MIN: u32 = 2;
pub(crate) const MIN_INSYNC: &str = "min.insync.replicas";

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

    /// How many partitions it is made with, where `configured` is what the environment says.
    #[must_use]
    pub const fn partition_count(&self, configured: i32) -> i32 {
        match self.partitions {
            Partitions::Configured => configured,
            Partitions::Fixed(count) => count,
        }
    }

    /// Something that was acknowledged stands on it for long.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        !matches!(self.retention, Retention::Hours(_))
    }

    /// The settings that it is made with.
    #[must_use]
    pub fn settings(&self, replication: i32) -> Vec<(&'static str, String)> {
        let mut settings = match self.retention {
            Retention::Forever => vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", "-1".to_owned())],
            Retention::Hours(hours) => {
                vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", (hours * 3_600_000).to_string())]
            }
            Retention::Compacted => vec![("cleanup.policy", "compact".to_owned())],
        };
        settings.push(("max.message.bytes", MESSAGE_BYTES_MAX.to_string()));
        if self.log_append_time {
            settings.push(("message.timestamp.type", "LogAppendTime".to_owned()));
        }
        if replication > 2 {
            settings.push((MIN_INSYNC, REPLICAS_IN_SYNC_MIN.to_string()));
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
    partitions: Partitions::Configured,
    retention: Retention::Forever,
    log_append_time: false,
    about: "Records of commands that could never be decoded, untouched. Headers say why (twh-dlq-reason), where (twh-dlq-topic, twh-dlq-partition, \
            twh-dlq-offset), when (twh-dlq-timestamp) and by which group (twh-dlq-group).",
};

/// Events that could not be read by who sends webhooks.
pub const WEBHOOKS_DLQ: Topic = Topic {
    name: "webhooks.dlq",
    key: "as on domain.events",
    value: None,
    partitions: Partitions::Configured,
    retention: Retention::Forever,
    log_append_time: false,
    about: "Records of domain.events that could never be decoded by who sends webhooks, untouched, with the headers of ledger.dlq.",
};

/// Events that could not be read by who makes the index of search.
pub const PROJECTIONS_DLQ: Topic = Topic {
    name: "projections.dlq",
    key: "as on domain.events",
    value: None,
    partitions: Partitions::Configured,
    retention: Retention::Forever,
    log_append_time: false,
    about: "Records of domain.events that could never be decoded by who makes the index of search, untouched, with the headers of ledger.dlq.",
};

/// Every topic.
pub const TOPICS: &[Topic] =
    &[COMMANDS, OUTCOMES, EVENTS, MOVEMENTS, LEVELS, LEDGER_DLQ, WEBHOOKS_DLQ, PROJECTIONS_DLQ];

/// The catalogue's own name of a topic, if it is in the catalogue.
#[must_use]
pub fn known_topic(name: &str) -> Option<&'static str> {
    TOPICS.iter().find(|topic| topic.name == name).map(|topic| topic.name)
}
