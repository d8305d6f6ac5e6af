//! What became of a command: the answer that its client gets, now or on a retry.

use crate::entity::EntityKind;
use crate::id::{CommandId, TenantId};
use crate::rejection::Rejection;
use crate::schema::plain;
use crate::timestamp::Timestamp;
use std::sync::Arc;
use uuid::Uuid;

/// A place in the log of commands: what a write answers with, and what a read may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The partition of `commands`.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

plain! {
    Position "A partition of the log of commands and an offset in it." { "type": "string", "pattern": "^[0-9]+-[0-9]+$", "examples": ["3-1042"] }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.partition, self.offset)
    }
}

impl std::str::FromStr for Position {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (partition, offset) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { partition: partition.parse()?, offset: offset.parse()? })
    }
}

/// Where and when the log took a command; the ledger's only clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Its place.
    pub position: Position,
    /// The log's timestamp.
    pub at: Timestamp,
}

/// A document as the command left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Which kind.
    pub kind: EntityKind,
    /// Which one.
    pub id: Uuid,
    /// Its version.
    pub version: i64,
    /// True when the command made it.
    pub created: bool,
    /// The document, as JSON.
    pub document: Arc<str>,
}

/// A refusal, as it is kept and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: String,
    /// In words.
    pub message: String,
    /// What was wrong, where: a JSON array.
    pub details: String,
}

impl From<&Rejection> for Refusal {
    fn from(rejection: &Rejection) -> Self {
        Self {
            code: rejection.code().to_owned(),
            message: rejection.to_string(),
            details: rejection.details().to_string(),
        }
    }
}

/// Accepted or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done: one resource an operation, in order.
    Accepted {
        /// The documents. None at all where they are left out: a repeat's, and those that are too long for a record. They are in the
        /// audit log.
        resources: Vec<Resource>,
        /// The first and last of the audit records that the command made: where the documents are kept.
        audit_sequences: (i64, i64),
    },
    /// Refused, and nothing was done.
    Rejected(Refusal),
}

impl Verdict {
    /// Where in the audit log its documents are, if they are left out here.
    #[must_use]
    pub const fn left_out(&self) -> Option<(i64, i64)> {
        match self {
            Self::Accepted { resources, audit_sequences } if resources.is_empty() => Some(*audit_sequences),
            _ => None,
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of which command.
    pub command_id: CommandId,
    /// Whose.
    pub tenant: TenantId,
    /// The earlier command that this one repeats; the verdict is that one's.
    pub replay_of: Option<CommandId>,
    /// Where the command that was decided stands in the log.
    pub position: Position,
    /// When the ledger took it.
    pub recorded_at: Timestamp,
    /// The decision.
    pub verdict: Arc<Verdict>,
}
