//! The ledger against a second writer, a poisoned log, a rewritten history and an incompatible schema.

use futures::future::join_all;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use twh_domain::actor::Actor;
use twh_domain::commands::{Command, OPERATIONS_MAX, Operation, Payload, RULES_VERSION};
use twh_domain::id::{CommandId, TenantId};
use twh_domain::timestamp::Timestamp;
use twh_schemas::Schemas;
use twh_sinks::kafka::{Outgoing, Producer, Reached};
use twh_sinks::postgres::committer::Committer;
use twh_sinks::postgres::ledger::{Claim, Commit, LedgerError, claim, commit, current};
use twh_tests::{Tenant, World};
use uuid::Uuid;

fn adjust(quantity: i64) -> Value {
    json!({ "location_code": "MAIN", "reason": "found", "lines": [{ "sku": "WIDGET", "quantity": quantity }] })
}

/// Every event of the tenant, by sequence: none is missing.
async fn events_are_complete(world: &World, tenant: &Tenant) {
    let pool = world.pool().await.unwrap();
    let expected: i64 = sqlx::query_scalar("select event_sequence from ledger_heads where tenant_id = $1::uuid")
        .bind(&tenant.id)
        .fetch_one(&pool)
        .await
        .unwrap();
    let topic = format!("{}domain.events", world.prefix);
    let brokers = world.brokers().to_owned();
    let headers = tokio::task::spawn_blocking(move || read_from_start(&brokers, &topic)).await.unwrap();
    let mut ids: Vec<String> = headers.into_iter().filter(|(key, _)| *key == tenant.id).map(|(_, id)| id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(i64::try_from(ids.len()).unwrap(), expected, "every event is on the topic; repeats carry the same id");
}

/// (key, ce_id or DLQ reason) of every record of a topic.
fn read_from_start(brokers: &str, topic: &str) -> Vec<(String, String)> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "reader").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), Duration::from_secs(10)).unwrap();
        left += high - low;
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut records = Vec::new();
    let begun = Instant::now();
    while left > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{topic}: {left} records do not come");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.unwrap();
        left -= 1;
        let header = |name: &str| {
            message
                .headers()
                .and_then(|all| all.iter().find(|one| one.key == name))
                .and_then(|one| one.value)
                .map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        records.push((key, header("ce_id").or_else(|| header("twh-dlq-reason")).unwrap_or_default()));
    }
    records
}

