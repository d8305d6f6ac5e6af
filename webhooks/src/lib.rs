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
use twh_sinks::postgres::tenant::{TenantConnection, TenantPool};
use twh_sinks::secrets::{SecretError, Secrets};

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
