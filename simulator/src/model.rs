//! What must always hold, worked out from what was committed and published alone. It uses none of the code that it checks,
//! except to read a record and to hash a row.

use crate::database::Tables;
use futures::FutureExt as _;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use twh_domain::commands::Command;
use twh_domain::entity::LevelKey;
use twh_domain::event::AUDIT_CHAIN;
use twh_domain::id::TenantId;
use twh_domain::level::StockLevel;
use twh_domain::movement::{Hash, MOVEMENT_CHAIN, genesis};
use twh_domain::outcome::Position;
use twh_domain::outcome::Verdict;
use twh_domain::state::{IdempotencyKey, LedgerHead, Need, PriorOutcome, State};
use twh_domain::{Recorded, decide};
use twh_processors::runtime::Record;
use twh_schemas::Schemas;
use twh_schemas::catalogue::{COMMANDS, EVENTS, LEVELS, MOVEMENTS, OUTCOMES};
use twh_schemas::codec::{Bounded, Codec, SchemaSource};
use twh_sinks::kafka::Outgoing;
use twh_sinks::postgres::ledger::{Batch, Claim};

/// A level, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    on_hand: i64,
    reserved: i64,
    movements: i64,
}

/// A chain, as far as it was committed.
#[derive(Debug, Clone)]
struct End {
    sequence: i64,
    hash: Hash,
}

