//! Topics that lost their end, or were made again, and went on: nobody skips what is on them in silence.

use crate::ledger::by_hand;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_schemas::Schemas;
use twh_sinks::kafka::{Outgoing, Producer};
use twh_sinks::postgres::ledger::halts::{self, OpenHalt};
use twh_tests::{Answer, Tenant, World};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
const ADJUSTMENT: &str = r#"{"location_code":"MAIN","reason":"by hand","lines":[{"sku":"WIDGET","quantity":2}]}"#;

fn adjust() -> Value {
    json!({ "location_code": "MAIN", "reason": "found", "lines": [{ "sku": "WIDGET", "quantity": 1 }] })
}

/// Asks again and again until there is something.
async fn wait_for<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn config(world: &World) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", world.brokers()).set("allow.auto.create.topics", "false");
    config
}

/// The topic loses everything: it is deleted, and made again as it was.
async fn lose(world: &World, name: &str) {
    let topic = format!("{}{name}", world.prefix);
    let admin: AdminClient<DefaultClientContext> = config(world).create().unwrap();
    let deleted = admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let consumer: BaseConsumer = config(world).create().unwrap();
    wait_for("the end of the topic", async || {
        let metadata = consumer.fetch_metadata(Some(&topic), KAFKA_TIMEOUT).unwrap();
        metadata.topics()[0].partitions().is_empty().then_some(())
    })
    .await;
    let made = world.command(&["topics"]).unwrap().output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Commands that somebody else puts on the log, of two widgets each.
async fn put(world: &World, tenant: &Tenant, count: usize) {
    let schemas = Schemas::connect(world.registry(), &world.prefix).await.unwrap();
    let command =
        |_| schemas.commands.encode(&by_hand(tenant, Uuid::now_v7(), "adjustment.create", ADJUSTMENT)).unwrap();
    let payloads: Vec<_> = (0..count).map(command).collect();
    produce(world, "commands", payloads.iter().map(|payload| (tenant.id.as_bytes(), payload.as_slice()))).await;
}

async fn produce<'a>(world: &World, name: &str, records: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    let producer = Producer::new(world.brokers(), "by-hand", KAFKA_TIMEOUT).unwrap();
    let topic = format!("{}{name}", world.prefix);
    let outgoing =
        records.map(|(key, payload)| Outgoing { topic: &topic, partition: None, key, headers: &[], payload });
    producer.produce_all(outgoing).await.unwrap();
}

/// Key and value of every record of a topic's only partition.
async fn read(world: &World, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let topic = format!("{}{name}", world.prefix);
    let consumer: BaseConsumer = config(world).set("group.id", "reader").create().unwrap();
    tokio::task::spawn_blocking(move || {
        let (low, high) = consumer.fetch_watermarks(&topic, 0, KAFKA_TIMEOUT).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
        let next = |_| {
            let message = consumer.poll(KAFKA_TIMEOUT).unwrap().unwrap();
            (bytes(message.key()), bytes(message.payload()))
        };
        (low..high).map(next).collect()
    })
    .await
    .unwrap()
}

async fn halt(world: &World) -> OpenHalt {
    let pool = world.pool().await.unwrap();
    wait_for("the halt", async || halts::open(&pool).await.unwrap().pop()).await
}

async fn refused(tenant: &Tenant, key: &str) -> Answer {
    wait_for("the refusal", async || {
        let answer = tenant.post_as("/v1/adjustments", key, adjust()).await.unwrap();
        (answer.code() == "LEDGER_HALTED").then_some(answer)
    })
    .await
}

