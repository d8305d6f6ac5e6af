//! What is written is read again, by us and by a stranger to our codec; what is not ours is refused, whatever it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

use apache_avro::types::Value;
use futures::executor::block_on;
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;
use twh_domain::command::{Actor, Command, KINDS, Operation, Payload, RULES_VERSION};
use twh_domain::decimal::Quantity;
use twh_domain::entity::EntityKind;
use twh_domain::id::{CommandId, ItemId, LocationId, TenantId};
use twh_domain::movement::{Movement, MovementKind};
use twh_domain::outcome::{Outcome, Position, Refusal, Resource, Verdict};
use twh_domain::timestamp::Timestamp;
use twh_schemas::catalogue::{COMMANDS, MOVEMENTS, OUTCOMES, TOPICS};
use twh_schemas::codec::{Codec, DecodeError, SchemaSource};
use twh_schemas::records::{CommandOutcome, StockMovement};
use uuid::Uuid;

/// A registry that knows one older schema.
struct Older(Option<(u32, String)>);

impl SchemaSource for Older {
    async fn fetch(&self, id: u32) -> Result<String, DecodeError> {
        match &self.0 {
            Some((known, schema)) if *known == id => Ok(schema.clone()),
            _ => Err(DecodeError::UnknownSchema(id)),
        }
    }
}

fn codec<T: serde::Serialize + serde::de::DeserializeOwned>(avsc: &str) -> Codec<T, Older> {
    Codec::new(7, avsc, Arc::new(Older(None))).unwrap()
}

fn avsc(topic: &twh_schemas::catalogue::Topic) -> &'static str {
    topic.value.unwrap().avsc
}

/// A body of each kind: as full as it gets, and as empty.
fn bodies() -> Vec<(&'static str, serde_json::Value)> {
    let id = Uuid::from_u128(9);
    let money = json!({"amount": "2.55", "currency": "GBP"});
    let at = "2010-12-01T08:26:00Z";
    let quantities = json!({"lines": [{"line": 1, "quantity": "0.000001"}], "occurred_at": at});
    let mut bodies = vec![
        (
            "item.create",
            json!({"sku": "A", "name": "n", "description": "d", "type": "service", "unit": "kg", "barcodes": ["1"], "cost_price": money, "sale_price": money, "reorder_point": 5, "metadata": {"a": "b"}}),
        ),
        ("item.create", json!({"sku": "A"})),
        (
            "item.update",
            json!({"name": "n", "description": "d", "unit": "kg", "barcodes": ["1"], "cost_price": money, "sale_price": money, "reorder_point": 5, "metadata": {"a": "b"}, "clear": ["x"]}),
        ),
        ("location.create", json!({"code": "L", "name": "n", "type": "drop_ship", "allow_negative_stock": true})),
        ("location.update", json!({"name": "n", "allow_negative_stock": false, "clear": ["name"]})),
        ("supplier.create", json!({"code": "S", "name": "n", "email": "e"})),
        ("supplier.update", json!({"name": "n", "email": "e"})),
        (
            "purchase_order.create",
            json!({"number": "1", "supplier_id": id, "location_id": id, "lines": [{"item_id": id, "quantity": 3, "unit_cost": money}, {"sku": "A", "quantity": "999999999999.999999"}], "over_receipt_percent": 10, "metadata": {"a": "b"}}),
        ),
        ("purchase_order.receive", quantities.clone()),
        (
            "sales_order.create",
            json!({"number": "1", "customer_reference": "c", "location_code": "L", "lines": [{"sku": "A", "quantity": 1, "unit_price": money, "location_id": id}], "metadata": {}, "occurred_at": at}),
        ),
        ("sales_order.allocate", json!({"occurred_at": at})),
        ("sales_order.ship", quantities.clone()),
        (
            "transfer.create",
            json!({"from_location_id": id, "to_location_code": "L", "lines": [{"sku": "A", "quantity": 1}]}),
        ),
        ("transfer.dispatch", json!({})),
        ("transfer.receive", quantities),
        ("transfer.close", json!({"reason": "r"})),
        (
            "return.create",
            json!({"sales_order_id": id, "location_id": id, "lines": [{"order_line": 1, "quantity": 1, "disposition": "scrap"}], "reason": "r", "occurred_at": at}),
        ),
        ("adjustment.create", json!({"location_id": id, "reason": "r", "lines": [{"sku": "A", "quantity": -3.5}]})),
        ("count.create", json!({"location_id": id, "lines": [{"sku": "A", "quantity_counted": 0}]})),
        (
            "reservation.create",
            json!({"sku": "A", "location_id": id, "quantity": 1, "expires_at": at, "reference": "r"}),
        ),
    ];
    let met: Vec<_> = bodies.iter().map(|(kind, _)| *kind).collect();
    bodies.extend(KINDS.iter().filter(|kind| !met.contains(kind)).map(|kind| (*kind, json!({}))));
    bodies
}

fn command() -> Command {
    let operations = bodies().into_iter().map(|(kind, body)| Operation {
        subject: Uuid::from_u128(3),
        expected_version: kind.len().is_multiple_of(2).then_some(4),
        payload: Payload::deserialize_kind(kind, body).unwrap().unwrap(),
    });
    Command {
        command_id: CommandId(Uuid::from_u128(1)),
        tenant_id: TenantId(Uuid::from_u128(2)),
        rules_version: RULES_VERSION,
        issued_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
        actor: Actor { kind: "api_key".into(), id: "k".into(), ip: Some("::1".into()), user_agent: None },
        request_id: "r".into(),
        idempotency_key: "i".into(),
        fingerprint: "f".into(),
        operations: operations.collect(),
    }
}

