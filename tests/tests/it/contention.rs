//! Changes of who may call and of subscriptions, many at once: none waits for another in a circle, and a tenant that makes many
//! keeps nothing from others.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_sinks::postgres::sqlx;
use twh_tests::{Answer, Tenant, World};
use uuid::Uuid;

const SETTINGS: &[(&str, &str)] = &[("TWH_RATE_LIMITS", "off"), ("TWH_OUTBOUND_ALLOWED", "127.0.0.1/32")];
const PASSWORD: &str = "correct horse battery";
/// Every kind of change.
const KINDS: [&str; 12] = [
    "webhook register",
    "webhook patch",
    "webhook rotate",
    "webhook delete",
    "webhook listen",
    "key create",
    "key rotate",
    "key revoke",
    "member",
    "invitation",
    "provider",
    "sign in",
];

async fn ask(caller: &Tenant, method: Method, path: &str, body: Option<Value>) -> Answer {
    let body = body.map(|body| body.to_string().into_bytes());
    caller.send(method, path, &[("content-type", "application/json")], body).await.unwrap()
}

/// A sandbox tenant's admin, and a dev beside it.
struct Team {
    admin: Tenant,
    dev: String,
    email: String,
    webhook: String,
    provider: String,
}

impl Team {
    async fn of(world: &World) -> Self {
        let anyone = world.tenant().await.unwrap();
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let body = json!({ "organization": "Acme", "name": "Ada", "email": email, "password": PASSWORD });
        let made = ask(&anyone, Method::POST, "/v1/auth/signup", Some(body)).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let text = |pointer: &str| made.body.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        let in_live = anyone.with(&text("/tokens/access_token"));
        // The sandbox's own webhooks can be listened to.
        let admin = anyone.with(&text("/sandbox/api_key"));
        let sandbox = text("/sandbox/id");
        let invite = json!({ "email": format!("dev-{email}"), "role": "dev" });
        let headers = [("content-type", "application/json"), ("x-tenant-id", sandbox.as_str())];
        let invite = Some(invite.to_string().into_bytes());
        let invited = in_live.send(Method::POST, "/v1/invitations", &headers, invite).await.unwrap();
        let token = &invited.body["token"];
        let accept = json!({ "token": token, "name": "Dev", "password": PASSWORD });
        let joined = ask(&anyone, Method::POST, "/v1/auth/invitations/accept", Some(accept)).await;
        assert_eq!(joined.status, 201, "{}", joined.body);
        let dev = joined.body["user"]["id"].as_str().unwrap().to_owned();
        let webhook = register(&admin).await.id().to_owned();
        let provider = ask(&admin, Method::POST, "/v1/identity-providers", Some(provider("P"))).await.id().to_owned();
        Self { admin, dev, email, webhook, provider }
    }

    /// Makes one change of a kind, or two where the first makes what the second changes.
    async fn change(&self, kind: &str) -> Answer {
        let admin = &self.admin;
        let own = format!("/v1/webhooks/{}", self.webhook);
        let key = || ask(admin, Method::POST, "/v1/api-keys", Some(json!({ "name": "k", "role": "dev" })));
        match kind {
            "webhook register" | "webhook delete" => {
                let made = register(admin).await;
                assert_eq!(made.status, 201, "{}", made.body);
                ask(admin, Method::DELETE, &format!("/v1/webhooks/{}", made.id()), None).await
            }
            "webhook patch" => ask(admin, Method::PATCH, &own, Some(json!({ "description": "x" }))).await,
            "webhook rotate" => ask(admin, Method::POST, &format!("{own}/rotate"), Some(json!({}))).await,
            "webhook listen" => ask(admin, Method::POST, "/v1/webhooks/listen", None).await,
            "key create" => key().await,
            "key rotate" => {
                let path = format!("/v1/api-keys/{}/rotate", key().await.id());
                ask(admin, Method::POST, &path, Some(json!({}))).await
            }
            "key revoke" => ask(admin, Method::DELETE, &format!("/v1/api-keys/{}", key().await.id()), None).await,
            "member" => {
                let path = format!("/v1/members/{}", self.dev);
                ask(admin, Method::PATCH, &path, Some(json!({ "role": "read_only" }))).await
            }
            "invitation" => {
                let path = format!("/v1/invitations/{}", Uuid::new_v4());
                ask(admin, Method::DELETE, &path, None).await
            }
            "provider" => {
                let path = format!("/v1/identity-providers/{}", self.provider);
                ask(admin, Method::PATCH, &path, Some(provider("Q"))).await
            }
            "sign in" => {
                let body = json!({ "email": self.email, "password": PASSWORD });
                ask(admin, Method::POST, "/v1/auth/login", Some(body)).await
            }
            other => panic!("{other}"),
        }
    }
}

fn provider(name: &str) -> Value {
    json!({ "name": name, "kind": "oidc", "issuer": "https://id.example.com", "client_id": "c", "client_secret": "s" })
}

async fn register(admin: &Tenant) -> Answer {
    let body = json!({ "url": "https://127.0.0.1:9/", "event_types": ["*"] });
    ask(admin, Method::POST, "/v1/webhooks/register", Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_tenant_wait_for_each_other_in_no_circle_and_keep_nothing_from_another() {
    let world = World::start_with(SETTINGS).await.unwrap();
    let pool = world.pool().await.unwrap();
    let team = Team::of(&world).await;
    for (index, one) in KINDS.iter().enumerate() {
        for other in KINDS.iter().skip(index) {
            let both = [one, other, one, other];
            for answer in join_all(both.iter().map(|kind| team.change(kind))).await {
                assert!(answer.status.as_u16() < 500, "{one}, {other}: {} {}", answer.status, answer.body);
            }
        }
    }
    let strangers = join_all((0..5).map(|_| world.tenant())).await;
    let flood = async {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let kinds = KINDS.iter().filter(|kind| **kind != "sign in");
            for answer in join_all(kinds.cycle().take(24).map(|kind| team.change(kind))).await {
                assert!(answer.status.as_u16() < 500, "{} {}", answer.status, answer.body);
            }
        }
    };
    let others = async {
        let mut slowest = Duration::ZERO;
        for other in &strangers {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let begun = Instant::now();
            let answer = other.as_ref().unwrap().get("/v1/me").await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let ((), slowest) = tokio::join!(flood, others);
    assert!(slowest < Duration::from_secs(2), "another tenant's first request took {slowest:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let deadlocks: i64 =
        sqlx::query_scalar("select deadlocks from pg_stat_database where datname = current_database()")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
}
