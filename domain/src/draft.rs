//! A decision in the making: what is loaded, seen through what the command has changed so far.
//!
//! Dropped when the command is refused, so that a command is all or nothing however many operations it has.

use crate::actor::Actor;
use crate::decimal::Quantity;
use crate::documents::item::{Item, ItemType};
use crate::documents::location::Location;
use crate::entity::{CodeKey, CodeSpace, Entity, EntityKey, EntityKind, LevelKey};
use crate::event::{AuditRecord, DomainEvent, EventType};
use crate::id::{CommandId, ItemId, LocationId, TenantId, event_id};
use crate::level::StockLevel;
use crate::limits::{BOUNDED_SINCE, DOCUMENT_BYTES_MAX, OUTPUT_BYTES_MAX};
use crate::movement::{Movement, MovementKind};
use crate::outcome::{Recorded, Resource, Verdict};
use crate::references::{ItemRef, LocationRef};
use crate::rejection::{Rejection, Shortage};
use crate::state::{Effects, LedgerHead, Need, State};
use crate::timestamp::Timestamp;
use crate::validate::may_be_code;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Why a decision stops before it is made.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something has to be loaded first.
    Need(Need),
    /// The rules refuse.
    Reject(Rejection),
}

impl From<Need> for Stop {
    fn from(need: Need) -> Self {
        Self::Need(need)
    }
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Reject(rejection)
    }
}

/// What a line needs to know of its item.
#[derive(Debug, Clone)]
pub(crate) struct LineItem {
    pub(crate) id: ItemId,
    pub(crate) sku: String,
    pub(crate) stocked: bool,
}

impl LineItem {
    fn of(item: &Item) -> Self {
        Self { id: item.id, sku: item.sku.clone(), stocked: item.item_type == ItemType::Stock }
    }
}

/// A movement to be.
pub(crate) struct Posting<'a> {
    pub(crate) kind: MovementKind,
    pub(crate) item: ItemId,
    pub(crate) sku: &'a str,
    pub(crate) location: LocationId,
    pub(crate) on_hand: Quantity,
    pub(crate) reserved: Quantity,
    pub(crate) line: i32,
    pub(crate) reason: Option<&'a str>,
}

/// What a decision knows of its command, whatever it asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    pub(crate) command: CommandId,
    pub(crate) tenant: TenantId,
    pub(crate) rules_version: i32,
    pub(crate) issued_at: Timestamp,
    pub(crate) actor: &'a Arc<Actor>,
    pub(crate) request_id: &'a Arc<str>,
}

/// What a decision knows of one of its operations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// The id of what is created or acted upon.
    pub(crate) subject: Uuid,
    pub(crate) expected_version: Option<i64>,
    /// The name of the kind of command.
    pub(crate) action: &'static str,
    /// When it happened, by the client's word.
    pub(crate) occurred_at: Option<Timestamp>,
}

