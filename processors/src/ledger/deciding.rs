//! How a batch is decided: what it touches is loaded, its commands are decided one after another, and what they come to is collected.

use super::records::Records;
use super::{
    DECIDED, Decided, LARGE_DOCUMENTS, LOAD_ROUNDS_MAX, MOVEMENT_BYTES, OUTPUT_BYTES_MAX, Writer, YOUNG_BYTES_MAX,
    YOUNG_MAX,
};
use crate::runtime::{Decoded, Record};
use crate::seams::{Log, Store};
use std::collections::BTreeSet;
use std::sync::Arc;
use twh_domain::commands::Command;
use twh_domain::entity::LevelKey;
use twh_domain::outcome::{Position, Verdict};
use twh_domain::state::{IdempotencyKey, Need, PriorOutcome};
use twh_domain::{Decision, Needs, Recorded, decide, prefetch};
use twh_schemas::headers;
use twh_sinks::postgres::ledger::{Batch, LedgerError, OutcomeRow, Written};

impl<S: Store, L: Log> Writer<S, L> {
    /// Decides a batch on the state that the ones before it leave, as far as its bound on what is written reaches.
    pub(super) async fn decide_batch(
        &mut self,
        batch: &[Decoded<Command>],
        next_offset: i64,
    ) -> Result<Decided, LedgerError> {
        let fresh: Vec<_> =
            batch.iter().filter(|decoded| decoded.record.offset >= self.claim.reached.next_offset).collect();
        let new_names = self.preload(&fresh).await?;
        let loaded_before = self.state.young_bytes();
        let mut output = 0;
        let mut count = batch.len() - fresh.len();
        let mut through = next_offset - 1;
        let schemas = Arc::clone(&self.shared.schemas);
        let mut writes = Batch::default();
        let mut records = Records::new(&schemas);
        let mut awaited = Vec::new();
        for decoded in fresh {
            let decision = self.decide(decoded).await?;
            count += 1;
            output += weight(&decision);
            let here = self.is_awaited_here(&decoded.record);
            if here {
                awaited.push(decision.outcome.clone());
            }
            if self.publisher.is_some() {
                records.add(decoded, &decision, !here)?;
            }
            tell(&decoded.item, &decision);
            self.add(decoded, decision, &mut writes);
            if output.max(self.state.young_bytes().saturating_sub(loaded_before)) > OUTPUT_BYTES_MAX {
                if count < batch.len() {
                    through = decoded.record.offset;
                }
                break;
            }
        }
        self.confirm(new_names).await?;
        self.state.end_batch(YOUNG_MAX, YOUNG_BYTES_MAX);
        if self.publisher.is_some() {
            writes.outbox = records.finish(&writes.levels, through, self.claim.partition)?;
        }
        Ok(Decided { writes, awaited, count })
    }

    fn is_awaited_here(&self, record: &Record) -> bool {
        self.shared.awaited.as_ref().is_some_and(|ours| record.header(headers::REPLY_PROCESS) == Some(&ours.process))
    }

    /// Loads what the batch touches, in as few queries as its references are deep. What is new by all appearances is taken
    /// for absent and returned, to be confirmed.
    async fn preload(&mut self, batch: &[&Decoded<Command>]) -> Result<BTreeSet<Need>, LedgerError> {
        let mut new_names = BTreeSet::new();
        for _ in 0..LOAD_ROUNDS_MAX {
            let mut needs = Needs::default();
            for decoded in batch {
                prefetch(&self.state, &decoded.item, &mut needs);
            }
            if self.careful > 0 {
                needs.load.append(&mut needs.new_names);
            }
            // Only documents and codes name further things.
            let names_more = needs.load.iter().any(|need| matches!(need, Need::Entity(_) | Need::Code(_)));
            let all = self.load_within_bounds(needs.load).await?;
            // What another command asks for by name is loaded by now, and stays as it is.
            for need in needs.new_names.into_iter().filter(|need| !self.state.has(need)).collect::<Vec<_>>() {
                self.state.load_absent(need.clone());
                new_names.insert(need);
            }
            if !names_more || !all {
                break;
            }
        }
        Ok(new_names)
    }

    /// Loads what is needed, large documents a few at a time, until the bound on what they weigh; says whether that is all. What is
    /// left out is loaded when it is asked for.
    async fn load_within_bounds(&mut self, needs: BTreeSet<Need>) -> Result<bool, LedgerError> {
        let is_large = |need: &Need| matches!(need, Need::Entity(key) if key.kind.has_lines());
        let (large, small): (Vec<_>, Vec<_>) = needs.into_iter().partition(is_large);
        if !small.is_empty() {
            self.shared.store.load(&mut self.state, small.into_iter().collect()).await?;
        }
        let before = self.state.young_bytes();
        for some in large.chunks(LARGE_DOCUMENTS) {
            if self.state.young_bytes().saturating_sub(before) > OUTPUT_BYTES_MAX {
                return Ok(false);
            }
            self.shared.store.load(&mut self.state, some.iter().cloned().collect()).await?;
        }
        Ok(true)
    }

