//! A subscription changes its state by itself: into quarantine, out of it, or off. The account of changes says so, and so does
//! an event, to the tenant's other subscriptions.

use super::now;
use crate::runtime::Backoff;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use twh_domain::actor::Actor;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::webhooks::deliveries::{self, NewDelivery};
use twh_sinks::postgres::webhooks::subscriptions::{self, State, Subscription};
use twh_sinks::postgres::webhooks::{events, touch};
use twh_sinks::postgres::{PgPool, sqlx};
use twh_sinks::webhook::body::about_subscription;
use uuid::Uuid;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Makes a change, trying again while the database is away; who is told to stop leaves it, and the next owner finds out anew.
/// Those of a process take turns: when many subscribers die at once, what is sent to the others still finds a connection.
pub(super) async fn make(pool: PgPool, turns: Arc<Mutex<()>>, subscription: Subscription, to: State, reason: String) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    while let Err(error) = in_turn(&pool, &turns, &subscription, to, &reason).await {
        tracing::warn!(%error, subscription_id = %subscription.id, to = to.name(), "the state of a subscription cannot be changed; trying again");
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn in_turn(
    pool: &PgPool,
    turns: &Mutex<()>,
    from: &Subscription,
    to: State,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let _turn = turns.lock().await;
    attempt(pool, from, to, reason).await
}

async fn attempt(pool: &PgPool, from: &Subscription, to: State, reason: &str) -> Result<(), sqlx::Error> {
    let at = now();
    let mut tx = ControlChange::begin(pool, &[from.tenant]).await?;
    let Some(changed) = subscriptions::change_state(&mut tx, from, to, reason, at).await? else {
        // Somebody else has changed it meanwhile.
        return Ok(());
    };
    let event_type = match to {
        State::Quarantined => "webhook.quarantined",
        State::Active => "webhook.recovered",
        State::Disabled | State::Deleted => "webhook.disabled",
    };
    let deed = Deed {
        tenant: from.tenant,
        actor: Actor { kind: "system".to_owned(), id: "webhooks".to_owned(), ip: None, user_agent: None },
        request_id: String::new(),
        at,
    };
    let change = Change {
        action: event_type,
        entity_kind: "webhook_subscription",
        entity: from.id,
        old: Some(json!({ "state": from.state.name() })),
        new: Some(json!({ "state": to.name(), "state_reason": reason })),
    };
    tx.record(&deed, change).await?;
    let event = about_subscription(event_type, &changed, Uuid::now_v7(), at);
    let event = Arc::new(event.map_err(|error| sqlx::Error::Encode(error.into()))?);
    events::insert(&mut tx, &event).await?;
    // Those that fail too are not told: many that fail together would each queue a notice for all the others.
    let others = subscriptions::active(&mut tx, from.tenant).await?;
    let told = others.iter().filter(|other| other.id != from.id && other.filter.wants(event_type, &[], &[]));
    let queued: Vec<_> = told
        .map(|other| NewDelivery {
            id: Uuid::now_v7(),
            subscription: other.id,
            event: Arc::clone(&event),
            replay: None,
            at,
        })
        .collect();
    deliveries::insert(&mut tx, &queued).await?;
    touch(&mut tx, from.tenant).await?;
    tx.commit().await?;
    tracing::warn!(tenant_id = %from.tenant, subscription_id = %from.id, url = from.url, from = from.state.name(), to = to.name(), reason, "a webhook subscription changed its state");
    Ok(())
}
