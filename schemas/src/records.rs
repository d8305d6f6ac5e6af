//! The Rust records of the topics that others read, and how the domain's values become them.

use crate::codec::Bounded;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use twh_domain::commands::Command;
use twh_domain::decimal::Quantity;
use twh_domain::entity::{EntityKind, LevelKey};
use twh_domain::event::DomainEvent as Event;
use twh_domain::id::{CommandId, EventId, ItemId, LocationId, TenantId};
use twh_domain::level::StockLevel as Level;
use twh_domain::movement::Movement;
use twh_domain::outcome::{Outcome, Position, Refusal, Resource, Verdict};
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// Longest name of a type, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Bytes, written as Avro's `bytes` and not as an array of numbers.
mod bytes {
    use serde::de::Visitor;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// On `stock.movements`: see the schema for what each field means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are documented by the schema")]
pub struct StockMovement {
    pub tenant_id: TenantId,
    pub sequence: i64,
    pub item_id: ItemId,
    pub location_id: LocationId,
    #[serde(rename = "type")]
    pub movement_type: String,
    pub level_version: i64,
    pub change_on_hand: Quantity,
    pub change_reserved: Quantity,
    pub on_hand_after: Quantity,
    pub reserved_after: Quantity,
    pub reference_type: String,
    pub reference_id: Uuid,
    pub reference_line: i32,
    pub reason: Option<Arc<str>>,
    pub command_id: CommandId,
    pub partition: i32,
    pub offset: i64,
    pub occurred_at: i64,
    pub recorded_at: i64,
    #[serde(with = "bytes")]
    pub hash: Vec<u8>,
}

impl From<&Movement> for StockMovement {
    fn from(movement: &Movement) -> Self {
        Self {
            tenant_id: movement.tenant,
            sequence: movement.sequence,
            item_id: movement.item,
            location_id: movement.location,
            movement_type: movement.kind.name().to_owned(),
            level_version: movement.level_version,
            change_on_hand: movement.on_hand_change,
            change_reserved: movement.reserved_change,
            on_hand_after: movement.on_hand_after,
            reserved_after: movement.reserved_after,
            reference_type: movement.reference_kind.name().to_owned(),
            reference_id: movement.reference,
            reference_line: movement.reference_line,
            reason: movement.reason.clone(),
            command_id: movement.command,
            partition: movement.position.partition,
            offset: movement.position.offset,
            occurred_at: movement.occurred_at.micros(),
            recorded_at: movement.recorded_at.micros(),
            hash: movement.hash.to_vec(),
        }
    }
}

/// On `stock.levels`: see the schema for what each field means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are documented by the schema")]
pub struct StockLevel {
    pub tenant_id: TenantId,
    pub item_id: ItemId,
    pub location_id: LocationId,
    pub qty_on_hand: Quantity,
    pub qty_reserved: Quantity,
    pub available: Quantity,
    pub version: i64,
    pub last_counted_at: Option<i64>,
    pub updated_at: i64,
    pub partition: i32,
    pub offset: i64,
}

impl StockLevel {
    /// The record of a level as it stands at a position of the log.
    #[must_use]
    pub fn new(key: &LevelKey, level: &Level, position: Position) -> Self {
        Self {
            tenant_id: key.tenant,
            item_id: key.item,
            location_id: key.location,
            qty_on_hand: level.on_hand,
            qty_reserved: level.reserved,
            available: level.available().unwrap_or_default(),
            version: level.version,
            last_counted_at: level.last_counted_at.map(Timestamp::micros),
            updated_at: level.updated_at.micros(),
            partition: position.partition,
            offset: position.offset,
        }
    }
}

/// On `domain.events`: see the schema for what each field means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are documented by the schema")]
pub struct DomainEvent {
    pub event_id: EventId,
    pub tenant_id: TenantId,
    pub sequence: i64,
    #[serde(rename = "type")]
    pub event_type: String,
    pub subject_type: String,
    pub subject_id: Uuid,
    pub occurred_at: i64,
    pub recorded_at: i64,
    pub command_id: CommandId,
    pub partition: i32,
    pub offset: i64,
    pub data: Arc<str>,
    #[serde(default)]
    pub stock: Vec<StockChange>,
}

/// What became of the level of an item at a location: see the schema for what each field means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are documented by the schema")]
pub struct StockChange {
    pub item_id: ItemId,
    pub location_id: LocationId,
    pub version_before: i64,
    pub version: i64,
    pub qty_on_hand_before: Quantity,
    pub qty_reserved_before: Quantity,
    pub qty_on_hand: Quantity,
    pub qty_reserved: Quantity,
}

impl StockChange {
    /// Whether something can be promised after it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.qty_on_hand > self.qty_reserved
    }

    /// Whether something could be promised before it; `None` where nothing had ever moved.
    #[must_use]
    pub fn was_available(&self) -> Option<bool> {
        (self.version_before > 0).then_some(self.qty_on_hand_before > self.qty_reserved_before)
    }

    /// Adds a movement to the changes of the levels before it.
    pub fn add(changes: &mut Vec<Self>, movement: &Movement) {
        let of = |change: &&mut Self| change.item_id == movement.item && change.location_id == movement.location;
        if let Some(change) = changes.iter_mut().find(of) {
            change.version = movement.level_version;
            change.qty_on_hand = movement.on_hand_after;
            change.qty_reserved = movement.reserved_after;
            return;
        }
        let before = |after: Quantity, change: Quantity| after.checked_sub(change).unwrap_or_default();
        changes.push(Self {
            item_id: movement.item,
            location_id: movement.location,
            version_before: movement.level_version - 1,
            version: movement.level_version,
            qty_on_hand_before: before(movement.on_hand_after, movement.on_hand_change),
            qty_reserved_before: before(movement.reserved_after, movement.reserved_change),
            qty_on_hand: movement.on_hand_after,
            qty_reserved: movement.reserved_after,
        });
    }
}