/// The exit code of `twh ledger …`, and what it said.
async fn ledger(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments: Vec<&str> = ["ledger"].iter().chain(arguments).copied().collect();
    let output = world.command(&arguments).unwrap().output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_lost_halts_the_ledger_until_a_person_has_looked_however_long_it_grows() {
    let mut world = World::start_with(&[("TWH_TOPIC_PARTITIONS", "1")]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 5).await.unwrap();
    world.stop_server().await.unwrap();
    lose(&world, "commands").await;
    world.start_server().await.unwrap();
    let open = halt(&world).await;
    assert!(open.halt.why.contains("the log ends at offset 0"), "{open:?}");
    assert_eq!((open.partition, open.next_offset), (0, 3));
    let answer = refused(&tenant, "refused").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "10"), "{}", answer.body);

    // The log grows past the ledger, and the halt stays, also for a process that knows of nothing.
    put(&world, &tenant, 6).await;
    world.stop_server().await.unwrap();
    world.start_server().await.unwrap();
    let answer = tenant.post("/v1/adjustments", adjust()).await.unwrap();
    assert_eq!(answer.code(), "LEDGER_HALTED", "{}", answer.body);
    wait_for("the refused claim", async || {
        std::fs::read_to_string(world.log_path()).unwrap().contains("is halted since").then_some(())
    })
    .await;
    assert_eq!(halt(&world).await, open);
    assert_eq!(tenant.movements().await.unwrap(), 1);

    // A person looks, and lets it go on with what is there.
    let (code, shown) = ledger(&world, &["clear-halt", "--partition", "0"]).await;
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("--accept-offset 0") && shown.contains("before offset 3"), "{shown}");
    let id = open.id.to_string();
    let clear = async |halt: &str, offset: &str, more: &[&str]| {
        let arguments = ["clear-halt", "--partition", "0", "--halt", halt, "--accept-offset", offset];
        ledger(&world, &[&arguments, more].concat()).await
    };
    for (halt, offset, more, why) in [
        (id.as_str(), "99", [].as_slice(), "holds offsets from 0 to before"),
        ("99", "0", &[], "is number"),
        (&id, "2", &[], "leaves out 2 records"),
        (&id, "2", &["--skip", "1"], "leaves out 2 records"),
    ] {
        let (code, said) = clear(halt, offset, more).await;
        assert!(code == Some(1) && said.contains(why), "{said}");
    }
    let pool = world.pool().await.unwrap();
    let other = "update ledger_partitions set kafka_cluster_id = 'x' || kafka_cluster_id";
    sqlx::query(other).execute(&pool).await.unwrap();
    let (code, said) = clear(&id, "0", &[]).await;
    assert!(code == Some(1) && said.contains("was read from Kafka cluster x"), "{said}");
    let (code, said) = clear(&id, "0", &["--accept-cluster"]).await;
    assert_eq!(code, Some(0), "{said}");
    // What was refused is done once, whether it was put on the log or not.
    wait_for("the answer", async || {
        let answer = tenant.post_as("/v1/adjustments", "refused", adjust()).await.unwrap();
        answer.status.is_success().then_some(())
    })
    .await;
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "18");
    assert_eq!(ledger(&world, &["halts"]).await, (Some(0), "no partition is halted\n".to_owned()));
    world.is_sound().await.unwrap();

    // Another log that is longer than the ledger from the beginning.
    world.stop_server().await.unwrap();
    lose(&world, "commands").await;
    put(&world, &tenant, 20).await;
    world.start_server().await.unwrap();
    let open = halt(&world).await;
    assert!(open.halt.why.contains("another record at offset"), "{open:?}");
    assert!(open.halt.expected != open.halt.found, "{open:?}");
    assert_eq!(tenant.movements().await.unwrap(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_the_ledger_has_passed_is_no_acknowledgement() {
    let mut world = World::start_with(&[("TWH_TOPIC_PARTITIONS", "1")]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 5).await.unwrap();
    world.stop_server().await.unwrap();
    // As if the log had lost a hundred records: no ledger runs that would see it.
    let pool = world.pool().await.unwrap();
    sqlx::query("update ledger_partitions set next_offset = next_offset + 100").execute(&pool).await.unwrap();
    let mut ingest = world.command(&["serve", "--roles", "ingest"]).unwrap();
    let mut ingest = ingest.env("TWH_OPS_ADDR", "127.0.0.1:0").spawn().unwrap();
    wait_for("the write side", async || world.server(0).unwrap().is_ready().await.then_some(())).await;
    let answer = tenant.post("/v1/adjustments", adjust()).await.unwrap();
    assert_eq!(answer.code(), "LEDGER_HALTED", "{} {}", answer.status, answer.body);
    let open = halt(&world).await;
    assert_eq!(
        (open.halt.expected.as_str(), open.halt.found.as_str()),
        ("an offset of 103 or after for a new command", "offset 3")
    );
    // From now on nothing is put on the log.
    let answer = tenant.post("/v1/adjustments", adjust()).await.unwrap();
    assert_eq!(answer.code(), "LEDGER_HALTED", "{} {}", answer.status, answer.body);
    assert!(answer.body["message"].as_str().unwrap().contains("nothing was stored"), "{}", answer.body);
    assert_eq!(read(&world, "commands").await.len(), 4);
    ingest.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_were_acknowledged_and_not_applied_are_missed_when_the_log_has_lost_them() {
    let mut world = World::prepare(&[("TWH_TOPIC_PARTITIONS", "1")]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let mut ingest = world.command(&["serve", "--roles", "ingest"]).unwrap();
    let mut ingest = ingest.env("TWH_OPS_ADDR", "127.0.0.1:0").spawn().unwrap();
    wait_for("the write side", async || world.server(0).unwrap().is_ready().await.then_some(())).await;
    for number in 0..8 {
        let headers = [
            ("idempotency-key", format!("k{number}")),
            ("content-type", "application/json".to_owned()),
            ("prefer", "respond-async".to_owned()),
        ];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let body = json!({ "code": format!("S{number}") }).to_string().into_bytes();
        let answer = tenant.send(reqwest::Method::POST, "/v1/suppliers", &headers, Some(body)).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    let pool = world.pool().await.unwrap();
    let written = async || {
        let sql = "select next_offset from ledger_acknowledged";
        sqlx::query_scalar::<_, i64>(sql).fetch_optional(&pool).await.unwrap()
    };
    wait_for("the note", async || (written().await == Some(8)).then_some(())).await;
    ingest.kill().await.unwrap();
    let kept = read(&world, "commands").await;
    lose(&world, "commands").await;
    let kept = kept.iter().take(3).map(|(key, payload)| (key.as_slice(), payload.as_slice()));
    produce(&world, "commands", kept).await;

    world.start_server().await.unwrap();
    let open = halt(&world).await;
    assert!(open.halt.why.contains("ends at offset 3, but what is before offset 8 was acknowledged"), "{open:?}");
    refused(&tenant, "refused").await;
    let (code, shown) = ledger(&world, &["halts"]).await;
    assert!(code == Some(2) && shown.contains("--accept-offset 0"), "{shown}");
    let clear = ["clear-halt", "--partition", "0", "--halt", &open.id.to_string(), "--accept-offset", "0"];
    let (code, said) = ledger(&world, &clear).await;
    assert_eq!(code, Some(0), "{said}");
    wait_for("the answer", async || {
        let answer = tenant.post_as("/v1/suppliers", "k7", json!({ "code": "S7" })).await.unwrap();
        answer.status.is_success().then_some(())
    })
    .await;
    // Neither does a process that knows of the log of before halt it once more.
    world.stop_server().await.unwrap();
    world.start_server().await.unwrap();
    tenant.done("/v1/suppliers", json!({ "code": "LAST" })).await.unwrap();
    assert!(halts::open(&pool).await.unwrap().is_empty());
    world.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_events_stands_where_their_topic_is_another_one_and_a_rebuild_helps() {
    let mut world = World::start_with(&[("TWH_TOPIC_PARTITIONS", "1")]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 5).await.unwrap();
    let pool = world.pool().await.unwrap();
    let at_the_end = "select count(*) from consumer_positions where next_offset = 3";
    wait_for("the read models", async || {
        let count: i64 = sqlx::query_scalar(at_the_end).fetch_one(&pool).await.unwrap();
        (count == 2).then_some(())
    })
    .await;
    world.stop_server().await.unwrap();
    let events = read(&world, "domain.events").await;
    assert_eq!(events.len(), 3);
    lose(&world, "domain.events").await;
    // Longer than before, so that by its offsets alone it could be the same.
    let again = events.iter().cycle().take(9);
    produce(&world, "domain.events", again.map(|(key, payload)| (key.as_slice(), payload.as_slice()))).await;
    world.start_server().await.unwrap();
    tenant.done("/v1/adjustments", adjust()).await.unwrap();
    for group in ["projections-supply", "webhooks"] {
        let halted = format!("twh_partition_trouble_total{{group=\"{}{group}\",kind=\"halted\"}}", world.prefix);
        wait_for(group, async || {
            let metrics = reqwest::get(format!("{}/metrics", world.ops_url)).await.unwrap().text().await.unwrap();
            metrics.contains(&halted).then_some(())
        })
        .await;
    }
    assert!(
        std::fs::read_to_string(world.log_path()).unwrap().contains("twh rebuild supply makes it of what there is")
    );
    let pool = world.pool().await.unwrap();
    let noted = async || halts::open(&pool).await.unwrap();
    wait_for("both halts", async || (noted().await.len() == 2).then_some(())).await;
    let (code, shown) = ledger(&world, &["halts"]).await;
    assert!(code == Some(2) && shown.contains("twh rebuild supply") && shown.contains("--group"), "{shown}");
    let open = noted().await.into_iter().find(|halt| halt.group.ends_with("webhooks")).unwrap();
    let (id, at) = (open.id.to_string(), open.next_offset.to_string());
    let clear = ["clear-halt", "--group", &open.group, "--partition", "0", "--halt", &id, "--accept-offset", &at];
    let (code, said) = ledger(&world, &clear).await;
    assert_eq!(code, Some(0), "{said}");
    wait_for("the webhooks", async || {
        let sql = "select next_offset from consumer_positions where consumer_group = $1";
        let at: i64 = sqlx::query_scalar(sql).bind(&open.group).fetch_one(&pool).await.unwrap();
        (at >= 10).then_some(())
    })
    .await;
    let rebuilt = world.command(&["rebuild", "supply"]).unwrap().output().await.unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let answer = tenant.done("/v1/adjustments", adjust()).await.unwrap();
    let item = tenant.get("/v1/items?sku=WIDGET").await.unwrap();
    let path = format!("/v1/items/{}/supply", item.body["data"][0]["id"].as_str().unwrap());
    let key = [("x-twh-at-least", answer.header("x-twh-position"))];
    let supply = tenant.send(reqwest::Method::GET, &path, &key, None).await.unwrap();
    assert_eq!(supply.status, 200, "{}", supply.body);
    assert_eq!(ledger(&world, &["halts"]).await, (Some(0), "no partition is halted\n".to_owned()));
}
