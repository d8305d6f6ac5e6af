//! Old records under new schemas and new records under old programs: a topic outlives every version that writes to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod samples;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use futures::executor::block_on;
use samples::{OTHER_ID, OWN_ID, avsc, codec, codec_beside};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Debug;
use twh_domain::commands::Command;
use twh_schemas::catalogue::{COMMANDS, EVENTS, LEVELS, MOVEMENTS, OUTCOMES, Topic};
use twh_schemas::codec::{Bounded, DecodeError};
use twh_schemas::records::StockMovement;

fn record(id: u32, schema: &Json, value: Value) -> Vec<u8> {
    let schema = Schema::parse_str(&schema.to_string()).unwrap();
    let mut record = vec![0];
    record.extend(id.to_be_bytes());
    GenericDatumWriter::builder(&schema).validate(false).build().unwrap().write_value(&mut record, value).unwrap();
    record
}

fn value<T: Serialize + DeserializeOwned + Bounded>(topic: &Topic, sample: &T) -> Value {
    let schema = Schema::parse_str(avsc(topic)).unwrap();
    let bytes = codec::<T>(topic).encode(sample).unwrap();
    GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut &bytes[5..]).unwrap()
}

/// Every record that a schema defines, by name.
fn definitions(schema: &Json, found: &mut BTreeMap<String, Json>) {
    match schema {
        Json::Array(branches) => branches.iter().for_each(|branch| definitions(branch, found)),
        Json::Object(object) if schema["type"] == "record" => {
            found.insert(schema["name"].as_str().unwrap().to_owned(), schema.clone());
            object["fields"].as_array().unwrap().iter().for_each(|field| definitions(&field["type"], found));
        }
        Json::Object(object) => object.get("items").into_iter().for_each(|items| definitions(items, found)),
        _ => {}
    }
}

/// Replaces the first use of each name by its definition, where a removed field took the definition with it.
fn define_again(schema: &mut Json, lost: &mut BTreeMap<String, Json>) {
    match schema {
        Json::String(name) => {
            if let Some(definition) = lost.remove(name) {
                *schema = definition;
            }
        }
        Json::Array(branches) => branches.iter_mut().for_each(|branch| define_again(branch, lost)),
        Json::Object(object) => {
            let inner = object.get_mut("fields").and_then(Json::as_array_mut).into_iter().flatten();
            inner.for_each(|field| define_again(&mut field["type"], lost));
            object.get_mut("items").into_iter().for_each(|items| define_again(items, lost));
        }
        _ => {}
    }
}

/// Takes a field out of a record of a schema, wherever in it the record is defined.
fn without(schema: &mut Json, name: &str, field: &str) {
    let mut lost = BTreeMap::new();
    take_out(schema, name, field, &mut lost);
    define_again(schema, &mut lost);
}

fn take_out(schema: &mut Json, name: &str, field: &str, lost: &mut BTreeMap<String, Json>) {
    match schema {
        Json::Array(branches) => branches.iter_mut().for_each(|branch| take_out(branch, name, field, lost)),
        Json::Object(object) => {
            let here = object.get("name").is_some_and(|own| own == name);
            if let Some(fields) = object.get_mut("fields").and_then(Json::as_array_mut) {
                let index = fields.iter().position(|own| here && own["name"] == field);
                index.into_iter().for_each(|index| definitions(&fields.remove(index)["type"], lost));
                fields.iter_mut().for_each(|own| take_out(&mut own["type"], name, field, lost));
            }
            object.get_mut("items").into_iter().for_each(|items| take_out(items, name, field, lost));
        }
        _ => {}
    }
}

type Change<'a> = dyn Fn(&mut Vec<(String, Value)>) + 'a;

