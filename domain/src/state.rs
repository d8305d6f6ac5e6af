//! What decisions are made on: the documents, levels and heads that a batch touches, loaded by the shell, evolved here.
//!
//! A thing that was not loaded is not a thing that does not exist: [`Need`] asks the shell for it.

use crate::entity::{CodeKey, CodeSpace, Entity, EntityKey, LevelKey};
use crate::event::{AUDIT_CHAIN, AuditRecord, DomainEvent};
use crate::id::{CommandId, TenantId};
use crate::level::StockLevel;
use crate::movement::{Hash, MOVEMENT_CHAIN, Movement, genesis};
use crate::outcome::Position;
use crate::outcome::Verdict;
use crate::timestamp::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// The ends of a tenant's sequences and chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerHead {
    /// Sequence of the last movement; 0 before the first.
    pub movement_sequence: i64,
    /// Hash of the last movement.
    pub movement_hash: Hash,
    /// Sequence of the last event.
    pub event_sequence: i64,
    /// Sequence of the last audit record.
    pub audit_sequence: i64,
    /// Hash of the last audit record.
    pub audit_hash: Hash,
    /// The last `recorded_at` given.
    pub recorded_at: Timestamp,
}

impl LedgerHead {
    /// The head of a ledger with nothing in it.
    #[must_use]
    pub fn genesis(tenant: TenantId) -> Self {
        Self {
            movement_sequence: 0,
            movement_hash: genesis(MOVEMENT_CHAIN, tenant),
            event_sequence: 0,
            audit_sequence: 0,
            audit_hash: genesis(AUDIT_CHAIN, tenant),
            recorded_at: Timestamp::default(),
        }
    }
}

/// The first answer given under an Idempotency-Key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorOutcome {
    /// The command that was decided.
    pub command_id: CommandId,
    /// What was asked then.
    pub fingerprint: String,
    /// Where it stands in the log.
    pub position: Position,
    /// When.
    pub recorded_at: Timestamp,
    /// What was answered.
    pub verdict: Arc<Verdict>,
}

/// An Idempotency-Key's full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey {
    /// Whose.
    pub tenant: TenantId,
    /// The client's key.
    pub key: String,
}

/// Something that must be loaded before a decision can be made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// A document.
    Entity(EntityKey),
    /// The id behind a code.
    Code(CodeKey),
    /// A stock level.
    Level(LevelKey),
    /// The answer given under a key.
    Outcome(IdempotencyKey),
    /// A tenant's head.
    Head(TenantId),
}

/// Everything that one accepted command changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effects {
    /// Documents written, in order; a document written twice stands twice.
    pub documents: Vec<(EntityKey, Arc<Entity>, Arc<str>)>,
    /// Barcodes taken (`Some`) and given up (`None`).
    pub barcodes: Vec<(CodeKey, Option<Uuid>)>,
    /// New lines of the ledger, in order.
    pub movements: Vec<Movement>,
    /// New events, in order.
    pub events: Vec<DomainEvent>,
    /// New audit records, in order.
    pub audit: Vec<AuditRecord>,
    /// The tenant's head after it all.
    pub head: Option<(TenantId, LedgerHead)>,
}

/// What is loaded. `None` values are known not to exist.
#[derive(Debug, Default)]
pub struct State {
    entities: HashMap<EntityKey, Option<Arc<Entity>>>,
    codes: HashMap<CodeKey, Option<Uuid>>,
    levels: HashMap<LevelKey, StockLevel>,
    outcomes: HashMap<IdempotencyKey, Option<PriorOutcome>>,
    heads: HashMap<TenantId, LedgerHead>,
}

