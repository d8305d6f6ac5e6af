//! Webhooks, as a subscriber sees them: signed so that the libraries of Standard Webhooks believe them, at least once whatever
//! crashes, in order where it was asked for, and never to where they must not go.

mod crashes;
mod crowd;
mod events;
mod failing;
mod listening;
mod notices;
mod replays;
mod signatures;
mod sink;

use serde_json::{Value, json};
use sink::{Received, Sink};
use std::time::{Duration, Instant};
use twh_tests::shared::SETTINGS;
use twh_tests::{Answer, Shared, Tenant, World};

/// How long nothing may happen that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// For tests that do something to the server.
async fn world() -> (World, Tenant, Sink) {
    let world = World::start_with(SETTINGS).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    (world, tenant, Sink::start())
}

async fn server() -> (Shared, Tenant, Sink) {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    (server, tenant, Sink::start())
}

/// A subscription; its answer holds the secret.
async fn register(tenant: &Tenant, url: &str, more: Value) -> Answer {
    let mut body = json!({ "url": url, "event_types": ["*"] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = tenant.post("/v1/webhooks/register", body).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer
}

/// Asks again and again until the answer is as it should be; gives up once it has long stayed as it is.
async fn until(tenant: &Tenant, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let (mut since, mut last) = (Instant::now(), Value::Null);
    loop {
        let answer = tenant.get(path).await.unwrap();
        if holds(&answer.body) {
            return answer.body;
        }
        if answer.body != last {
            (since, last) = (Instant::now(), answer.body);
        }
        assert!(since.elapsed() < PATIENCE, "{path} stays {last}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Changes a subscription.
async fn patch(tenant: &Tenant, path: &str, change: Value) -> Answer {
    let headers = [("content-type", "application/json")];
    let body = Some(change.to_string().into_bytes());
    let answer = tenant.send(reqwest::Method::PATCH, path, &headers, body).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

/// Sends a test, and waits until it has come: who sends has then heard of every change before it. `at` is where a sink has it.
async fn test(tenant: &Tenant, subscription: &str, sink: &Sink, at: &str) -> Received {
    let test = tenant.done(&format!("/v1/webhooks/{subscription}/test"), json!({})).await.unwrap();
    let id = test.body["event_id"].as_str().unwrap().to_owned();
    let all = sink.until(at, "the test", |all| all.iter().any(|one| one.header("webhook-id") == id)).await;
    all.into_iter().find(|one| one.header("webhook-id") == id).unwrap()
}

/// Makes items, all in one request.
async fn items(tenant: &Tenant, skus: impl Iterator<Item = String>) {
    let of = |sku| json!({ "type": "item.create", "idempotency_key": format!("item-{sku}"), "body": { "sku": sku } });
    let body = json!({ "commands": skus.map(of).collect::<Vec<_>>() });
    let answer = tenant.done("/v1/commands:batch", body).await.unwrap();
    assert!(answer.body["results"].as_array().unwrap().iter().all(|one| one["status"] == 201), "{}", answer.body);
}

fn id(answer: &Answer) -> String {
    answer.id().to_owned()
}

async fn item(tenant: &Tenant, sku: &str) -> String {
    id(&tenant.done("/v1/items", json!({ "sku": sku })).await.unwrap())
}
