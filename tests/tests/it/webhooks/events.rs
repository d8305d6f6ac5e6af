use super::sink::Received;
use super::{register, server, until};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use twh_tests::{Tenant, python, root};
use twh_webhooks::catalogue::event_types;

fn examples() -> PathBuf {
    root().join("webhooks/src/catalogue/examples.json")
}

/// A Python program with a validator of its own holds events to their schemas.
async fn keep_to_their_schemas(types: Vec<Value>) {
    let mut program = Command::new(python().unwrap());
    program.arg(root().join("tests/consumer/event_schemas.py"));
    let mut program = program.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut stdin = program.stdin.take().unwrap();
    stdin.write_all(&serde_json::to_vec(&types).unwrap()).await.unwrap();
    drop(stdin);
    let output = program.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Does something that each type of event tells of.
async fn everything(tenant: &Tenant) {
    let post = async |path: &str, body: Value| tenant.done(path, body).await.unwrap();
    let change = async |path: &str, body: Value| {
        let headers = [("idempotency-key", path), ("if-match", "*"), ("content-type", "application/json")];
        let answer = tenant.send(reqwest::Method::PATCH, path, &headers, Some(body.to_string().into_bytes())).await;
        assert_eq!(answer.unwrap().status, 200, "{path}");
    };
    let item = post("/v1/items", json!({ "sku": "CUP", "name": "Cup", "barcodes": ["4006381333931"] })).await;
    change(&format!("/v1/items/{}", item.id()), json!({ "name": "Blue cup" })).await;
    let main = post("/v1/locations", json!({ "code": "MAIN", "name": "Main warehouse" })).await;
    change(&format!("/v1/locations/{}", main.id()), json!({ "name": "Warehouse" })).await;
    post("/v1/locations", json!({ "code": "SHOP" })).await;
    let supplier = post("/v1/suppliers", json!({ "code": "POTTERY" })).await;
    change(&format!("/v1/suppliers/{}", supplier.id()), json!({ "name": "The pottery" })).await;
    let lines = json!([{ "sku": "CUP", "quantity": 20, "unit_cost": { "amount": "2.50", "currency": "EUR" } }]);
    let order = async || {
        let body = json!({ "supplier_id": supplier.id(), "location_code": "MAIN", "lines": lines });
        format!("/v1/purchase_orders/{}", post("/v1/purchase_orders", body).await.id())
    };
    let (purchase, dropped) = (order().await, order().await);
    let act = async |path: String, body: Value| {
        let key = uuid::Uuid::new_v4().to_string();
        let headers = [("idempotency-key", key.as_str()), ("if-match", "*"), ("content-type", "application/json")];
        let sent = tenant.send(reqwest::Method::POST, &path, &headers, Some(body.to_string().into_bytes())).await;
        let sent = sent.unwrap();
        assert!(sent.status.is_success(), "{path}: {}", sent.body);
    };
    act(format!("{dropped}/cancel"), json!({})).await;
    act(format!("{purchase}/order"), json!({})).await;
    act(format!("{purchase}/receive"), json!({ "lines": [{ "line": 1, "quantity": 15 }] })).await;
    act(format!("{purchase}/close"), json!({})).await;
    let sale = async || {
        let body = json!({ "location_code": "MAIN", "lines": [{ "sku": "CUP", "quantity": 4 }] });
        post("/v1/sales_orders", body).await.id().to_owned()
    };
    let (sold, cancelled, closed) = (sale().await, sale().await, sale().await);
    act(format!("/v1/sales_orders/{sold}/allocate"), json!({})).await;
    act(format!("/v1/sales_orders/{sold}/ship"), json!({})).await;
    act(format!("/v1/sales_orders/{cancelled}/cancel"), json!({})).await;
    act(format!("/v1/sales_orders/{closed}/allocate"), json!({})).await;
    act(format!("/v1/sales_orders/{closed}/ship"), json!({ "lines": [{ "line": 1, "quantity": 1 }] })).await;
    act(format!("/v1/sales_orders/{closed}/close"), json!({})).await;
    let back = json!([{ "order_line": 1, "quantity": 1, "disposition": "restock" }]);
    post("/v1/returns", json!({ "sales_order_id": sold, "location_code": "MAIN", "lines": back })).await;
    let transfer = async || {
        let lines = json!([{ "sku": "CUP", "quantity": 2 }]);
        let body = json!({ "from_location_code": "MAIN", "to_location_code": "SHOP", "lines": lines });
        format!("/v1/transfers/{}", post("/v1/transfers", body).await.id())
    };
    let (moved, stopped, given_up) = (transfer().await, transfer().await, transfer().await);
    act(format!("{stopped}/cancel"), json!({})).await;
    for path in [&moved, &given_up] {
        act(format!("{path}/dispatch"), json!({})).await;
    }
    act(format!("{moved}/receive"), json!({ "lines": [{ "line": 1, "quantity": 2 }] })).await;
    act(format!("{given_up}/close"), json!({ "reason": "lost" })).await;
    let lines = json!([{ "sku": "CUP", "quantity": -1 }]);
    post("/v1/adjustments", json!({ "location_code": "MAIN", "reason": "broken", "lines": lines })).await;
    let lines = json!([{ "sku": "CUP", "quantity_counted": 3 }]);
    post("/v1/counts", json!({ "location_code": "MAIN", "lines": lines })).await;
    let hold = json!({ "sku": "CUP", "location_code": "MAIN", "quantity": 1 });
    let held = post("/v1/reservations", hold.clone()).await;
    act(format!("/v1/reservations/{}/release", held.id()), json!({})).await;
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let soon = twh_domain::timestamp::Timestamp::from_micros(
        i64::try_from(soon.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros()).unwrap(),
    );
    let mut lapses = hold;
    lapses["expires_at"] = json!(soon);
    post("/v1/reservations", lapses).await;
}

/// The parts of an example that say what it looks like: its fields, wherever they stand.
fn fields(value: &Value, at: &str, found: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Object(object) => {
            object.iter().for_each(|(name, value)| fields(value, &format!("{at}/{name}"), found));
            "object"
        }
        Value::Array(list) => {
            list.iter().for_each(|value| fields(value, &format!("{at}/0"), found));
            "array"
        }
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    found.insert(at.to_owned(), kind);
}

/// An item comes down to its reorder point.
async fn comes_down(tenant: &Tenant) {
    let location = tenant.done("/v1/locations", json!({ "code": "SHELF", "name": "Shelf" })).await.unwrap();
    let item = json!({ "sku": "CUP-LOW", "name": "Cup", "reorder_point": "5" });
    tenant.done("/v1/items", item).await.unwrap();
    for quantity in ["9", "-6"] {
        let lines = json!([{ "sku": "CUP-LOW", "quantity": quantity }]);
        let body = json!({ "location_id": location.id(), "reason": "found", "lines": lines });
        tenant.done("/v1/adjustments", body).await.unwrap();
    }
}

/// `UPDATE_DOCS=1` writes the examples anew, from what is sent.
#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_event_is_sent_as_its_schema_and_its_example_say() {
    let (_server, tenant, sink) = server().await;
    let made = register(&tenant, &sink.url("/all"), json!({})).await;
    let gone = register(&tenant, &sink.url("/gone"), json!({ "event_types": ["item.created"] })).await;
    sink.behave("/gone", super::sink::Behaviour::Answers(503));
    everything(&tenant).await;
    comes_down(&tenant).await;
    until(&tenant, &format!("/v1/webhooks/{}", gone.id()), |body| body["state"] == "quarantined").await;
    sink.behave("/gone", super::sink::Behaviour::Answers(200));
    until(&tenant, &format!("/v1/webhooks/{}", gone.id()), |body| body["state"] == "active").await;
    sink.behave("/gone", super::sink::Behaviour::Answers(410));
    tenant.done("/v1/items", json!({ "sku": "LAST" })).await.unwrap();
    tenant.done(&format!("/v1/webhooks/{}/test", made.id()), json!({})).await.unwrap();
    let types = event_types();
    let sent = sink
        .until("/all", "every type of event", |all| {
            types.iter().all(|one| all.iter().any(|got| got.body["type"] == one.name()))
        })
        .await;
    // By its sequence: deliveries overtake one another.
    let first = |name: &str| {
        let of_type = sent.iter().filter(|got| got.body["type"] == name);
        of_type.min_by_key(|got| got.body["sequence"].as_u64()).unwrap().body.clone()
    };
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let all: Map<String, Value> = types.iter().map(|one| (one.name().to_owned(), first(one.name()))).collect();
        std::fs::write(examples(), format!("{}\n", serde_json::to_string_pretty(&all).unwrap())).unwrap();
        println!("examples are written; build and run again");
        return;
    }
    let held = types.iter().map(|one| {
        let sent = sent.iter().filter(|got| got.body["type"] == one.name()).map(|got| got.body.clone());
        let events: Vec<Value> = sent.chain([Value::Object(one.example().clone())]).collect();
        json!({ "name": one.name(), "schema": one.schema(), "events": events })
    });
    keep_to_their_schemas(held.collect()).await;
    for one in &types {
        let (mut shape, mut of_example) = (BTreeMap::new(), BTreeMap::new());
        let example = Value::Object(one.example().clone());
        fields(&first(one.name()), "", &mut shape);
        fields(&example, "", &mut of_example);
        assert_eq!(shape, of_example, "{}: UPDATE_DOCS=1 writes the examples again", one.name());
    }
    println!("{} types of event", types.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_told_of_its_items_and_locations_only() {
    let (server, tenant, sink) = server().await;
    tenant.stock("WANTED", 3).await.unwrap();
    tenant.stock("OTHER", 3).await.unwrap();
    let wanted = tenant.get("/v1/items?sku=WANTED").await.unwrap().body["data"][0]["id"].clone();
    // A subscription may be told of what was just before it.
    let told =
        sqlx::query_scalar("select event_sequence from ledger_heads where tenant_id = $1::uuid").bind(&tenant.id);
    let before: i64 = told.fetch_one(&server.pool().await.unwrap()).await.unwrap();
    let since = |all: &[Received]| all.iter().filter(|one| one.sequence() > before).cloned().collect::<Vec<_>>();
    let narrow = json!({ "event_types": ["stock.*", "order.created"], "item_ids": [wanted] });
    let narrow = register(&tenant, &sink.url("/narrow"), narrow).await;
    register(&tenant, &sink.url("/last"), json!({})).await;
    for sku in ["OTHER", "WANTED"] {
        let lines = json!([{ "sku": sku, "quantity": 1 }]);
        tenant.done("/v1/sales_orders", json!({ "location_code": "MAIN", "lines": lines })).await.unwrap();
        let body = json!({ "location_code": "MAIN", "reason": "r", "lines": lines });
        tenant.done("/v1/adjustments", body).await.unwrap();
    }
    sink.until("/last", "all", |all| since(all).len() == 4).await;
    let got = since(&sink.until("/narrow", "two", |all| since(all).len() >= 2).await);
    // Who was told of all was so in the same transactions.
    let queued = tenant.get(&format!("/v1/webhooks/{}/deliveries", narrow.id())).await.unwrap();
    let queued = queued.body["data"].as_array().unwrap().clone();
    assert_eq!(queued.iter().filter(|one| one["sequence"].as_i64() > Some(before)).count(), 2, "{queued:?}");
    let types: std::collections::BTreeSet<_> = got.iter().map(|one| one.header("x-twh-event")).collect();
    assert_eq!((got.len(), types.len()), (2, 2), "{got:?}");
    for (field, body) in [
        ("event_types[0]", json!({ "url": sink.url("/x"), "event_types": ["order.shiped"] })),
        ("event_types", json!({ "url": sink.url("/x"), "event_types": [] })),
        ("concurrency_max", json!({ "url": sink.url("/x"), "event_types": ["*"], "concurrency_max": 0 })),
    ] {
        let refused = tenant.post("/v1/webhooks/register", body).await.unwrap();
        assert_eq!((refused.status.as_u16(), &refused.body["details"][0]["field"]), (422, &json!(field)));
    }
}
