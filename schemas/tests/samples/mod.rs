//! Records of every topic, as full as they get and as empty, and a codec without a registry.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use twh_domain::actor::Actor;
use twh_domain::commands::{COMMAND_KINDS, Command, Operation, Payload, RULES_VERSION};
use twh_domain::decimal::Quantity;
use twh_domain::entity::{EntityKind, LevelKey};
use twh_domain::event::DomainEvent as Event;
use twh_domain::id::{CommandId, ItemId, LocationId, TenantId, event_id};
use twh_domain::level::StockLevel as Level;
use twh_domain::movement::{Movement, MovementKind};
use twh_domain::outcome::{Outcome, Position, Refusal, Resource, Verdict};
use twh_domain::timestamp::Timestamp;
use twh_schemas::catalogue::Topic;
use twh_schemas::codec::{Bounded, Codec, DecodeError, SchemaSource};
use twh_schemas::records::{CommandOutcome, DomainEvent, StockChange, StockLevel, StockMovement};
use uuid::Uuid;

/// The id by which a codec of [`codec`] writes.
pub const OWN_ID: u32 = 7;
/// The id of the other schema that a codec of [`codec_beside`] can find.
pub const OTHER_ID: u32 = 3;

/// A registry that knows one other schema, or none.
pub struct Registry(Option<String>);

impl SchemaSource for Registry {
    async fn fetch(&self, id: u32) -> Result<String, DecodeError> {
        match &self.0 {
            Some(schema) if id == OTHER_ID => Ok(schema.clone()),
            _ => Err(DecodeError::UnknownSchema(id)),
        }
    }
}

pub fn avsc(topic: &Topic) -> &'static str {
    topic.value.unwrap().avsc
}

pub fn codec<T: Serialize + DeserializeOwned + Bounded>(topic: &Topic) -> Codec<T, Registry> {
    Codec::new(OWN_ID, avsc(topic), Arc::new(Registry(None))).unwrap()
}

/// A codec that finds another schema in the registry.
pub fn codec_beside<T: Serialize + DeserializeOwned + Bounded>(topic: &Topic, other: &str) -> Codec<T, Registry> {
    Codec::new(OWN_ID, avsc(topic), Arc::new(Registry(Some(other.to_owned())))).unwrap()
}

pub fn full_bodies() -> Vec<(&'static str, Value)> {
    let id = Uuid::from_u128(9);
    let money = json!({"amount": "2.55", "currency": "GBP"});
    let at = "2010-12-01T08:26:00Z";
    let progress = json!({"lines": [{"line": 1, "quantity": "0.000001"}], "occurred_at": at});
    let item = json!({"sku": "A", "name": "n", "description": "d", "type": "service", "unit": "kg", "barcodes": ["1", "2"], "cost_price": money, "sale_price": money, "reorder_point": 5, "metadata": {"a": "b", "ü": ""}});
    let changed = json!({"name": "n", "description": "d", "unit": "kg", "barcodes": ["1"], "cost_price": money, "sale_price": money, "reorder_point": "0.5", "metadata": {"a": "b"}, "clear": ["x"]});
    vec![
        ("item.create", item),
        ("item.update", changed),
        ("item.report_low", json!({"available": "-1.5", "reorder_point": 5})),
        ("location.create", json!({"code": "L", "name": "n", "type": "drop_ship", "allow_negative_stock": true})),
        ("location.update", json!({"name": "n", "allow_negative_stock": true, "clear": ["name"]})),
        ("supplier.create", json!({"code": "S", "name": "n", "email": "e"})),
        ("supplier.update", json!({"name": "n", "email": "e", "clear": ["email"]})),
        (
            "purchase_order.create",
            json!({"number": "1", "supplier_id": id, "location_id": id, "location_code": "L", "lines": [{"item_id": id, "sku": "A", "quantity": "999999999999.999999", "unit_cost": money}], "over_receipt_percent": 10, "metadata": {"a": "b"}}),
        ),
        ("purchase_order.receive", progress.clone()),
        (
            "sales_order.create",
            json!({"number": "1", "customer_reference": "c", "location_id": id, "location_code": "L", "lines": [{"item_id": id, "sku": "A", "quantity": 1, "unit_price": money, "location_id": id, "location_code": "L"}], "metadata": {"a": "b"}, "occurred_at": at}),
        ),
        ("sales_order.allocate", json!({"occurred_at": at})),
        ("sales_order.ship", progress.clone()),
        (
            "transfer.create",
            json!({"number": "1", "from_location_id": id, "from_location_code": "L", "to_location_id": id, "to_location_code": "L", "lines": [{"item_id": id, "sku": "A", "quantity": 1}], "metadata": {"a": "b"}}),
        ),
        ("transfer.dispatch", json!({"occurred_at": at})),
        ("transfer.receive", progress),
        ("transfer.close", json!({"reason": "r"})),
        (
            "return.create",
            json!({"number": "1", "sales_order_id": id, "location_id": id, "location_code": "L", "lines": [{"order_line": 1, "item_id": id, "sku": "A", "quantity": 1, "disposition": "scrap"}], "reason": "r", "occurred_at": at}),
        ),
        (
            "adjustment.create",
            json!({"number": "1", "location_id": id, "location_code": "L", "reason": "r", "lines": [{"item_id": id, "sku": "A", "quantity": -3.5}], "occurred_at": at}),
        ),
        (
            "count.create",
            json!({"number": "1", "location_id": id, "location_code": "L", "lines": [{"item_id": id, "sku": "A", "quantity_counted": 0}], "occurred_at": at}),
        ),
        (
            "reservation.create",
            json!({"item_id": id, "sku": "A", "location_id": id, "location_code": "L", "quantity": 1, "expires_at": at, "reference": "r"}),
        ),
    ]
}

