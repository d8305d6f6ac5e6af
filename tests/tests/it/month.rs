//! A month of trade through the API: every closing quantity is right, strangers rebuild it from the topics, and neither a
//! killed server nor a killed broker loses or doubles anything.

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;
use twh_sinks::postgres::verification::{KnownHeads, Progress};
use twh_tests::{World, python, root};

/// How many lines of the month are traded: all, or in the gate the first of them.
fn lines() -> Option<i64> {
    std::env::var("TWH_TEST_MONTH_LINES").ok().map(|lines| lines.parse().expect("TWH_TEST_MONTH_LINES is no number"))
}

/// Runs the demo; its last line as JSON.
async fn demo(world: &World) -> tokio::process::Child {
    match std::env::var("TWH_DEMO_FILE") {
        Ok(file) => println!("running the real month in {file}"),
        Err(_) => println!("TWH_DEMO_FILE is not set: running a generated month, not the real one"),
    }
    let mut command = world.tool(&["demo", "--json"]).unwrap();
    if let Some(lines) = lines() {
        command.args(["--limit", &lines.to_string()]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let summary: Value = serde_json::from_str(text.lines().last().expect("a summary")).unwrap();
    assert!(summary["items"].as_u64().unwrap() > 0);
    assert_eq!(summary["items"], summary["items_agreeing"], "{log}");
    summary
}

/// The tenant that the demo made: the only one in this world.
async fn only_tenant(world: &World) -> String {
    let pool = world.pool().await.unwrap();
    sqlx::query_scalar("select tenant_id::text from tenants").fetch_one(&pool).await.unwrap()
}

/// Nothing doubled, nothing missing, nothing left to publish.
async fn ledger_is_whole(world: &World, movements: i64) {
    let pool = world.pool().await.unwrap();
    let begun = std::time::Instant::now();
    while sqlx::query_scalar::<_, i64>("select count(*) from outbox").fetch_one(&pool).await.unwrap() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the outbox does not empty");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (count, last): (i64, i64) =
        sqlx::query_as("select count(*), max(sequence) from stock_movements").fetch_one(&pool).await.unwrap();
    assert_eq!((count, last), (movements, movements), "the sequence has no gap");
    let drifted: i64 = sqlx::query_scalar(
        "select count(*) from stock_levels l full join (
             select tenant_id, item_id, location_id, sum(on_hand_change_micro) as on_hand, sum(reserved_change_micro) as reserved
             from stock_movements group by 1, 2, 3) m using (tenant_id, item_id, location_id)
         where l.on_hand_micro is distinct from m.on_hand or l.reserved_micro is distinct from m.reserved",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(drifted, 0, "levels are the fold of their movements");
    let twice: i64 = sqlx::query_scalar("select count(*) from (select idempotency_key from command_outcomes where idempotency_key is not null group by tenant_id, idempotency_key having count(*) > 1) d").fetch_one(&pool).await.unwrap();
    assert_eq!(twice, 0);
}

/// A Python consumer with its own Kafka client, Avro and registry code rebuilds the same quantities.
async fn a_stranger_rebuilds_it(world: &World) {
    let script = root().join("tests/consumer/rebuild.py");
    let output = Command::new(python().unwrap())
        .arg(script)
        .args([world.brokers(), world.registry(), &world.prefix, &only_tenant(world).await])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rebuilt: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pool = world.pool().await.unwrap();
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "select item_id::text || '/' || location_id::text, on_hand_micro, reserved_micro from stock_levels",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let expected: BTreeMap<String, [String; 2]> = rows
        .into_iter()
        .map(|(key, on_hand, reserved)| {
            (
                key,
                [on_hand, reserved]
                    .map(|micros| twh_domain::decimal::Quantity::from_micros(micros).unwrap().to_string()),
            )
        })
        .collect();
    let found: BTreeMap<String, [String; 2]> = serde_json::from_value(rebuilt["levels"].clone()).unwrap();
    assert_eq!(found, expected);
}

/// A verification that is interrupted after every page, and goes on from what it wrote down, comes to the same end.
async fn a_verification_goes_on_where_it_was(world: &World, movements: i64) {
    let pool = world.pool().await.unwrap();
    let tenant = only_tenant(world).await.parse().unwrap();
    let mut kept = serde_json::to_string(&Progress::new(tenant)).unwrap();
    let mut pages = 0;
    let done = loop {
        let mut progress: Progress = serde_json::from_str(&kept).unwrap();
        if progress.is_done() {
            break progress;
        }
        progress.step(&mut pool.acquire().await.unwrap(), &KnownHeads::default()).await.unwrap();
        kept = serde_json::to_string(&progress).unwrap();
        assert!(kept.len() < 4_000, "how far it is fits into a few thousand bytes: {kept}");
        pages += 1;
    };
    assert_eq!((done.findings(), done.counts().movements), (&[][..], movements));
    assert!(pages > movements / 5_000, "it was interrupted after every page: {pages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_closing_quantity_agrees_and_strangers_rebuild_it() {
    let mut world = World::start().await.unwrap();
    let summary = summary(&demo(&world).await.wait_with_output().await.unwrap());
    ledger_is_whole(&world, summary["movements"].as_i64().unwrap()).await;
    world.is_sound().await.unwrap();
    a_verification_goes_on_where_it_was(&world, summary["movements"].as_i64().unwrap()).await;
    world.replays().await.unwrap();
    a_stranger_rebuilds_it(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_server_and_the_broker_in_mid_stream_loses_and_doubles_nothing() {
    let mut world = World::with_own_parts(&[]).await.unwrap();
    world.start_server().await.unwrap();
    let running = demo(&world).await;
    let finished = tokio::spawn(running.wait_with_output());
    // Opening stock is few movements, and a line that is sold is two.
    let expected = 2 * lines().map_or(42_000, |lines| lines.min(42_000));
    let mid_stream = async |world: &World, hundredths: i64| {
        let movements = expected * hundredths / 100;
        let pool = world.pool().await.unwrap();
        loop {
            let reached: Option<i64> =
                sqlx::query_scalar("select max(sequence) from stock_movements").fetch_one(&pool).await.unwrap();
            if reached.unwrap_or_default() >= movements {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    for hundredths in [10, 25] {
        mid_stream(&world, hundredths).await;
        world.kill_server().await.unwrap();
        world.start_server().await.unwrap();
    }
    mid_stream(&world, 40).await;
    world.crash("kafka").await.unwrap();
    mid_stream(&world, 60).await;
    // Both at once.
    world.dev(&["kill", "kafka"]).await.unwrap();
    world.kill_server().await.unwrap();
    world.dev(&["restart", "kafka"]).await.unwrap();
    world.start_server().await.unwrap();
    assert!(!finished.is_finished(), "the stream ended before it was broken");
    let summary = summary(&finished.await.unwrap().unwrap());
    ledger_is_whole(&world, summary["movements"].as_i64().unwrap()).await;
    world.is_sound().await.unwrap();
    world.replays().await.unwrap();
    a_stranger_rebuilds_it(&world).await;
}
