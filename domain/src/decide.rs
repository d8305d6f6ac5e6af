//! The rules: one command on the state, in order. Same state and command, same decision, always.

use crate::commands::{Command, Operation};
use crate::draft::{Draft, Step, Stop};
use crate::outcome::{Outcome, Recorded, Refusal, Verdict};
use crate::rejection::Rejection;
use crate::state::{Effects, IdempotencyKey, Need, PriorOutcome, State};
use crate::validate::shorten;
use std::sync::Arc;

/// How long an Idempotency-Key is remembered: 30 days, in microseconds.
pub const IDEMPOTENCY_RETENTION_MICROS: i64 = 30 * 24 * 60 * 60 * 1_000_000;

/// What a command comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What its client is told.
    pub outcome: Outcome,
    /// What it changes; nothing when it is refused or repeats an earlier one.
    pub effects: Effects,
    /// True when this is the first answer under its Idempotency-Key, to be kept.
    pub first: bool,
}

/// Decides a command.
///
/// # Errors
/// [`Need`] when something has to be loaded before the command can be decided; nothing has happened then.
pub fn decide(state: &State, command: &Command, recorded: Recorded) -> Result<Decision, Need> {
    let key = IdempotencyKey { tenant: command.tenant_id, key: command.idempotency_key.clone() };
    let head = state.head(command.tenant_id)?;
    let recorded = Recorded { at: head.recorded_at.max(recorded.at), ..recorded };
    if let Some(prior) = state.outcome(&key)?
        && recorded.at.micros() - prior.recorded_at.micros() < IDEMPOTENCY_RETENTION_MICROS
    {
        return Ok(repeat(command, prior, recorded));
    }
    let (verdict, effects) = match judge(state, command, recorded) {
        Ok(accepted) => accepted,
        Err(Stop::Need(need)) => return Err(need),
        Err(Stop::Reject(rejection)) => (Verdict::Rejected(Refusal::from(&rejection)), Effects::default()),
    };
    let outcome = Outcome {
        command_id: command.command_id,
        tenant: command.tenant_id,
        replay_of: None,
        position: recorded.position,
        recorded_at: recorded.at,
        verdict: Arc::new(verdict),
    };
    Ok(Decision { outcome, effects, first: true })
}

/// The key was used before: the same answer to the same request, a refusal to another.
fn repeat(command: &Command, prior: &PriorOutcome, recorded: Recorded) -> Decision {
    let same = prior.fingerprint == command.fingerprint;
    let verdict = if same {
        Arc::clone(&prior.verdict)
    } else {
        Arc::new(Verdict::Rejected(Refusal::from(&Rejection::IdempotencyMismatch)))
    };
    let outcome = Outcome {
        command_id: command.command_id,
        tenant: command.tenant_id,
        replay_of: same.then_some(prior.command_id),
        position: if same { prior.position } else { recorded.position },
        recorded_at: if same { prior.recorded_at } else { recorded.at },
        verdict,
    };
    Decision { outcome, effects: Effects::default(), first: false }
}

fn judge(state: &State, command: &Command, recorded: Recorded) -> Result<(Verdict, Effects), Stop> {
    let mut draft = Draft::new(state, command.envelope(), recorded)?;
    let batch = command.operations.len() > 1;
    for (index, operation) in command.operations.iter().enumerate() {
        match operate(&mut draft, operation) {
            Ok(()) => {}
            Err(Stop::Reject(rejection)) if batch => {
                return Err(Rejection::InBatch { index, rejection: Box::new(rejection) }.into());
            }
            Err(stop) => return Err(stop),
        }
    }
    Ok(draft.finish())
}

fn operate(draft: &mut Draft<'_>, operation: &Operation) -> Result<(), Stop> {
    // The edge has checked the shape; a command put on the topic by hand is checked here.
    let mut problems = operation.payload.problems();
    if !problems.is_empty() {
        if draft.is_bounded() {
            shorten(&mut problems);
        }
        return Err(Rejection::Invalid(problems).into());
    }
    draft.begin(Step {
        subject: operation.subject,
        expected_version: operation.expected_version,
        action: operation.payload.kind().name,
        occurred_at: operation.payload.occurred_at(),
    });
    operation.payload.decide(draft)?;
    Ok(draft.end()?)
}