/// The least that each kind takes.
fn empty_body(kind: &str) -> Value {
    let line = json!([{"quantity": 1, "quantity_counted": 1, "disposition": "restock"}]);
    let all = json!({"sku": "A", "code": "C", "lines": line, "reason": "r", "quantity": 1, "available": 1, "reorder_point": 1});
    let wanted: &[&str] = match kind {
        "item.create" => &["sku"],
        "item.report_low" => &["available", "reorder_point"],
        "location.create" | "supplier.create" => &["code"],
        "purchase_order.create" | "sales_order.create" | "transfer.create" | "return.create" | "count.create" => {
            &["lines"]
        }
        "adjustment.create" => &["lines", "reason"],
        "reservation.create" => &["quantity"],
        _ => &[],
    };
    let mut body: Value = wanted.iter().map(|field| ((*field).to_owned(), all[*field].clone())).collect();
    let unwanted: &[&str] = match kind {
        "return.create" => &["quantity_counted"],
        "count.create" => &["quantity", "disposition"],
        _ => &["quantity_counted", "disposition"],
    };
    if let Some(line) = body.pointer_mut("/lines/0").and_then(Value::as_object_mut) {
        line.retain(|field, _| !unwanted.contains(&field.as_str()));
    }
    body
}

fn operation(kind: &str, body: Value) -> Operation {
    let full = body.as_object().is_some_and(|fields| !fields.is_empty());
    Operation {
        subject: Uuid::from_u128(3),
        expected_version: full.then_some(4),
        payload: Payload::deserialize_kind(kind, body).unwrap().unwrap(),
    }
}

/// Two commands of every kind: everything given, and as little as can be.
pub fn commands() -> Vec<Command> {
    let full = full_bodies().into_iter().map(|(kind, body)| operation(kind, body)).collect();
    let empty = COMMAND_KINDS.iter().map(|kind| operation(kind.name, empty_body(kind.name))).collect();
    vec![
        command(
            Actor { kind: "api_key".into(), id: "k".into(), ip: Some("::1".into()), user_agent: Some("u".into()) },
            full,
        ),
        command(Actor { kind: "system".into(), id: String::new(), ip: None, user_agent: None }, empty),
    ]
}

fn command(actor: Actor, operations: Vec<Operation>) -> Command {
    Command {
        command_id: CommandId(Uuid::from_u128(1)),
        tenant_id: TenantId(Uuid::from_u128(2)),
        rules_version: RULES_VERSION,
        issued_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
        actor: actor.into(),
        request_id: "r".into(),
        idempotency_key: "i".into(),
        fingerprint: "f".into(),
        operations,
    }
}

