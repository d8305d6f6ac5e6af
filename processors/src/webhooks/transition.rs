//! A subscription changes its state by itself: into quarantine, out of it, or off. The account of changes says so, and so does
//! an event, to the tenant's other subscriptions.

use super::turns::{Turn, Turns};
use super::{notices, now};
use crate::runtime::Backoff;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use twh_domain::actor::Actor;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::webhooks::subscriptions::{self, State, Subscription};
use twh_sinks::postgres::webhooks::{events, touch};
use twh_sinks::postgres::{PgPool, sqlx};
use twh_sinks::webhook::body::about_subscription;
use uuid::Uuid;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Makes a change, trying again while the database is away; who is told to stop leaves it, and the next owner finds out anew.
/// Those of a tenant take turns: what one left of the tenant's room is known to the next.
pub(super) async fn make(pool: PgPool, turns: Arc<Turns>, subscription: Subscription, to: State, reason: String) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    while let Err(error) = in_turn(&pool, &turns, &subscription, to, &reason).await {
        tracing::warn!(%error, subscription_id = %subscription.id, to = to.name(), "the state of a subscription cannot be changed; trying again");
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn in_turn(
    pool: &PgPool,
    turns: &Turns,
    from: &Subscription,
    to: State,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let mut turn = turns.of(from.tenant).await;
    attempt(pool, &mut turn, from, to, reason).await
}

async fn attempt(
    pool: &PgPool,
    turn: &mut Turn,
    from: &Subscription,
    to: State,
    reason: &str,
) -> Result<(), sqlx::Error> {
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
    // Kept whoever is told.
    events::insert(&mut tx, &event).await?;
    let told = notices::queue(&mut tx, &changed, &event, &turn.allowance, at).await?;
    touch(&mut tx, from.tenant).await?;
    tx.commit().await?;
    told.count(&mut turn.allowance);
    tracing::warn!(tenant_id = %from.tenant, subscription_id = %from.id, url = from.url, from = from.state.name(), to = to.name(), reason, notices = told.queued, left_out = told.left_out, "a webhook subscription changed its state");
    Ok(())
}
