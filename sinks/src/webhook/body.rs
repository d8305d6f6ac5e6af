//! What is sent: the JSON of an event, and what its order is kept by.

use crate::postgres::webhooks::events::Event;
use crate::postgres::webhooks::subscriptions::Subscription;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use twh_domain::decimal::Quantity;
use twh_domain::id::{ItemId, LocationId, TenantId};
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// The body of a delivery. `id`, `type`, `timestamp` and `data` are those of Standard Webhooks.
#[derive(Debug, Serialize)]
pub struct Body<'a> {
    /// The event's.
    pub id: Uuid,
    /// Such as `order.shipped`.
    pub r#type: &'a str,
    /// When it happened.
    pub timestamp: Timestamp,
    /// When the ledger took it.
    pub recorded_at: Timestamp,
    /// Whose.
    pub tenant_id: TenantId,
    /// Its place among the tenant's events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// The command behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// What it is about.
    pub subject: Subject<'a>,
    /// The levels that it changed.
    pub stock: Vec<Stock>,
    /// The document after it.
    pub data: &'a RawValue,
}

/// What an event is about.
#[derive(Debug, Serialize)]
pub struct Subject<'a> {
    /// The kind of document.
    pub r#type: &'a str,
    /// The document.
    pub id: Uuid,
}

/// A level that the event changed: whoever has not `version_before` has missed something, or has this already.
#[derive(Debug, Serialize)]
pub struct Stock {
    /// Of what.
    pub item_id: ItemId,
    /// Where.
    pub location_id: LocationId,
    /// The level's version before.
    pub version_before: i64,
    /// Its version after.
    pub version: i64,
    /// Physically there, after.
    pub qty_on_hand: Quantity,
    /// Promised, after.
    pub qty_reserved: Quantity,
    /// On hand less reserved.
    pub available: Quantity,
}

/// A hash that is the same in every process and version: the first eight bytes of SHA-256.
#[must_use]
pub fn ordering_key(parts: &[&[u8]]) -> i64 {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(digest.get(..8).unwrap_or(&[0; 8]));
    i64::from_be_bytes(first)
}

/// An event about a subscription itself. It is in no sequence.
pub fn about_subscription(
    event_type: &str,
    subscription: &Subscription,
    id: Uuid,
    at: Timestamp,
) -> Result<Event, serde_json::Error> {
    let data = serde_json::value::to_raw_value(&serde_json::json!({
        "id": subscription.id,
        "url": subscription.url,
        "description": subscription.description,
        "state": subscription.state.name(),
        "state_reason": subscription.state_reason,
        "state_since": subscription.state_since,
    }))?;
    let body = Body {
        id,
        r#type: event_type,
        timestamp: at,
        recorded_at: at,
        tenant_id: subscription.tenant,
        sequence: None,
        position: None,
        subject: Subject { r#type: "webhook_subscription", id: subscription.id },
        stock: Vec::new(),
        data: &data,
    };
    Ok(Event {
        tenant: subscription.tenant,
        id,
        sequence: None,
        event_type: event_type.to_owned(),
        position: None,
        items: Vec::new(),
        locations: Vec::new(),
        ordering_keys: vec![ordering_key(&[subscription.id.as_bytes()])],
        recorded_at: at,
        body: serde_json::to_string(&body)?.into(),
    })
}
