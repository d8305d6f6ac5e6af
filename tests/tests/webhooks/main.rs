//! Webhooks, as a subscriber sees them: signed so that the libraries of Standard Webhooks believe them, at least once whatever
//! crashes, in order where it was asked for, and never to where they must not go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and say what they counted"
)]

mod crashes;
mod events;
mod failing;
mod listening;
mod replays;
mod signatures;
mod sink;

use serde_json::{Value, json};
use sink::Sink;
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, RwLockReadGuard};
use twh_tests::{Answer, Tenant, World};

/// Subscribers are on loopback here, and nobody waits for hours.
const QUICK: &[(&str, &str)] = &[
    ("TWH_OUTBOUND_ALLOWED", "127.0.0.1/32"),
    ("TWH_WEBHOOK_RETRY_SECONDS", "1,1,1,1,1,1,1,1"),
    ("TWH_WEBHOOK_QUARANTINE_SECONDS", "3"),
    ("TWH_WEBHOOK_PROBE_SECONDS", "1"),
    ("TWH_RATE_LIMITS", "off"),
];

/// Kafka and the database are everybody's: while one test kills them, no other test of this file runs.
static PARTS: RwLock<()> = RwLock::const_new(());

/// An environment whose parts nobody kills meanwhile.
struct Quiet {
    world: World,
    _parts: RwLockReadGuard<'static, ()>,
}

impl std::ops::Deref for Quiet {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl std::ops::DerefMut for Quiet {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

async fn quiet(settings: &[(&str, &str)]) -> Quiet {
    let parts = PARTS.read().await;
    Quiet { world: World::start_with(settings).await.unwrap(), _parts: parts }
}

async fn world() -> (Quiet, Tenant, Sink) {
    let world = quiet(QUICK).await;
    let tenant = world.tenant().await.unwrap();
    (world, tenant, Sink::start())
}

/// A subscription; its answer holds the secret.
async fn register(tenant: &Tenant, url: &str, more: Value) -> Answer {
    let mut body = json!({ "url": url, "event_types": ["*"] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = tenant.post("/v1/webhooks/register", body).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer
}

/// Asks again and again until the answer is as it should be.
async fn until(tenant: &Tenant, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let answer = tenant.get(path).await.unwrap();
        if holds(&answer.body) {
            return answer.body;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{path} stays {}", answer.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn id(answer: &Answer) -> String {
    answer.id().to_owned()
}

async fn item(tenant: &Tenant, sku: &str) -> String {
    id(&tenant.done("/v1/items", json!({ "sku": sku })).await.unwrap())
}
