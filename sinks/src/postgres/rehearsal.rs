//! What commands would come to on the ledger as it is now. Nothing is written.

use super::ledger::{LedgerError, load_on};
use super::outcomes;
use sqlx::{Connection as _, PgConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use twh_domain::commands::Command;
use twh_domain::entity::LevelKey;
use twh_domain::level::StockLevel;
use twh_domain::outcome::{Outcome, Position, Verdict};
use twh_domain::state::{IdempotencyKey, PriorOutcome, State};
use twh_domain::timestamp::Timestamp;
use twh_domain::{Decision, Needs, Recorded, decide, prefetch};

/// A level before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// As it is.
    pub before: StockLevel,
    /// As it would be.
    pub after: StockLevel,
}

/// What commands would come to.
#[derive(Debug, Clone, Default)]
pub struct Rehearsed {
    /// What each of them would be answered.
    pub outcomes: Vec<Outcome>,
    /// The levels that they would move.
    pub changes: BTreeMap<LevelKey, Change>,
}

/// Decides commands one after another, each on what the ones before it left, as if the log had them at `at`.
pub async fn rehearse(
    connection: &mut PgConnection,
    commands: &[Command],
    at: Timestamp,
) -> Result<Rehearsed, LedgerError> {
    // One snapshot, so that the ledger may move on meanwhile.
    let mut tx = connection.begin_with(crate::postgres::SNAPSHOT).await?;
    let mut state = State::default();
    loop {
        let mut needs = Needs::default();
        commands.iter().for_each(|command| prefetch(&state, command, &mut needs));
        needs.load.append(&mut needs.new_names);
        if needs.load.is_empty() {
            break;
        }
        load_on(&mut tx, &mut state, needs.load).await?;
    }
    let mut rehearsed = Rehearsed::default();
    for command in commands {
        let decision = decide_on(&mut tx, &mut state, command, at).await?;
        for movement in &decision.effects.movements {
            let key = LevelKey { tenant: movement.tenant, item: movement.item, location: movement.location };
            let before = state.level(&key).unwrap_or_default();
            let change = rehearsed.changes.entry(key).or_insert(Change { before, after: before });
            change.after.evolve(movement);
        }
        state.evolve(&decision.effects);
        if decision.first {
            remember(&mut state, command, &decision.outcome);
        }
        rehearsed.outcomes.push(with_documents(&mut tx, decision.outcome).await?);
    }
    tx.rollback().await?;
    Ok(rehearsed)
}

async fn decide_on(
    connection: &mut PgConnection,
    state: &mut State,
    command: &Command,
    at: Timestamp,
) -> Result<Decision, LedgerError> {
    let recorded = Recorded { position: Position { partition: 0, offset: 0 }, at };
    loop {
        match decide(state, command, recorded) {
            Ok(decision) => return Ok(decision),
            Err(need) => load_on(connection, state, BTreeSet::from([need])).await?,
        }
    }
}

/// A repeat's outcome with the documents that the command before it was answered with, if they are not too long.
async fn with_documents(connection: &mut PgConnection, outcome: Outcome) -> Result<Outcome, LedgerError> {
    let Some(audit_sequences) = outcome.verdict.left_out() else { return Ok(outcome) };
    let documents = outcomes::documents(connection, outcome.tenant, audit_sequences).await?;
    let verdict = Verdict::Accepted { resources: documents.unwrap_or_default(), audit_sequences };
    Ok(Outcome { verdict: Arc::new(verdict), ..outcome })
}

fn remember(state: &mut State, command: &Command, outcome: &Outcome) {
    let key = IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() };
    let prior = PriorOutcome {
        command_id: command.command_id,
        fingerprint: command.fingerprint.clone(),
        position: outcome.position,
        recorded_at: outcome.recorded_at,
        verdict: Arc::clone(&outcome.verdict),
    };
    state.remember(key, prior);
}
