//! A ledger in memory: what the shell keeps in tables, for tests of the rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use twh_domain::actor::Actor;
use twh_domain::commands::{Command, Operation, Payload, RULES_VERSION};
use twh_domain::entity::{CodeKey, CodeSpace, Entity, EntityKey, LevelKey};
use twh_domain::event::{AuditRecord, DomainEvent};
use twh_domain::id::{CommandId, LocationId, TenantId};
use twh_domain::level::StockLevel;
use twh_domain::movement::{MOVEMENT_CHAIN, Movement, genesis};
use twh_domain::outcome::{Outcome, Position, Verdict};
use twh_domain::state::{IdempotencyKey, LedgerHead, Need, PriorOutcome, State};
use twh_domain::timestamp::Timestamp;
use twh_domain::{Decision, Needs, Recorded, decide, prefetch};
use uuid::Uuid;

/// All that is committed.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) movements: Vec<Movement>,
    pub(crate) events: Vec<DomainEvent>,
    pub(crate) audit: Vec<AuditRecord>,
    pub(crate) levels: BTreeMap<LevelKey, StockLevel>,
    pub(crate) entities: HashMap<EntityKey, Arc<Entity>>,
    codes: HashMap<CodeKey, Uuid>,
    outcomes: HashMap<IdempotencyKey, PriorOutcome>,
    heads: HashMap<TenantId, LedgerHead>,
    /// Locations that allow negative stock, or did once: what became of that stays.
    loose: BTreeSet<(TenantId, LocationId)>,
    pub(crate) offset: i64,
}

impl Book {
    fn load(&self, state: &mut State, need: Need) {
        match need {
            Need::Entity(key) => state.load_entity(key, self.entities.get(&key).map(|e| e.as_ref().clone())),
            Need::Code(key) => {
                let id = self.codes.get(&key).copied();
                state.load_code(key, id);
            }
            Need::Level(key) => state.load_level(key, self.levels.get(&key).copied().unwrap_or_default()),
            Need::Outcome(key) => {
                let prior = self.outcomes.get(&key).cloned();
                state.load_outcome(key, prior);
            }
            Need::Head(tenant) => {
                state
                    .load_head(tenant, self.heads.get(&tenant).cloned().unwrap_or_else(|| LedgerHead::genesis(tenant)));
            }
        }
    }

    /// Applies a batch as the ledger does: preload, decide in order, commit. Says what was asked for beyond the preload.
    pub(crate) fn apply(&mut self, batch: &[Command]) -> (Vec<Outcome>, usize) {
        let mut state = State::default();
        loop {
            let mut needs = Needs::default();
            batch.iter().for_each(|command| prefetch(&state, command, &mut needs));
            needs.load.append(&mut needs.new_names);
            if needs.load.is_empty() {
                break;
            }
            needs.load.into_iter().for_each(|need| self.load(&mut state, need));
        }
        let mut missed = 0;
        let mut outcomes = Vec::new();
        for command in batch {
            let recorded = Recorded {
                position: Position { partition: 0, offset: self.offset },
                at: Timestamp::from_micros(1_000_000 * self.offset),
            };
            self.offset += 1;
            let decision = loop {
                match decide(&state, command, recorded) {
                    Ok(decision) => break decision,
                    Err(need) => {
                        missed += 1;
                        self.load(&mut state, need);
                    }
                }
            };
            Self::check_row(command, &decision);
            state.evolve(&decision.effects);
            self.commit(command, &decision);
            if let Some(prior) = self.outcomes.get(&key(command)) {
                state.remember(key(command), prior.clone());
            }
            outcomes.push(decision.outcome);
        }
        if let [Command { operations, .. }] = batch
            && let [operation] = operations.as_slice()
        {
            assert_eq!(missed, 0, "{}: decide reads what `reads` does not name", operation.payload.kind().name);
        }
        (outcomes, missed)
    }

    /// What a command does is what the rows of its kind and of its events say.
    fn check_row(command: &Command, decision: &Decision) {
        let may_move = command.operations.iter().any(|operation| operation.payload.kind().moves_stock);
        let kinds = || command.operations.iter().map(|operation| operation.payload.kind().name).collect::<Vec<_>>();
        assert!(may_move || decision.effects.movements.is_empty(), "{:?} moves stock, against its row", kinds());
        for event in &decision.effects.events {
            assert_eq!(event.subject_kind, event.event_type.subject(), "{}", event.event_type.name());
        }
    }

    fn commit(&mut self, command: &Command, decision: &Decision) {
        let effects = &decision.effects;
        for (key, entity, _) in &effects.documents {
            if let Some(code) = entity.code() {
                let code = CodeKey { tenant: key.tenant, space: CodeSpace::Entity(key.kind), code: code.to_owned() };
                self.codes.insert(code, key.id);
            }
            if let Entity::Location(location) = entity.as_ref()
                && location.allow_negative_stock
            {
                self.loose.insert((key.tenant, location.id));
            }
            self.entities.insert(*key, Arc::clone(entity));
        }
        for (code, item) in &effects.barcodes {
            match item {
                Some(item) => self.codes.insert(code.clone(), *item),
                None => self.codes.remove(code),
            };
        }
        for movement in &effects.movements {
            let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
            self.levels.entry(key).or_default().evolve(movement);
        }
        self.movements.extend(effects.movements.iter().cloned());
        self.events.extend(effects.events.iter().cloned());
        self.audit.extend(effects.audit.iter().cloned());
        if let Some((tenant, head)) = &effects.head {
            self.heads.insert(*tenant, head.clone());
        }
        if decision.first {
            let prior = PriorOutcome {
                command_id: command.command_id,
                fingerprint: command.fingerprint.clone(),
                position: decision.outcome.position,
                recorded_at: decision.outcome.recorded_at,
                verdict: Arc::clone(&decision.outcome.verdict),
            };
            self.outcomes.insert(key(command), prior);
        }
    }