impl DomainEvent {
    /// The record of an event whose command stands at a position of the log, and which changed levels.
    #[must_use]
    pub fn new(event: &Event, position: Position, stock: Vec<StockChange>) -> Self {
        Self {
            event_id: event.id,
            tenant_id: event.tenant,
            sequence: event.sequence,
            event_type: event.event_type.name().to_owned(),
            subject_type: event.subject_kind.name().to_owned(),
            subject_id: event.subject,
            occurred_at: event.occurred_at.micros(),
            recorded_at: event.recorded_at.micros(),
            command_id: event.command,
            partition: position.partition,
            offset: position.offset,
            data: Arc::clone(&event.data),
            stock,
        }
    }
}

impl Bounded for DomainEvent {
    fn unsound(&self) -> Option<String> {
        let named =
            |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
        let times = [("occurred_at", self.occurred_at), ("recorded_at", self.recorded_at)];
        if let Some((field, _)) = times.iter().find(|(_, micros)| !Timestamp::from_micros(*micros).is_writable()) {
            return Some(format!("{field} lies outside the years 0 to 9999"));
        }
        if !named(&self.event_type) || !named(&self.subject_type) {
            return Some(format!("type and subject_type are names of at most {NAME_BYTES_MAX} bytes"));
        }
        (self.sequence < 1 || self.partition < 0 || self.offset < 0)
            .then(|| "sequence, partition or offset is one that no ledger gives".to_owned())
    }
}

impl Bounded for Command {
    fn unsound(&self) -> Option<String> {
        Self::unsound(self)
    }
}

impl Bounded for CommandOutcome {
    fn unsound(&self) -> Option<String> {
        let is_sound =
            Timestamp::from_micros(self.recorded_at).is_writable() && self.partition >= 0 && self.offset >= 0;
        (!is_sound).then(|| "recorded_at, partition or offset is one that no ledger gives".to_owned())
    }
}

impl Bounded for StockMovement {}
impl Bounded for StockLevel {}

/// On `command.outcomes`: see the schema for what each field means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are documented by the schema")]
pub struct CommandOutcome {
    pub command_id: CommandId,
    pub tenant_id: TenantId,
    pub replay_of: Option<CommandId>,
    pub partition: i32,
    pub offset: i64,
    pub recorded_at: i64,
    pub error: Option<RefusalRecord>,
    #[serde(default)]
    pub resources: Vec<ResourceRecord>,
    #[serde(default)]
    pub first_audit: i64,
    #[serde(default)]
    pub last_audit: i64,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are documented by the schema")]
pub struct RefusalRecord {
    pub code: String,
    pub message: String,
    pub details: String,
}

/// A document as a command left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are documented by the schema")]
pub struct ResourceRecord {
    #[serde(rename = "type")]
    pub resource_type: String,
    pub id: Uuid,
    pub version: i64,
    pub created: bool,
    pub document: Arc<str>,
}

impl From<&Outcome> for CommandOutcome {
    fn from(outcome: &Outcome) -> Self {
        let (error, resources, audit) = match outcome.verdict.as_ref() {
            Verdict::Accepted { resources, audit_sequences } => {
                (None, resources.iter().map(resource_record).collect(), *audit_sequences)
            }
            Verdict::Rejected(refusal) => {
                let record = RefusalRecord {
                    code: refusal.code.clone(),
                    message: refusal.message.clone(),
                    details: refusal.details.clone(),
                };
                (Some(record), Vec::new(), (0, 0))
            }
        };
        Self {
            command_id: outcome.command_id,
            tenant_id: outcome.tenant,
            replay_of: outcome.replay_of,
            partition: outcome.position.partition,
            offset: outcome.position.offset,
            recorded_at: outcome.recorded_at.micros(),
            error,
            resources,
            first_audit: audit.0,
            last_audit: audit.1,
        }
    }
}

fn resource_record(resource: &Resource) -> ResourceRecord {
    ResourceRecord {
        resource_type: resource.kind.name().to_owned(),
        id: resource.id,
        version: resource.version,
        created: resource.created,
        document: Arc::clone(&resource.document),
    }
}

/// An outcome names a kind of document that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error("the outcome names an unknown kind of document: {0}")]
pub struct UnknownKind(String);

impl TryFrom<CommandOutcome> for Outcome {
    type Error = UnknownKind;

    fn try_from(record: CommandOutcome) -> Result<Self, UnknownKind> {
        let verdict = match record.error {
            Some(error) => {
                Verdict::Rejected(Refusal { code: error.code, message: error.message, details: error.details })
            }
            None => Verdict::Accepted {
                resources: record.resources.into_iter().map(resource).collect::<Result<_, _>>()?,
                audit_sequences: (record.first_audit, record.last_audit),
            },
        };
        Ok(Self {
            command_id: record.command_id,
            tenant: record.tenant_id,
            replay_of: record.replay_of,
            position: Position { partition: record.partition, offset: record.offset },
            recorded_at: Timestamp::from_micros(record.recorded_at),
            verdict: Arc::new(verdict),
        })
    }
}

fn resource(record: ResourceRecord) -> Result<Resource, UnknownKind> {
    let kind = EntityKind::from_name(&record.resource_type).ok_or(UnknownKind(record.resource_type))?;
    Ok(Resource { kind, id: record.id, version: record.version, created: record.created, document: record.document })
}
