//! What was sent and what waits; one that is sent again; a test.

use crate::shapes::{no_webhook, path_id, webhook_id};
use crate::{Webhooks, account};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{GetWebhookDelivery, ListWebhookDeliveries, ReplayWebhookDelivery, TestWebhook};
use twh_edge::answer::{Answer, Page};
use twh_edge::auth::Caller;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_sinks::postgres::accounts::audit::Deed;
use twh_sinks::postgres::webhooks::deliveries::{self as store, Delivery, Fate, NewDelivery};
use twh_sinks::postgres::webhooks::events::{self, Event};
use twh_sinks::postgres::webhooks::subscriptions;
use twh_sinks::webhook::body::about_subscription;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum DeliveryState {
    Pending,
    Delivered,
    DeadLettered,
    Replayed,
    Cancelled,
}

impl From<DeliveryState> for Fate {
    fn from(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Pending => Self::Pending,
            DeliveryState::Delivered => Self::Delivered,
            DeliveryState::DeadLettered => Self::DeadLettered,
            DeliveryState::Replayed => Self::Replayed,
            DeliveryState::Cancelled => Self::Cancelled,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveryQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only those that stand so.
    state: Option<DeliveryState>,
}

/// An event for a subscription, and every attempt at it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WebhookDelivery {
    id: Uuid,
    /// The event's id: the `webhook-id` of every attempt.
    event_id: Uuid,
    /// `null` where the event is kept no longer.
    event_type: Option<String>,
    /// The event's place among the tenant's events; `null` for those about webhooks themselves.
    sequence: Option<i64>,
    /// The replay that it is of.
    replay_id: Option<Uuid>,
    /// `pending`: to be sent, or to be sent again. `delivered`: the subscriber has it. `dead_lettered`: given up, to be replayed.
    /// `replayed`: given up, and queued anew since. `cancelled`: its replay was cancelled.
    #[schemars(extend("enum" = ["pending", "delivered", "dead_lettered", "replayed", "cancelled"]))]
    state: String,
    /// When it is tried next, where it is pending.
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    /// Oldest first.
    #[schemars(with = "Vec<WebhookAttempt>")]
    attempts: Box<RawValue>,
}

/// An attempt.
#[derive(Serialize, JsonSchema)]
struct WebhookAttempt {
    /// When it ended.
    at: Timestamp,
    /// How long it took.
    took_ms: u64,
    /// The HTTP status; `null` where no answer came.
    status: Option<u16>,
    /// Why no answer came.
    error: Option<String>,
    /// The answer's headers, 20 at most, each cut to 200 characters.
    headers: Option<BTreeMap<String, String>>,
    /// The answer's first 1,024 bytes.
    body: Option<String>,
}

fn shown(delivery: &Delivery) -> WebhookDelivery {
    let pending = delivery.state == Fate::Pending.name();
    WebhookDelivery {
        id: delivery.id,
        event_id: delivery.event,
        event_type: delivery.event_type.clone(),
        sequence: delivery.sequence,
        replay_id: delivery.replay,
        state: delivery.state.clone(),
        next_attempt_at: pending.then_some(delivery.next_attempt_at),
        created_at: delivery.created_at,
        finished_at: delivery.finished_at,
        attempts: RawValue::from_string(delivery.attempts.clone()).unwrap_or_else(|_| RawValue::NULL.to_owned()),
    }
}

/// The tenant has the subscription.
pub(crate) async fn exists(connection: &mut sqlx::PgConnection, tenant: TenantId, id: Uuid) -> Result<(), ApiError> {
    let found = subscriptions::find(connection, tenant, id).await.map_err(ApiError::database)?;
    found.map(|_| ()).ok_or_else(no_webhook)
}

