//! What it costs to write and read a record: our codec, Apache's Avro crate (through serde, and through its own values), and
//! JSON as a yardstick. `docs/decisions/0001-avro-codec.md` draws the conclusion.
//!
//! Apache's crate maps serde's types only to the schemas that it derives itself, so that it cannot take text for a decimal. It
//! is given our schemas with plain text in place of decimals and UUIDs, which spares it work that the others do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints what it finds and stops at the first surprise"
)]

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_avro_fast::ser::SerializerConfig;
use serde_json::{Value as Json, json};
use std::fmt::Debug;
use std::hint::black_box;
use std::time::Duration;
use twh_domain::actor::Actor;
use twh_domain::commands::{Command, Operation, Payload, RULES_VERSION};
use twh_domain::id::{CommandId, ItemId, LocationId, TenantId};
use twh_domain::timestamp::Timestamp;
use twh_schemas::catalogue::{COMMANDS, MOVEMENTS, Topic};
use twh_schemas::records::StockMovement;
use uuid::Uuid;

fn command(kind: &str, body: Json) -> Command {
    Command {
        command_id: CommandId(Uuid::now_v7()),
        tenant_id: TenantId(Uuid::now_v7()),
        rules_version: RULES_VERSION,
        issued_at: Timestamp::from_micros(1_790_000_000_123_456),
        actor: Actor {
            kind: "api_key".into(),
            id: Uuid::now_v7().to_string(),
            ip: Some("203.0.113.7".into()),
            user_agent: Some("python-requests/2.32.3".into()),
        }
        .into(),
        request_id: Uuid::now_v7().to_string().into(),
        idempotency_key: Uuid::now_v7().to_string(),
        fingerprint: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
        operations: vec![Operation {
            subject: Uuid::now_v7(),
            expected_version: None,
            payload: Payload::deserialize_kind(kind, body).unwrap().unwrap(),
        }],
    }
}

fn order() -> Command {
    let lines: Vec<Json> = (1..=10)
        .map(|line| {
            let price = json!({"amount": format!("{line}.95"), "currency": "GBP"});
            json!({"item_id": Uuid::now_v7(), "quantity": line.to_string(), "unit_price": price})
        })
        .collect();
    let body = json!({"number": "SO-100042", "customer_reference": "C-17850", "location_id": Uuid::now_v7(), "lines": lines, "metadata": {"channel": "web"}});
    command("sales_order.create", body)
}

fn movement() -> StockMovement {
    StockMovement {
        tenant_id: TenantId(Uuid::now_v7()),
        sequence: 1_234_567,
        item_id: ItemId(Uuid::now_v7()),
        location_id: LocationId(Uuid::now_v7()),
        movement_type: "SALE".into(),
        level_version: 4_321,
        change_on_hand: "-12.5".parse().unwrap(),
        change_reserved: "-12.5".parse().unwrap(),
        on_hand_after: "1047.25".parse().unwrap(),
        reserved_after: "96".parse().unwrap(),
        reference_type: "sales_order".into(),
        reference_id: Uuid::now_v7(),
        reference_line: 3,
        reason: None,
        command_id: CommandId(Uuid::now_v7()),
        partition: 5,
        offset: 7_654_321,
        occurred_at: 1_790_000_000_123_456,
        recorded_at: 1_790_000_000_125_000,
        hash: vec![0xa5; 32],
    }
}

/// The schema with plain text in place of decimals and UUIDs.
fn plain(schema: &mut Json) {
    if matches!(schema["logicalType"].as_str(), Some("decimal" | "uuid")) {
        *schema = json!("string");
        return;
    }
    match schema {
        Json::Array(items) => items.iter_mut().for_each(plain),
        Json::Object(fields) => fields.values_mut().for_each(plain),
        _ => {}
    }
}

fn avsc(topic: &Topic) -> &'static str {
    topic.value.unwrap().avsc
}

