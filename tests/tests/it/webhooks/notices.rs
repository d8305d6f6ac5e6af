//! Notices of a change of state: of a tenant with very many subscriptions too they are few, and nobody else waits for them.

use super::sink::{Behaviour, Sink};
use super::{item, patch, register, until, world};
use futures::StreamExt as _;
use futures::stream;
use serde_json::json;
use sqlx::PgPool;
use std::time::{Duration, Instant};
use twh_tests::Tenant;
use uuid::Uuid;

const SUBSCRIPTIONS: usize = 300;
const DEAD: usize = 4;
/// Subscriptions that hear of one change.
const TOLD_MAX: i64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// A subscription that fails, and hears of no notice.
async fn dead(tenant: &Tenant, sink: &Sink) -> String {
    sink.behave("/dead", Behaviour::Answers(503));
    register(tenant, &sink.url("/dead"), json!({ "event_types": ["item.*"] })).await.id().to_owned()
}

/// Waits until a subscription is quarantined.
async fn quarantined(tenant: &Tenant, id: &str) -> serde_json::Value {
    until(tenant, &format!("/v1/webhooks/{id}"), |body| body["state"] == "quarantined").await
}

/// A copy whose secret is sealed for another and cannot be opened here.
async fn copy(pool: &PgPool, tenant: &Tenant, of: &str) -> String {
    let columns = "tenant_id, url, event_types, item_ids, location_ids, ordering, concurrency_max, timeout_ms, state_since, secret,
        secret_hint, has_client_certificate, created_by, created_at, updated_at, version";
    let id = Uuid::now_v7();
    let copy = format!(
        "insert into webhook_subscriptions (id, state, {columns}) select $1, 'active', {columns}
         from webhook_subscriptions where id = $2::uuid"
    );
    sqlx::query(&copy).bind(id).bind(of).execute(pool).await.unwrap();
    let touch =
        "update webhook_tenants set version = version + 1, changed_at = clock_timestamp() where tenant_id = $1::uuid";
    sqlx::query(touch).bind(&tenant.id).execute(pool).await.unwrap();
    id.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_state_among_very_many_subscriptions_is_told_to_few() {
    let (world, tenant, sink) = world().await;
    let pool = world.pool().await.unwrap();
    let (all, lives) = (json!({ "event_types": ["webhook.*"] }), sink.url("/lives"));
    let register_one = |_| register(&tenant, &lives, all.clone());
    let registered: Vec<_> = stream::iter(0..SUBSCRIPTIONS).map(register_one).buffer_unordered(8).collect().await;
    assert_eq!(registered.len(), SUBSCRIPTIONS);
    let mut failing = Vec::new();
    for _ in 0..DEAD {
        failing.push(dead(&tenant, &sink).await);
    }
    for number in 0..6 {
        item(&tenant, &format!("A-{number}")).await;
    }
    for id in &failing {
        quarantined(&tenant, id).await;
    }
    let told: Vec<i64> = sqlx::query_scalar(
        "select count(d.id) from webhook_events e left join webhook_deliveries d on d.event_id = e.id
         where e.tenant_id = $1::uuid and e.event_type = 'webhook.quarantined' group by e.id",
    )
    .bind(&tenant.id)
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(told, [TOLD_MAX; DEAD], "the first hundred hear of each");
    let metrics = tenant.at(&world.ops_url).raw("/metrics").await.unwrap().text().await.unwrap();
    let left_out = (SUBSCRIPTIONS - usize::try_from(TOLD_MAX).unwrap()) * DEAD;
    assert!(metrics.contains(&format!("twh_webhook_notices_left_out_total {left_out}")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_state_that_cannot_be_written_holds_up_no_other_tenants() {
    let (world, tenant, sink) = world().await;
    let neighbour = world.tenant().await.unwrap();
    let pool = world.pool().await.unwrap();
    let (stuck, free) = (dead(&tenant, &sink).await, dead(&neighbour, &sink).await);
    // Every change of the tenant's subscriptions ends with this row.
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from webhook_tenants where tenant_id = $1::uuid for update")
        .bind(&tenant.id)
        .execute(&mut *held)
        .await
        .unwrap();
    for number in 0..6 {
        item(&tenant, &format!("A-{number}")).await;
    }
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
         and query like '%webhook_tenants%'";
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&pool).await.unwrap() == 0 {
        assert!(begun.elapsed() < PATIENCE, "the change is never begun");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for number in 0..6 {
        item(&neighbour, &format!("B-{number}")).await;
    }
    quarantined(&neighbour, &free).await;
    assert_eq!(tenant.get(&format!("/v1/webhooks/{stuck}")).await.unwrap().body["state"], "active");
    held.rollback().await.unwrap();
    quarantined(&tenant, &stuck).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_sent_to_for_a_reason_of_ours_is_told_what_to_do_and_comes_back_once_that_is_done() {
    let (world, tenant, sink) = world().await;
    let one = register(&tenant, &sink.url("/copied"), json!({})).await;
    let copied = copy(&world.pool().await.unwrap(), &tenant, one.id()).await;
    let path = format!("/v1/webhooks/{copied}");
    let state = quarantined(&tenant, &copied).await;
    assert_eq!(state["state_reason"], "its secret cannot be opened: rotate it, or tell who runs this");
    sink.until("/copied", "notice of it", |all| all.iter().any(|one| one.body["data"]["id"] == copied.as_str())).await;
    // To say that it is active does not make it so.
    patch(&tenant, &path, json!({ "state": "active" })).await;
    quarantined(&tenant, &copied).await;
    // The secret before goes on signing for a day, and cannot be opened either.
    let rotated = tenant.post(&format!("{path}/rotate"), json!({})).await.unwrap();
    assert!(rotated.status.is_success(), "{}", rotated.body);
    item(&tenant, "AFTER").await;
    until(&tenant, &path, |body| body["state"] == "active" && body["pending"] == 0).await;
}
