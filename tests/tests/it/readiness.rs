//! What `/ready` says: the truth, without taking everybody's API away for what some wait for.

use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_tests::World;

const PATIENCE: Duration = Duration::from_secs(30);

async fn ready(url: &str, query: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{url}/ready{query}")).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn until(url: &str, query: &str, code: u16, status: &str) -> Value {
    let begun = Instant::now();
    loop {
        let (is, body) = ready(url, query).await;
        if (is, body["status"].as_str()) == (code, Some(status)) {
            return body;
        }
        assert!(begun.elapsed() < PATIENCE, "{query} {code} {status}: {is} {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_partition_is_told_and_the_api_goes_on() {
    let mut world = World::prepare(&[]).await.unwrap();
    let pool = world.pool().await.unwrap();
    // Its offsets are another cluster's: going on would be wrong until somebody looks.
    sqlx::query(
        "insert into ledger_partitions (partition, kafka_cluster_id, next_offset, epoch, owner, claimed_at)
         values (1, 'another', 0, 1, 'nobody', now())",
    )
    .execute(&pool)
    .await
    .unwrap();
    world.start_server().await.unwrap();
    let url = world.url.clone();
    let body = until(&url, "", 200, "degraded").await;
    let said = body["parts"]["ledger"].as_str().unwrap();
    assert!(said.contains("partition 1 of ") && said.contains("halted: "), "{said}");
    assert_eq!((&body["parts"]["ingest"], &body["parts"]["kafka"]), (&"ready".into(), &"ready".into()));
    assert_eq!(ready(&url, "?role=ledger").await.0, 503);
    assert_eq!(ready(&url, "?role=ingest").await.0, 200);
    let warned = |of: &str| body["warnings"].as_array().unwrap().iter().any(|one| one.as_str().unwrap().contains(of));
    assert!(warned("replication.factor is 1") && warned("min.insync.replicas is 1"), "{body}");

    // The cause is gone: it goes on by itself.
    let mended = "update ledger_partitions set kafka_cluster_id =
            (select kafka_cluster_id from ledger_partitions where partition = 0) where partition = 1";
    let begun = Instant::now();
    while sqlx::query("select from ledger_partitions where partition = 0")
        .fetch_optional(&pool)
        .await
        .unwrap()
        .is_none()
    {
        assert!(begun.elapsed() < PATIENCE, "partition 0 is not claimed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sqlx::query(mended).execute(&pool).await.unwrap();
    until(&url, "", 200, "ready").await;
    until(&url, "?role=ledger", 200, "ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_must_have_three_copies_does_not_start_on_one() {
    let world = World::prepare(&[("TWH_KAFKA_REQUIRE_REPLICATION", "on")]).await.unwrap();
    let output = world.command(&["serve"]).unwrap().output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("TWH_KAFKA_REQUIRE_REPLICATION is on"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_for_a_while_is_told_and_leaves_no_connection_behind_that_cannot_write() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 5).await.unwrap();
    let pool = world.pool().await.unwrap();
    let name = world.database_url.rsplit_once('/').unwrap().1;
    let alter = async |what: &str| {
        let sql = format!("begin read write; alter database {name} {what} default_transaction_read_only");
        let sql = if what == "set" { format!("{sql} = on; commit") } else { format!("{sql}; commit") };
        sqlx::raw_sql(&sql).execute(&pool).await.unwrap();
    };
    alter("set").await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query(end).execute(&pool).await.unwrap();
    let body = until(&world.url, "", 503, "not ready").await;
    let said = |part: &str| body["parts"][part].as_str().unwrap().to_owned();
    assert_eq!(
        (said("database"), said("database_writes")),
        ("ready".into(), "no writes are taken: its transactions are read-only".into())
    );
    let adjust =
        || json!({ "location_code": "MAIN", "reason": "found", "lines": [{ "sku": "WIDGET", "quantity": 1 }] });
    let headers = [("idempotency-key", "meanwhile"), ("content-type", "application/json"), ("prefer", "respond-async")];
    let sent =
        tenant.send(Method::POST, "/v1/adjustments", &headers, Some(adjust().to_string().into_bytes())).await.unwrap();
    assert_eq!(sent.status, 202, "{}", sent.body);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "5", "reads are answered, and nothing is written");

    alter("reset").await;
    let begun = Instant::now();
    until(&world.url, "", 200, "ready").await;
    let answer = tenant.post_as("/v1/adjustments", "after", adjust()).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "7");
    tenant.done("/v1/webhooks/listen", json!({})).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    world.is_sound().await.unwrap();
}
