//! What a command reads, so that a batch loads it in a handful of set-based queries.
//!
//! A hint only: what it misses, `decide` asks for; what it names in vain costs a look-up.

use crate::entity::{CodeKey, CodeSpace, Entity, EntityKey, EntityKind, LevelKey};
use crate::id::{ItemId, LocationId, TenantId};
use crate::references::{ItemRef, LocationRef, NamesItem};
use crate::state::{Need, State};
use crate::validate::may_be_code;
use std::collections::BTreeSet;
use uuid::Uuid;

/// What a batch of commands reads and is not loaded yet.
#[derive(Debug, Default)]
pub struct Needs {
    /// To be loaded.
    pub load: BTreeSet<Need>,
    /// What is new in all but rare cases: Idempotency-Keys, but where a client repeats itself; ids that the edge has made, and
    /// numbers made of them, but where a command was put on the log by hand. Who has unique keys to fall back on takes it
    /// for absent; who has none loads it too.
    pub new_names: BTreeSet<Need>,
}

/// Collects what one command reads.
pub(crate) struct Reads<'a> {
    state: &'a State,
    tenant: TenantId,
    needs: &'a mut Needs,
}

impl<'a> Reads<'a> {
    pub(crate) const fn new(state: &'a State, tenant: TenantId, needs: &'a mut Needs) -> Self {
        Self { state, tenant, needs }
    }

    pub(crate) fn need(&mut self, need: Need) {
        if !self.state.has(&need) {
            self.needs.load.insert(need);
        }
    }

    pub(crate) fn new_name(&mut self, need: Need) {
        if !self.state.has(&need) {
            self.needs.new_names.insert(need);
        }
    }

    pub(crate) fn entity(&mut self, kind: EntityKind, id: Uuid) -> Option<&'a Entity> {
        let key = EntityKey { tenant: self.tenant, kind, id };
        self.need(Need::Entity(key));
        self.state.entity(&key).ok().flatten().map(AsRef::as_ref)
    }

    pub(crate) fn code(&mut self, space: CodeSpace, code: &str) -> Option<Uuid> {
        if !may_be_code(code) {
            return None;
        }
        let key = CodeKey { tenant: self.tenant, space, code: code.to_owned() };
        let found = self.state.code(&key).ok().flatten();
        self.need(Need::Code(key));
        found
    }

    pub(crate) fn item(&mut self, reference: Option<ItemRef<'_>>) -> Option<ItemId> {
        let id = match reference? {
            ItemRef::Id(id) => id.0,
            ItemRef::Sku(sku) => self.code(CodeSpace::Entity(EntityKind::Item), sku)?,
        };
        self.entity(EntityKind::Item, id);
        Some(ItemId(id))
    }

    pub(crate) fn location(&mut self, reference: Option<LocationRef<'_>>) -> Option<LocationId> {
        let id = match reference? {
            LocationRef::Id(id) => id.0,
            LocationRef::Code(code) => self.code(CodeSpace::Entity(EntityKind::Location), code)?,
        };
        self.entity(EntityKind::Location, id);
        Some(LocationId(id))
    }

    pub(crate) fn level(&mut self, item: Option<ItemId>, location: Option<LocationId>) {
        if let (Some(item), Some(location)) = (item, location) {
            self.need(Need::Level(LevelKey { tenant: self.tenant, item, location }));
        }
    }

    /// A new document: its id is free, and so is its code, or the number that is made of its id.
    pub(crate) fn new_document(&mut self, kind: EntityKind, id: Uuid, code: Option<&str>) {
        let tenant = self.tenant;
        self.new_name(Need::Entity(EntityKey { tenant, kind, id }));
        if let Some(code) = code {
            self.code(CodeSpace::Entity(kind), code);
        } else if let Some(code) = kind.number(id) {
            self.new_name(Need::Code(CodeKey { tenant, space: CodeSpace::Entity(kind), code }));
        }
    }

    /// The items and levels of the lines of a new document.
    pub(crate) fn lines<L: NamesItem>(&mut self, lines: &[L], location: Option<LocationId>) {
        for line in lines {
            let item = self.item(line.item_ref());
            self.level(item, location);
        }
    }

    /// A document acted upon, and the levels of its lines. A document made earlier in the same batch is not loaded
    /// yet; its levels were named when it was made.
    pub(crate) fn document(&mut self, kind: EntityKind, id: Uuid) {
        for (item, location) in self.entity(kind, id).map(Entity::levels).unwrap_or_default() {
            self.level(Some(item), Some(location));
            self.entity(EntityKind::Location, location.0);
        }
    }
}
