//! Webhook subscriptions, what was sent to them, replays, and the events that are kept: the endpoints. What they ask for is done
//! by the consumer group `webhooks`, which hears of it by the tenant's version; nothing is sent from here.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests stop at the first surprise"
    )
)]

pub mod catalogue;
mod deliveries;
mod events;
mod replays;
mod reseal;
mod shapes;
mod subscriptions;

pub use reseal::{ResealError, reseal};

use serde_json::Value;
use twh_domain::id::TenantId;
use twh_edge::access::{
    CancelWebhookReplay, DeleteWebhook, GetWebhook, GetWebhookDelivery, GetWebhookReplay, ListEventTypes, ListEvents,
    ListWebhookDeliveries, ListWebhookReplays, ListWebhooks, ListenToEvents, RegisterWebhook, ReplayWebhook,
    ReplayWebhookDelivery, RotateWebhookSecret, TestWebhook, UpdateWebhook,
};
use twh_edge::control::Control;
use twh_edge::error::ApiError;
use twh_edge::routes::Routes;
use twh_sinks::outbound::Outbound;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::tenant::{TenantConnection, TenantPool};
use twh_sinks::postgres::webhooks::touch;
use twh_sinks::secrets::{SecretError, Secrets};
use uuid::Uuid;

/// What the endpoints work with.
#[derive(Clone)]
pub struct Webhooks {
    /// Where changes are made.
    pub control: Control,
    /// Where is read what is the tenant's.
    pub readers: TenantPool,
    /// What seals secrets.
    pub secrets: Secrets,
    /// What says which URLs may be called.
    pub outbound: Outbound,
}

impl Webhooks {
    async fn of(&self, tenant: TenantId) -> Result<TenantConnection, ApiError> {
        self.readers.of(tenant).await.map_err(ApiError::database)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn secret(error: SecretError) -> ApiError {
    ApiError::internal(error.to_string())
}

/// Writes a change down, with who made it, and lets who sends know.
async fn account(
    tx: &mut ControlChange,
    deed: &Deed,
    action: &str,
    entity: Uuid,
    old: Option<Value>,
    new: Option<Value>,
) -> Result<(), ApiError> {
    let change = Change { action, entity_kind: "webhook_subscription", entity, old, new };
    tx.record(deed, change).await.map_err(ApiError::database)?;
    touch(tx, deed.tenant).await.map_err(ApiError::database)
}

/// The routes; they need a `web::Data<Webhooks>`.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(RegisterWebhook, subscriptions::register)
        .on(ListWebhooks, subscriptions::list)
        .on(GetWebhook, subscriptions::one)
        .on(UpdateWebhook, subscriptions::update)
        .on(DeleteWebhook, subscriptions::delete)
        .on(RotateWebhookSecret, subscriptions::rotate)
        .on(TestWebhook, deliveries::test)
        .on(ListWebhookDeliveries, deliveries::list)
        .on(GetWebhookDelivery, deliveries::one)
        .on(ReplayWebhookDelivery, deliveries::replay)
        .on(ReplayWebhook, replays::start)
        .on(ListWebhookReplays, replays::list)
        .on(GetWebhookReplay, replays::one)
        .on(CancelWebhookReplay, replays::cancel)
        .on(ListenToEvents, events::listen)
        .on(ListEvents, events::list)
        .on(ListEventTypes, events::types)
}