    /// What was taken for absent and became a document is confirmed by the database, whose keys are unique. The rest, of
    /// commands that were refused, is confirmed here.
    async fn confirm(&mut self, new_names: BTreeSet<Need>) -> Result<(), LedgerError> {
        let open: BTreeSet<_> = new_names.into_iter().filter(|need| self.state.is_absent(need)).collect();
        if open.is_empty() {
            return Ok(());
        }
        open.iter().for_each(|need| self.state.forget(need));
        self.shared.store.load(&mut self.state, open.clone()).await?;
        match open.iter().find(|need| !self.state.is_absent(need)) {
            None => Ok(()),
            Some(need) => Err(LedgerError::Taken(format!("{need:?}"))),
        }
    }

    async fn decide(&mut self, decoded: &Decoded<Command>) -> Result<Decision, LedgerError> {
        let record = &decoded.record;
        let recorded = Recorded {
            position: Position { partition: record.partition, offset: record.offset },
            at: record.timestamp,
        };
        loop {
            match decide(&self.state, &decoded.item, recorded) {
                Ok(decision) => return Ok(decision),
                // What preloading missed; each round loads something new, so this ends.
                Err(need) => self.shared.store.load(&mut self.state, BTreeSet::from([need])).await?,
            }
        }
    }

    /// Moves on by a decision: the state, and what the batch writes.
    fn add(&mut self, decoded: &Decoded<Command>, decision: Decision, writes: &mut Batch) {
        let Decision { outcome, effects, first } = decision;
        let command = &decoded.item;
        let key = IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() };
        for movement in &effects.movements {
            let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
            let level = writes.levels.entry(key).or_insert_with(|| self.state.level(&key).unwrap_or_default());
            level.evolve(movement);
        }
        self.state.evolve(&effects);
        writes.movements.extend(effects.movements);
        writes.audit.extend(effects.audit);
        writes.barcodes.extend(effects.barcodes);
        writes.heads.extend(effects.head);
        for (key, entity, document) in effects.documents {
            let new = entity.version() == 1 || writes.documents.get(&key).is_some_and(|written| written.new);
            writes.documents.insert(key, Written { entity, document, new });
        }
        if first && matches!(self.state.outcome(&key), Ok(Some(_))) {
            writes.expired_keys.push(key.clone());
        }
        if first {
            let prior = PriorOutcome {
                command_id: command.command_id,
                fingerprint: command.fingerprint.clone(),
                position: outcome.position,
                recorded_at: outcome.recorded_at,
                verdict: Arc::clone(&outcome.verdict),
            };
            self.state.remember(key, prior);
        }
        writes.outcomes.push(OutcomeRow {
            idempotency_key: first.then(|| command.idempotency_key.clone()),
            fingerprint: command.fingerprint.clone(),
            outcome,
        });
    }
}

/// What a decision adds to what its batch writes and publishes, in bytes.
fn weight(decision: &Decision) -> usize {
    let Decision { outcome, effects, .. } = decision;
    let audit = effects.audit.iter().map(|record| record.document.len()).sum::<usize>();
    let events = effects.events.iter().map(|event| event.data.len()).sum::<usize>();
    let answered = match outcome.verdict.as_ref() {
        Verdict::Accepted { resources, .. } => resources.iter().map(|resource| resource.document.len()).sum(),
        Verdict::Rejected(refusal) => refusal.details.len(),
    };
    audit + events + answered + effects.movements.len() * MOVEMENT_BYTES
}

/// Counts a decision, and logs it.
fn tell(command: &Command, decision: &Decision) {
    let kind = match command.operations.as_slice() {
        [only] => only.payload.kind().name,
        _ => "atomic",
    };
    let outcome = match (decision.outcome.replay_of, decision.outcome.verdict.as_ref()) {
        (Some(_), _) => "replayed",
        (None, Verdict::Accepted { .. }) => "accepted",
        (None, Verdict::Rejected(_)) => "rejected",
    };
    DECIDED.with_label_values(&[kind, outcome]).inc();
    tracing::debug!(
        request_id = %command.request_id,
        tenant_id = %command.tenant_id,
        command_id = %command.command_id,
        position = %decision.outcome.position,
        kind,
        outcome,
        "decided"
    );
}