fn compare<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    criterion: &mut Criterion,
    name: &str,
    topic: &Topic,
    value: &T,
) {
    let mut encode = criterion.benchmark_group(format!("{name}/encode"));
    let fast = fast_encode(&mut encode, topic, value);
    let apache_schema = apache_schema(topic);
    let apache = apache_encode(&mut encode, &apache_schema, value);
    encode.bench_function("serde_json", |bencher| bencher.iter(|| serde_json::to_vec(black_box(value)).unwrap()));
    encode.finish();
    let json = serde_json::to_vec(value).unwrap();
    println!("{name}: {} bytes of Avro, {} of JSON", fast.len(), json.len());

    let mut decode = criterion.benchmark_group(format!("{name}/decode"));
    fast_decode(&mut decode, topic, &fast, value);
    apache_decode(&mut decode, &apache_schema, &apache, value);
    // JSON has no bytes, so that a movement with its hash does not come back from it.
    if serde_json::from_slice::<T>(&json).is_ok() {
        decode.throughput(Throughput::Bytes(json.len() as u64));
        decode.bench_function("serde_json", |bencher| {
            bencher.iter(|| serde_json::from_slice::<T>(black_box(&json)).unwrap());
        });
    }
    decode.finish();
}

fn fast_encode<T: Serialize>(group: &mut BenchmarkGroup<'_, WallTime>, topic: &Topic, value: &T) -> Vec<u8> {
    let schema: serde_avro_fast::Schema = avsc(topic).parse().unwrap();
    let bytes = serde_avro_fast::to_datum_vec(value, &mut SerializerConfig::new(&schema)).unwrap();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("serde_avro_fast", |bencher| {
        bencher.iter(|| {
            let buffer = Vec::with_capacity(256);
            serde_avro_fast::to_datum(black_box(value), buffer, &mut SerializerConfig::new(&schema)).unwrap()
        });
    });
    bytes
}

/// Names of union branches as our codec offers them to serde: without the namespace.
fn fast_schema(topic: &Topic) -> serde_avro_fast::Schema {
    let mut schema: Json = serde_json::from_str(avsc(topic)).unwrap();
    schema.as_object_mut().unwrap().remove("namespace");
    schema.to_string().parse().unwrap()
}

fn fast_decode<T: DeserializeOwned + PartialEq + Debug>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    topic: &Topic,
    bytes: &[u8],
    value: &T,
) {
    let schema = fast_schema(topic);
    assert_eq!(&serde_avro_fast::from_datum_slice::<T>(bytes, &schema).unwrap(), value);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("serde_avro_fast", |bencher| {
        bencher.iter(|| serde_avro_fast::from_datum_slice::<T>(black_box(bytes), &schema).unwrap());
    });
}

fn apache_schema(topic: &Topic) -> apache_avro::Schema {
    let mut schema = serde_json::from_str(avsc(topic)).unwrap();
    plain(&mut schema);
    apache_avro::Schema::parse_str(&schema.to_string()).unwrap()
}

fn apache_encode<T: Serialize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    schema: &apache_avro::Schema,
    value: &T,
) -> Vec<u8> {
    let writer = GenericDatumWriter::builder(schema).human_readable(true).build().unwrap();
    let bytes = writer.write_ser_to_vec(value).unwrap();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("apache-avro, serde", |bencher| {
        bencher.iter(|| writer.write_ser_to_vec(black_box(value)).unwrap());
    });
    // A value of its own, made beforehand: what remains is the check against the schema and the writing.
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let own = reader.read_value(&mut bytes.as_slice()).unwrap();
    group.bench_function("apache-avro, ready value", |bencher| {
        bencher.iter(|| {
            let mut written = Vec::with_capacity(256);
            writer.write_value_ref(&mut written, black_box(&own)).unwrap();
            written
        });
    });
    bytes
}

fn apache_decode<T: DeserializeOwned + PartialEq + Debug>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    schema: &apache_avro::Schema,
    bytes: &[u8],
    value: &T,
) {
    let reader = GenericDatumReader::builder(schema).human_readable(true).build().unwrap();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    match reader.read_deser::<T>(&mut &bytes[..]) {
        Ok(read) => {
            assert_eq!(&read, value);
            group.bench_function("apache-avro, serde", |bencher| {
                bencher.iter(|| reader.read_deser::<T>(&mut black_box(bytes)).unwrap());
            });
        }
        Err(error) => println!("apache-avro, serde: cannot: {error}"),
    }
    // Its own value only: the struct would still have to be made of it.
    group.bench_function("apache-avro, value", |bencher| {
        bencher.iter(|| reader.read_value(&mut black_box(bytes)).unwrap());
    });
}

fn codecs(criterion: &mut Criterion) {
    compare(criterion, "order of ten lines", &COMMANDS, &order());
    compare(criterion, "allocation", &COMMANDS, &command("sales_order.allocate", json!({})));
    compare(criterion, "movement", &MOVEMENTS, &movement());
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = codecs
}
criterion_main!(benches);