pub(crate) async fn list(
    caller: Caller<ListWebhookDeliveries>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
    query: Query<DeliveryQuery>,
) -> Result<Answer<Page<WebhookDelivery>>, ApiError> {
    let id = webhook_id(&request)?;
    let asked = query.read()?;
    let limit = query::limit(asked.limit)?;
    let before = asked.cursor.as_deref().map(cursor::decode::<Uuid>).transpose()?;
    let mut connection = webhooks.of(caller.tenant_id).await?;
    exists(&mut connection, caller.tenant_id, id).await?;
    let state = asked.state.map(Fate::from);
    let found = store::list(&mut connection, caller.tenant_id, id, state, before, limit).await;
    let found = found.map_err(ApiError::database)?;
    Ok(Answer::of(&Page::of(&found, |one| cursor::encode(&one.id), shown)))
}

async fn find(
    connection: &mut sqlx::PgConnection,
    tenant: TenantId,
    request: &HttpRequest,
) -> Result<Delivery, ApiError> {
    let subscription = webhook_id(request)?;
    exists(connection, tenant, subscription).await?;
    let id = path_id(request, "delivery_id", "webhook delivery")?;
    let found = store::find(connection, tenant, subscription, id).await.map_err(ApiError::database)?;
    found.ok_or_else(|| ApiError::not_found("webhook delivery"))
}

pub(crate) async fn one(
    caller: Caller<GetWebhookDelivery>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Answer<WebhookDelivery>, ApiError> {
    let mut connection = webhooks.of(caller.tenant_id).await?;
    Ok(Answer::of(&shown(&find(&mut connection, caller.tenant_id, &request).await?)))
}

/// A delivery that was queued; it is sent at once, and what came of it can be read where `Location` says.
#[derive(Serialize, JsonSchema)]
pub(crate) struct QueuedDelivery {
    id: Uuid,
    event_id: Uuid,
}

/// Queues an event for a subscription.
async fn queue(
    connection: &mut sqlx::PgConnection,
    deed: &Deed,
    subscription: Uuid,
    event: Event,
) -> Result<Answer<QueuedDelivery, 202>, ApiError> {
    let (id, event_id) = (Uuid::now_v7(), event.id);
    let new = NewDelivery { id, subscription, event: Arc::new(event), replay: None, at: deed.at };
    store::insert(connection, &[new]).await.map_err(ApiError::database)?;
    let location = format!("/v1/webhooks/{subscription}/deliveries/{id}");
    Ok(Answer::of(&QueuedDelivery { id, event_id }).header(("location", location)))
}

pub(crate) async fn replay(
    caller: Caller<ReplayWebhookDelivery>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Answer<QueuedDelivery, 202>, ApiError> {
    let deed = caller.deed(&request);
    let queued = webhooks.control.change([caller.tenant_id], async |tx| {
        let delivery = find(tx, caller.tenant_id, &request).await?;
        let event = events::find(tx, caller.tenant_id, delivery.event).await.map_err(ApiError::database)?;
        let event =
            event.ok_or_else(|| ApiError::new(ErrorCode::EventGone, "the delivery's event is kept no longer"))?;
        store::replayed(tx, delivery.subscription, &[delivery.id]).await.map_err(ApiError::database)?;
        let answer = queue(tx, &deed, delivery.subscription, event).await?;
        let new = Some(json!({ "delivery_id": delivery.id, "event_id": delivery.event }));
        account(tx, &deed, "webhook.replay_delivery", delivery.subscription, None, new).await?;
        Ok(answer)
    });
    queued.await
}

pub(crate) async fn test(
    caller: Caller<TestWebhook>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Answer<QueuedDelivery, 202>, ApiError> {
    let id = webhook_id(&request)?;
    let deed = caller.deed(&request);
    let queued = webhooks.control.change([caller.tenant_id], async |tx| {
        let found = subscriptions::find(tx, caller.tenant_id, id).await.map_err(ApiError::database)?;
        let subscription = found.ok_or_else(no_webhook)?;
        let event = about_subscription("webhook.test", &subscription, Uuid::now_v7(), deed.at);
        let event = event.map_err(|error| ApiError::internal(error.to_string()))?;
        events::insert(tx, &event).await.map_err(ApiError::database)?;
        let answer = queue(tx, &deed, id, event).await?;
        account(tx, &deed, "webhook.test", id, None, None).await?;
        Ok(answer)
    });
    queued.await
}