fn movement() -> Movement {
    Movement {
        tenant: TenantId(Uuid::from_u128(1)),
        sequence: 5,
        item: ItemId(Uuid::from_u128(2)),
        location: LocationId(Uuid::from_u128(3)),
        kind: MovementKind::Sale,
        on_hand_change: "-2.5".parse().unwrap(),
        reserved_change: Quantity::ZERO,
        on_hand_after: "-999999999999.999999".parse().unwrap(),
        reserved_after: "12".parse().unwrap(),
        reference_kind: EntityKind::SalesOrder,
        reference: Uuid::from_u128(4),
        reference_line: 1,
        reason: Some("why".into()),
        command: CommandId(Uuid::from_u128(5)),
        occurred_at: Timestamp::from_micros(-1),
        recorded_at: Timestamp::from_micros(1_700_000_000_000_001),
        hash: [7; 32],
    }
}

#[test]
fn every_kind_of_command_comes_back_as_it_went() {
    let codec = codec::<Command>(avsc(&COMMANDS));
    let bytes = codec.encode(&command()).unwrap();
    assert_eq!(block_on(codec.decode(&bytes)).unwrap(), command());
}

#[test]
fn a_stranger_reads_what_we_write() {
    for (topic, bytes) in [
        (COMMANDS, codec::<Command>(avsc(&COMMANDS)).encode(&command()).unwrap()),
        (MOVEMENTS, codec::<StockMovement>(avsc(&MOVEMENTS)).encode(&StockMovement::from(&movement())).unwrap()),
    ] {
        let schema = apache_avro::Schema::parse_str(avsc(&topic)).unwrap();
        let mut datum = &bytes[5..];
        apache_avro::reader::datum::GenericDatumReader::builder(&schema)
            .build()
            .unwrap()
            .read_value(&mut datum)
            .unwrap();
        assert!(datum.is_empty(), "{} has bytes left over", topic.name);
    }
}

#[test]
fn movements_and_outcomes_come_back_as_they_went() {
    let codec_of_movements = codec::<StockMovement>(avsc(&MOVEMENTS));
    let record = StockMovement::from(&movement());
    assert_eq!(block_on(codec_of_movements.decode(&codec_of_movements.encode(&record).unwrap())).unwrap(), record);
    let resource =
        Resource { kind: EntityKind::Item, id: Uuid::from_u128(8), version: 1, created: true, document: "{}".into() };
    let verdicts = [
        Verdict::Accepted { resources: vec![resource], audit_sequences: (3, 4) },
        Verdict::Rejected(Refusal { code: "C".into(), message: "m".into(), details: "[]".into() }),
    ];
    let outcomes = codec::<CommandOutcome>(avsc(&OUTCOMES));
    for verdict in verdicts {
        let outcome = Outcome {
            command_id: CommandId(Uuid::from_u128(1)),
            tenant: TenantId(Uuid::from_u128(2)),
            replay_of: Some(CommandId(Uuid::from_u128(3))),
            position: Position { partition: 1, offset: 2 },
            recorded_at: Timestamp::from_micros(3),
            verdict: Arc::new(verdict),
        };
        let bytes = outcomes.encode(&CommandOutcome::from(&outcome)).unwrap();
        assert_eq!(Outcome::try_from(block_on(outcomes.decode(&bytes)).unwrap()).unwrap(), outcome);
    }
}

#[test]
fn a_record_of_an_older_schema_is_read() {
    let mut older: serde_json::Value = serde_json::from_str(avsc(&MOVEMENTS)).unwrap();
    older["fields"].as_array_mut().unwrap().retain(|field| field["name"] != "reason");
    let older = older.to_string();
    // The older writer: the same record, less the field that it did not know.
    let newer = codec::<StockMovement>(avsc(&MOVEMENTS)).encode(&StockMovement::from(&movement())).unwrap();
    let schema = apache_avro::Schema::parse_str(avsc(&MOVEMENTS)).unwrap();
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
    let Value::Record(mut fields) = reader.read_value(&mut &newer[5..]).unwrap() else { panic!("a record") };
    fields.retain(|(name, _)| name != "reason");
    let schema = apache_avro::Schema::parse_str(&older).unwrap();
    let mut bytes = vec![0, 0, 0, 0, 3];
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build().unwrap();
    writer.write_value(&mut bytes, Value::Record(fields)).unwrap();
    let reader: Codec<StockMovement, Older> =
        Codec::new(7, avsc(&MOVEMENTS), Arc::new(Older(Some((3, older))))).unwrap();
    assert_eq!(block_on(reader.decode(&bytes)).unwrap().reason, None);
}

#[test]
fn what_is_not_ours_is_poison() {
    let codec = codec::<Command>(avsc(&COMMANDS));
    let whole = codec.encode(&command()).unwrap();
    let mut unknown = whole.clone();
    unknown[4] = 99;
    let mut longer = whole.clone();
    longer.push(0);
    let cases: [&[u8]; 6] = [b"", b"\0\0", b"{\"json\": 1}", &unknown, &longer, &whole[..whole.len() - 1]];
    for bytes in cases {
        assert!(block_on(codec.decode(bytes)).unwrap_err().is_poison(), "{:?}", &bytes[..bytes.len().min(8)]);
    }
}

#[test]
fn every_schema_of_the_catalogue_is_avro() {
    for topic in TOPICS.iter().filter(|topic| topic.value.is_some()) {
        apache_avro::Schema::parse_str(avsc(topic)).unwrap_or_else(|error| panic!("{}: {error}", topic.name));
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let codec = codec::<Command>(avsc(&COMMANDS));
        let mut record = vec![0, 0, 0, 0, 7];
        record.extend(bytes);
        let _ = block_on(codec.decode(&record));
    }
}