impl State {
    /// How many things are loaded: the bound on a writer's memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entities.len() + self.codes.len() + self.levels.len() + self.outcomes.len() + self.heads.len()
    }

    /// True when nothing is loaded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when nothing more has to be loaded for this need.
    #[must_use]
    pub fn has(&self, need: &Need) -> bool {
        match need {
            Need::Entity(key) => self.entities.contains_key(key),
            Need::Code(key) => self.codes.contains_key(key),
            Need::Level(key) => self.levels.contains_key(key),
            Need::Outcome(key) => self.outcomes.contains_key(key),
            Need::Head(tenant) => self.heads.contains_key(tenant),
        }
    }

    /// A loaded document.
    pub fn entity(&self, key: &EntityKey) -> Result<Option<&Arc<Entity>>, Need> {
        self.entities.get(key).map(Option::as_ref).ok_or(Need::Entity(*key))
    }

    /// The id behind a code.
    pub fn code(&self, key: &CodeKey) -> Result<Option<Uuid>, Need> {
        self.codes.get(key).copied().ok_or_else(|| Need::Code(key.clone()))
    }

    /// A level; one that has no movement yet is all zeros.
    pub fn level(&self, key: &LevelKey) -> Result<StockLevel, Need> {
        self.levels.get(key).copied().ok_or(Need::Level(*key))
    }

    /// The answer given under a key.
    pub fn outcome(&self, key: &IdempotencyKey) -> Result<Option<&PriorOutcome>, Need> {
        self.outcomes.get(key).map(Option::as_ref).ok_or_else(|| Need::Outcome(key.clone()))
    }

    /// A tenant's head.
    pub fn head(&self, tenant: TenantId) -> Result<&LedgerHead, Need> {
        self.heads.get(&tenant).ok_or(Need::Head(tenant))
    }

    /// Takes a document that was loaded, or its absence. What is known already is newer and stays.
    pub fn load_entity(&mut self, key: EntityKey, entity: Option<Entity>) {
        self.entities.entry(key).or_insert_with(|| entity.map(Arc::new));
    }

    /// Takes a code that was loaded, or its absence.
    pub fn load_code(&mut self, key: CodeKey, id: Option<Uuid>) {
        self.codes.entry(key).or_insert(id);
    }

    /// Takes a level that was loaded; the default where there is none.
    pub fn load_level(&mut self, key: LevelKey, level: StockLevel) {
        self.levels.entry(key).or_insert(level);
    }

    /// Takes an answer that was loaded, or its absence.
    pub fn load_outcome(&mut self, key: IdempotencyKey, prior: Option<PriorOutcome>) {
        self.outcomes.entry(key).or_insert(prior);
    }

    /// Takes a head that was loaded; [`LedgerHead::genesis`] where there is none.
    pub fn load_head(&mut self, tenant: TenantId, head: LedgerHead) {
        self.heads.entry(tenant).or_insert(head);
    }

    /// Takes it that what was asked for is not there.
    pub fn load_absent(&mut self, need: Need) {
        match need {
            Need::Entity(key) => self.load_entity(key, None),
            Need::Code(key) => self.load_code(key, None),
            Need::Level(key) => self.load_level(key, StockLevel::default()),
            Need::Outcome(key) => self.load_outcome(key, None),
            Need::Head(tenant) => self.load_head(tenant, LedgerHead::genesis(tenant)),
        }
    }

    /// Moves on by what a decision changed.
    pub fn evolve(&mut self, effects: &Effects) {
        for (key, entity, _) in &effects.documents {
            if let Some(code) = entity.code() {
                let code = CodeKey { tenant: key.tenant, space: CodeSpace::Entity(key.kind), code: code.to_owned() };
                self.codes.insert(code, Some(key.id));
            }
            self.entities.insert(*key, Some(Arc::clone(entity)));
        }
        for (barcode, item) in &effects.barcodes {
            self.codes.insert(barcode.clone(), *item);
        }
        for movement in &effects.movements {
            let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
            self.levels.entry(key).or_default().evolve(movement);
        }
        if let Some((tenant, head)) = &effects.head {
            self.heads.insert(*tenant, head.clone());
        }
    }

    /// Remembers the answer given under a key.
    pub fn remember(&mut self, key: IdempotencyKey, prior: PriorOutcome) {
        self.outcomes.insert(key, Some(prior));
    }

    /// Forgets the answers given under keys: they are rarely asked for twice, and are found in the database when they are.
    pub fn forget_outcomes(&mut self) {
        self.outcomes.clear();
    }
}
