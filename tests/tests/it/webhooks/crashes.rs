use super::sink::Received;
use super::sink::Sink;
use super::{PATIENCE, register, until};
use serde_json::json;
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use twh_schemas::partition::partition_of;
use twh_tests::World;
use twh_tests::shared::SETTINGS;

const ITEMS: usize = 20;
const EVENTS: usize = 1_500;
/// As the environments of tests have them.
const PARTITIONS: i32 = 3;

/// Which server is known to the others by which name; each start gives it a new one.
#[derive(Default)]
struct Names {
    all: [String; 2],
    dead: BTreeSet<String>,
}

impl Names {
    /// Waits until a name that nobody had stands where owners are written, and gives it to a server that has just been started.
    async fn learn(&mut self, pool: &PgPool, server: usize) {
        let new = |owner: &String| !self.dead.contains(owner) && !self.all.contains(owner);
        let begun = Instant::now();
        self.all[server] = loop {
            let owners =
                sqlx::query_scalar("select owner from consumer_positions union select owner from ledger_partitions");
            let owners: Vec<String> = owners.fetch_all(pool).await.unwrap_or_default();
            if let Some(owner) = owners.into_iter().find(new) {
                break owner;
            }
            assert!(begun.elapsed() < PATIENCE, "server {server} owns nothing");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
    }

    /// Which server sends the webhooks of a partition.
    async fn sender(&self, pool: &PgPool, partition: i32) -> usize {
        let select = "select owner from consumer_positions where consumer_group like '%webhooks' and partition = $1";
        let begun = Instant::now();
        loop {
            let owner: Option<String> =
                sqlx::query_scalar(select).bind(partition).fetch_optional(pool).await.unwrap_or_default();
            if let Some(server) = owner.and_then(|owner| self.all.iter().position(|name| *name == owner)) {
                return server;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody sends");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills who sends the webhooks of a partition, and starts it again.
    async fn crash(&mut self, world: &mut World, pool: &PgPool, partition: i32) {
        let server = self.sender(pool, partition).await;
        world.server(server).unwrap().kill().await.unwrap();
        self.dead.insert(std::mem::take(&mut self.all[server]));
        world.server(server).unwrap().start().await.unwrap();
        self.learn(pool, server).await;
    }
}

/// Waits for a task for as long as the ledger goes on.
async fn ends(task: tokio::task::JoinHandle<()>, pool: &PgPool) {
    let (mut since, mut last) = (Instant::now(), 0);
    while !task.is_finished() {
        let at = "select max(event_sequence) from ledger_heads";
        let at: i64 = sqlx::query_scalar(at).fetch_one(pool).await.unwrap_or_default();
        if at > last {
            (since, last) = (Instant::now(), at);
        }
        assert!(since.elapsed() < PATIENCE, "the ledger stands at {last}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    task.await.unwrap();
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
    let mut world = World::with_own_parts(SETTINGS).await.unwrap();
    let second = world.add_server(&[]).unwrap();
    let mut names = Names::default();
    for server in [0, second] {
        world.server(server).unwrap().start().await.unwrap();
        names.learn(&world.pool().await.unwrap(), server).await;
    }
    let pool = world.pool().await.unwrap();
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
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        })
    };
    sink.until("/plain", "the first events", |all| all.len() > 200).await;
    let partition = partition_of(tenant.id.as_bytes(), PARTITIONS);
    names.crash(&mut world, &pool, partition).await;
    world.crash("kafka").await.unwrap();
    world.crash("postgres").await.unwrap();
    names.crash(&mut world, &pool, partition).await;
    ends(writer, &pool).await;
    // Items, the location, opening stock, and what was written: the ledger says how many that were.
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
    for made in [&plain, &ordered] {
        until(&tenant, &format!("/v1/webhooks/{}", made.id()), |body| {
            body["pending"] == 0 && body["state"] == "active"
        })
        .await;
    }
    let told = tenant.get("/v1/events?limit=1000&after=0").await.unwrap();
    assert_eq!(told.body["data"].as_array().unwrap().len(), 1_000);
    follows(&sink.all("/ordered"));
    println!("{expected} events to each of two subscriptions over four crashes; {repeats:?} repeats");
}
