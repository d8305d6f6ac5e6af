//! The description of the API that `twh openapi` prints: complete, as committed, and such that clients of the released one still work.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

mod compatible;

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use twh_edge::access::ENDPOINTS;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

/// What the program prints.
fn printed() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_twh")).arg("openapi").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn document() -> Value {
    serde_json::from_str(&printed()).unwrap()
}

#[test]
fn the_committed_description_is_current() {
    let text = printed();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(PATH).unwrap_or_default() == text,
        "docs/openapi.json is not current: run the tests with UPDATE_DOCS=1"
    );
}

/// `docs/openapi.released.json` is what of the description released clients rely on. What is not released may change: until
/// the first release, and with a new major version, `UPDATE_RELEASED=1` writes it anew.
#[test]
fn clients_of_the_released_description_still_work() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.released.json");
    let document = document();
    if std::env::var_os("UPDATE_RELEASED").is_some() {
        std::fs::write(path, format!("{}\n", compatible::shape(&document))).unwrap();
    }
    let released: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let broken = compatible::broken(&released, &document);
    assert!(broken.is_empty(), "clients that were made from the released description break:\n{}", broken.join("\n"));
}

/// Holds that a change of the description is seen as what it is.
#[test]
fn what_breaks_clients_is_told_from_what_does_not() {
    let old = document();
    let with = |pointer: &str, change: fn(&mut Value)| {
        let mut new = old.clone();
        change(new.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere")));
        compatible::broken(&compatible::shape(&old), &new)
    };
    assert_eq!(with("/paths", |paths| drop(paths.as_object_mut().unwrap().remove("/v1/me"))), ["GET /v1/me is gone"]);
    let gone =
        with("/components/schemas/Item/properties", |fields| drop(fields.as_object_mut().unwrap().remove("unit")));
    assert!(gone.iter().all(|line| line.ends_with(".unit is gone")) && !gone.is_empty(), "{gone:?}");
    let required =
        with("/components/schemas/CreateItem/required", |names| names.as_array_mut().unwrap().push("name".into()));
    assert!(
        required.iter().all(|line| line.ends_with(".name is required now")) && !required.is_empty(),
        "{required:?}"
    );
    let narrowed = with("/components/schemas/Role/enum", |names| drop(names.as_array_mut().unwrap().remove(0)));
    assert!(
        narrowed.iter().all(|line| line.contains("admin is no longer taken")) && !narrowed.is_empty(),
        "{narrowed:?}"
    );
    let added = with("/components/schemas/Item/properties", |fields| {
        fields.as_object_mut().unwrap().insert("colour".to_owned(), serde_json::json!({ "type": "string" }));
    });
    assert!(added.is_empty(), "a new field breaks nobody: {added:?}");
}

#[test]
fn narrower_bounds_fewer_forms_and_a_body_that_must_be_break_clients() {
    let described = |required: bool, schema: Value| {
        serde_json::json!({ "paths": { "/v1/things": { "post": {
            "requestBody": { "required": required, "content": { "application/json": { "schema": schema } } },
            "responses": { "200": { "content": { "application/json": { "schema": { "anyOf": schema["anyOf"] } } } } } } } } })
    };
    let text = |more: Value| {
        let mut schema = serde_json::json!({ "type": "string" });
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let bounds =
        |old: Value, new: Value| compatible::broken(&described(false, text(old)), &described(false, text(new)));
    let (five, nine) = (serde_json::json!({ "maxLength": 5 }), serde_json::json!({ "maxLength": 9 }));
    let pattern = serde_json::json!({ "pattern": "^a" });
    assert_eq!(bounds(nine.clone(), five.clone()), ["POST /v1/things: body: maxLength is 5 now"]);
    assert_eq!(bounds(serde_json::json!({}), five.clone()), ["POST /v1/things: body: maxLength is 5 now"]);
    assert_eq!(bounds(five, nine), [""; 0]);
    assert_eq!(bounds(serde_json::json!({}), pattern.clone()), ["POST /v1/things: body: must look like \"^a\" now"]);
    assert_eq!(bounds(pattern, serde_json::json!({})), [""; 0]);
    let forms = |of: &[&str]| {
        let forms: Vec<_> = of.iter().map(|one| serde_json::json!({ "type": one })).collect();
        described(false, serde_json::json!({ "anyOf": forms }))
    };
    let (two, one) = (forms(&["string", "integer"]), forms(&["string"]));
    let other_order = forms(&["integer", "string"]);
    assert_eq!(compatible::broken(&two, &one), ["POST /v1/things: body: {\"type\":\"integer\"} is no longer taken"]);
    assert_eq!(compatible::broken(&one, &two), ["POST /v1/things: 200: {\"type\":\"integer\"} is answered now"]);
    assert_eq!(compatible::broken(&two, &other_order), [""; 0]);
    let must = compatible::broken(
        &described(false, text(serde_json::json!({}))),
        &described(true, text(serde_json::json!({}))),
    );
    assert_eq!(must, ["POST /v1/things: the body is required now"]);
}

#[test]
fn every_endpoint_is_described_once() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let described: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let table: BTreeSet<_> = ENDPOINTS.iter().map(|one| (one.method.to_string(), one.path.to_owned())).collect();
    assert_eq!(described, table);
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(found.contains(format!("#/components/schemas/{name}").as_str()), "{name} is not used");
    }
}