    /// Everything that must hold of any ledger, whatever was asked of it.
    pub(crate) fn check(&self) {
        let mut ends: HashMap<TenantId, (i64, [u8; 32], Timestamp)> = HashMap::new();
        let mut fold: BTreeMap<LevelKey, (i64, i64)> = BTreeMap::new();
        for movement in &self.movements {
            let (sequence, hash, recorded_at) = ends
                .entry(movement.tenant)
                .or_insert_with(|| (0, genesis(MOVEMENT_CHAIN, movement.tenant), Timestamp::default()));
            assert_eq!(movement.sequence, *sequence + 1, "the sequence has no gap");
            assert_eq!(movement.hash, movement.chain(hash), "the chain holds");
            assert!(movement.recorded_at >= *recorded_at, "recorded_at never goes back");
            (*sequence, *hash, *recorded_at) = (movement.sequence, movement.hash, movement.recorded_at);
            let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
            let sums = fold.entry(key).or_default();
            sums.0 += movement.on_hand_change.micros();
            sums.1 += movement.reserved_change.micros();
            assert_eq!(
                (movement.on_hand_after.micros(), movement.reserved_after.micros()),
                *sums,
                "each movement says the level after it"
            );
        }
        assert_eq!(fold.len(), self.levels.len());
        for (key, level) in &self.levels {
            assert_eq!(
                (level.on_hand.micros(), level.reserved.micros()),
                fold[key],
                "the level is the fold of its movements"
            );
            assert!(!level.reserved.is_negative(), "nothing is released twice");
            let loose = self.loose.contains(&(key.tenant, key.location));
            assert!(loose || level.reserved <= level.on_hand, "stock is never oversold");
        }
        self.check_promises();
        for (index, event) in self.events.iter().enumerate() {
            let earlier = self.events[..index].iter().filter(|e| e.tenant == event.tenant).count();
            assert_eq!(event.sequence, i64::try_from(earlier).unwrap() + 1, "events are numbered without a gap");
        }
    }
}

impl Book {
    /// What is reserved is what open documents hold, no more and no less.
    fn check_promises(&self) {
        let mut held: BTreeMap<LevelKey, i64> = BTreeMap::new();
        for (key, entity) in &self.entities {
            let mut hold = |item, location, quantity: twh_domain::decimal::Quantity| {
                *held.entry(LevelKey { tenant: key.tenant, item, location }).or_default() += quantity.micros();
            };
            match entity.as_ref() {
                Entity::SalesOrder(order) => {
                    let stocked = order.lines.iter().filter(|line| line.stocked);
                    stocked.for_each(|line| hold(line.item_id, line.location_id, line.quantity_allocated));
                }
                Entity::Reservation(reservation) if entity.status() == Some("active") => {
                    hold(reservation.item_id, reservation.location_id, reservation.quantity);
                }
                _ => {}
            }
        }
        for (key, level) in &self.levels {
            assert_eq!(
                level.reserved.micros(),
                held.get(key).copied().unwrap_or_default(),
                "what is reserved is what open documents hold"
            );
        }
    }
}

fn key(command: &Command) -> IdempotencyKey {
    IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() }
}

pub(crate) fn tenant() -> TenantId {
    TenantId(Uuid::from_u128(7))
}

/// A command of one operation; its key and fingerprint are its number's.
pub(crate) fn command(number: u128, subject: Uuid, payload: Payload) -> Command {
    commands(number, vec![Operation { subject, expected_version: None, payload }])
}

pub(crate) fn commands(number: u128, operations: Vec<Operation>) -> Command {
    Command {
        command_id: CommandId(Uuid::from_u128(number)),
        tenant_id: tenant(),
        rules_version: RULES_VERSION,
        issued_at: Timestamp::from_micros(5),
        actor: Actor { kind: "api_key".to_owned(), id: "k".to_owned(), ip: None, user_agent: None }.into(),
        request_id: "r".into(),
        idempotency_key: format!("key-{number}"),
        fingerprint: format!("{number}"),
        operations,
    }
}

/// The payload of a kind, from its JSON body.
pub(crate) fn payload(kind: &str, body: &str) -> Payload {
    let mut reader = serde_json::Deserializer::from_str(body);
    Payload::deserialize_kind(kind, &mut reader).expect("the kind exists").expect("the body is sound")
}

/// The code of a refusal; panics on what was accepted.
pub(crate) fn refusal(outcome: &Outcome) -> &str {
    match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => &refusal.code,
        Verdict::Accepted { .. } => panic!("accepted"),
    }
}

/// The resource of an accepted command; panics on a refusal.
pub(crate) fn accepted(outcome: &Outcome) -> serde_json::Value {
    match outcome.verdict.as_ref() {
        Verdict::Accepted { resources, .. } => serde_json::from_str(&resources[0].document).unwrap(),
        Verdict::Rejected(refusal) => panic!("refused: {refusal:?}"),
    }
}