/// Changes every record of a name within a value that a schema describes.
fn change(schema: &Json, records: &BTreeMap<String, Json>, name: &str, value: &mut Value, with: &Change<'_>) {
    let schema = schema.as_str().and_then(|name| records.get(name)).unwrap_or(schema);
    match value {
        Value::Union(branch, inner) => change(&schema[usize::try_from(*branch).unwrap()], records, name, inner, with),
        Value::Array(items) => items.iter_mut().for_each(|item| change(&schema["items"], records, name, item, with)),
        Value::Record(fields) => {
            for (own, inner) in fields.iter_mut() {
                let described =
                    schema["fields"].as_array().unwrap().iter().find(|field| field["name"] == *own).unwrap();
                change(&described["type"], records, name, inner, with);
            }
            if schema["name"] == name {
                with(fields);
            }
        }
        _ => {}
    }
}

fn default_of(field: &Json) -> Value {
    match (&field["default"], &field["type"]) {
        (Json::Null, _) => Value::Union(0, Box::new(Value::Null)),
        (Json::String(text), _) => Value::String(text.clone()),
        (Json::Bool(flag), _) => Value::Boolean(*flag),
        (Json::Array(_), _) => Value::Array(Vec::new()),
        (Json::Object(_), _) => Value::Map(std::collections::HashMap::new()),
        (Json::Number(number), Json::String(name)) if name == "int" => {
            Value::Int(number.as_i64().unwrap().try_into().unwrap())
        }
        (Json::Number(number), _) => Value::Long(number.as_i64().unwrap()),
    }
}

/// For every field that has a default: a record of before the field was there reads as one that holds the default. Rust has
/// its own idea of a default, and the schema another; here they must agree.
fn each_default_is_ours<T: Serialize + DeserializeOwned + Bounded + PartialEq + Debug>(
    topic: &Topic,
    samples: &[T],
) -> usize {
    let current: Json = serde_json::from_str(avsc(topic)).unwrap();
    let mut records = BTreeMap::new();
    definitions(&current, &mut records);
    let mut tried = 0;
    for (name, definition) in &records {
        for field in definition["fields"].as_array().unwrap().iter().filter(|field| field.get("default").is_some()) {
            let field_name = field["name"].as_str().unwrap();
            let mut older = current.clone();
            without(&mut older, name, field_name);
            let reader = codec_beside::<T>(topic, &older.to_string());
            for sample in samples {
                let mut before = value(topic, sample);
                let mut now = before.clone();
                change(&current, &records, name, &mut before, &|fields| fields.retain(|(own, _)| own != field_name));
                change(&current, &records, name, &mut now, &|fields| {
                    fields
                        .iter_mut()
                        .filter(|(own, _)| own == field_name)
                        .for_each(|(_, value)| *value = default_of(field));
                });
                let old = block_on(reader.decode(&record(OTHER_ID, &older, before)));
                let new = block_on(reader.decode(&record(OWN_ID, &current, now))).unwrap();
                assert_eq!(
                    old.unwrap_or_else(|error| panic!("{name}.{field_name}: {error}")),
                    new,
                    "{name}.{field_name}"
                );
            }
            tried += 1;
        }
    }
    tried
}

#[test]
fn a_record_of_before_a_field_was_there_reads_as_its_default() {
    assert!(each_default_is_ours(&COMMANDS, &samples::commands()) > 80);
    assert_eq!(each_default_is_ours(&OUTCOMES, &samples::outcome_records()), 5);
    assert_eq!(each_default_is_ours(&MOVEMENTS, &samples::movements()), 1);
    assert_eq!(each_default_is_ours(&LEVELS, &samples::levels()), 1);
    assert_eq!(each_default_is_ours(&EVENTS, &samples::events()), 1);
}

fn with_new_field(topic: &Topic, name: &str, kind: &Json) -> Json {
    fn add(schema: &mut Json, name: &str, kind: &Json) {
        match schema {
            Json::Array(branches) => branches.iter_mut().for_each(|branch| add(branch, name, kind)),
            Json::Object(object) => {
                let here = object.get("name").is_some_and(|own| own == name);
                if let Some(fields) = object.get_mut("fields").and_then(Json::as_array_mut) {
                    fields.iter_mut().for_each(|own| add(&mut own["type"], name, kind));
                    if here {
                        fields.push(json!({"name": "later", "type": kind, "default": ""}));
                    }
                }
                object.get_mut("items").into_iter().for_each(|items| add(items, name, kind));
            }
            _ => {}
        }
    }
    let mut schema = serde_json::from_str(avsc(topic)).unwrap();
    add(&mut schema, name, kind);
    schema
}

