//! Who grants may grant only what it has: callers that lack a scope, a place or a time, at every place that gives or takes something.

use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::sqlx;
use twh_tests::{Answer, Shared, Tenant};
use uuid::Uuid;

const PASSWORD: &str = "correct horse battery";

async fn ask(caller: &Tenant, method: &str, path: &str, body: Value) -> Answer {
    let body = (!body.is_null()).then(|| body.to_string().into_bytes());
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    caller.send(method, path, &[("content-type", "application/json")], body).await.unwrap()
}

async fn done(caller: &Tenant, method: &str, path: &str, body: Value) -> Answer {
    let answer = ask(caller, method, path, body).await;
    assert!(answer.status.is_success(), "{method} {path}: {} {}", answer.status, answer.body);
    answer
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}")).to_owned()
}

async fn key(admin: &Tenant, what: Value) -> Tenant {
    let mut body = json!({ "name": "k", "role": "admin" });
    body.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
    admin.with(&text(&done(admin, "POST", "/v1/api-keys", body).await.body, "/key"))
}

fn address(name: &str) -> String {
    format!("{name}-{}@example.com", Uuid::new_v4().simple())
}

fn provider(more: Value) -> Value {
    let mut body = json!({ "name": "P", "kind": "oidc", "issuer": "https://id.example.com", "client_id": "c", "client_secret": "s" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn webhook(types: &[&str]) -> Value {
    json!({ "url": "https://127.0.0.1:9/", "event_types": types })
}

/// A person who joins with a role; says who, and calls as it.
async fn member(admin: &Tenant, role: &str) -> (String, Tenant) {
    let invited = done(admin, "POST", "/v1/invitations", json!({ "email": address(role), "role": role })).await;
    let accept = json!({ "token": invited.body["token"], "name": "M", "password": PASSWORD });
    let joined = done(admin, "POST", "/v1/auth/invitations/accept", accept).await.body;
    (text(&joined, "/user/id"), admin.with(&text(&joined, "/tokens/access_token")))
}

/// A new tenant's first admin.
async fn admin(server: &Shared) -> Tenant {
    let anyone = server.tenant().await.unwrap();
    let body = json!({ "organization": "Acme", "name": "Ada", "email": address("ada"), "password": PASSWORD });
    let made = done(&anyone, "POST", "/v1/auth/signup", body).await;
    anyone.with(&text(&made.body, "/tokens/access_token"))
}

/// Has a person with a role come by a provider that gives none.
async fn comes_by(server: &Shared, admin: &Tenant, provider: &str, role: &str) {
    let pool = server.pool().await.unwrap();
    let tenant: Uuid = text(&ask(admin, "GET", "/v1/me", Value::Null).await.body, "/tenant/id").parse().unwrap();
    let user = Uuid::now_v7();
    for statement in [
        "insert into users (user_id, email, email_key, name, created_at, updated_at) values ($1, 'p@x.example', 'p@x.example', 'P', now(), now())",
        "insert into identities (provider_id, subject, user_id, created_at, last_used_at) values ($2, $1::text, $1, now(), now())",
        "insert into memberships (user_id, tenant_id, role, created_at) values ($1, $3, $4, now())",
    ] {
        // Each names all that it is given.
        let statement = format!("with given as (select $1::uuid, $2::uuid, $3::uuid, $4::text) {statement}");
        let query = sqlx::query(&statement).bind(user).bind(provider.parse::<Uuid>().unwrap()).bind(tenant);
        query.bind(role).execute(&pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_a_scope_a_place_or_a_time_gives_and_takes_nothing_that_has_it() {
    let server = Shared::server().await.unwrap();
    let admin = admin(&server).await;
    let (dev, _) = member(&admin, "dev").await;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let in_an_hour = since_1970 + Duration::from_secs(3_600);
    let in_an_hour = Timestamp::from_micros(i64::try_from(in_an_hour.as_micros()).unwrap()).to_string();
    let here = key(&admin, json!({ "ip_allowed": ["127.0.0.1"] })).await;
    let now = key(&admin, json!({ "expires_at": in_an_hour })).await;
    let people = key(&admin, json!({ "scopes": ["read:members", "write:members"] })).await;
    let hooks = key(&admin, json!({ "scopes": ["write:webhooks"] })).await;
    let orders = key(&admin, json!({ "scopes": ["read:webhooks", "write:webhooks", "read:orders"] })).await;
    let of_dev = format!("/v1/members/{dev}");
    let invite = json!({ "email": address("eve"), "role": "admin" });
    let invitation = format!("/v1/invitations/{}", done(&admin, "POST", "/v1/invitations", invite).await.id());
    let (providers, none) = ("/v1/identity-providers", json!({}));
    let made = done(&admin, "POST", providers, provider(none.clone())).await;
    comes_by(&server, &admin, made.id(), "admin").await;
    let of_provider = format!("{providers}/{}", made.id());
    let register = "/v1/webhooks/register";
    let of_hook = format!("/v1/webhooks/{}", done(&admin, "POST", register, webhook(&["*"])).await.id());
    let rotate = format!("{of_hook}/rotate");
    let keys = "/v1/api-keys";
    for (name, bounded) in [("here", &here), ("now", &now)] {
        for (method, path, body, status) in [
            ("PATCH", of_dev.as_str(), json!({ "role": "admin" }), 403),
            ("DELETE", &of_dev, Value::Null, 403),
            ("DELETE", &invitation, Value::Null, 403),
            ("POST", providers, provider(json!({ "default_role": "admin" })), 403),
            ("POST", providers, provider(none.clone()), 403),
            ("PATCH", &of_provider, json!({ "name": "Q" }), 403),
            ("DELETE", &of_provider, Value::Null, 403),
            ("POST", register, webhook(&["*"]), 403),
            ("PATCH", &of_hook, json!({ "url": "https://127.0.0.1:10/" }), 403),
            ("POST", &rotate, none.clone(), 403),
            ("DELETE", &of_hook, Value::Null, 403),
            (
                "POST",
                keys,
                json!({ "name": "k", "role": "dev", "ip_allowed": ["0.0.0.0/0"], "expires_at": "2999-01-01T00:00:00Z" }),
                403,
            ),
            // It has the bounds of who makes it.
            ("POST", keys, json!({ "name": "k", "role": "dev" }), 201),
        ] {
            let answer = ask(bounded, method, path, body.clone()).await;
            assert_eq!(answer.status.as_u16(), status, "{name}: {method} {path} {body}: {}", answer.body);
        }
    }
    let own = done(&orders, "POST", register, webhook(&["order.*", "webhook.*"])).await;
    let own = format!("/v1/webhooks/{}", own.id());
    for (name, caller, method, path, body, status) in [
        ("people", &people, "DELETE", invitation.as_str(), Value::Null, 403),
        ("people", &people, "PATCH", &of_provider, json!({ "enabled": false }), 403),
        ("people", &people, "PATCH", &of_provider, json!({ "client_secret": "mine" }), 403),
        ("people", &people, "DELETE", &of_provider, Value::Null, 403),
        ("hooks", &hooks, "POST", register, webhook(&["*"]), 403),
        ("hooks", &hooks, "POST", register, webhook(&["order.shipped"]), 403),
        ("hooks", &hooks, "POST", register, webhook(&["webhook.*"]), 403),
        ("hooks", &hooks, "PATCH", &of_hook, json!({ "url": "https://127.0.0.1:10/" }), 403),
        ("hooks", &hooks, "POST", &rotate, none.clone(), 403),
        ("hooks", &hooks, "DELETE", &own, Value::Null, 403),
        ("orders", &orders, "POST", register, webhook(&["order.*", "stock.low"]), 403),
        ("orders", &orders, "PATCH", &own, json!({ "event_types": ["*"] }), 403),
        ("orders", &orders, "PATCH", &own, json!({ "event_types": ["po.*"] }), 200),
        ("orders", &orders, "GET", "/v1/events?event_type=item.*", Value::Null, 403),
        ("orders", &orders, "GET", "/v1/events?event_type=order.*", Value::Null, 200),
        ("orders", &orders, "DELETE", &own, Value::Null, 204),
        // Who has all of it does all of it.
        ("admin", &admin, "PATCH", &of_dev, json!({ "role": "admin" }), 200),
        ("admin", &admin, "DELETE", &of_dev, Value::Null, 204),
        ("admin", &admin, "DELETE", &invitation, Value::Null, 204),
        ("admin", &admin, "PATCH", &of_provider, json!({ "client_secret": "s" }), 200),
        ("admin", &admin, "DELETE", &of_provider, Value::Null, 204),
        ("admin", &admin, "POST", &rotate, none.clone(), 200),
        ("admin", &admin, "DELETE", &of_hook, Value::Null, 204),
    ] {
        let answer = ask(caller, method, path, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {method} {path} {body}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_worth_no_more_than_who_sent_it_is_by_now() {
    let server = Shared::server().await.unwrap();
    let admin = admin(&server).await;
    let invite = async |by: &Tenant, role: &str| {
        let invite = json!({ "email": address("eve"), "role": role });
        text(&done(by, "POST", "/v1/invitations", invite).await.body, "/token")
    };
    let accept = async |token: &str| {
        let body = json!({ "token": token, "name": "Eve", "password": PASSWORD });
        ask(&admin, "POST", "/v1/auth/invitations/accept", body).await
    };
    let (mallory, as_mallory) = member(&admin, "admin").await;
    let [before, kept, gone] =
        [invite(&as_mallory, "admin").await, invite(&as_mallory, "dev").await, invite(&as_mallory, "billing").await];
    let own = invite(&admin, "admin").await;
    assert_eq!(accept(&before).await.status, 201);
    done(&admin, "PATCH", &format!("/v1/members/{mallory}"), json!({ "role": "dev" })).await;
    assert_eq!(accept(&gone).await.code(), "INVALID_TOKEN", "a dev gives nobody the plan to see");
    done(&admin, "DELETE", &format!("/v1/members/{mallory}"), Value::Null).await;
    assert_eq!(accept(&kept).await.code(), "INVALID_TOKEN");
    assert_eq!(accept(&own).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_show_only_what_their_reader_may_see_anyway() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    done(&tenant, "POST", "/v1/webhooks/listen", Value::Null).await;
    tenant.stock("WIDGET", 5).await.unwrap();
    let stock = key(&tenant, json!({ "scopes": ["read:webhooks", "read:stock"] })).await;
    let types = async |caller: &Tenant| {
        let answer = ask(caller, "GET", "/v1/events?wait_seconds=0", Value::Null).await;
        let data = answer.body["data"].as_array().unwrap_or_else(|| panic!("{}", answer.body)).clone();
        data.iter().map(|event| text(event, "/type")).collect::<Vec<_>>()
    };
    let begun = std::time::Instant::now();
    while !types(&tenant).await.iter().any(|one| one == "stock.adjusted") {
        assert!(begun.elapsed() < Duration::from_secs(20), "no event is kept");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(types(&tenant).await.iter().any(|one| one == "item.created"));
    assert_eq!(types(&stock).await, ["stock.adjusted"]);
}