pub fn movements() -> Vec<StockMovement> {
    let movement = Movement {
        tenant: TenantId(Uuid::from_u128(1)),
        sequence: 5,
        item: ItemId(Uuid::from_u128(2)),
        location: LocationId(Uuid::from_u128(3)),
        kind: MovementKind::Sale,
        level_version: 3,
        on_hand_change: "-2.5".parse().unwrap(),
        reserved_change: Quantity::ZERO,
        on_hand_after: "-999999999999.999999".parse().unwrap(),
        reserved_after: "12".parse().unwrap(),
        reference_kind: EntityKind::SalesOrder,
        reference: Uuid::from_u128(4),
        reference_line: 1,
        reason: Some("why".into()),
        command: CommandId(Uuid::from_u128(5)),
        position: Position { partition: 2, offset: 77 },
        occurred_at: Timestamp::from_micros(-1),
        recorded_at: Timestamp::from_micros(1_700_000_000_000_001),
        hash: [7; 32],
    };
    let plain = Movement { reason: None, ..movement.clone() };
    vec![StockMovement::from(&movement), StockMovement::from(&plain)]
}

pub fn levels() -> Vec<StockLevel> {
    let key = LevelKey {
        tenant: TenantId(Uuid::from_u128(1)),
        item: ItemId(Uuid::from_u128(2)),
        location: LocationId(Uuid::from_u128(3)),
    };
    let level = Level {
        on_hand: "10.25".parse().unwrap(),
        reserved: "11".parse().unwrap(),
        version: 3,
        last_counted_at: Some(Timestamp::from_micros(1)),
        updated_at: Timestamp::from_micros(2),
    };
    let position = Position { partition: 1, offset: 2 };
    let never_counted = Level { last_counted_at: None, ..level };
    vec![StockLevel::new(&key, &level, position), StockLevel::new(&key, &never_counted, position)]
}

pub fn events() -> Vec<DomainEvent> {
    let command = CommandId(Uuid::from_u128(1));
    let event = Event {
        id: event_id(command, 0),
        tenant: TenantId(Uuid::from_u128(2)),
        sequence: 9,
        event_type: twh_domain::event::EventType::SalesOrderShipped,
        subject_kind: EntityKind::SalesOrder,
        subject: Uuid::from_u128(3),
        occurred_at: Timestamp::from_micros(4),
        recorded_at: Timestamp::from_micros(5),
        command,
        data: "{\"number\":\"1\"}".into(),
    };
    let stock = StockChange {
        item_id: ItemId(Uuid::from_u128(6)),
        location_id: LocationId(Uuid::from_u128(7)),
        version_before: 1,
        version: 3,
        qty_on_hand_before: "0.25".parse().unwrap(),
        qty_reserved_before: "0".parse().unwrap(),
        qty_on_hand: "-1.5".parse().unwrap(),
        qty_reserved: "2".parse().unwrap(),
    };
    let position = Position { partition: 1, offset: 2 };
    vec![DomainEvent::new(&event, position, vec![stock]), DomainEvent::new(&event, position, Vec::new())]
}

/// An accepted one that repeats another, and a refused one.
pub fn outcomes() -> Vec<Outcome> {
    let resource =
        Resource { kind: EntityKind::Item, id: Uuid::from_u128(8), version: 1, created: true, document: "{}".into() };
    let accepted = Verdict::Accepted { resources: vec![resource], audit_sequences: (3, 4) };
    let refused = Verdict::Rejected(Refusal { code: "C".into(), message: "m".into(), details: "[]".into() });
    let outcome = Outcome {
        command_id: CommandId(Uuid::from_u128(1)),
        tenant: TenantId(Uuid::from_u128(2)),
        replay_of: Some(CommandId(Uuid::from_u128(3))),
        position: Position { partition: 1, offset: 2 },
        recorded_at: Timestamp::from_micros(3),
        verdict: Arc::new(accepted),
    };
    let first = Outcome { replay_of: None, verdict: Arc::new(refused), ..outcome.clone() };
    vec![outcome, first]
}

pub fn outcome_records() -> Vec<CommandOutcome> {
    outcomes().iter().map(CommandOutcome::from).collect()
}
