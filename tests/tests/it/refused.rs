//! A row that the database refuses, whatever is in it: it costs its own record, or its own partition of the ledger, and nobody
//! else anything.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use twh_domain::id::TenantId;
use twh_domain::state::IdempotencyKey;
use twh_sinks::kafka::Reached;
use twh_sinks::postgres::committer::Committer;
use twh_sinks::postgres::ledger::halts;
use twh_sinks::postgres::ledger::{Batch, Commit, LedgerError, claim, current};
use twh_sinks::postgres::sqlx;
use twh_tests::{Answer, Tenant, World};
use uuid::Uuid;

const OUT_OF_RANGE: &str = "22003";

async fn world(partitions: &str) -> World {
    World::start_with(&[("TWH_RATE_LIMITS", "off"), ("TWH_TOPIC_PARTITIONS", partitions)]).await.unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn adjust(sku: &str, quantity: i64) -> Value {
    json!({ "location_code": "MAIN", "reason": "found", "lines": [{ "sku": sku, "quantity": quantity }] })
}

/// A read once it reflects a write.
async fn after(tenant: &Tenant, write: &Answer, path: &str) -> Answer {
    let headers = [("x-twh-at-least", write.header("x-twh-position"))];
    let answer = tenant.send(Method::GET, path, &headers, None).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer
}

async fn left_out(tenant: &Tenant) -> Value {
    let fresh = tenant.get("/v1/freshness").await.unwrap().body;
    let models = fresh["read_models"].as_array().unwrap();
    models.iter().find(|model| model["name"] == "supply").unwrap()["events_left_out"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_read_model_cannot_store_is_left_out_and_its_tenants_readers_are_told() {
    let world = world("1").await;
    let (one, other) = (world.tenant().await.unwrap(), world.tenant().await.unwrap());
    world.refuse_rows("supply_items", "new.sku = 'BAD'", OUT_OF_RANGE).await.unwrap();
    let items = async |tenant: &Tenant, skus: &[&str]| {
        let create = |sku: &&str| json!({ "type": "item.create", "body": { "sku": sku, "reorder_point": "5" } });
        let commands: Vec<_> = skus.iter().map(create).collect();
        tenant.done("/v1/commands:batch", json!({ "atomic": true, "commands": commands })).await.unwrap();
    };
    // Events of one command are read together.
    let before: Vec<String> = (0..40).map(|number| format!("S{number}")).collect();
    let skus: Vec<&str> = before.iter().map(String::as_str).chain(["BAD", "CUP"]).collect();
    items(&one, &skus).await;
    items(&other, &["MUG"]).await;
    for tenant in [&one, &other] {
        tenant.done("/v1/locations", json!({ "code": "MAIN" })).await.unwrap();
    }
    let cup = one.done("/v1/adjustments", adjust("CUP", 3)).await.unwrap();
    let mug = other.done("/v1/adjustments", adjust("MUG", 4)).await.unwrap();

    let low = after(&other, &mug, "/v1/stock/low").await;
    assert_eq!((&low.body["data"][0]["sku"], &low.body["data"][0]["qty_on_hand"]), (&json!("MUG"), &json!("4")));
    assert_eq!((low.header("x-twh-incomplete"), left_out(&other).await), ("", json!(0)));
    let low = after(&one, &cup, "/v1/stock/low?limit=100").await;
    let rows = low.body["data"].as_array().unwrap();
    let of = |sku: &str| rows.iter().filter(|row| row["sku"] == sku).count();
    assert_eq!((rows.len(), of("CUP"), of("BAD")), (41, 1, 0));
    assert_eq!((low.header("x-twh-incomplete"), left_out(&one).await), ("1", json!(1)));
    assert_eq!(world.trouble("projections-supply", "refused").await.unwrap(), 1);
    let sql = "select tenant_id, reason from projection_left_out";
    let noted: Vec<(Uuid, String)> = sqlx::query_as(sql).fetch_all(&world.pool().await.unwrap()).await.unwrap();
    assert!(noted.len() == 1 && noted[0].0.to_string() == one.id && noted[0].1.contains(OUT_OF_RANGE), "{noted:?}");

    // Once it can be stored, a rebuild has all.
    world.refuse_rows("supply_items", "false", OUT_OF_RANGE).await.unwrap();
    let rebuilt = world.command(&["rebuild", "supply"]).unwrap().output().await.unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let low = after(&one, &cup, "/v1/stock/low?limit=100").await;
    assert_eq!((low.body["data"].as_array().unwrap().len(), low.header("x-twh-incomplete")), (42, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_queued_for_webhooks_holds_up_no_others() {
    let world = world("1").await;
    let (one, other) = (world.tenant().await.unwrap(), world.tenant().await.unwrap());
    for tenant in [&one, &other] {
        assert!(tenant.post("/v1/webhooks/listen", json!({})).await.unwrap().status.is_success());
    }
    let refused = format!("new.tenant_id = '{}' and new.event_type = 'location.created'", one.id);
    world.refuse_rows("webhook_events", &refused, OUT_OF_RANGE).await.unwrap();
    for tenant in [&one, &other] {
        tenant.done("/v1/items", json!({ "sku": "CUP" })).await.unwrap();
        tenant.done("/v1/locations", json!({ "code": "MAIN" })).await.unwrap();
        tenant.done("/v1/suppliers", json!({ "code": "ACME" })).await.unwrap();
    }
    let told = async |tenant: &Tenant| {
        let page = tenant.get("/v1/events?after=0").await.unwrap().body;
        let data = page["data"].as_array().unwrap_or_else(|| panic!("{page}"));
        data.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the other tenant is not told", async || told(&other).await.len() == 3).await;
    assert_eq!(told(&one).await, ["item.created", "supplier.created"]);
    assert_eq!(world.trouble("webhooks", "refused").await.unwrap(), 1);
}

/// The first tenants that are on two partitions.
async fn on_two_partitions(world: &World) -> (Tenant, Tenant) {
    let partition = async |tenant: &Tenant| {
        tenant.stock("WIDGET", 5).await.unwrap();
        let write = tenant.done("/v1/locations", json!({ "code": "MORE" })).await.unwrap();
        write.header("x-twh-position").split_once('-').unwrap().0.to_owned()
    };
    let first = world.tenant().await.unwrap();
    let its = partition(&first).await;
    loop {
        let second = world.tenant().await.unwrap();
        if partition(&second).await != its {
            return (first, second);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_written_halts_its_partition_and_no_other_and_is_never_skipped() {
    let world = world("3").await;
    let (one, other) = on_two_partitions(&world).await;
    let refused = format!("new.tenant_id = '{}' and new.on_hand_change_micro = 13000000", one.id);
    world.refuse_rows("stock_movements", &refused, OUT_OF_RANGE).await.unwrap();
    let entry = |quantity: i64, key: String| json!({ "type": "adjustment.create", "idempotency_key": key, "body": adjust("WIDGET", quantity) });
    // In one batch of the log: what is before it is decided, what comes after it waits.
    let quantities = [1, 2, 13, 4];
    let commands: Vec<_> = quantities.iter().map(|quantity| entry(*quantity, quantity.to_string())).collect();
    let headers = [("idempotency-key", "batch"), ("content-type", "application/json"), ("prefer", "respond-async")];
    let body = json!({ "commands": commands }).to_string().into_bytes();
    let sent = one.send(Method::POST, "/v1/commands:batch", &headers, Some(body)).await.unwrap();
    assert_eq!(sent.status, 200, "{}", sent.body);
    until("the partition does not halt", async || world.trouble("ledger", "halted").await.unwrap() > 0).await;
    let answers = join_all((0..20).map(|_| other.post("/v1/adjustments", adjust("WIDGET", 1)))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().status == 201), "{answers:?}");
    assert_eq!(other.level("WIDGET").await.unwrap().0, "25");
    assert_eq!(one.level("WIDGET").await.unwrap().0, "8", "what is before it is written");

    let pool = world.pool().await.unwrap();
    let open = async || halts::open(&pool).await.unwrap();
    until("the halt is not written down", async || open().await.len() == 1).await;
    let halt = open().await.remove(0);
    assert!(halt.passes && halt.halt.why.contains(OUT_OF_RANGE), "{halt:?}");
    // It keeps its number for as long as it stands.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(open().await, [halt]);

    world.refuse_rows("stock_movements", "false", OUT_OF_RANGE).await.unwrap();
    until("the partition does not go on by itself", async || one.level("WIDGET").await.unwrap().0 == "25").await;
    until("the halt stays written down", async || open().await.is_empty()).await;

    // A person gives the command up, for good and knowingly.
    world.refuse_rows("stock_movements", &refused, OUT_OF_RANGE).await.unwrap();
    let headers = [("idempotency-key", "given-up"), ("content-type", "application/json"), ("prefer", "respond-async")];
    let body = adjust("WIDGET", 13).to_string().into_bytes();
    let sent = one.send(Method::POST, "/v1/adjustments", &headers, Some(body)).await.unwrap();
    assert_eq!(sent.status, 202, "{}", sent.body);
    until("the halt is not written down again", async || open().await.len() == 1).await;
    let halt = open().await.remove(0);
    let (partition, id) = (halt.partition.to_string(), halt.id.to_string());
    let next = (halt.next_offset + 1).to_string();
    let clear = ["ledger", "clear-halt", "--partition", &partition, "--halt", &id, "--accept-offset", &next];
    let refusal = world.command(&clear).unwrap().output().await.unwrap();
    let said = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(!refusal.status.success() && said.contains("--skip 1") && said.contains(&one.id), "{said}");
    let done = world.command(&[&clear[..], &["--skip", "1"]].concat()).unwrap().output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    one.done("/v1/adjustments", adjust("WIDGET", 1)).await.unwrap();
    assert_eq!(one.level("WIDGET").await.unwrap().0, "26");
    world.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_database_refuses_costs_none_that_is_written_in_one_transaction_with_it() {
    let world = World::prepare(&[]).await.unwrap();
    assert!(world.command(&["migrate"]).unwrap().status().await.unwrap().success());
    let pool = world.pool().await.unwrap();
    let mut claims = Vec::new();
    for partition in 0..8 {
        claims.push(claim(&pool, partition, "cluster", "owner").await.unwrap());
    }
    // PostgreSQL has no text with a NUL in it.
    let unwritable = IdempotencyKey { tenant: TenantId(Uuid::nil()), key: "\0".to_owned() };
    let committer = Committer::start(&pool, 1);
    let results = join_all(claims.iter().map(|claim| {
        let expired_keys = if claim.partition == 3 { vec![unwritable.clone()] } else { Vec::new() };
        let batch = Arc::new(Batch { expired_keys, ..Batch::default() });
        committer.commit(Commit { claim: *claim, reached: Reached::before(10), published_through: 0, batch })
    }))
    .await;
    for (claim, result) in claims.iter().zip(results) {
        let stands = current(&pool, claim.partition).await.unwrap().unwrap().reached.next_offset;
        match result {
            Ok(()) => assert_eq!((claim.partition == 3, stands), (false, 10)),
            Err(LedgerError::Refused(error)) => assert_eq!((claim.partition, stands), (3, 0), "{error}"),
            Err(error) => panic!("partition {}: {error}", claim.partition),
        }
    }
}
