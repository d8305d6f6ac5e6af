//! Mails of several tenants: what cannot be sent now holds up nobody's.

use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_tests::mail::MailServer;
use twh_tests::{Answer, Tenant, World};

const PASSWORD: &str = "correct horse battery";

async fn post(caller: &Tenant, path: &str, body: Value) -> Answer {
    let body = Some(body.to_string().into_bytes());
    caller.send(Method::POST, path, &[("content-type", "application/json")], body).await.unwrap()
}

async fn sign_up(anyone: &Tenant, email: &str) -> Tenant {
    let body = json!({ "organization": "Acme", "name": "Ada", "email": email, "password": PASSWORD });
    let made = post(anyone, "/v1/auth/signup", body).await;
    anyone.with(made.body.pointer("/tokens/access_token").unwrap().as_str().unwrap())
}

async fn failed(world: &World) -> u64 {
    let metrics = reqwest::get(format!("{}/metrics", world.ops_url)).await.unwrap().text().await.unwrap();
    let count = metrics.lines().find_map(|line| line.strip_prefix("twh_mails_total{result=\"failed\"} "));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_that_fail_for_now_hold_up_neither_another_tenant_s_nor_a_token_for_a_lost_password() {
    let server = MailServer::start().unwrap();
    let settings = [
        ("TWH_RATE_LIMITS", "off"),
        ("TWH_SMTP_URL", server.url.as_str()),
        ("TWH_MAIL_FROM", "The stock <stock@example.com>"),
    ];
    let world = World::start_with(&settings).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let (unlucky, other) = (sign_up(&anyone, "una@example.com").await, sign_up(&anyone, "ada@example.com").await);
    sign_up(&anyone, "later-una@example.com").await;
    let invite = async |admin: &Tenant, email: &str| {
        let invited = post(admin, "/v1/invitations", json!({ "email": email, "role": "dev" })).await;
        assert_eq!((invited.status.as_u16(), &invited.body["mailed"]), (201, &json!(true)), "{}", invited.body);
    };
    // From the first that arrives on, the server of mails is there.
    invite(&other, "first@example.com").await;
    server.token_for("first@example.com").await.unwrap();
    for number in 0..20 {
        invite(&unlucky, &format!("later-{number}@example.com")).await;
    }
    let forgotten = async |email: &str| {
        let answer = post(&anyone, "/v1/auth/password-forgotten", json!({ "email": email })).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    };
    for _ in 0..4 {
        forgotten("later-una@example.com").await;
    }
    let begun = Instant::now();
    forgotten("ada@example.com").await;
    invite(&other, "eve@example.com").await;
    server.token_for("ada@example.com").await.unwrap();
    server.token_for("eve@example.com").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // What can never be sent is given up at once: one that is tried again is given up after more than a minute.
    let begun = Instant::now();
    let before = failed(&world).await;
    invite(&other, "jürgen@example.com").await;
    while failed(&world).await == before {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
