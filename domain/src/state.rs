//! What decisions are made on: the documents, levels and heads that a batch touches, loaded by the shell, evolved here.
//!
//! A thing that was not loaded is not a thing that does not exist: [`Need`] asks the shell for it.

use crate::entity::{CodeKey, CodeSpace, Entity, EntityKey, EntityKind, LevelKey};
use crate::event::{AUDIT_CHAIN, AuditRecord, DomainEvent};
use crate::id::{CommandId, TenantId};
use crate::level::StockLevel;
use crate::movement::{Hash as ChainHash, MOVEMENT_CHAIN, Movement, genesis};
use crate::outcome::Position;
use crate::outcome::Verdict;
use crate::timestamp::Timestamp;
use std::hash::Hash;
use std::sync::Arc;
use uuid::Uuid;

/// Seeded anew in each process, several times as fast as the standard library's.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// The ends of a tenant's sequences and chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerHead {
    /// Sequence of the last movement; 0 before the first.
    pub movement_sequence: i64,
    /// Hash of the last movement.
    pub movement_hash: ChainHash,
    /// Sequence of the last event.
    pub event_sequence: i64,
    /// Sequence of the last audit record.
    pub audit_sequence: i64,
    /// Hash of the last audit record.
    pub audit_hash: ChainHash,
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
    /// For each of them, how many of the new events came before it.
    pub events_before: Vec<usize>,
    /// New events, in order.
    pub events: Vec<DomainEvent>,
    /// New audit records, in order.
    pub audit: Vec<AuditRecord>,
    /// The tenant's head after it all.
    pub head: Option<(TenantId, LedgerHead)>,
}

/// A map that forgets what was not written for a while: what is neither in this generation nor in the one before is gone.
#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Generations<K, V> {
    fn default() -> Self {
        Self { young: HashMap::default(), old: HashMap::default() }
    }
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    fn forget(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn insert(&mut self, key: K, value: V) {
        self.young.insert(key, value);
    }

    /// Takes what was loaded. What is known already is newer and stays.
    fn load(&mut self, key: K, value: impl FnOnce() -> V) {
        if !self.contains(&key) {
            self.young.insert(key, value());
        }
    }

    /// The young become the old, and the old are forgotten.
    fn turn(&mut self) {
        std::mem::swap(&mut self.young, &mut self.old);
        // Keeps the room that it has: the next generation will be about as large.
        self.young.clear();
    }
}

/// What documents there are, and under which codes. `None` values are known not to exist.
#[derive(Debug, Default)]
struct Documents {
    entities: Generations<EntityKey, Option<Arc<Entity>>>,
    codes: Generations<CodeKey, Option<Uuid>>,
}

impl Documents {
    fn turn(&mut self) {
        self.entities.turn();
        self.codes.turn();
    }
}

/// What is loaded.
#[derive(Debug, Default)]
pub struct State {
    documents: Documents,
    /// Documents that nothing acts upon: nobody asks for one again, but within a moment of its making.
    final_documents: Documents,
    levels: Generations<LevelKey, StockLevel>,
    heads: Generations<TenantId, LedgerHead>,
    outcomes: Generations<IdempotencyKey, Option<PriorOutcome>>,
    /// What the documents of the young generation weigh; one that is written again counts again.
    young_bytes: usize,
}

impl State {
    const fn documents_of(&self, kind: EntityKind) -> &Documents {
        if kind.is_final() { &self.final_documents } else { &self.documents }
    }

    const fn documents_of_mut(&mut self, kind: EntityKind) -> &mut Documents {
        if kind.is_final() { &mut self.final_documents } else { &mut self.documents }
    }

    const fn codes_in(&self, space: CodeSpace) -> &Generations<CodeKey, Option<Uuid>> {
        match space {
            CodeSpace::Entity(kind) => &self.documents_of(kind).codes,
            CodeSpace::Barcode => &self.documents.codes,
        }
    }

    const fn codes_in_mut(&mut self, space: CodeSpace) -> &mut Generations<CodeKey, Option<Uuid>> {
        match space {
            CodeSpace::Entity(kind) => &mut self.documents_of_mut(kind).codes,
            CodeSpace::Barcode => &mut self.documents.codes,
        }
    }