pub(crate) struct Draft<'a> {
    state: &'a State,
    envelope: Envelope<'a>,
    recorded: Recorded,
    // Few things a command: a small tree is made faster than a table.
    entities: BTreeMap<EntityKey, Arc<Entity>>,
    codes: BTreeMap<CodeKey, Option<Uuid>>,
    levels: BTreeMap<LevelKey, StockLevel>,
    head: LedgerHead,
    effects: Effects,
    resources: Vec<Resource>,
    shortages: Vec<Shortage>,
    /// Bytes of the documents written so far.
    output: usize,
    operation_index: i32,
    step: Step,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(state: &'a State, envelope: Envelope<'a>, recorded: Recorded) -> Result<Self, Need> {
        let mut head = state.head(envelope.tenant)?.clone();
        head.recorded_at = head.recorded_at.max(recorded.at);
        Ok(Self {
            state,
            envelope,
            recorded: Recorded { at: head.recorded_at, ..recorded },
            entities: BTreeMap::new(),
            codes: BTreeMap::new(),
            levels: BTreeMap::new(),
            head,
            effects: Effects::default(),
            resources: Vec::new(),
            shortages: Vec::new(),
            output: 0,
            operation_index: -1,
            step: Step { subject: Uuid::nil(), expected_version: None, action: "", occurred_at: None },
        })
    }

    pub(crate) const fn begin(&mut self, step: Step) {
        self.operation_index += 1;
        self.step = step;
    }

    /// Ends an operation: all its shortages together, so that a client learns of them at once.
    pub(crate) fn end(&mut self) -> Result<(), Rejection> {
        if self.shortages.is_empty() {
            Ok(())
        } else {
            Err(Rejection::InsufficientStock(std::mem::take(&mut self.shortages)))
        }
    }

    pub(crate) fn finish(mut self) -> (Verdict, Effects) {
        let sequences = (
            self.effects.audit.first().map_or(0, |record| record.sequence),
            self.effects.audit.last().map_or(0, |record| record.sequence),
        );
        self.effects.head = Some((self.envelope.tenant, self.head));
        (Verdict::Accepted { resources: self.resources, audit_sequences: sequences }, self.effects)
    }

    pub(crate) fn occurred_at(&self) -> Timestamp {
        self.step.occurred_at.unwrap_or(self.envelope.issued_at)
    }

    pub(crate) fn recorded_at(&self) -> Timestamp {
        self.recorded.at
    }

    /// The id that the operation creates or acts upon.
    pub(crate) fn subject_id(&self) -> Uuid {
        self.step.subject
    }

    pub(crate) fn entity(&self, kind: EntityKind, id: Uuid) -> Result<Option<&Arc<Entity>>, Need> {
        let key = EntityKey { tenant: self.envelope.tenant, kind, id };
        match self.entities.get(&key) {
            Some(entity) => Ok(Some(entity)),
            None => self.state.entity(&key),
        }
    }

    /// The document that the operation acts upon, at the version that the client saw.
    pub(crate) fn subject(&self, kind: EntityKind) -> Result<&Arc<Entity>, Stop> {
        let entity = self.entity(kind, self.subject_id())?.ok_or(Rejection::NotFound(kind))?;
        match self.step.expected_version {
            Some(expected) if expected != entity.version() => {
                Err(Rejection::VersionMismatch { expected, actual: entity.version() }.into())
            }
            _ => Ok(entity),
        }
    }

    fn code(&self, space: CodeSpace, code: &str) -> Result<Option<Uuid>, Need> {
        if !may_be_code(code) {
            return Ok(None);
        }
        let key = CodeKey { tenant: self.envelope.tenant, space, code: code.to_owned() };
        match self.codes.get(&key) {
            Some(id) => Ok(*id),
            None => self.state.code(&key),
        }
    }

    fn item_entity(&self, reference: ItemRef<'_>) -> Result<Option<&Item>, Need> {
        let id = match reference {
            ItemRef::Id(id) => Some(id.0),
            ItemRef::Sku(sku) => self.code(CodeSpace::Entity(EntityKind::Item), sku)?,
        };
        let Some(id) = id else { return Ok(None) };
        Ok(self.entity(EntityKind::Item, id)?.and_then(|entity| match entity.as_ref() {
            Entity::Item(item) => Some(item),
            _ => None,
        }))
    }

    /// The item that a line names.
    pub(crate) fn item(&self, reference: Option<ItemRef<'_>>, prefix: &str) -> Result<LineItem, Stop> {
        let field = match reference {
            Some(ItemRef::Sku(_)) => "sku",
            _ => "item_id",
        };
        let item = match reference {
            Some(reference) => self.item_entity(reference)?,
            None => None,
        };
        match item {
            Some(item) => Ok(LineItem::of(item)),
            None => {
                Err(Rejection::UnknownReference { field: format!("{prefix}{field}"), kind: EntityKind::Item }.into())
            }
        }
    }

    /// The item that a line names, which must hold stock.
    pub(crate) fn stocked_item(&self, reference: Option<ItemRef<'_>>, prefix: &str) -> Result<LineItem, Stop> {
        let item = self.item(reference, prefix)?;
        if item.stocked {
            Ok(item)
        } else {
            Err(Rejection::NotStocked { field: format!("{prefix}sku"), sku: item.sku }.into())
        }
    }

    fn location_entity(&self, reference: LocationRef<'_>) -> Result<Option<&Location>, Need> {
        let id = match reference {
            LocationRef::Id(id) => Some(id.0),
            LocationRef::Code(code) => self.code(CodeSpace::Entity(EntityKind::Location), code)?,
        };
        let Some(id) = id else { return Ok(None) };
        Ok(self.entity(EntityKind::Location, id)?.and_then(|entity| match entity.as_ref() {
            Entity::Location(location) => Some(location),
            _ => None,
        }))
    }

    /// The location that a body names; `prefix` leads the field's name.
    pub(crate) fn location(&self, reference: Option<LocationRef<'_>>, prefix: &str) -> Result<LocationId, Stop> {
        let field = match reference {
            Some(LocationRef::Code(_)) => "location_code",
            _ => "location_id",
        };
        let location = match reference {
            Some(reference) => self.location_entity(reference)?,
            None => None,
        };
        match location {
            Some(location) => Ok(location.id),
            None => {
                Err(Rejection::UnknownReference { field: format!("{prefix}{field}"), kind: EntityKind::Location }
                    .into())
            }
        }
    }

    /// Takes the subject's id for a new document. The edge makes a fresh one each time; a command put on the topic by hand
    /// must not write over a document that is there.
    pub(crate) fn claim_id(&self, kind: EntityKind) -> Result<(), Stop> {
        match self.entity(kind, self.subject_id())? {
            Some(_) => Err(Rejection::Duplicate { kind, field: "id", value: self.subject_id().to_string() }.into()),
            None => Ok(()),
        }
    }

    /// Takes the id and the number of a new document: the client's own, or one that is made of the id.
    pub(crate) fn claim_number(&mut self, kind: EntityKind, given: Option<&str>) -> Result<String, Stop> {
        let number = given.map(str::to_owned).or_else(|| kind.number(self.subject_id())).unwrap_or_default();
        self.claim_code(kind, "number", &number)?;
        Ok(number)
    }

    /// Takes the id and a code for a new document, or refuses them as taken.
    pub(crate) fn claim_code(&mut self, kind: EntityKind, field: &'static str, code: &str) -> Result<(), Stop> {
        self.claim_id(kind)?;
        if self.code(CodeSpace::Entity(kind), code)?.is_some() {
            return Err(Rejection::Duplicate { kind, field, value: code.to_owned() }.into());
        }
        let key = CodeKey { tenant: self.envelope.tenant, space: CodeSpace::Entity(kind), code: code.to_owned() };
        self.codes.insert(key, Some(self.subject_id()));
        Ok(())
    }

    /// Gives an item these barcodes instead of those, or refuses one as taken.
    pub(crate) fn swap_barcodes(&mut self, item: ItemId, old: &[String], new: &[String]) -> Result<(), Stop> {
        let tenant = self.envelope.tenant;
        let key = |code: &String| CodeKey { tenant, space: CodeSpace::Barcode, code: code.clone() };
        for gone in old.iter().filter(|code| !new.contains(code)) {
            self.codes.insert(key(gone), None);
            self.effects.barcodes.push((key(gone), None));
        }
        for code in new.iter().filter(|code| !old.contains(code)) {
            if self.code(CodeSpace::Barcode, code)?.is_some() {
                return Err(
                    Rejection::Duplicate { kind: EntityKind::Item, field: "barcodes", value: code.clone() }.into()
                );
            }
            self.codes.insert(key(code), Some(item.0));
            self.effects.barcodes.push((key(code), Some(item.0)));
        }
        Ok(())
    }

    /// Writes the document that answers the operation.
    pub(crate) fn save(&mut self, entity: impl Into<Entity>, event_type: EventType) -> Result<(), Stop> {
        self.write(entity.into(), event_type, true)
    }

    /// Writes a document that changes along with the one that answers the operation.
    pub(crate) fn save_along(&mut self, entity: impl Into<Entity>, event_type: EventType) -> Result<(), Stop> {
        self.write(entity.into(), event_type, false)
    }

    fn write(&mut self, mut entity: Entity, event_type: EventType, answers: bool) -> Result<(), Stop> {
        let key = EntityKey { tenant: self.envelope.tenant, kind: entity.kind(), id: entity.id() };
        let before = self.entity(key.kind, key.id)?;
        let (version, created_at) = before.map_or((1, self.recorded.at), |old| (old.version() + 1, old.created_at()));
        entity.stamp(version, created_at, self.recorded.at);
        let document = json(&entity);
        self.bound(key.kind, version, document.len())?;
        let entity = Arc::new(entity);
        if answers {
            self.resources.push(Resource {
                kind: key.kind,
                id: key.id,
                version,
                created: version == 1,
                document: Arc::clone(&document),
            });
        }
        self.account(key, version, &document, answers);
        self.announce(key, event_type, &document);
        self.entities.insert(key, Arc::clone(&entity));
        self.effects.documents.push((key, entity, document));
        Ok(())
    }

    /// Whether the command's rules know bounds by bytes.
    pub(crate) const fn is_bounded(&self) -> bool {
        self.envelope.rules_version >= BOUNDED_SINCE
    }

    /// Holds what the command writes to its bounds.
    fn bound(&mut self, kind: EntityKind, version: i64, bytes: usize) -> Result<(), Rejection> {
        self.output = self.output.saturating_add(bytes);
        let most = if version == 1 { DOCUMENT_BYTES_MAX } else { 2 * DOCUMENT_BYTES_MAX };
        if !self.is_bounded() {
            Ok(())
        } else if bytes > most {
            Err(Rejection::DocumentTooLarge { kind, bytes, most })
        } else if self.output > OUTPUT_BYTES_MAX {
            Err(Rejection::OutputTooLarge { most: OUTPUT_BYTES_MAX })
        } else {
            Ok(())
        }
    }

    /// Tells something of a document that changes nothing.
    pub(crate) fn tell(&mut self, id: Uuid, event_type: EventType, data: &impl Serialize) {
        let key = EntityKey { tenant: self.envelope.tenant, kind: event_type.subject(), id };
        self.announce(key, event_type, &json(data));
    }

    fn account(&mut self, key: EntityKey, version: i64, document: &Arc<str>, answers: bool) {
        self.head.audit_sequence += 1;
        let mut record = AuditRecord {
            tenant: key.tenant,
            sequence: self.head.audit_sequence,
            operation_index: answers.then_some(self.operation_index),
            action: self.step.action,
            entity_kind: key.kind,
            entity: key.id,
            entity_version: version,
            document: Arc::clone(document),
            actor: Arc::clone(self.envelope.actor),
            request_id: Arc::clone(self.envelope.request_id),
            command: self.envelope.command,
            recorded_at: self.recorded.at,
            hash: [0; 32],
        };
        record.hash = record.chain(&self.head.audit_hash);
        self.head.audit_hash = record.hash;
        self.effects.audit.push(record);
    }

    fn announce(&mut self, key: EntityKey, event_type: EventType, document: &Arc<str>) {
        self.head.event_sequence += 1;
        let index = u32::try_from(self.effects.events.len()).unwrap_or(u32::MAX);
        self.effects.events.push(DomainEvent {
            id: event_id(self.envelope.command, index),
            tenant: key.tenant,
            sequence: self.head.event_sequence,
            event_type,
            subject_kind: key.kind,
            subject: key.id,
            occurred_at: self.occurred_at(),
            recorded_at: self.recorded.at,
            command: self.envelope.command,
            data: Arc::clone(document),
        });
    }

    pub(crate) fn level(&self, item: ItemId, location: LocationId) -> Result<StockLevel, Need> {
        let key = LevelKey { tenant: self.envelope.tenant, item, location };
        match self.levels.get(&key) {
            Some(level) => Ok(*level),
            None => self.state.level(&key),
        }
    }

    /// Appends a movement of the document `reference`. One that would promise or take more than there is becomes a shortage instead.
    pub(crate) fn post(&mut self, reference_kind: EntityKind, posting: &Posting<'_>) -> Result<(), Stop> {
        let before = self.level(posting.item, posting.location)?;
        let on_hand = before.on_hand.checked_add(posting.on_hand).ok_or(Rejection::OutOfRange)?;
        let reserved = before.reserved.checked_add(posting.reserved).ok_or(Rejection::OutOfRange)?;
        let available_before = before.available().ok_or(Rejection::OutOfRange)?;
        let available = on_hand.checked_sub(reserved).ok_or(Rejection::OutOfRange)?;
        // A movement that makes things better is never refused, even from below zero.
        let short = available.is_negative() && available < available_before;
        if short && !self.allows_negative(posting.location)? {
            self.shortages.push(Shortage {
                line: posting.line,
                item_id: posting.item,
                sku: posting.sku.to_owned(),
                location_id: posting.location,
                requested: available_before.checked_sub(available).ok_or(Rejection::OutOfRange)?,
                available: available_before,
            });
            return Ok(());
        }
        debug_assert!(!reserved.is_negative(), "a release never exceeds what was reserved");
        self.append(reference_kind, posting, before, (on_hand, reserved));
        Ok(())
    }

    fn allows_negative(&self, location: LocationId) -> Result<bool, Need> {
        Ok(self.location_entity(LocationRef::Id(location))?.is_some_and(|location| location.allow_negative_stock))
    }

    fn append(
        &mut self,
        reference_kind: EntityKind,
        posting: &Posting<'_>,
        mut level: StockLevel,
        (on_hand, reserved): (Quantity, Quantity),
    ) {
        self.head.movement_sequence += 1;
        let mut movement = Movement {
            tenant: self.envelope.tenant,
            sequence: self.head.movement_sequence,
            item: posting.item,
            location: posting.location,
            kind: posting.kind,
            level_version: level.version + 1,
            on_hand_change: posting.on_hand,
            reserved_change: posting.reserved,
            on_hand_after: on_hand,
            reserved_after: reserved,
            reference_kind,
            reference: self.subject_id(),
            reference_line: posting.line,
            reason: posting.reason.map(Arc::from),
            command: self.envelope.command,
            position: self.recorded.position,
            occurred_at: self.occurred_at(),
            recorded_at: self.recorded.at,
            hash: [0; 32],
        };
        movement.hash = movement.chain(&self.head.movement_hash);
        self.head.movement_hash = movement.hash;
        let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
        level.evolve(&movement);
        self.levels.insert(key, level);
        self.effects.movements.push(movement);
        self.effects.events_before.push(self.effects.events.len());
    }
}

#[expect(
    clippy::expect_used,
    reason = "serialising these structs to a string cannot fail: every map key is a string, and nothing is written"
)]
fn json(document: &impl Serialize) -> Arc<str> {
    serde_json::to_string(document).expect("a document has only string keys").into()
}
