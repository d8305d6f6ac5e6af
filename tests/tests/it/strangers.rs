//! Credentials that nobody has: what they may cost, and that nobody else pays for it.

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use std::time::Instant;
use twh_edge::api_key::{ApiKey, Environment};
use twh_tests::{Tenant, World};
use uuid::Uuid;

const ATTEMPTS: usize = 1_000;
const AT_ONCE: usize = 20;

/// Statuses of many requests, so many of them at once.
async fn statuses<F: Future<Output = u16>>(ask: impl Fn(usize) -> F) -> Vec<u16> {
    let mut statuses = Vec::new();
    for first in (0..ATTEMPTS).step_by(AT_ONCE) {
        statuses.extend(join_all((first..first + AT_ONCE).map(&ask)).await);
    }
    statuses
}

fn unknown_key() -> String {
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let random: [u8; 32] = [*one.as_bytes(), *other.as_bytes()].concat().try_into().unwrap();
    ApiKey::new(Environment::Live, &random).reveal().to_owned()
}

/// How often the database was asked for what it does not have.
async fn not_found(tenant: &Tenant, ops_url: &str) -> usize {
    let metrics = tenant.at(ops_url).raw("/metrics").await.unwrap().text().await.unwrap();
    let series = "twh_credential_lookups_total{result=\"not_found\"} ";
    metrics.lines().find_map(|line| line.strip_prefix(series)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_made_from_one_network_are_few_although_each_sign_up_works() {
    let settings = [("TWH_RATE_LIMITS", "off"), ("TWH_TRUSTED_PROXIES", "127.0.0.0/8")];
    let world = World::start_with(&settings).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let sign_up = async |from: &str, email: &str| {
        let body =
            json!({ "organization": "Acme", "name": "Ada", "email": email, "password": "correct horse battery" });
        let headers = [("content-type", "application/json"), ("x-forwarded-for", from)];
        let body = Some(body.to_string().into_bytes());
        anyone.send(Method::POST, "/v1/auth/signup", &headers, body).await.unwrap()
    };
    assert_eq!(sign_up("203.0.113.7", "p0@example.com").await.status, 201);
    for _ in 0..3 {
        assert_eq!(sign_up("203.0.113.7", "p0@example.com").await.code(), "EMAIL_TAKEN", "none is made, none counts");
    }
    let mut answers = Vec::new();
    for number in 1..12 {
        answers.push(sign_up("203.0.113.7", &format!("p{number}@example.com")).await);
    }
    let (made, refused) = answers.split_at(9);
    assert!(made.iter().all(|answer| answer.status == 201), "ten with the first");
    assert!(refused.iter().all(|answer| answer.code() == "TOO_MANY_ATTEMPTS"));
    let refused = &refused[0];
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((500..=601).contains(&wait), "{wait} {}", refused.body);
    assert_eq!(sign_up("203.0.113.8", "other@example.com").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_and_tenants_cost_few_queries_and_hold_up_nobody_who_is_known() {
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off")]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let person =
        json!({ "organization": "Acme", "name": "Ada", "email": "ada@acme.test", "password": "correct horse battery" });
    let made = tenant.post("/v1/auth/signup", person).await.unwrap();
    let person = tenant.with(made.body["tokens"]["access_token"].as_str().unwrap());
    assert_eq!(person.get("/v1/me").await.unwrap().status, 200);
    let begun = Instant::now();
    let answers = statuses(async |_| {
        let answer = tenant.with(&unknown_key()).get("/v1/me").await.unwrap();
        if answer.status == 429 {
            assert_eq!((answer.code(), answer.header("retry-after")), ("TOO_MANY_ATTEMPTS", "1"));
        }
        let known = tenant.get("/v1/me").await.unwrap();
        assert_eq!(known.status, 200, "{}", known.body);
        answer.status.as_u16()
    })
    .await;
    let tenants = statuses(async |_| {
        let headers = [("x-tenant-id", Uuid::new_v4().to_string())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        person.send(reqwest::Method::GET, "/v1/me", &headers, None).await.unwrap().status.as_u16()
    })
    .await;
    assert_eq!(person.get("/v1/me").await.unwrap().status, 200);
    // Keys, a session's tenants, and passwords with tokens in bodies have a bucket each.
    let login = json!({ "email": "nobody@acme.test", "password": "wrong horse battery" });
    let bodies = [("login", login), ("refresh", json!({ "refresh_token": "unknown" }))];
    for (path, body) in bodies.iter().cycle().take(ATTEMPTS / 10) {
        let answer = tenant.post(&format!("/v1/auth/{path}"), body.clone()).await.unwrap();
        assert!([401, 429].contains(&answer.status.as_u16()), "{path}: {}", answer.body);
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let most = 3 * (100 + 10 * seconds);
    let asked = not_found(&tenant, &world.ops_url).await;
    let count = |all: &[u16], status: u16| all.iter().filter(|one| **one == status).count();
    assert!((100..=most).contains(&asked), "{asked} queries, not 100 to {most}");
    assert!(count(&answers, 401) + count(&tenants, 403) <= asked);
    assert_eq!(count(&answers, 401) + count(&answers, 429), ATTEMPTS);
    assert_eq!(count(&tenants, 403) + count(&tenants, 429), ATTEMPTS);
}