/// What was committed and published.
#[derive(Default)]
pub(crate) struct Model {
    next: BTreeMap<i32, i64>,
    movements: BTreeMap<TenantId, End>,
    audit: BTreeMap<TenantId, End>,
    levels: BTreeMap<LevelKey, Sums>,
    accepted: BTreeSet<(TenantId, String)>,
    to_publish: BTreeSet<(&'static str, Vec<u8>, Vec<u8>)>,
    published: BTreeSet<(&'static str, Vec<u8>, Vec<u8>)>,
    /// For each topic and tenant, the last sequence that appeared for the first time.
    appeared: BTreeMap<(&'static str, TenantId), i64>,
    /// Verdicts as clients saw them.
    answers: BTreeMap<(TenantId, String), String>,
}

fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// Reads a record whose schema is ours: nothing is waited for.
fn read<T, S>(codec: &Codec<T, S>, payload: &[u8]) -> Result<T, String>
where
    T: serde::Serialize + DeserializeOwned + Bounded,
    S: SchemaSource,
{
    match codec.decode(payload).now_or_never() {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("its schema is not known".to_owned()),
    }
}

impl Model {
    /// A batch was committed.
    pub(crate) fn committed(
        &mut self,
        claim: Claim,
        next_offset: i64,
        batch: &Batch,
        tables: &Tables,
    ) -> Result<(), String> {
        let next = self.next.entry(claim.partition).or_default();
        must(*next == claim.reached.next_offset, || {
            format!(
                "partition {} was applied up to {next}, and now from {} to {next_offset}: commands are applied twice or left out",
                claim.partition, claim.reached.next_offset
            )
        })?;
        *next = next_offset;
        self.follow_movements(batch)?;
        self.follow_audit(batch)?;
        for (key, level) in &batch.levels {
            let sums = self.levels.get(key).copied().unwrap_or_default();
            let stored = tables.levels.get(key).copied();
            must(stored == Some(*level), || "a level is not what the batch says".to_owned())?;
            let same = (level.on_hand.micros(), level.reserved.micros(), level.version)
                == (sums.on_hand, sums.reserved, sums.movements);
            must(same, || format!("level {key:?} says {level:?}, its movements come to {sums:?}"))?;
        }
        for row in &batch.outcomes {
            let Some(key) = &row.idempotency_key else { continue };
            if matches!(row.outcome.verdict.as_ref(), Verdict::Accepted { .. }) {
                must(self.accepted.insert((row.outcome.tenant, key.clone())), || {
                    format!("Idempotency-Key {key} is accepted twice")
                })?;
            }
        }
        for record in &batch.outbox {
            self.to_publish.insert((record.topic, record.key.clone(), record.payload.clone()));
        }
        Ok(())
    }

    /// A person has let a partition go on at an offset.
    pub(crate) fn cleared(&mut self, partition: i32, next_offset: i64) {
        self.next.insert(partition, next_offset);
    }

    fn follow_movements(&mut self, batch: &Batch) -> Result<(), String> {
        for movement in &batch.movements {
            let tenant = movement.tenant;
            let end = self
                .movements
                .entry(tenant)
                .or_insert_with(|| End { sequence: 0, hash: genesis(MOVEMENT_CHAIN, tenant) });
            must(movement.sequence == end.sequence + 1, || {
                format!("movement {} of tenant {tenant} follows movement {}", movement.sequence, end.sequence)
            })?;
            must(movement.hash == movement.chain(&end.hash), || {
                format!("movement {} of tenant {tenant} is not chained to the one before", movement.sequence)
            })?;
            *end = End { sequence: movement.sequence, hash: movement.hash };
            let key = LevelKey { tenant, item: movement.item, location: movement.location };
            let sums = self.levels.entry(key).or_default();
            sums.on_hand += movement.on_hand_change.micros();
            sums.reserved += movement.reserved_change.micros();
            sums.movements += 1;
            let after = (movement.on_hand_after.micros(), movement.reserved_after.micros(), movement.level_version);
            must(after == (sums.on_hand, sums.reserved, sums.movements), || {
                format!("movement {} of tenant {tenant} says {after:?} after it; it is {sums:?}", movement.sequence)
            })?;
            must(sums.reserved >= 0 && sums.reserved <= sums.on_hand, || {
                format!("OVERSOLD: {sums:?} after movement {} of tenant {tenant}", movement.sequence)
            })?;
        }
        Ok(())
    }

    fn follow_audit(&mut self, batch: &Batch) -> Result<(), String> {
        for record in &batch.audit {
            let tenant = record.tenant;
            let end =
                self.audit.entry(tenant).or_insert_with(|| End { sequence: 0, hash: genesis(AUDIT_CHAIN, tenant) });
            must(record.sequence == end.sequence + 1 && record.hash == record.chain(&end.hash), || {
                format!("audit record {} of tenant {tenant} does not follow {}", record.sequence, end.sequence)
            })?;
            *end = End { sequence: record.sequence, hash: record.hash };
        }
        Ok(())
    }

    /// A record was put on the log.
    pub(crate) fn appended(&mut self, record: &Outgoing<'_>, schemas: &Schemas) -> Result<(), String> {
        if record.topic == COMMANDS.name {
            return Ok(());
        }
        let topics = [&OUTCOMES, &EVENTS, &MOVEMENTS, &LEVELS];
        let topic = topics.into_iter().find(|topic| topic.name == record.topic);
        let topic = topic.ok_or_else(|| format!("a record is put on {}", record.topic))?.name;
        let key = record.key.to_vec();
        let entry = (topic, key, record.payload.to_vec());
        must(self.to_publish.contains(&entry), || {
            format!(
                "a record of {topic} (key {}) is published that is not committed",
                String::from_utf8_lossy(&entry.1)
            )
        })?;
        let (tenant, sequence) = if topic == EVENTS.name {
            let event = read(&schemas.events, record.payload)?;
            (event.tenant_id, event.sequence)
        } else if topic == MOVEMENTS.name {
            let movement = read(&schemas.movements, record.payload)?;
            (movement.tenant_id, movement.sequence)
        } else {
            self.published.insert(entry);
            return Ok(());
        };
        let appeared = self.appeared.entry((topic, tenant)).or_default();
        must(sequence <= *appeared + 1, || {
            format!("number {sequence} of tenant {tenant} appears on {topic} before number {}", *appeared + 1)
        })?;
        *appeared = sequence.max(*appeared);
        self.published.insert(entry);
        Ok(())
    }

    /// A client has its answer.
    pub(crate) fn answered(
        &mut self,
        tenant: TenantId,
        key: &str,
        fingerprint: &str,
        verdict: &Verdict,
        tables: &Tables,
    ) -> Result<(), String> {
        let full = IdempotencyKey { tenant, key: key.to_owned() };
        let kept = tables.keys.get(&full).ok_or_else(|| format!("the answer under key {key} is not kept"))?;
        if kept.fingerprint != fingerprint {
            let refused = matches!(verdict, Verdict::Rejected(refusal) if refusal.code == "IDEMPOTENCY_KEY_MISMATCH");
            return must(refused, || format!("another body under key {key} is answered with {verdict:?}"));
        }
        let told = format!("{verdict:?}");
        must(told == format!("{:?}", kept.verdict), || {
            format!("the answer under key {key} is not the one that is kept")
        })?;
        let first = self.answers.entry((tenant, key.to_owned())).or_insert_with(|| told.clone());
        must(*first == told, || format!("key {key} is answered in two ways: {first} and {told}"))
    }

    /// Everything has come to rest: nothing is missing.
    pub(crate) fn at_rest(&self, tables: &Tables) -> Result<(), String> {
        if let Some((topic, key, _)) = self.to_publish.difference(&self.published).next() {
            return Err(format!(
                "a committed record of {topic} (key {}) was never published",
                String::from_utf8_lossy(key)
            ));
        }
        for (tenant, head) in &tables.heads {
            let end = self.movements.get(tenant).map_or(0, |end| end.sequence);
            must(head.movement_sequence == end, || format!("the head of tenant {tenant} is not at its last movement"))?;
            for (topic, sequence) in [(EVENTS.name, head.event_sequence), (MOVEMENTS.name, head.movement_sequence)] {
                let appeared = self.appeared.get(&(topic, *tenant)).copied().unwrap_or(0);
                must(appeared == sequence, || {
                    format!("{topic} has {appeared} of the {sequence} records of tenant {tenant}")
                })?;
            }
        }
        let mut held: BTreeMap<LevelKey, i64> = BTreeMap::new();
        for (key, (entity, _)) in &tables.documents {
            for (item, location, quantity) in entity.holds() {
                *held.entry(LevelKey { tenant: key.tenant, item, location }).or_default() += quantity.micros();
            }
        }
        for (key, level) in &tables.levels {
            let held = held.get(key).copied().unwrap_or(0);
            must(level.reserved.micros() == held, || {
                format!("{key:?} reserves {}, documents hold {held}", level.reserved)
            })?;
        }
        Ok(())
    }
}

/// The first offset of a partition's log whose command is not decided, or the log's end.
pub(crate) fn first_undecided(records: &[Record], tables: &Tables, schemas: &Schemas) -> Result<i64, String> {
    for record in records {
        let command: Command = read(&schemas.commands, &record.payload)?;
        if !tables.is_decided(command.tenant_id, command.command_id) {
            return Ok(record.offset);
        }
    }
    Ok(records.last().map_or(0, |last| last.offset + 1))
}

/// No command of a log is skipped: each is decided.
pub(crate) fn nothing_is_skipped(records: &[Record], tables: &Tables, schemas: &Schemas) -> Result<(), String> {
    let end = records.last().map_or(0, |last| last.offset + 1);
    let undecided = first_undecided(records, tables, schemas)?;
    must(undecided == end, || {
        format!("the command at offset {undecided} was skipped: the log ends at {end}, and nothing halts")
    })
}

/// The log decided once more, in one go by the rules alone, must come to the same heads: same movements, same account.
pub(crate) fn same_when_decided_again(records: &[Record], tables: &Tables, schemas: &Schemas) -> Result<(), String> {
    let mut state = State::default();
    for record in records {
        let command: Command = read(&schemas.commands, &record.payload)?;
        let at = Recorded {
            position: Position { partition: record.partition, offset: record.offset },
            at: record.timestamp,
        };
        let decision = loop {
            match decide(&state, &command, at) {
                Ok(decision) => break decision,
                // From the beginning there is nothing but what the log itself has made.
                Err(need) => nothing(&mut state, need),
            }
        };
        state.evolve(&decision.effects);
        if decision.first {
            let key = IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() };
            let prior = PriorOutcome {
                command_id: command.command_id,
                fingerprint: command.fingerprint.clone(),
                position: decision.outcome.position,
                recorded_at: decision.outcome.recorded_at,
                verdict: decision.outcome.verdict,
            };
            state.remember(key, prior);
        }
    }
    for (tenant, head) in &tables.heads {
        if let Ok(again) = state.head(*tenant) {
            must(again == head, || format!("decided again, the log of tenant {tenant} comes to another ledger"))?;
        }
    }
    Ok(())
}

fn nothing(state: &mut State, need: Need) {
    match need {
        Need::Entity(key) => state.load_entity(key, None),
        Need::Code(key) => state.load_code(key, None),
        Need::Level(key) => state.load_level(key, StockLevel::default()),
        Need::Outcome(key) => state.load_outcome(key, None),
        Need::Head(tenant) => state.load_head(tenant, LedgerHead::genesis(tenant)),
    }
}
