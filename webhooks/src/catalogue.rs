//! Every type of event: what it says, the JSON Schema of what is sent, and an example.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use twh_domain::decimal::Quantity;
use twh_domain::documents::item::LowStock;
use twh_domain::event::{self, Carries};
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook;
use uuid::Uuid;

/// One of each, as it was sent once.
const EXAMPLES: &str = include_str!("catalogue/examples.json");

/// An event as it is sent. `id`, `type`, `timestamp` and `data` are those of Standard Webhooks.
#[derive(Serialize, JsonSchema)]
pub struct Event {
    /// The same over all deliveries: whoever has seen it has seen the event.
    id: Uuid,
    /// Such as `order.shipped`.
    r#type: String,
    /// When it happened.
    timestamp: Timestamp,
    /// When the ledger took it.
    recorded_at: Timestamp,
    tenant_id: TenantId,
    /// Its place among the tenant's events, 1, 2, 3, … without a gap; absent for those about webhooks themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<i64>,
    /// The command behind it: its position in the ledger's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    subject: EventSubject,
    /// The levels that it changed, each in the one event that changed it.
    stock: Vec<EventStock>,
    /// The document after it.
    data: Map<String, Value>,
}

/// What an event is about.
#[derive(Serialize, JsonSchema)]
struct EventSubject {
    /// The kind of document, such as `sales_order`.
    r#type: String,
    id: Uuid,
}

/// A level that an event changed. Whoever has not `version_before` has missed something, or has this already.
#[derive(Serialize, JsonSchema)]
struct EventStock {
    item_id: Uuid,
    location_id: Uuid,
    /// The level's version before.
    version_before: i64,
    /// Its version after.
    version: i64,
    qty_on_hand: Quantity,
    qty_reserved: Quantity,
    /// On hand less reserved.
    available: Quantity,
}

/// What events about webhooks say of a subscription.
#[derive(Serialize, JsonSchema)]
struct WebhookNotice {
    id: Uuid,
    url: String,
    description: Option<String>,
    state: String,
    state_reason: Option<String>,
    state_since: Timestamp,
}

/// A type of event.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EventType {
    /// Such as `order.shipped`.
    r#type: &'static str,
    description: &'static str,
    /// The JSON Schema (2020-12) of what is sent.
    schema: Map<String, Value>,
    /// One as it was sent once.
    example: Map<String, Value>,
}

impl EventType {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.r#type
    }

    /// Its schema.
    #[must_use]
    pub const fn schema(&self) -> &Map<String, Value> {
        &self.schema
    }

    /// Its example.
    #[must_use]
    pub const fn example(&self) -> &Map<String, Value> {
        &self.example
    }
}

fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

/// The schema of what events of a type carry.
fn data(event_type: &str) -> Schema {
    match event::EventType::from_name(event_type) {
        Some(known) => match known.carries() {
            Carries::Document => known.subject().root_schema(),
            Carries::LowStock => of::<LowStock>(),
        },
        None => of::<WebhookNotice>(),
    }
}

/// The schema of an event of a type: what all have in common, and its document.
fn schema(event_type: &str) -> Map<String, Value> {
    let mut whole = of::<Event>().to_value();
    let mut data = data(event_type).to_value();
    // Definitions stand at the root, where references look for them.
    let inner = data.as_object_mut().and_then(|data| data.remove("$defs"));
    if let Some(data) = data.as_object_mut() {
        data.remove("$schema");
    }
    if let Some(fields) = whole.pointer_mut("/properties").and_then(Value::as_object_mut) {
        fields.insert("type".to_owned(), json!({ "const": event_type }));
        fields.insert("data".to_owned(), data);
    }
    if let (Some(Value::Object(inner)), Some(whole)) = (inner, whole.as_object_mut())
        && let Some(all) = whole.entry("$defs").or_insert_with(|| json!({})).as_object_mut()
    {
        all.extend(inner);
    }
    match whole {
        Value::Object(whole) => whole,
        _ => Map::new(),
    }
}

static ALL: LazyLock<Vec<EventType>> = LazyLock::new(|| {
    let examples: Map<String, Value> = serde_json::from_str(EXAMPLES).unwrap_or_default();
    let example = |name: &str| examples.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    webhook::event_types()
        .map(|(name, description)| EventType {
            r#type: name,
            description,
            schema: schema(name),
            example: example(name),
        })
        .collect()
});

/// Every type of event.
#[must_use]
pub fn event_types() -> Vec<EventType> {
    ALL.clone()
}
