use crate::sink::Received;
use crate::sink::Sink;
use crate::{QUICK, register, until};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tokio::process::Command;
use twh_tests::{World, root};

const ITEMS: usize = 20;
const EVENTS: usize = 3_000;

/// Kills a part as a crash would, and starts it again.
async fn crash(part: &str) {
    for verb in ["kill", "up"] {
        let output = Command::new(root().join("dev")).args([verb, part]).output().await.unwrap();
        assert!(output.status.success(), "{verb} {part}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// For each item, the versions of its level are told in their order, without a gap; a repeat may come at any time.
fn follows(list: &[Received]) {
    let mut level: BTreeMap<String, i64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for one in list.iter().filter(|one| seen.insert(one.header("webhook-id").to_owned())) {
        for stock in one.body["stock"].as_array().unwrap() {
            let item = stock["item_id"].as_str().unwrap().to_owned();
            let before = level.insert(item, stock["version"].as_i64().unwrap()).unwrap_or(0);
            assert_eq!(stock["version_before"], json!(before), "{}", one.text);
        }
    }
    assert!(!level.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_dispatcher_kafka_and_postgres_crash() {
    let _alone = crate::PARTS.write().await;
    let mut world = World::prepare(QUICK).await.unwrap();
    let second = world.add_server(&[]).unwrap();
    world.start_server().await.unwrap();
    world.server(second).unwrap().start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let sink = Sink::start();
    let plain = register(&tenant, &sink.url("/plain"), json!({})).await;
    let ordered = register(&tenant, &sink.url("/ordered"), json!({ "ordering": "key" })).await;
    for number in 0..ITEMS {
        tenant.stock(&format!("A-{number}"), 5).await.unwrap();
    }
    let writer = {
        let tenant = tenant.at(&world.server(second).unwrap().url);
        tokio::spawn(async move {
            for number in 0..EVENTS / 10 {
                let commands = (0..10).map(|index| {
                    let sku = format!("A-{}", (number * 7 + index * 3) % ITEMS);
                    let lines = json!([{ "sku": sku, "quantity": 1 }]);
                    let body = json!({ "location_code": "MAIN", "reason": "r", "lines": lines });
                    json!({ "type": "adjustment.create", "idempotency_key": format!("{number}-{index}"), "body": body })
                });
                let body = json!({ "commands": commands.collect::<Vec<_>>() });
                // What has no answer yet is asked again under its keys.
                loop {
                    let sent = tenant.post("/v1/commands:batch", body.clone()).await;
                    let done = |answer: &twh_tests::Answer| {
                        let results = answer.body["results"].as_array().cloned().unwrap_or_default();
                        results.len() == 10 && results.iter().all(|one| one["status"] == 201)
                    };
                    if sent.is_ok_and(|answer| done(&answer)) {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        })
    };
    sink.until("/plain", "the first events", |all| all.len() > 200).await;
    world.kill_server().await.unwrap();
    world.start_server().await.unwrap();
    crash("kafka").await;
    crash("postgres").await;
    world.kill_server().await.unwrap();
    world.start_server().await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(120), writer).await.expect("writes end").unwrap();
    for made in [&plain, &ordered] {
        until(&tenant, &format!("/v1/webhooks/{}", made.id()), |body| {
            body["pending"] == 0 && body["state"] == "active"
        })
        .await;
    }
    // Items, the location, opening stock, and what was written: the ledger says how many that were.
    let told = tenant.get("/v1/events?limit=1000&after=0").await.unwrap();
    assert!(told.body["data"].as_array().unwrap().len() == 1_000);
    let pool = world.pool().await.unwrap();
    let expected: i64 = sqlx::query_scalar("select event_sequence from ledger_heads").fetch_one(&pool).await.unwrap();
    assert_eq!(usize::try_from(expected).unwrap(), EVENTS + 2 * ITEMS + 1);
    let mut repeats = Vec::new();
    for path in ["/plain", "/ordered"] {
        let has_all = |all: &[Received]| {
            let sequences: BTreeSet<_> = all.iter().map(Received::sequence).collect();
            sequences.len() == usize::try_from(expected).unwrap() && sequences.last() == Some(&expected)
        };
        let all = sink.until(path, "every event of the ledger", has_all).await;
        let ids: BTreeMap<_, _> = all.iter().map(|one| (one.header("webhook-id"), one.sequence())).collect();
        assert_eq!(ids.len(), usize::try_from(expected).unwrap(), "a repeat carries the id of what it repeats");
        repeats.push(all.len() - ids.len());
    }
    follows(&sink.all("/ordered"));
    println!("{expected} events to each of two subscriptions over five crashes; {repeats:?} repeats");
}
