//! What a tenant's events lead to beyond its share of the partition's turn: queued afterwards, a step at a time, next to the
//! fan-out and not in it. A tenant that has a backlog has all its events kept and none queued by the fan-out, so that their order
//! stays.

use super::fanout::{delivery, is_for};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Mutex;
use twh_domain::id::TenantId;
use twh_sinks::postgres::positions::Hold;
use twh_sinks::postgres::webhooks::backlogs::{self, Backlog};
use twh_sinks::postgres::webhooks::deliveries::NewDelivery;
use twh_sinks::postgres::webhooks::{events, subscriptions};
use twh_sinks::postgres::{PgPool, sqlx};
use uuid::Uuid;

/// Deliveries queued in a step.
const STEP: usize = 1_000;
/// Events looked at in a step.
const EVENTS: i64 = 100;
/// Deliveries of a tenant that may wait to be sent before its backlog waits, too, and it gets no notices: to subscribers that are
/// sent to. Those in quarantine hold nothing up.
pub(super) const WAITING_MAX: i64 = 20_000;

/// The tenants of a partition that have a backlog. The fan-out holds it while it decides and writes: nothing is kept for a
/// backlog that is about to end.
pub(super) type Behind = Arc<Mutex<HashSet<TenantId>>>;

/// What a step came to.
#[derive(Debug)]
pub(super) enum Step {
    /// It queued these, or passed events over.
    Made(Vec<NewDelivery>),
    /// Enough waits already.
    Full,
    /// All is queued.
    Over,
}

/// Makes the next step of a tenant's backlog.
pub(super) async fn next(pool: &PgPool, hold: &Hold, behind: &Behind, tenant: TenantId) -> Result<Step, sqlx::Error> {
    if let Some(step) = step(pool, tenant).await? {
        return Ok(step);
    }
    // Nothing is left, unless the fan-out has just kept something: it waits for this.
    let mut behind = behind.lock().await;
    if let Some(step) = step(pool, tenant).await? {
        return Ok(step);
    }
    // Where somebody else has the partition by now, the backlog is theirs.
    backlogs::end(pool, hold, tenant).await?;
    behind.remove(&tenant);
    Ok(Step::Over)
}

/// `None` where no event is left.
async fn step(pool: &PgPool, tenant: TenantId) -> Result<Option<Step>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let Some(mut backlog) = backlogs::for_step(&mut tx, tenant).await? else { return Ok(None) };
    if backlogs::waiting(&mut tx, tenant, WAITING_MAX).await? >= WAITING_MAX {
        return Ok(Some(Step::Full));
    }
    let found = events::in_order(&mut tx, tenant, backlog.at_sequence, i64::MAX, EVENTS).await?;
    if found.is_empty() {
        return Ok(None);
    }
    let told = subscriptions::told(&mut tx, tenant).await?;
    let mut queued = Vec::new();
    for event in found.into_iter().map(Arc::new) {
        let after = backlog.at_subscription;
        let wanted = told.iter().filter(|one| is_for(one, &event) && Some(one.id) > after);
        queue(&mut backlog, event.sequence, wanted.map(|one| one.id), &mut queued, |id| delivery(&event, id));
        if queued.len() >= STEP {
            break;
        }
    }
    backlogs::step(&mut tx, &backlog, &queued).await?;
    tx.commit().await?;
    Ok(Some(Step::Made(queued)))
}

/// Queues an event for subscriptions in their order, as far as the step goes.
fn queue(
    backlog: &mut Backlog,
    sequence: Option<i64>,
    mut subscriptions: impl Iterator<Item = Uuid>,
    queued: &mut Vec<NewDelivery>,
    delivery: impl Fn(Uuid) -> NewDelivery,
) {
    while queued.len() < STEP {
        let Some(id) = subscriptions.next() else {
            backlog.at_sequence = sequence.unwrap_or(backlog.at_sequence);
            backlog.at_subscription = None;
            return;
        };
        queued.push(delivery(id));
        backlog.at_subscription = Some(id);
    }
}
