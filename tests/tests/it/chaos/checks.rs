//! What must be true after everything is healed: by the ledger itself, by the clients' books, and by what was published.

use super::clients::{Book, Entry};
use super::plan::SERVERS;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use twh_schemas::Schemas;
use twh_schemas::catalogue::{COMMANDS, EVENTS, MOVEMENTS, Topic};
use twh_tests::{Tenant, World};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
const READ_WITHIN: Duration = Duration::from_secs(60);

/// `outside` is a tenant that is in no book.
pub(crate) async fn all(world: &mut World, tenants: &[Tenant], outside: &str, book: &Book, patience: Duration) {
    every_server_serves(world, patience).await;
    let pool = world.pool().await.unwrap();
    everything_is_decided(world, &pool, patience).await;
    nothing_is_left(&pool, "outbox", "select count(*) from outbox", patience).await;
    let lapsing = "select count(*) from reservations where status = 'active' and expires_at is not null";
    nothing_is_left(&pool, "reservations that lapse", lapsing, patience).await;
    nothing_is_left(&pool, "outbox", "select count(*) from outbox", patience).await;

    every_answer_is_kept(&pool, &book.entries).await;
    every_document_is_there(&pool, &book.entries).await;
    the_ledger_holds_its_rules(&pool).await;
    stock_is_what_the_clients_were_told(&pool, book).await;
    everything_is_published_in_order(world, &pool, tenants, outside).await;
    nothing_was_halted_or_set_aside(world);
    assert_eq!(book.counted("500"), 0, "a server answered that something is wrong on its side");
    world.is_sound().await.unwrap();
    world.replays().await.unwrap();
}