/// A commit that writes nothing and moves its partition.
fn nothing(claim: Claim, next_offset: i64) -> Commit {
    Commit { claim, reached: Reached::before(next_offset), published_through: -1, batch: Arc::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_writer_changes_nothing() {
    let world = World::prepare(&[]).await.unwrap();
    assert!(world.command(&["migrate"]).unwrap().status().await.unwrap().success());
    let pool = world.pool().await.unwrap();
    let first = claim(&pool, 0, "cluster", "first").await.unwrap();
    let second = claim(&pool, 0, "cluster", "second").await.unwrap();
    assert!(second.epoch > first.epoch);
    let before = current(&pool, 0).await.unwrap();
    let refused = commit(&pool, &[nothing(first, 10)]).await.unwrap_err();
    assert!(matches!(refused, LedgerError::Fenced { .. }), "{refused}");
    assert_eq!(current(&pool, 0).await.unwrap(), before);
    commit(&pool, &[nothing(second, 10)]).await.unwrap();
    assert!(
        matches!(commit(&pool, &[nothing(second, 20)]).await.unwrap_err(), LedgerError::Fenced { .. }),
        "an offset is left once"
    );
    assert!(matches!(claim(&pool, 0, "another cluster", "third").await.unwrap_err(), LedgerError::OtherCluster { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_fenced_holds_up_no_other_partition_of_the_same_transaction() {
    let world = World::prepare(&[]).await.unwrap();
    assert!(world.command(&["migrate"]).unwrap().status().await.unwrap().success());
    let pool = world.pool().await.unwrap();
    let mut claims = Vec::new();
    for partition in 0..8 {
        claims.push(claim(&pool, partition, "cluster", "first").await.unwrap());
    }
    claim(&pool, 3, "cluster", "second").await.unwrap();
    // One transaction at a time, so that what comes while it runs is written together.
    let committer = Committer::start(&pool, 1);
    let results = join_all(claims.iter().map(|claim| committer.commit(nothing(*claim, 10)))).await;
    for (claim, result) in claims.iter().zip(results) {
        let stands = current(&pool, claim.partition).await.unwrap().unwrap().reached.next_offset;
        match result {
            Ok(()) => assert_eq!((claim.partition == 3, stands), (false, 10)),
            Err(LedgerError::Fenced { partition, .. }) => assert_eq!((partition, claim.partition, stands), (3, 3, 0)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// As long as the text of a time that is put in its place.
const TIME: &str = "2026-01-01T00:00:00.1234Z";
const TIMED: &str = r#"{"location_code":"MAIN","reason":"r","lines":[{"sku":"WIDGET","quantity":2}],"occurred_at":"2026-01-01T00:00:00.1234Z"}"#;

/// An adjustment as whoever writes to the log by hand may put it there.
pub(crate) fn by_hand(tenant: &Tenant, id: Uuid, kind: &str, body: &str) -> Command {
    let payload = Payload::deserialize_kind(kind, &mut serde_json::Deserializer::from_str(body));
    Command {
        command_id: CommandId(Uuid::now_v7()),
        tenant_id: TenantId(tenant.id.parse().unwrap()),
        rules_version: RULES_VERSION,
        issued_at: Timestamp::default(),
        actor: Actor { kind: "by_hand".to_owned(), id: "x".to_owned(), ip: None, user_agent: None }.into(),
        request_id: "by hand".into(),
        idempotency_key: Uuid::new_v4().to_string(),
        fingerprint: "f".to_owned(),
        operations: vec![Operation { subject: id, expected_version: None, payload: payload.unwrap().unwrap() }],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_taken_is_refused_though_it_looks_new() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 5).await.unwrap();
    let first = tenant.done("/v1/adjustments", adjust(1)).await.unwrap();
    let pool = world.pool().await.unwrap();
    // Whoever writes to the log by hand may name an id that is there; the ledger looks none up that the edge makes anew.
    let schemas = Schemas::connect(world.registry(), &world.prefix).await.unwrap();
    let producer = Producer::new(world.brokers(), "by-hand", Duration::from_secs(10)).unwrap();
    let topic = format!("{}commands", world.prefix);
    let command = |id: Uuid, body: &str| by_hand(&tenant, id, "adjustment.create", body);
    let taken: Uuid = first.id().parse().unwrap();
    let new = Uuid::now_v7();
    let good = r#"{"location_code":"MAIN","reason":"r","lines":[{"sku":"WIDGET","quantity":2}]}"#;
    let bad = r#"{"location_code":"NOWHERE","reason":"r","lines":[{"sku":"WIDGET","quantity":2}]}"#;
    // Taken; refused for another reason, though also taken; new, twice.
    let commands = [command(taken, good), command(taken, bad), command(new, good), command(new, good)];
    let records: Vec<_> = commands.iter().map(|command| schemas.commands.encode(command).unwrap()).collect();
    let records = records.iter().map(|payload| Outgoing {
        topic: &topic,
        partition: None,
        key: tenant.id.as_bytes(),
        headers: &[],
        payload,
    });
    producer.produce_all(records).await.unwrap();
    let mut answers = Vec::new();
    for command in &commands {
        let path = format!("/v1/commands/{}", command.command_id);
        let begun = Instant::now();
        let answer = loop {
            let answer = tenant.get(&path).await.unwrap();
            if answer.status.is_success() && answer.body["status"] != "pending" {
                break answer;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{} {}", answer.status, answer.body);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        answers.push(answer.body["http_status"].as_u64().unwrap());
    }
    assert_eq!(answers, [409, 409, 201, 409]);
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "8");
    let twice = "select count(*) from adjustments where id = $1";
    assert_eq!(sqlx::query_scalar::<_, i64>(twice).bind(taken).fetch_one(&pool).await.unwrap(), 1);
    world.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_two_kinds_share_makes_no_ledger_unsound() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let item = tenant.done("/v1/items", json!({ "sku": "WIDGET" })).await.unwrap();
    // Whoever writes to the log by hand may do it; an id is unique within its kind.
    let schemas = Schemas::connect(world.registry(), &world.prefix).await.unwrap();
    let command = by_hand(&tenant, item.id().parse().unwrap(), "supplier.create", r#"{"code":"ACME"}"#);
    let payload = schemas.commands.encode(&command).unwrap();
    let topic = format!("{}commands", world.prefix);
    let record =
        Outgoing { topic: &topic, partition: None, key: tenant.id.as_bytes(), headers: &[], payload: &payload };
    let producer = Producer::new(world.brokers(), "by-hand", Duration::from_secs(10)).unwrap();
    producer.produce_all(std::iter::once(record)).await.unwrap();
    // Each has a second version.
    tenant.done("/v1/locations", json!({ "code": "MAIN" })).await.unwrap();
    for (path, version) in [("items", 1), ("suppliers", 1)] {
        let etag = format!("\"{version}\"");
        let headers = [("if-match", etag.as_str()), ("idempotency-key", path), ("content-type", "application/json")];
        let path = format!("/v1/{path}/{}", item.id());
        let body = json!({ "name": "Gadget" }).to_string().into_bytes();
        let changed = tenant.send(Method::PATCH, &path, &headers, Some(body)).await.unwrap();
        assert_eq!(changed.status, 200, "{path}: {}", changed.body);
    }
    world.is_sound().await.unwrap();
    let account = tenant.get(&format!("/v1/audit?entity_id={}", item.id())).await.unwrap();
    let records = account.body["data"].as_array().unwrap();
    assert_eq!(records.len(), 4, "{}", account.body);
    for record in records.iter().filter(|record| !record["old"].is_null()) {
        assert!(record["old"]["sku"].is_string() == (record["entity_type"] == "item"), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ledger_on_the_same_partitions_doubles_nothing() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 1).await.unwrap();
    // A group of its own gives it the same partitions: the two fence each other off, again and again.
    let log = std::fs::File::create(world.log_path().with_extension("rogue")).unwrap();
    let mut rogue = world.command(&["process", "ledger"]).unwrap();
    rogue.env("TWH_GROUP_PREFIX", "rogue.").env("TWH_HTTP_ADDR", "127.0.0.1:0");
    rogue.env("TWH_OPS_ADDR", "127.0.0.1:0").stderr(log);
    let mut rogue = rogue.spawn().unwrap();
    let met = || {
        [world.log_path(), world.log_path().with_extension("rogue")]
            .iter()
            .any(|log| std::fs::read_to_string(log).unwrap().contains("is fenced"))
    };
    let begun = Instant::now();
    let (mut sent, mut have_met) = (0, false);
    // And on, once they have met: they do so again and again.
    let mut rounds_left = 50;
    while rounds_left > 0 {
        have_met = have_met || met();
        if have_met {
            rounds_left -= 1;
        }
        assert!(have_met || begun.elapsed() < Duration::from_secs(60), "the two never met");
        let answers = join_all((0..10).map(|_| tenant.post("/v1/adjustments", adjust(1)))).await;
        for answer in answers {
            let answer = answer.unwrap();
            assert!(answer.status.is_success(), "{}", answer.body);
            sent += 1;
        }
    }
    rogue.kill().await.unwrap();
    let begun = Instant::now();
    while tenant.level("WIDGET").await.unwrap().0 != (sent + 1).to_string() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{sent} sent, {:?} there",
            tenant.level("WIDGET").await.unwrap()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(tenant.movements().await.unwrap(), sent + 1);
    let _ = std::fs::remove_file(world.log_path().with_extension("rogue"));
    // What was committed by the one that was killed is published by the other.
    tenant.done("/v1/adjustments", adjust(1)).await.unwrap();
    let pool = world.pool().await.unwrap();
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>("select count(*) from outbox").fetch_one(&pool).await.unwrap() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the outbox does not empty");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    events_are_complete(&world, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_cannot_be_rewritten() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 5).await.unwrap();
    let pool = world.pool().await.unwrap();
    for table in ["stock_movements", "audit_log"] {
        for sql in
            [format!("update {table} set sequence = 9"), format!("delete from {table}"), format!("truncate {table}")]
        {
            let error = sqlx::query(&sql).execute(&pool).await.unwrap_err();
            assert!(error.to_string().contains("append-only"), "{sql}: {error}");
        }
    }
    let audited: i64 = sqlx::query_scalar(
        "select count(*) from audit_log where tenant_id = $1::uuid and actor_kind = 'api_key' and request_id <> ''",
    )
    .bind(&tenant.id)
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(audited, 3, "every write left its record");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_record_goes_to_the_dead_letters_and_the_partition_goes_on() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 5).await.unwrap();
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", world.brokers()).create().unwrap();
    let topic = format!("{}commands", world.prefix);
    // A time of which UTC has none: with its offset it lies before the year 0.
    let schemas = Schemas::connect(world.registry(), &world.prefix).await.unwrap();
    let mut timeless = schemas.commands.encode(&by_hand(&tenant, Uuid::now_v7(), "adjustment.create", TIMED)).unwrap();
    let at = timeless.windows(TIME.len()).position(|window| window == TIME.as_bytes()).unwrap();
    timeless[at..at + TIME.len()].copy_from_slice(b"0000-01-01T00:00:00+23:59");
    let mut poison =
        vec![b"not avro at all".to_vec(), b"\0\0\x0f\x42\x40no such schema".to_vec(), b"\0".to_vec(), timeless];
    let unsound: [fn(&mut Command); 5] = [
        |command| command.idempotency_key.push('\0'),
        |command| command.idempotency_key = "k".repeat(12_000),
        |command| Arc::make_mut(&mut command.actor).id.push('\0'),
        |command| command.rules_version = RULES_VERSION + 99,
        |command| command.operations = vec![command.operations[0].clone(); OPERATIONS_MAX + 1],
    ];
    for spoil in unsound {
        let mut command = by_hand(&tenant, Uuid::now_v7(), "adjustment.create", TIMED);
        spoil(&mut command);
        poison.push(schemas.commands.encode(&command).unwrap());
    }
    // Refused and not set aside: what is wrong is in the body.
    let refused = by_hand(&tenant, Uuid::now_v7(), "adjustment.create", &TIMED.replace("WIDGET", "A\\u0000B"));
    let refused_record = schemas.commands.encode(&refused).unwrap();
    // A tenant's command is decided on the tenant's partition, and nowhere else.
    let elsewhere = schemas.commands.encode(&by_hand(&tenant, Uuid::now_v7(), "adjustment.create", TIMED)).unwrap();
    for partition in 0..3 {
        for payload in poison.iter().chain([&refused_record, &elsewhere]) {
            let record = FutureRecord::to(&topic).partition(partition).key(&tenant.id).payload(payload);
            producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error).unwrap();
        }
    }
    tenant.done("/v1/adjustments", adjust(2)).await.unwrap();
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "9");
    let answer = tenant.get(&format!("/v1/commands/{}", refused.command_id)).await.unwrap();
    assert_eq!(answer.body["body"]["code"], "UNKNOWN_REFERENCE", "{}", answer.body);
    let dlq = format!("{}ledger.dlq", world.prefix);
    let begun = Instant::now();
    let letters = loop {
        let (brokers, dlq) = (world.brokers().to_owned(), dlq.clone());
        let letters = tokio::task::spawn_blocking(move || read_from_start(&brokers, &dlq)).await.unwrap();
        if letters.len() >= 31 {
            break letters;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{letters:?}");
    };
    assert_eq!(letters.len(), 9 * 3 + 2 * 2, "{letters:?}");
    assert!(letters.iter().all(|(key, reason)| *key == tenant.id && !reason.is_empty()), "{letters:?}");
    for said in
        ["not in the registry", "idempotency_key has 12000 bytes", "actor.id", "no rules version", "are on partition"]
    {
        assert!(letters.iter().any(|(_, reason)| reason.contains(said)), "{said}: {letters:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incompatible_schema_stops_the_start_and_says_why() {
    let world = World::prepare(&[]).await.unwrap();
    // Someone registered a past that today's schema cannot read.
    let subject = format!("{}stock.levels-value", world.prefix);
    let schema = json!({ "type": "record", "name": "StockLevel", "namespace": "com.thewarehousehub", "fields": [{ "name": "tenant_id", "type": "long" }] });
    let url = format!("{}/subjects/{subject}/versions", world.registry());
    let posted = reqwest::Client::new().post(url).json(&json!({ "schema": schema.to_string() })).send().await.unwrap();
    assert!(posted.status().is_success(), "{}", posted.text().await.unwrap());
    let output = world.command(&["topics"]).unwrap().output().await.unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "the start went on");
    assert!(
        message.contains(&subject) && message.contains("FULL_TRANSITIVE") && message.contains("refuses"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_under_way() {
    let mut world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 1).await.unwrap();
    let answers = futures::future::join(join_all((0..200).map(|_| tenant.post("/v1/adjustments", adjust(1)))), async {
        // Some are done, and others are in flight.
        while tenant.movements().await.unwrap() < 2 {}
        world.stop_server().await.unwrap()
    });
    let (answers, status) = answers.await;
    assert!(status.success(), "{status}");
    let acknowledged =
        answers.iter().filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status.is_success())).count();
    world.start_server().await.unwrap();
    tenant.done("/v1/adjustments", adjust(1)).await.unwrap();
    let there: usize = tenant.level("WIDGET").await.unwrap().0.parse().unwrap();
    assert!(there >= acknowledged + 2, "{acknowledged} acknowledged, {there} there");
}