    /// Ends a batch. What it decided is still known while the next one is decided, so that the two may overlap: answers
    /// under keys and final documents, which are rarely asked for again, not for longer; the rest for as long as the
    /// generations of `young_max` things, and of `young_bytes_max` bytes of documents, last.
    pub fn end_batch(&mut self, young_max: usize, young_bytes_max: usize) {
        self.outcomes.turn();
        self.final_documents.turn();
        let young = self.documents.entities.young.len()
            + self.documents.codes.young.len()
            + self.levels.young.len()
            + self.heads.young.len();
        if young > young_max || self.young_bytes > young_bytes_max {
            self.young_bytes = 0;
            self.documents.turn();
            self.levels.turn();
            self.heads.turn();
        }
    }

    /// About how many bytes the documents weigh that came or changed since the young generation began.
    #[must_use]
    pub const fn young_bytes(&self) -> usize {
        self.young_bytes
    }

    /// True when nothing more has to be loaded for this need.
    #[must_use]
    pub fn has(&self, need: &Need) -> bool {
        match need {
            Need::Entity(key) => self.documents_of(key.kind).entities.contains(key),
            Need::Code(key) => self.codes_in(key.space).contains(key),
            Need::Level(key) => self.levels.contains(key),
            Need::Outcome(key) => self.outcomes.contains(key),
            Need::Head(tenant) => self.heads.contains(tenant),
        }
    }

    /// True when it is known not to exist.
    #[must_use]
    pub fn is_absent(&self, need: &Need) -> bool {
        match need {
            Need::Entity(key) => matches!(self.entity(key), Ok(None)),
            Need::Code(key) => matches!(self.code(key), Ok(None)),
            Need::Outcome(key) => matches!(self.outcome(key), Ok(None)),
            Need::Level(_) | Need::Head(_) => false,
        }
    }

    /// A loaded document.
    pub fn entity(&self, key: &EntityKey) -> Result<Option<&Arc<Entity>>, Need> {
        self.documents_of(key.kind).entities.get(key).map(Option::as_ref).ok_or(Need::Entity(*key))
    }

    /// The id behind a code.
    pub fn code(&self, key: &CodeKey) -> Result<Option<Uuid>, Need> {
        self.codes_in(key.space).get(key).copied().ok_or_else(|| Need::Code(key.clone()))
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
        self.young_bytes += entity.as_ref().map_or(0, Entity::weight);
        self.documents_of_mut(key.kind).entities.load(key, || entity.map(Arc::new));
    }

    /// Takes a code that was loaded, or its absence.
    pub fn load_code(&mut self, key: CodeKey, id: Option<Uuid>) {
        self.codes_in_mut(key.space).load(key, || id);
    }

    /// Takes a level that was loaded; the default where there is none.
    pub fn load_level(&mut self, key: LevelKey, level: StockLevel) {
        self.levels.load(key, || level);
    }

    /// Takes an answer that was loaded, or its absence.
    pub fn load_outcome(&mut self, key: IdempotencyKey, prior: Option<PriorOutcome>) {
        self.outcomes.load(key, || prior);
    }

    /// Takes a head that was loaded; [`LedgerHead::genesis`] where there is none.
    pub fn load_head(&mut self, tenant: TenantId, head: LedgerHead) {
        self.heads.load(tenant, || head);
    }

    /// Forgets a document or a code: it has to be loaded anew.
    pub fn forget(&mut self, need: &Need) {
        match need {
            Need::Entity(key) => self.documents_of_mut(key.kind).entities.forget(key),
            Need::Code(key) => self.codes_in_mut(key.space).forget(key),
            Need::Level(_) | Need::Outcome(_) | Need::Head(_) => {}
        }
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
                self.codes_in_mut(code.space).insert(code, Some(key.id));
            }
            self.young_bytes += entity.weight();
            self.documents_of_mut(key.kind).entities.insert(*key, Some(Arc::clone(entity)));
        }
        for (barcode, item) in &effects.barcodes {
            self.codes_in_mut(barcode.space).insert(barcode.clone(), *item);
        }
        for movement in &effects.movements {
            let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
            let mut level = self.levels.get(&key).copied().unwrap_or_default();
            level.evolve(movement);
            self.levels.insert(key, level);
        }
        if let Some((tenant, head)) = &effects.head {
            self.heads.insert(*tenant, head.clone());
        }
    }

    /// Remembers the answer given under a key.
    pub fn remember(&mut self, key: IdempotencyKey, prior: PriorOutcome) {
        self.outcomes.insert(key, Some(prior));
    }
}
