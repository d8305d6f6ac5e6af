//! Replays, a step at a time: each queues some deliveries and says how far it is, in one transaction. A crash goes on from the
//! last step; a replay that is cancelled makes no further one.

use super::now;
use std::sync::Arc;
use twh_domain::webhook::EventFilter;
use twh_sinks::postgres::webhooks::deliveries::{NewDelivery, replayed};
use twh_sinks::postgres::webhooks::events;
use twh_sinks::postgres::webhooks::replays::{Replay, Selection, dead_letters, running_for_step, step, waiting};
use twh_sinks::postgres::{PgPool, sqlx};
use uuid::Uuid;

/// Events looked at in a step.
const STEP: i64 = 500;
/// Deliveries of a replay that may wait at once: a replay of a year leaves room for what happens today.
const WAITING_MAX: i64 = 1_000;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It queued something, or passed something over.
    Made,
    /// Enough waits already.
    Full,
    /// There is nothing more to do, or it was cancelled.
    Over,
}

/// Makes the next step of a replay.
pub(super) async fn next(pool: &PgPool, id: Uuid, filter: &EventFilter) -> Result<Step, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let Some(mut replay) = running_for_step(&mut tx, id).await? else { return Ok(Step::Over) };
    if waiting(&mut tx, id, WAITING_MAX).await? >= WAITING_MAX {
        return Ok(Step::Full);
    }
    let (queued, looked_at) = match replay.selection {
        Selection::Events { last, .. } => some_events(&mut tx, &mut replay, last, filter).await?,
        Selection::DeadLetters { last } => some_dead_letters(&mut tx, &mut replay, last).await?,
    };
    let over = i64::try_from(looked_at).is_ok_and(|count| count < STEP);
    step(&mut tx, &replay, &queued, over.then(now)).await?;
    tx.commit().await?;
    Ok(if over { Step::Over } else { Step::Made })
}

fn delivery(replay: &Replay, event: &Arc<events::Event>) -> NewDelivery {
    NewDelivery {
        id: Uuid::now_v7(),
        subscription: replay.subscription,
        event: Arc::clone(event),
        replay: Some(replay.id),
        at: now(),
    }
}

async fn some_events(
    tx: &mut sqlx::PgConnection,
    replay: &mut Replay,
    last: i64,
    filter: &EventFilter,
) -> Result<(Vec<NewDelivery>, usize), sqlx::Error> {
    let found = events::in_order(tx, replay.tenant, replay.at_sequence, last, STEP).await?;
    replay.at_sequence = found.last().and_then(|event| event.sequence).unwrap_or(last);
    let looked_at = found.len();
    let wanted = found.into_iter().filter(|event| filter.wants(&event.event_type, &event.items, &event.locations));
    Ok((wanted.map(|event| delivery(replay, &Arc::new(event))).collect(), looked_at))
}

async fn some_dead_letters(
    tx: &mut sqlx::PgConnection,
    replay: &mut Replay,
    last: Uuid,
) -> Result<(Vec<NewDelivery>, usize), sqlx::Error> {
    let found = dead_letters(tx, replay.subscription, replay.at_delivery, last, STEP).await?;
    let ids: Vec<Uuid> = found.iter().map(|letter| letter.delivery).collect();
    replayed(tx, replay.subscription, &ids).await?;
    replay.at_delivery = ids.last().copied().or(Some(last));
    Ok((found.iter().map(|letter| delivery(replay, &letter.event)).collect(), found.len()))
}