/// A server that ended by itself is a failure, even if the others did its work.
async fn every_server_serves(world: &mut World, patience: Duration) {
    for number in 0..SERVERS {
        let server = world.server(number).unwrap();
        let begun = Instant::now();
        while !server.is_ready().await {
            assert!(server.ended().is_none(), "server {number} ended: see {}", server.log_path().display());
            assert!(begun.elapsed() < patience, "server {number} is not ready: see {}", server.log_path().display());
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The ledger has come to the end of each partition of the log.
async fn everything_is_decided(world: &World, pool: &PgPool, patience: Duration) {
    let (brokers, topic) = (world.brokers().to_owned(), COMMANDS.full_name(&world.prefix));
    let ends = tokio::task::spawn_blocking(move || ends_of(&reader(&brokers), &topic)).await.unwrap();
    let begun = Instant::now();
    loop {
        let rows: Vec<(i32, i64)> =
            sqlx::query_as("select partition, next_offset from ledger_partitions").fetch_all(pool).await.unwrap();
        let decided: BTreeMap<i32, i64> = rows.into_iter().collect();
        let waiting: Vec<_> = ends.iter().filter(|(p, (_, end))| decided.get(p).unwrap_or(&0) < end).collect();
        if waiting.is_empty() {
            return;
        }
        assert!(begun.elapsed() < patience, "not decided: {waiting:?}, the ledger is at {decided:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

async fn count(pool: &PgPool, sql: &str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn nothing_is_left(pool: &PgPool, what: &str, sql: &str, patience: Duration) {
    let begun = Instant::now();
    loop {
        let left = count(pool, sql).await;
        if left == 0 {
            return;
        }
        assert!(begun.elapsed() < patience, "{what}: {left} rows stay");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Each answered key has one outcome, which is what the client was told; and no command was decided as new twice.
async fn every_answer_is_kept(pool: &PgPool, entries: &[Entry]) {
    let rows: Vec<(String, String, String, bool, Option<String>)> = sqlx::query_as(
        "select tenant_id::text, idempotency_key, command_id::text, accepted, code from command_outcomes
         where idempotency_key is not null",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut kept: HashMap<(&str, &str), Vec<_>> = HashMap::new();
    for (tenant, key, command, accepted, code) in &rows {
        kept.entry((tenant, key)).or_default().push((command.as_str(), *accepted, code.as_deref()));
    }
    for entry in entries {
        let told = (entry.told.command_id.as_str(), entry.told.is_accepted(), Some(entry.told.code()));
        let told = (told.0, told.1, told.2.filter(|_| !told.1));
        let found = kept.get(&(entry.tenant.as_str(), entry.key.as_str()));
        assert_eq!(found, Some(&vec![told]), "{entry:?}");
    }
    let unkept = "select count(*) from command_outcomes o where o.idempotency_key is null and not exists (
        select from command_outcomes f where f.tenant_id = o.tenant_id and f.command_id = o.replay_of)";
    assert_eq!(count(pool, unkept).await, 0, "every repeat is of a command that was decided");
}

/// Each accepted command left exactly the document that its client was told, byte for byte as JSON.
async fn every_document_is_there(pool: &PgPool, entries: &[Entry]) {
    let rows: Vec<(String, String, i64, String)> =
        sqlx::query_as("select command_id::text, entity_id::text, entity_version, document::text from audit_log")
            .fetch_all(pool)
            .await
            .unwrap();
    let mut written: HashMap<&str, Vec<(&str, Value)>> = HashMap::new();
    for (command, id, _, document) in &rows {
        written.entry(command).or_default().push((id, serde_json::from_str(document).unwrap()));
    }
    let newest = newest_versions(pool).await;
    for entry in entries.iter().filter(|entry| entry.told.is_accepted()) {
        let found = written.get(entry.told.command_id.as_str());
        assert_eq!(found, Some(&vec![(entry.told.id(), entry.told.body.clone())]), "{entry:?}");
        let version = entry.told.body["version"].as_i64().unwrap();
        assert!(newest.get(entry.told.id()).is_some_and(|newest| *newest >= version), "{entry:?}");
    }
}

/// The version of each document as it stands.
async fn newest_versions(pool: &PgPool) -> HashMap<String, i64> {
    let mut newest = HashMap::new();
    for table in ["sales_orders", "purchase_orders", "adjustments", "counts", "reservations"] {
        let sql = format!("select id::text, version from {table}");
        let rows: Vec<(String, i64)> = sqlx::query_as(&sql).fetch_all(pool).await.unwrap();
        newest.extend(rows);
    }
    newest
}

async fn the_ledger_holds_its_rules(pool: &PgPool) {
    for (rule, exceptions) in [
        (
            "no level was below zero available at any time",
            "select count(*) from stock_movements where on_hand_after_micro < reserved_after_micro or reserved_after_micro < 0",
        ),
        ("no level is below zero available", "select count(*) from stock_levels where on_hand_micro < reserved_micro"),
        (
            "levels are the fold of their movements",
            "select count(*) from stock_levels l full join (
                 select tenant_id, item_id, location_id, sum(on_hand_change_micro) as on_hand,
                        sum(reserved_change_micro) as reserved, count(*) as version
                 from stock_movements group by 1, 2, 3) m using (tenant_id, item_id, location_id)
             where l.on_hand_micro is distinct from m.on_hand or l.reserved_micro is distinct from m.reserved
                or l.version is distinct from m.version",
        ),
        (
            "each movement says the sum of those up to it",
            "select count(*) from (
                 select on_hand_after_micro, reserved_after_micro, sum(on_hand_change_micro) over level as on_hand,
                        sum(reserved_change_micro) over level as reserved
                 from stock_movements
                 window level as (partition by tenant_id, item_id, location_id order by sequence)) m
             where on_hand_after_micro <> on_hand or reserved_after_micro <> reserved",
        ),
        (
            "movements are numbered without a gap",
            "select count(*) from ledger_heads h full join (
                 select tenant_id, count(*) as movements, max(sequence) as last from stock_movements group by 1) m
                 using (tenant_id)
             where h.movement_sequence is distinct from coalesce(m.movements, 0) or m.movements is distinct from m.last",
        ),
        (
            "audit records are numbered without a gap",
            "select count(*) from ledger_heads h full join (
                 select tenant_id, count(*) as records, max(sequence) as last from audit_log group by 1) a
                 using (tenant_id)
             where h.audit_sequence is distinct from a.records or a.records is distinct from a.last",
        ),
        (
            "no movement without a command that was accepted, and once",
            "select count(*) from stock_movements m where 1 <> (
                 select count(*) from command_outcomes o
                 where o.tenant_id = m.tenant_id and o.command_id = m.command_id and o.accepted and o.replay_of is null)",
        ),
        (
            "no line of a document is shipped, received or counted twice",
            "select count(*) from (
                 select from stock_movements where kind in ('SALE', 'RECEIVE', 'COUNT', 'ADJUST')
                 group by tenant_id, reference_id, reference_line having count(*) > 1) d",
        ),
        (
            "no key is decided twice",
            "select count(*) from (
                 select from command_outcomes where idempotency_key is not null
                 group by tenant_id, idempotency_key having count(*) > 1) d",
        ),
    ] {
        assert_eq!(count(pool, exceptions).await, 0, "{rule}");
    }
}

/// The clients' books say what is on hand, and that nothing is reserved any more: nothing is lost and nothing doubled.
async fn stock_is_what_the_clients_were_told(pool: &PgPool, book: &Book) {
    let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "select l.tenant_id::text, i.code, on_hand_micro, reserved_micro
         from stock_levels l join items i on i.tenant_id = l.tenant_id and i.id = l.item_id",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let there: BTreeMap<_, _> =
        rows.into_iter().map(|(tenant, sku, on_hand, reserved)| ((tenant, sku), (on_hand, reserved))).collect();
    let told: BTreeMap<_, _> =
        book.on_hand.iter().map(|(key, on_hand)| (key.clone(), (on_hand * 1_000_000, 0))).collect();
    assert_eq!(there, told);
}

/// A consumer that drops what it has seen gets each tenant's movements and events as 1, 2, 3, … up to the ledger's head.
async fn everything_is_published_in_order(world: &World, pool: &PgPool, tenants: &[Tenant], outside: &str) {
    let heads: Vec<(String, i64, i64)> =
        sqlx::query_as("select tenant_id::text, movement_sequence, event_sequence from ledger_heads")
            .fetch_all(pool)
            .await
            .unwrap();
    let known: BTreeSet<&str> = tenants.iter().map(|tenant| tenant.id.as_str()).chain([outside]).collect();
    assert_eq!(heads.iter().map(|head| head.0.as_str()).collect::<BTreeSet<_>>(), known);
    let schemas = Schemas::connect(world.registry(), &world.prefix).await.unwrap();
    let mut movements = Vec::new();
    for payload in read(world, &MOVEMENTS).await {
        let movement = schemas.movements.decode(&payload).await.unwrap();
        movements.push((movement.tenant_id.to_string(), movement.sequence));
    }
    let mut events = Vec::new();
    for payload in read(world, &EVENTS).await {
        let event = schemas.events.decode(&payload).await.unwrap();
        events.push((event.tenant_id.to_string(), event.sequence));
    }
    let expected = |head: fn(&(String, i64, i64)) -> i64| {
        heads.iter().map(|h| (h.0.clone(), head(h))).filter(|head| head.1 > 0).collect()
    };
    assert_eq!(last_in_order(&MOVEMENTS, &movements), expected(|head| head.1));
    assert_eq!(last_in_order(&EVENTS, &events), expected(|head| head.2));
}

/// The last sequence of each tenant, where each number comes for the first time right after the one before it.
fn last_in_order(topic: &Topic, records: &[(String, i64)]) -> BTreeMap<String, i64> {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for (tenant, sequence) in records {
        let last = last.entry(tenant.clone()).or_default();
        assert!(*sequence <= *last + 1, "{}: {sequence} comes after {last} of tenant {tenant}", topic.name);
        *last = (*last).max(*sequence);
    }
    last
}

fn reader(brokers: &str) -> BaseConsumer {
    ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "chaos-reader").create().unwrap()
}

/// The first and the next offset of each partition of a topic.
fn ends_of(consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, (i64, i64)> {
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_TIMEOUT).unwrap();
    let partitions = metadata.topics()[0].partitions().iter();
    partitions.map(|p| (p.id(), consumer.fetch_watermarks(topic, p.id(), KAFKA_TIMEOUT).unwrap())).collect()
}

/// The values of a topic, each partition from its beginning and in its order.
async fn read(world: &World, topic: &Topic) -> Vec<Vec<u8>> {
    let (brokers, topic) = (world.brokers().to_owned(), topic.full_name(&world.prefix));
    tokio::task::spawn_blocking(move || {
        let consumer = reader(&brokers);
        let ends = ends_of(&consumer, &topic);
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition_offset(&topic, *partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut left: i64 = ends.values().map(|(first, next)| next - first).sum();
        let mut values = Vec::new();
        let begun = Instant::now();
        while left > 0 {
            assert!(begun.elapsed() < READ_WITHIN, "{topic}: {left} records do not come");
            let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
            values.push(message.unwrap().payload().unwrap().to_vec());
            left -= 1;
        }
        values
    })
    .await
    .unwrap()
}

/// A partition that halts waits for a person, and a dead letter is a command that its client has no answer to: neither may
/// come of any of this.
fn nothing_was_halted_or_set_aside(world: &mut World) {
    let mut bad = BTreeSet::new();
    for number in 0..SERVERS {
        let log = std::fs::read_to_string(world.server(number).unwrap().log_path()).unwrap();
        let alarming = |line: &&str| [" ERROR ", "kind=\"halted\"", "panicked"].iter().any(|mark| line.contains(mark));
        bad.extend(log.lines().filter(alarming).map(|line| format!("server {number}: {line}")));
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
