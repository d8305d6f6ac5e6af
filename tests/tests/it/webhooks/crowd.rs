//! A tenant with very many subscriptions: it has a bound, and its neighbours do not wait for it.

use super::sink::Sink;
use super::{item, items, register, server, world};
use futures::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use twh_schemas::partition::partition_of;
use twh_tests::{Tenant, World};

const SUBSCRIPTIONS: i64 = 400;
const EVENTS: usize = 200;
const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

async fn neighbour(world: &World, of: &Tenant) -> Tenant {
    let partition = |tenant: &Tenant| partition_of(tenant.id.as_bytes(), PARTITIONS);
    loop {
        let tenant = world.tenant().await.unwrap();
        if partition(&tenant) == partition(of) {
            return tenant;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_a_partition_with_a_crowd_is_told_before_the_crowd_and_the_crowd_is_told_of_all() {
    let (world, crowd, sink) = world().await;
    let neighbour = neighbour(&world, &crowd).await;
    let pool = world.pool().await.unwrap();
    register(&neighbour, &sink.url("/neighbour"), json!({})).await;
    let of_items = json!({ "event_types": ["item.*"] });
    let one = register(&crowd, &sink.url("/crowd"), of_items).await;
    // Copies, whose secrets are sealed for another and cannot be opened: they are quarantined, and their queues wait.
    let tenant: uuid::Uuid = crowd.id.parse().unwrap();
    let columns = "tenant_id, url, event_types, item_ids, location_ids, ordering, concurrency_max, timeout_ms, state_since, secret,
        secret_hint, has_client_certificate, created_by, created_at, updated_at, version";
    let copy = format!(
        "insert into webhook_subscriptions (id, state, {columns}) select gen_random_uuid(), 'active', {columns}
         from webhook_subscriptions, generate_series(2, $2) where tenant_id = $1"
    );
    sqlx::query(&copy).bind(tenant).bind(SUBSCRIPTIONS).execute(&pool).await.unwrap();
    let touch = "update webhook_tenants set version = version + 1, changed_at = clock_timestamp() where tenant_id = $1";
    sqlx::query(touch).bind(tenant).execute(&pool).await.unwrap();

    items(&crowd, (0..EVENTS).map(|number| format!("CROWD-{number}"))).await;
    item(&neighbour, "NEXT-DOOR").await;
    sink.first("/neighbour").await;
    let queued = "select count(*) from webhook_deliveries where tenant_id = $1";
    let queued: i64 = sqlx::query_scalar(queued).bind(tenant).fetch_one(&pool).await.unwrap();
    let all = SUBSCRIPTIONS * i64::try_from(EVENTS).unwrap();
    assert!(queued < all / 2, "{queued} of the crowd's {all} deliveries were queued before the neighbour's");

    // Without the copies the rest is soon queued; nobody is forgotten.
    let disable = "update webhook_subscriptions set state = 'disabled' where tenant_id = $1 and id <> $2";
    sqlx::query(disable).bind(tenant).bind(one.id().parse::<uuid::Uuid>().unwrap()).execute(&pool).await.unwrap();
    sqlx::query(touch).bind(tenant).execute(&pool).await.unwrap();
    let told = sink.until("/crowd", "all events", |all| all.len() >= EVENTS).await;
    let sequences: BTreeSet<_> = told.iter().map(super::sink::Received::sequence).collect();
    assert_eq!((told.len(), sequences.len()), (EVENTS, EVENTS), "each once");
    let begun = Instant::now();
    let open = "select count(*) from webhook_backlogs where tenant_id = $1";
    while sqlx::query_scalar::<_, i64>(open).bind(tenant).fetch_one(&pool).await.unwrap() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the backlog does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And the next event goes the short way again.
    item(&crowd, "CROWD-AFTER").await;
    sink.until("/crowd", "what comes after", |all| all.len() > EVENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_bounds_subscriptions_also_of_those_who_register_at_once() {
    let (server, tenant, _) = server().await;
    let arguments = ["tenant", "plan", "--tenant", &tenant.id, "--plan", "free"];
    assert!(server.command(&arguments).unwrap().status().await.unwrap().success());
    let sink = Sink::start();
    let ask = || tenant.post("/v1/webhooks/register", json!({ "url": sink.url("/free"), "event_types": ["*"] }));
    let answers = join_all((0..16).map(|_| ask())).await;
    let mut codes: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().status.as_u16()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [vec![201; 10], vec![409; 6]].concat());
    assert_eq!(ask().await.unwrap().code(), "LIMIT_REACHED");
}