fn given(topic: &Topic, name: &str, value: &mut Value) {
    let current: Json = serde_json::from_str(avsc(topic)).unwrap();
    let mut records = BTreeMap::new();
    definitions(&current, &mut records);
    change(&current, &records, name, value, &|fields| fields.push(("later".into(), Value::String("news".into()))));
}

#[test]
fn readers_pass_over_fields_that_came_later() {
    let newer = with_new_field(&MOVEMENTS, "StockMovement", &json!("string"));
    let sample = &samples::movements()[0];
    let mut value = value(&MOVEMENTS, sample);
    given(&MOVEMENTS, "StockMovement", &mut value);
    let reader = codec_beside::<StockMovement>(&MOVEMENTS, &newer.to_string());
    assert_eq!(&block_on(reader.decode(&record(OTHER_ID, &newer, value))).unwrap(), sample);
}

/// An order with an instruction that this version does not know must neither be carried out without it nor be set aside.
#[test]
fn a_command_of_a_newer_version_waits() {
    let newer = with_new_field(&COMMANDS, "AllocateSalesOrder", &json!("string"));
    let mut value = value(&COMMANDS, &samples::commands()[0]);
    given(&COMMANDS, "AllocateSalesOrder", &mut value);
    let reader = codec_beside::<Command>(&COMMANDS, &newer.to_string());
    let mut bytes = record(OTHER_ID, &newer, value);
    let error = block_on(reader.decode(&bytes)).unwrap_err();
    assert!(matches!(error, DecodeError::NotUnderstood { id: OTHER_ID, .. }) && !error.is_poison(), "{error}");
    bytes.pop();
    let damaged = block_on(reader.decode(&bytes)).unwrap_err();
    assert!(damaged.is_poison(), "{damaged}");
}

/// A record of a schema that ours has outgrown: whatever cannot be read of it no upgrade makes readable.
#[test]
fn wrong_data_under_a_known_schema_is_poison_and_under_a_newer_one_waits() {
    let current: Json = serde_json::from_str(avsc(&COMMANDS)).unwrap();
    let mut records = BTreeMap::new();
    definitions(&current, &mut records);
    let mut wrong = value(&COMMANDS, &samples::commands()[0]);
    change(&current, &records, "Command", &mut wrong, &|fields| {
        fields
            .iter_mut()
            .filter(|(name, _)| name == "tenant_id")
            .for_each(|(_, value)| *value = Value::String("nobody".into()));
    });
    let decoded = |schema: &Json, value: Value| {
        let reader = codec_beside::<Command>(&COMMANDS, &schema.to_string());
        block_on(reader.decode(&record(OTHER_ID, schema, value))).unwrap_err()
    };
    // The same schema under another number, as another registry has it, and one from before a field was there.
    let error = decoded(&current, wrong.clone());
    assert!(error.is_poison() && error.to_string().contains("does not decode"), "{error}");
    let (name, field) = first_with_default(&records);
    let mut older = current.clone();
    without(&mut older, &name, &field);
    let mut before = wrong.clone();
    change(&current, &records, &name, &mut before, &|fields| fields.retain(|(own, _)| *own != field));
    let error = decoded(&older, before);
    assert!(error.is_poison() && error.to_string().contains("does not decode"), "{error}");
    let newer = with_new_field(&COMMANDS, "AllocateSalesOrder", &json!("string"));
    given(&COMMANDS, "AllocateSalesOrder", &mut wrong);
    assert!(!decoded(&newer, wrong).is_poison());
}

fn first_with_default(records: &BTreeMap<String, Json>) -> (String, String) {
    let fields = records
        .iter()
        .flat_map(|(name, definition)| definition["fields"].as_array().unwrap().iter().map(move |field| (name, field)));
    let (name, field) = fields.into_iter().find(|(_, field)| field.get("default").is_some()).unwrap();
    (name.clone(), field["name"].as_str().unwrap().to_owned())
}
