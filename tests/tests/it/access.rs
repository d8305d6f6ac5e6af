//! Who may do what, held against a running server: every endpoint by every role, keys and sessions that end, secrets that
//! stay secret, one tenant's things that do not exist for another.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_domain::event::{CONTROL_CHAIN, ControlRecord};
use twh_domain::movement::genesis;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{ENDPOINTS, Need, Role, Scope, Scopes};
use twh_edge::cursor;
use twh_edge::tokens::Tokens;
use twh_sinks::postgres::sqlx::{self, Row};
use twh_sinks::secrets::Secrets;
use twh_tests::mail::MailServer;
use twh_tests::{Answer, Shared, Tenant, World};
use uuid::Uuid;

/// The tenants sign themselves up, and ask faster than their free plan allows.
const UNLIMITED: &[(&str, &str)] = &[("TWH_RATE_LIMITS", "off")];
const PASSWORD: &str = "correct horse battery";

async fn ask(caller: &Tenant, method: &str, path: &str, body: Option<Value>) -> Answer {
    ask_with(caller, method, path, &[], body).await
}

async fn ask_with(caller: &Tenant, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    let body = body.map(|body| serde_json::to_vec(&body).unwrap());
    caller.send(Method::from_bytes(method.as_bytes()).unwrap(), path, &all, body).await.unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

/// A new tenant with a person; says who, and what it can call with: its access token.
async fn sign_up(anyone: &Tenant, email: &str) -> Value {
    let body = json!({ "organization": "Acme", "name": "Ada", "email": email, "password": PASSWORD });
    let answer = ask(anyone, "POST", "/v1/auth/signup", Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body
}

async fn log_in(anyone: &Tenant, email: &str, password: &str) -> Answer {
    ask(anyone, "POST", "/v1/auth/login", Some(json!({ "email": email, "password": password }))).await
}

async fn key(admin: &Tenant, body: Value) -> Value {
    let answer = ask(admin, "POST", "/v1/api-keys", Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body
}

/// What an endpoint answers to a caller who may call it is its own business; what it answers to one who may not is not.
fn was_let_in(answer: &Answer) -> bool {
    !matches!(answer.code(), "FORBIDDEN" | "UNAUTHENTICATED" | "ROUTE_NOT_FOUND" | "METHOD_NOT_ALLOWED")
}

#[tokio::test]
async fn every_endpoint_lets_in_every_role_and_scope_that_the_table_says_and_no_other() {
    let world = World::start_with(UNLIMITED).await.unwrap();
    let operator = world.tenant().await.unwrap();
    let account = sign_up(&operator, "matrix@example.com").await;
    let admin = operator.with(text(&account, "/tokens/access_token"));
    let mut callers: Vec<(String, Tenant, Scopes, bool)> = Vec::new();
    for role in Role::ALL {
        let key = key(&admin, json!({ "name": role.name(), "role": role.name() })).await;
        callers.push((format!("{role} key"), admin.with(text(&key, "/key")), Scopes::of_role(*role), false));
        // The same role as a person: invited, and accepted.
        let email = format!("{role}@example.com");
        let invited =
            ask(&admin, "POST", "/v1/invitations", Some(json!({ "email": email, "role": role.name() }))).await;
        let token = text(&invited.body, "/token").to_owned();
        let body = json!({ "token": token, "name": "Person", "password": PASSWORD });
        let joined = ask(&operator, "POST", "/v1/auth/invitations/accept", Some(body)).await;
        assert_eq!(joined.status, 201, "{}", joined.body);
        let session = admin.with(text(&joined.body, "/tokens/access_token"));
        callers.push((format!("{role} person"), session, Scopes::of_role(*role), true));
    }
    for scope in Scope::ALL {
        let key = key(&admin, json!({ "name": scope.name(), "role": "admin", "scopes": [scope.name()] })).await;
        callers.push((format!("{scope} key"), admin.with(text(&key, "/key")), [*scope].into_iter().collect(), false));
    }
    callers.push(("nobody".to_owned(), admin.with("nonsense"), Scopes::default(), false));
    let mut asked = 0;
    for endpoint in ENDPOINTS {
        // These would end the session, or the caller's membership, that the rest of the matrix calls with.
        let ends = matches!(endpoint.name, "LogOut");
        let methods = if endpoint.method == "GET" { vec!["GET", "HEAD"] } else { vec![endpoint.method.as_str()] };
        for (name, caller, scopes, person) in &callers {
            for method in &methods {
                let mut path = endpoint.path.replace("{sequence}", "1");
                for parameter in ["{id}", "{delivery_id}", "{replay_id}"] {
                    path = path.replace(parameter, &Uuid::new_v4().to_string());
                }
                let known = name != "nobody";
                let may = match endpoint.need {
                    Need::Nobody => true,
                    Need::Person => known && *person,
                    need => known && need.is_met_by(*scopes),
                };
                if ends && may {
                    continue;
                }
                let body = (!matches!(*method, "GET" | "HEAD")).then(|| json!({}));
                let answer = ask(caller, method, &path, body).await;
                let let_in = if *method == "HEAD" {
                    !matches!(answer.status.as_u16(), 401 | 403 | 405)
                } else {
                    was_let_in(&answer) || (endpoint.need == Need::Nobody && answer.status != 404)
                };
                assert_eq!(let_in, may, "{name}: {method} {path}: {} {}", answer.status, answer.body);
                asked += 1;
            }
        }
    }
    println!("{asked} requests: {} endpoints by {} callers", ENDPOINTS.len(), callers.len());
    // A batch needs the scope of each of its commands, and says which is missing.
    let orders = callers.iter().find(|(name, ..)| name == "write:orders key").unwrap();
    let body = json!({ "commands": [{ "type": "item.create", "idempotency_key": "k", "body": { "sku": "A" } }] });
    let answer = ask(&orders.1, "POST", "/v1/commands:batch", Some(body)).await;
    assert_eq!(text(&answer.body, "/results/0/body/code"), "FORBIDDEN", "{}", answer.body);
    assert_eq!(answer.body.pointer("/results/0/body/details/0/needs_one_of"), Some(&json!(["write:catalog"])));
}

#[tokio::test]
async fn an_outcome_shows_a_document_only_to_who_may_see_it_anyway() {
    let server = Shared::server().await.unwrap();
    let admin = server.tenant().await.unwrap();
    let made = admin.done("/v1/items", json!({ "sku": "WIDGET" })).await.unwrap();
    let path = format!("/v1/commands/{}?position={}", made.header("x-twh-command-id"), made.header("x-twh-position"));
    let never = format!("/v1/commands/{}", Uuid::now_v7());
    for (scopes, sees) in [
        (json!(["read:ledger"]), false),
        (json!(["read:ledger", "read:orders", "read:stock"]), false),
        (json!(["write:orders", "write:stock"]), false),
        (json!(["read:ledger", "read:catalog"]), true),
        (json!(["write:catalog"]), true),
    ] {
        let key = key(&admin, json!({ "name": "narrow", "role": "admin", "scopes": scopes })).await;
        let caller = admin.with(text(&key, "/key"));
        let answer = ask(&caller, "GET", &path, None).await;
        assert_eq!(answer.status == 200, sees, "{scopes}: {}", answer.body);
        if !sees {
            let nothing = ask(&caller, "GET", &never, None).await;
            assert_eq!((answer.code(), &answer.body["message"]), ("NOT_FOUND", &nothing.body["message"]));
        }
    }
}

/// A caller grants only what it has, and takes away no more: every place that takes a role, and every thing that is
/// done to a key, by callers that lack some of it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_or_takes_what_they_do_not_have() {
    let server = Shared::server().await.unwrap();
    let operator = server.tenant().await.unwrap();
    let address = |name: &str| format!("{name}-{}@example.com", Uuid::new_v4().simple());
    let admin = operator.with(text(&sign_up(&operator, &address("owner")).await, "/tokens/access_token"));
    let invite = json!({ "email": address("dev"), "role": "dev" });
    let invited = ask(&admin, "POST", "/v1/invitations", Some(invite)).await;
    let accept = json!({ "token": text(&invited.body, "/token"), "name": "Dev", "password": PASSWORD });
    let joined = ask(&operator, "POST", "/v1/auth/invitations/accept", Some(accept)).await;
    assert!(joined.status.is_success(), "{}", joined.body);
    let members = ask(&admin, "GET", "/v1/members", None).await;
    let member = |role: &str| {
        let all = members.body["data"].as_array().unwrap();
        text(all.iter().find(|one| one["role"] == role).unwrap(), "/id").to_owned()
    };
    let people = key(&admin, json!({ "name": "people", "role": "admin", "scopes": ["write:members"] })).await;
    let people = admin.with(text(&people, "/key"));
    let provider = |role: &str| json!({ "name": "P", "kind": "oidc", "issuer": "https://id.example.com", "client_id": "c", "client_secret": "s", "default_role": role });
    for role in ["admin", "dev", "read_only", "billing"] {
        let patch =
            ask(&people, "PATCH", &format!("/v1/members/{}", member("dev")), Some(json!({ "role": role }))).await;
        assert_eq!((patch.status.as_u16(), patch.code()), (403, "FORBIDDEN"), "{role}: {}", patch.body);
        let by_default = ask(&people, "POST", "/v1/identity-providers", Some(provider(role))).await;
        assert_eq!((by_default.status.as_u16(), by_default.code()), (403, "FORBIDDEN"), "{role}: {}", by_default.body);
        let mut by_group = provider(role);
        by_group["default_role"] = Value::Null;
        by_group["role_by_group"] = json!({ "staff": role });
        let by_group = ask(&people, "POST", "/v1/identity-providers", Some(by_group)).await;
        assert_eq!(by_group.code(), "FORBIDDEN", "{role}: {}", by_group.body);
    }
    for role in ["admin", "dev"] {
        let removed = ask(&people, "DELETE", &format!("/v1/members/{}", member(role)), None).await;
        assert_eq!(removed.code(), "FORBIDDEN", "{role}: {}", removed.body);
    }
    let kept = ask(&admin, "POST", "/v1/identity-providers", Some(provider("admin"))).await;
    assert_eq!(kept.status, 201, "{}", kept.body);
    let path = format!("/v1/identity-providers/{}", kept.id());
    // Who says what the provider is says who comes by it as an admin.
    for change in [json!({ "client_id": "mine" }), json!({ "default_role": null })] {
        assert_eq!(ask(&people, "PATCH", &path, Some(change)).await.code(), "FORBIDDEN");
    }
    assert_eq!(ask(&people, "DELETE", &path, None).await.code(), "FORBIDDEN");
    assert_eq!(ask(&admin, "DELETE", &path, None).await.status, 204);
    // Keys: each role by each role.
    const SCOPES: [(&str, &[&str]); 3] =
        [("admin", &["admin", "dev", "read_only", "billing"]), ("dev", &["dev", "read_only"]), ("narrow", &[])];
    for (who, over) in SCOPES {
        let own = match who {
            "narrow" => json!({ "name": who, "role": "dev", "scopes": ["write:keys"] }),
            role => json!({ "name": who, "role": role }),
        };
        let own = key(&admin, own).await;
        let caller = admin.with(text(&own, "/key"));
        for role in ["admin", "dev", "read_only", "billing"] {
            let target = key(&admin, json!({ "name": role, "role": role })).await;
            let path = format!("/v1/api-keys/{}", text(&target, "/id"));
            let expected = if over.contains(&role) { (201, 204) } else { (403, 403) };
            let revoked = ask(&caller, "DELETE", &path, None).await;
            let target = key(&admin, json!({ "name": role, "role": role })).await;
            let path = format!("/v1/api-keys/{}/rotate", text(&target, "/id"));
            let rotated = ask(&caller, "POST", &path, Some(json!({}))).await;
            let found = (rotated.status.as_u16(), revoked.status.as_u16());
            assert_eq!(found, expected, "{who} over {role}: {} {}", rotated.body, revoked.body);
        }
        // A key may always end itself.
        let path = format!("/v1/api-keys/{}", text(&own, "/id"));
        assert_eq!(ask(&caller, "DELETE", &path, None).await.status, 204, "{who}");
    }
}

#[tokio::test]
async fn a_key_works_until_it_is_over_and_nowhere_that_it_should_not() {
    let mut world = World::start_with(UNLIMITED).await.unwrap();
    let operator = world.tenant().await.unwrap();
    let account = sign_up(&operator, "keys@example.com").await;
    let admin = operator.with(text(&account, "/tokens/access_token"));
    let made = key(&admin, json!({ "name": "shop", "role": "dev" })).await;
    let secret = text(&made, "/key").to_owned();
    assert!(secret.starts_with("twh_live_"), "{made}");
    assert!(text(&account, "/sandbox/api_key").starts_with("twh_test_"));
    let shop = admin.with(&secret);
    assert_eq!(ask(&shop, "GET", "/v1/items", None).await.status, 200);
    // Mistyped: said so, and never looked up.
    let mut typo = secret.clone();
    let last = if typo.pop() == Some('x') { 'y' } else { 'x' };
    typo.push(last);
    let answer = ask(&admin.with(&typo), "GET", "/v1/items", None).await;
    assert!(answer.status == 401 && text(&answer.body, "/message").contains("copy it again"), "{}", answer.body);
    // Shown once: neither the list nor the table has it.
    let listed = ask(&admin, "GET", "/v1/api-keys", None).await;
    assert!(!listed.body.to_string().contains(&secret) && listed.body.to_string().contains(text(&made, "/hint")));
    let pool = world.pool().await.unwrap();
    let dump: String = sqlx::query_scalar("select coalesce(string_agg(k::text, ''), '') from api_keys k")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(!dump.contains(&secret));
    // Who makes a key cannot make one that can do more.
    let wider = json!({ "name": "wider", "role": "admin" });
    assert_eq!(ask(&shop, "POST", "/v1/api-keys", Some(wider)).await.code(), "FORBIDDEN");
    // From a list of networks only.
    let elsewhere = key(&admin, json!({ "name": "net", "role": "dev", "ip_allowed": ["203.0.113.0/24"] })).await;
    assert_eq!(ask(&admin.with(text(&elsewhere, "/key")), "GET", "/v1/items", None).await.code(), "IP_NOT_ALLOWED");
    let here = key(&admin, json!({ "name": "net", "role": "dev", "ip_allowed": ["127.0.0.1"] })).await;
    assert_eq!(ask(&admin.with(text(&here, "/key")), "GET", "/v1/items", None).await.status, 200);
    // A key that is bound makes and rotates none that is not.
    let by_bound = admin.with(text(&here, "/key"));
    let wider = json!({ "name": "wider", "role": "dev", "ip_allowed": ["127.0.0.0/8"] });
    assert_eq!(ask(&by_bound, "POST", "/v1/api-keys", Some(wider)).await.code(), "FORBIDDEN");
    let inherits = key(&by_bound, json!({ "name": "inherits", "role": "read_only" })).await;
    assert_eq!(inherits["ip_allowed"], json!(["127.0.0.1/32"]));
    let rotate = async |id: &str| ask(&by_bound, "POST", &format!("/v1/api-keys/{id}/rotate"), Some(json!({}))).await;
    assert_eq!(rotate(text(&made, "/id")).await.code(), "FORBIDDEN");
    assert_eq!(rotate(text(&here, "/id")).await.body["ip_allowed"], json!(["127.0.0.1/32"]));
    // Until its time.
    let brief = key(&admin, json!({ "name": "brief", "role": "dev", "expires_at": soon() })).await;
    let brief = admin.with(text(&brief, "/key"));
    assert_eq!(ask(&brief, "GET", "/v1/items", None).await.status, 200);
    assert_eq!(until_refused(&brief).await.code(), "UNAUTHENTICATED");
    // Rotated with a grace: both work, then one.
    let path = format!("/v1/api-keys/{}/rotate", text(&made, "/id"));
    let rotated = ask(&admin, "POST", &path, Some(json!({ "grace_seconds": 4 }))).await;
    assert_eq!(rotated.status, 201, "{}", rotated.body);
    let successor = admin.with(text(&rotated.body, "/key"));
    assert_eq!(ask(&shop, "GET", "/v1/items", None).await.status, 200);
    assert_eq!(ask(&successor, "GET", "/v1/items", None).await.status, 200);
    assert_eq!(ask(&admin, "POST", &path, Some(json!({}))).await.code(), "KEY_NOT_ACTIVE");
    until_refused(&shop).await;
    assert_eq!(ask(&successor, "GET", "/v1/items", None).await.status, 200);
    // Without a grace the old one is over at once; and none is longer than a day.
    let path = format!("/v1/api-keys/{}/rotate", text(&rotated.body, "/id"));
    for seconds in [-1, 86_401] {
        let refused = ask(&admin, "POST", &path, Some(json!({ "grace_seconds": seconds }))).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (422, "VALIDATION_FAILED"), "{seconds}");
    }
    let rotated = ask(&admin, "POST", &path, Some(json!({ "grace_seconds": 0 }))).await;
    assert_eq!(ask(&successor, "GET", "/v1/items", None).await.code(), "UNAUTHENTICATED");
    let successor = admin.with(text(&rotated.body, "/key"));
    assert_eq!(ask(&successor, "GET", "/v1/items", None).await.status, 200);
    // Revoked: at once, here; and a retry is no mistake.
    let path = format!("/v1/api-keys/{}", text(&rotated.body, "/id"));
    for _ in 0..2 {
        assert_eq!(ask(&admin, "DELETE", &path, None).await.status, 204);
    }
    assert_eq!(ask(&successor, "GET", "/v1/items", None).await.status, 401);
    // Another tenant's key does not exist, in the same words as one that never did.
    let own = text(&made, "/id");
    let other = ask(&operator, "GET", &format!("/v1/api-keys/{own}"), None).await;
    let never = ask(&operator, "GET", &format!("/v1/api-keys/{}", Uuid::new_v4()), None).await;
    assert_eq!((other.status, &other.body["message"]), (never.status, &never.body["message"]));
    // When it was last used is known once the server has written it down; it does when it stops.
    world.stop_server().await.unwrap();
    let used: i64 = sqlx::query_scalar("select count(*) from api_keys where last_used_at is not null")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(used >= 4, "{used}");
}

/// Asks until the key or session is over.
async fn until_refused(caller: &Tenant) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = ask(caller, "GET", "/v1/items", None).await;
        if answer.status == 401 {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not over: {}", answer.status);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Late enough for a first request on a busy machine.
fn soon() -> String {
    let then = std::time::SystemTime::now() + Duration::from_secs(4);
    let micros = then.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    Timestamp::from_micros(i64::try_from(micros).unwrap()).to_string()
}

#[tokio::test]
async fn a_session_lasts_while_it_is_refreshed_and_ends_when_it_must() {
    let world = World::start_with(UNLIMITED).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let account = sign_up(&anyone, "Ada@Example.com").await;
    let live = text(&account, "/tenant/id").to_owned();
    let sandbox = text(&account, "/sandbox/id").to_owned();
    // The address is taken, however it is typed.
    let body = json!({ "organization": "B", "name": "B", "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(ask(&anyone, "POST", "/v1/auth/signup", Some(body)).await.code(), "EMAIL_TAKEN");
    let wrong = log_in(&anyone, "ada@example.com", "not this one").await;
    let nobody = log_in(&anyone, "nobody@example.com", PASSWORD).await;
    assert_eq!((wrong.code(), &wrong.body["message"]), ("INVALID_CREDENTIALS", &nobody.body["message"]));
    let first = log_in(&anyone, "ADA@example.com ", PASSWORD).await;
    assert_eq!((first.status.as_u16(), text(&first.body, "/tenant_id")), (200, live.as_str()), "{}", first.body);
    let ada = anyone.with(text(&first.body, "/tokens/access_token"));
    // The tenant is the session's, or the one that the header names; another's is nobody's.
    let me = async |headers: &[(&str, &str)]| ask_with(&ada, "GET", "/v1/me", headers, None).await;
    assert_eq!(text(&me(&[]).await.body, "/tenant/id"), live);
    assert_eq!(text(&me(&[("x-tenant-id", &sandbox)]).await.body, "/tenant/environment"), "sandbox");
    let foreign = me(&[("x-tenant-id", &anyone.id)]).await;
    let unknown = me(&[("x-tenant-id", &Uuid::new_v4().to_string())]).await;
    assert_eq!((foreign.status.as_u16(), &foreign.body["message"]), (403, &unknown.body["message"]));
    assert_eq!(me(&[("x-tenant-id", "acme")]).await.code(), "INVALID_TENANT_ID");
    // A token is checked by strangers with what we publish, and a word changed in it is seen.
    let jwks = ask(&anyone, "GET", "/.well-known/jwks.json", None).await;
    assert_eq!(text(&jwks.body, "/keys/0/crv"), "Ed25519");
    let token = text(&first.body, "/tokens/access_token");
    let (head, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let forged =
        [head, &claims.replace(&claims[10..11], if &claims[10..11] == "A" { "B" } else { "A" }), signature].join(".");
    assert_eq!(ask(&anyone.with(&forged), "GET", "/v1/me", None).await.status, 401);
    let none = format!("eyJhbGciOiJub25lIn0.{claims}.");
    assert_eq!(ask(&anyone.with(&none), "GET", "/v1/me", None).await.status, 401);
    // A refresh token works once; shown again, it ends the session and all of its tokens.
    let refresh = text(&first.body, "/tokens/refresh_token").to_owned();
    let again = ask(&anyone, "POST", "/v1/auth/refresh", Some(json!({ "refresh_token": refresh }))).await;
    assert_eq!(again.status, 200, "{}", again.body);
    assert_eq!(ask(&anyone.with(text(&again.body, "/tokens/access_token")), "GET", "/v1/me", None).await.status, 200);
    let reused = ask(&anyone, "POST", "/v1/auth/refresh", Some(json!({ "refresh_token": refresh }))).await;
    assert_eq!(reused.code(), "INVALID_TOKEN");
    let successor = json!({ "refresh_token": text(&again.body, "/tokens/refresh_token") });
    assert_eq!(ask(&anyone, "POST", "/v1/auth/refresh", Some(successor)).await.code(), "INVALID_TOKEN");
    assert_eq!(ask(&ada, "GET", "/v1/me", None).await.status, 401);
    // Two at once with the same refresh token: one at most gets through.
    let login = log_in(&anyone, "ada@example.com", PASSWORD).await;
    let body = json!({ "refresh_token": text(&login.body, "/tokens/refresh_token") });
    let race = (0..8).map(|_| ask(&anyone, "POST", "/v1/auth/refresh", Some(body.clone())));
    let won = futures::future::join_all(race).await.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1);
    // Signing out ends this session; another password ends all others.
    let (one, two) =
        (log_in(&anyone, "ada@example.com", PASSWORD).await, log_in(&anyone, "ada@example.com", PASSWORD).await);
    let (one, two) =
        (anyone.with(text(&one.body, "/tokens/access_token")), anyone.with(text(&two.body, "/tokens/access_token")));
    let change = json!({ "current_password": PASSWORD, "new_password": "another long one" });
    assert_eq!(ask(&one, "POST", "/v1/auth/password", Some(change)).await.status, 204);
    assert_eq!(ask(&two, "GET", "/v1/me", None).await.status, 401);
    assert_eq!(ask(&one, "POST", "/v1/auth/logout", None).await.status, 204);
    assert_eq!(ask(&one, "GET", "/v1/me", None).await.status, 401);
    // A token from the operator sets a password, once.
    let reset = json!({ "token": reset_token(&world, "ada@example.com").await, "password": PASSWORD });
    assert_eq!(ask(&anyone, "POST", "/v1/auth/password-reset", Some(reset.clone())).await.status, 204);
    assert_eq!(ask(&anyone, "POST", "/v1/auth/password-reset", Some(reset)).await.code(), "INVALID_TOKEN");
    let again = log_in(&anyone, "ada@example.com", PASSWORD).await;
    assert_eq!(again.status, 200, "{}", again.body);
    // Each of her tenants has it in its account who had the token made, and not the token.
    let ada = anyone.with(text(&again.body, "/tokens/access_token"));
    for tenant in [&live, &sandbox] {
        let path = "/v1/audit?action=user.password_reset_token";
        let made = ask_with(&ada, "GET", path, &[("x-tenant-id", tenant)], None).await;
        assert_eq!(text(&made.body, "/data/0/actor/id"), "operator", "{}", made.body);
        assert_eq!(made.body["data"][0]["new"], Value::Null);
    }
    // A key that signs is rotated: tokens of before and after are good.
    let account = sign_up(&anyone, "bob@example.com").await;
    let rotated = world.command(&["secrets", "rotate-signing-key"]).unwrap().output().await.unwrap();
    assert!(rotated.status.success());
    let before = ask(&anyone.with(text(&account, "/tokens/access_token")), "GET", "/v1/me", None).await;
    assert_eq!(before.status, 200);
}

/// The name of the key that signed a token.
fn key_of(token: &str) -> String {
    let head = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    text(&serde_json::from_slice(&head).unwrap(), "/kid").to_owned()
}

#[tokio::test]
async fn a_rotated_key_signs_in_running_processes_too_and_what_the_old_one_signed_stays_good() {
    const AGE: Duration = Duration::from_millis(200);
    let world = World::start().await.unwrap();
    let secrets = std::fs::read_to_string(std::env::var("TWH_SECRETS_FILE").expect("./dev env")).unwrap();
    let tokens = Tokens::load(world.pool().await.unwrap(), Secrets::parse(&secrets).unwrap()).await.unwrap();
    let tokens = tokens.reread_after(AGE);
    let issue = async || tokens.issue(Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()).await.unwrap();
    let before = issue().await;
    let rotated = world.command(&["secrets", "rotate-signing-key"]).unwrap().output().await.unwrap();
    assert!(rotated.status.success());
    // So old are keys when they are read again.
    tokio::time::sleep(AGE).await;
    let after = issue().await;
    assert_ne!(key_of(&before), key_of(&after));
    assert!(String::from_utf8(rotated.stdout).unwrap().starts_with(&key_of(&after)));
    let known = tokens.jwks().await.unwrap().to_string();
    for token in [&before, &after] {
        assert!(tokens.verify(token).await.unwrap().is_some() && known.contains(&key_of(token)), "{known}");
    }
    // A process that had not read the keys again may have signed with the old one for a minute more.
    let pool = world.pool().await.unwrap();
    for (minutes, good) in [(16, true), (18, false)] {
        let retired = format!("update signing_keys set retired_at = now() - interval '{minutes} minutes'");
        sqlx::query(&format!("{retired} where retired_at is not null")).execute(&pool).await.unwrap();
        tokio::time::sleep(AGE).await;
        assert_eq!(tokens.verify(&before).await.unwrap().is_some(), good, "{minutes} minutes");
    }
}

#[tokio::test]
async fn who_guesses_waits_however_many_at_once_and_whatever_process_is_asked() {
    let mut world = World::start_with(UNLIMITED).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    for email in ["ada@example.com", "bob@example.com"] {
        sign_up(&anyone, email).await;
    }
    let guesses = (0..40).map(|_| log_in(&anyone, "ada@example.com", "a guess, and a wrong one"));
    let answers = futures::future::join_all(guesses).await;
    let (tried, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 401);
    assert_eq!(tried.len(), 5, "more were tried than are free");
    for answer in &refused {
        assert_eq!(answer.code(), "TOO_MANY_ATTEMPTS");
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{:?}", answer.headers);
    }
    // The waits are the subject here: each wrong guess doubles the next. To come later than one must is no harm.
    for seconds in [1, 2, 4] {
        tokio::time::sleep(Duration::from_secs(seconds) + Duration::from_millis(100)).await;
        assert_eq!(log_in(&anyone, "ada@example.com", "another guess").await.status, 401);
    }
    // Another process knows; the others of the house are not kept out; and after the wait its owner gets in.
    world.kill_server().await.unwrap();
    world.start_server().await.unwrap();
    let early = log_in(&anyone, "ada@example.com", PASSWORD).await;
    assert_eq!(early.status, 429, "{}", early.body);
    assert_eq!(log_in(&anyone, "bob@example.com", PASSWORD).await.status, 200);
    tokio::time::sleep(Duration::from_secs(early.header("retry-after").parse().unwrap())).await;
    assert_eq!(log_in(&anyone, "ada@example.com", PASSWORD).await.status, 200);
    for _ in 0..4 {
        assert_eq!(log_in(&anyone, "ada@example.com", "a slip").await.status, 401);
    }
    assert_eq!(log_in(&anyone, "ada@example.com", PASSWORD).await.status, 200, "what went before is forgotten");
}

#[tokio::test]
async fn invitations_and_tokens_for_lost_passwords_come_by_mail() {
    let server = MailServer::start().unwrap();
    let settings =
        [UNLIMITED[0], ("TWH_SMTP_URL", server.url.as_str()), ("TWH_MAIL_FROM", "The stock <stock@example.com>")];
    let world = World::start_with(&settings).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let account = sign_up(&anyone, "ada@example.com").await;
    let ada = anyone.with(text(&account, "/tokens/access_token"));
    let forgotten =
        async |email: &str| ask(&anyone, "POST", "/v1/auth/password-forgotten", Some(json!({ "email": email }))).await;
    // Whether somebody has the address cannot be told from the answer.
    assert_eq!(forgotten("nobody@example.com").await.status, 204);
    assert_eq!(forgotten("Ada@example.com").await.status, 204);
    assert_eq!(forgotten("ada").await.code(), "VALIDATION_FAILED");
    let token = server.token_for("Ada@example.com").await.unwrap();
    let reset = json!({ "token": token, "password": "a password that is new" });
    assert_eq!(ask(&anyone, "POST", "/v1/auth/password-reset", Some(reset)).await.status, 204);
    assert_eq!(ask(&ada, "GET", "/v1/me", None).await.status, 401, "all sessions ended");
    let login = log_in(&anyone, "ada@example.com", "a password that is new").await;
    let ada = anyone.with(text(&login.body, "/tokens/access_token"));
    let invited =
        ask(&ada, "POST", "/v1/invitations", Some(json!({ "email": "eve@example.com", "role": "dev" }))).await;
    assert_eq!(server.token_for("eve@example.com").await.unwrap(), text(&invited.body, "/token"));
    assert!(server.mails().iter().all(|mail| !mail.contains("nobody@example.com")));
    // No box is flooded from one place.
    for _ in 0..4 {
        assert_eq!(forgotten("ada@example.com").await.status, 204);
    }
    assert_eq!(forgotten("ada@example.com").await.code(), "TOO_MANY_ATTEMPTS");
    // That keeps nobody from being invited; yet a tenant invites the same person five times, and not the whole world.
    let invite =
        async |email: &str| ask(&ada, "POST", "/v1/invitations", Some(json!({ "email": email, "role": "dev" }))).await;
    for _ in 0..5 {
        assert_eq!(invite("ada@example.com").await.status, 201);
    }
    assert_eq!(invite("ada@example.com").await.code(), "TOO_MANY_ATTEMPTS");
    for number in 0..44 {
        assert_eq!(invite(&format!("stranger-{number}@example.com")).await.status, 201);
    }
    let refused = invite("stranger-44@example.com").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (429, "TOO_MANY_ATTEMPTS"), "{}", refused.body);
}

#[tokio::test]
async fn strangers_neither_flood_a_box_nor_keep_anybody_from_being_invited() {
    let server = MailServer::start().unwrap();
    let settings = [
        UNLIMITED[0],
        ("TWH_SMTP_URL", server.url.as_str()),
        ("TWH_MAIL_FROM", "stock@example.com"),
        ("TWH_TRUSTED_PROXIES", "127.0.0.0/8"),
    ];
    let world = World::start_with(&settings).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let forgotten = async |from: &str| {
        let body = json!({ "email": "eve@example.com" });
        let headers = [("x-forwarded-for", from)];
        ask_with(&anyone, "POST", "/v1/auth/password-forgotten", &headers, Some(body)).await.status.as_u16()
    };
    let mut answers = Vec::new();
    for _ in 0..9 {
        answers.push(forgotten("203.0.113.1").await);
    }
    assert_eq!(answers, [204, 204, 204, 204, 204, 429, 429, 429, 429]);
    // From wherever it is asked, ten in all.
    for network in 1..=5 {
        assert_eq!(forgotten(&format!("2001:db8:0:{network}::7")).await, 204);
    }
    for from in ["198.51.100.1", "2001:db8:1::7"] {
        assert_eq!(forgotten(from).await, 429, "{from}");
    }
    let invite = async |caller: &Tenant| {
        let body = json!({ "email": "Eve@example.com", "role": "dev" });
        let answer = ask(caller, "POST", "/v1/invitations", Some(body)).await;
        (answer.status.as_u16(), answer.body["mailed"].as_bool())
    };
    let mut admins = Vec::new();
    for number in 0..3 {
        let account = sign_up(&anyone, &format!("admin-{number}@example.com")).await;
        admins.push(anyone.with(text(&account, "/tokens/access_token")));
    }
    assert_eq!(invite(&admins[0]).await, (201, Some(true)));
    for _ in 0..4 {
        assert_eq!(invite(&admins[1]).await, (201, Some(true)));
    }
    for _ in 0..5 {
        assert_eq!(invite(&admins[2]).await, (201, Some(true)));
    }
    // Others have filled the box: the token is in the answer, and no more mails go there.
    assert_eq!(invite(&admins[0]).await, (201, Some(false)));
}

#[tokio::test]
async fn a_server_without_mail_says_so() {
    let world = World::start_with(UNLIMITED).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let body = json!({ "email": "eve@example.com" });
    // However often it is asked: what cannot be sent does not count, against nobody.
    for _ in 0..9 {
        let answer = ask(&anyone, "POST", "/v1/auth/password-forgotten", Some(body.clone())).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (501, "MAIL_NOT_SENT"), "{}", answer.body);
    }
    let account = sign_up(&anyone, "owner@example.com").await;
    let owner = anyone.with(text(&account, "/tokens/access_token"));
    for _ in 0..9 {
        let invite = json!({ "email": "eve@example.com", "role": "dev" });
        let invited = ask(&owner, "POST", "/v1/invitations", Some(invite)).await;
        assert_eq!((invited.status.as_u16(), &invited.body["mailed"]), (201, &json!(false)), "{}", invited.body);
    }
}

#[tokio::test]
async fn people_come_by_invitation_and_a_role_that_is_taken_is_gone_at_once() {
    let world = World::start_with(UNLIMITED).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let account = sign_up(&anyone, "owner@example.com").await;
    let owner = anyone.with(text(&account, "/tokens/access_token"));
    let owner_id = text(&account, "/user/id");
    let invite = json!({ "email": "eve@example.com", "role": "dev" });
    let invited = ask(&owner, "POST", "/v1/invitations", Some(invite.clone())).await.body;
    let taken_back = ask(&owner, "POST", "/v1/invitations", Some(invite)).await.body;
    let path = format!("/v1/invitations/{}", text(&taken_back, "/id"));
    assert_eq!(ask(&owner, "DELETE", &path, None).await.status, 204);
    let accept = |token: &str| json!({ "token": token, "name": "Eve", "password": PASSWORD });
    let with_old = ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(accept(text(&taken_back, "/token")))).await;
    assert_eq!(with_old.code(), "INVALID_TOKEN");
    let joined = ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(accept(text(&invited, "/token")))).await.body;
    let again = ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(accept(text(&invited, "/token")))).await;
    assert_eq!(again.code(), "INVALID_TOKEN");
    let (eve, eve_id) = (owner.with(text(&joined, "/tokens/access_token")), text(&joined, "/user/id"));
    assert_eq!(ask(&eve, "GET", "/v1/api-keys", None).await.status, 200);
    let path = format!("/v1/members/{eve_id}");
    assert_eq!(ask(&owner, "PATCH", &path, Some(json!({ "role": "billing" }))).await.status, 200);
    assert_eq!(ask(&eve, "GET", "/v1/api-keys", None).await.code(), "FORBIDDEN");
    assert_eq!(ask(&owner, "DELETE", &path, None).await.status, 204);
    assert_eq!(ask(&eve, "GET", "/v1/me", None).await.status, 401);
    // Nor is it back when she is: what she was signed in with before has ended.
    let invite = json!({ "email": "eve@example.com", "role": "dev" });
    let invited = ask(&owner, "POST", "/v1/invitations", Some(invite)).await.body;
    let back = ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(accept(text(&invited, "/token")))).await;
    assert_eq!((back.status.as_u16(), text(&back.body, "/user/id")), (201, eve_id), "{}", back.body);
    assert_eq!(ask(&eve, "GET", "/v1/me", None).await.status, 401);
    let refresh = json!({ "refresh_token": text(&joined, "/tokens/refresh_token") });
    assert_eq!(ask(&anyone, "POST", "/v1/auth/refresh", Some(refresh)).await.code(), "INVALID_TOKEN");
    // Never without an admin: neither by demotion nor by removal.
    let path = format!("/v1/members/{owner_id}");
    assert_eq!(ask(&owner, "PATCH", &path, Some(json!({ "role": "dev" }))).await.code(), "LAST_ADMIN");
    assert_eq!(ask(&owner, "DELETE", &path, None).await.code(), "LAST_ADMIN");
    // An account that is there joins with its own password only.
    let other = sign_up(&anyone, "other@example.com").await;
    let invite = json!({ "email": "other@example.com", "role": "read_only" });
    let invited = ask(&owner, "POST", "/v1/invitations", Some(invite)).await.body;
    let token = text(&invited, "/token");
    let stolen = json!({ "token": token, "name": "X", "password": "some other password" });
    assert_eq!(ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(stolen)).await.code(), "INVALID_CREDENTIALS");
    let joined = ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(accept(token))).await;
    assert_eq!((joined.status.as_u16(), text(&joined.body, "/user/id")), (201, text(&other, "/user/id")));
    // Who belongs to the tenant already keeps the role that it has, whatever it is invited as.
    let invite = json!({ "email": "other@example.com", "role": "admin" });
    let invited = ask(&owner, "POST", "/v1/invitations", Some(invite)).await.body;
    let twice = ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(accept(text(&invited, "/token")))).await;
    assert_eq!((twice.status.as_u16(), twice.code()), (409, "DUPLICATE"), "{}", twice.body);
    let session = anyone.with(text(&joined.body, "/tokens/access_token"));
    assert_eq!(ask(&session, "GET", "/v1/me", None).await.body["role"], "read_only");
    world.is_sound().await.unwrap();
}

/// The token that the operator makes for who lost the password.
async fn reset_token(world: &World, email: &str) -> String {
    let output = world.command(&["user", "password-reset", "--email", email]).unwrap().output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn who_waits_for_a_password_to_be_hashed_keeps_no_connection_from_others() {
    const AT_ONCE: usize = 8;
    let world = World::start_with(&[UNLIMITED[0], ("TWH_DATABASE_CONNECTIONS", "4")]).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let account = sign_up(&anyone, "owner@example.com").await;
    let owner = anyone.with(text(&account, "/tokens/access_token"));
    let emails: Vec<_> = (0..AT_ONCE).map(|number| format!("person-{number}@example.com")).collect();
    let mut invited = Vec::new();
    for email in &emails {
        let answer = ask(&owner, "POST", "/v1/invitations", Some(json!({ "email": email, "role": "dev" }))).await;
        invited.push(text(&answer.body, "/token").to_owned());
    }
    let accept = |token: &str| {
        let body = json!({ "token": token, "name": "Person", "password": PASSWORD });
        ask(&anyone, "POST", "/v1/auth/invitations/accept", Some(body))
    };
    for answer in futures::future::join_all(invited.iter().map(|token| accept(token))).await {
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    let mut resets = Vec::new();
    for email in &emails {
        resets.push(json!({ "token": reset_token(&world, email).await, "password": "a password that is new" }));
    }
    let reset = |body: &Value| ask(&anyone, "POST", "/v1/auth/password-reset", Some(body.clone()));
    for answer in futures::future::join_all(resets.iter().map(reset)).await {
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    // What works once works once, however many show it while its password is hashed.
    let invite = json!({ "email": "one@example.com", "role": "dev" });
    let invited = ask(&owner, "POST", "/v1/invitations", Some(invite)).await;
    let one = text(&invited.body, "/token");
    let answers = futures::future::join_all((0..AT_ONCE).map(|_| accept(one))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    let one = json!({ "token": reset_token(&world, "one@example.com").await, "password": "a password that is new" });
    let answers = futures::future::join_all((0..AT_ONCE).map(|_| reset(&one))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 204).count(), 1);
    world.is_sound().await.unwrap();
}

#[tokio::test]
async fn every_change_is_in_the_account_and_no_secret_is_anywhere() {
    let mut world = World::start_with(&[UNLIMITED[0], ("TWH_LOG", "debug")]).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let account = sign_up(&anyone, "audit@example.com").await;
    let admin = anyone.with(text(&account, "/tokens/access_token"));
    let made = key(&admin, json!({ "name": "first", "role": "dev" })).await;
    let shop = admin.with(text(&made, "/key"));
    let created = shop.post("/v1/items", json!({ "sku": "WIDGET", "name": "Widget" })).await.unwrap();
    let item = created.id().to_owned();
    let headers = [("idempotency-key", "u1"), ("if-match", "\"1\""), ("x-request-id", "the-update")];
    let updated =
        ask_with(&shop, "PATCH", &format!("/v1/items/{item}"), &headers, Some(json!({ "name": "Gadget" }))).await;
    assert_eq!(updated.status, 200, "{}", updated.body);
    ask(&admin, "DELETE", &format!("/v1/api-keys/{}", text(&made, "/id")), None).await;
    // Newest first, both accounts as one, page by page.
    let (mut rows, mut cursor) = (Vec::<Value>::new(), String::new());
    loop {
        let page = ask(&admin, "GET", &format!("/v1/audit?limit=2{cursor}"), None).await;
        assert_eq!(page.status, 200, "{}", page.body);
        rows.extend(page.body["data"].as_array().unwrap().clone());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let actions: Vec<_> = rows.iter().map(|row| text(row, "/action")).collect();
    let expected = ["api_key.revoke", "item.update", "item.create", "api_key.create", "member.join", "tenant.create"];
    assert_eq!(actions, expected);
    let update = &rows[1];
    assert_eq!((text(update, "/old/name"), text(update, "/new/name")), ("Widget", "Gadget"));
    assert_eq!((text(update, "/actor/type"), text(update, "/actor/id")), ("api_key", text(&made, "/id")));
    assert_eq!((text(update, "/request_id"), text(update, "/actor/ip")), ("the-update", "127.0.0.1"));
    for made_up in [(i64::MIN, i64::MAX), (i64::MAX, -1)] {
        let page = ask(&admin, "GET", &format!("/v1/audit?cursor={}", cursor::encode(&made_up)), None).await;
        assert_eq!((page.status.as_u16(), page.code()), (400, "INVALID_QUERY"), "{}", page.body);
    }
    let of_item = ask(&admin, "GET", &format!("/v1/audit?entity_id={item}&action=item.update"), None).await;
    assert_eq!(of_item.body["data"].as_array().unwrap().len(), 1);
    // The chain holds, and neither the table nor its chain can be rewritten.
    let pool = world.pool().await.unwrap();
    chain_holds(&pool, text(&account, "/tenant/id")).await;
    for sql in ["delete from control_audit", "update control_audit set action = 'x'", "truncate control_audit"] {
        assert!(sqlx::query(sql).execute(&pool).await.is_err(), "{sql}");
    }
    // Passwords are kept as argon2id, and no secret that was shown once is kept: in the account, in the tables, in the log.
    let hashes: Vec<String> = sqlx::query_scalar("select password_hash from users where password_hash is not null")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert!(!hashes.is_empty() && hashes.iter().all(|hash| hash.starts_with("$argon2id$")), "{hashes:?}");
    let secrets = [
        PASSWORD,
        text(&made, "/key"),
        text(&account, "/sandbox/api_key"),
        text(&account, "/tokens/access_token"),
        text(&account, "/tokens/refresh_token"),
    ];
    let mut kept = serde_json::to_string(&rows).unwrap();
    for table in ["users", "sessions", "refresh_tokens", "api_keys", "control_audit", "signing_keys", "audit_log"] {
        let sql = format!("select coalesce(string_agg(t::text, ' '), '') from {table} t");
        kept.push_str(&sqlx::query_scalar::<_, String>(&sql).fetch_one(&pool).await.unwrap());
    }
    kept.push_str(&std::fs::read_to_string(world.server(0).unwrap().log_path()).unwrap());
    for secret in secrets {
        assert!(!kept.contains(secret), "{secret} is kept in the clear");
    }
}

async fn chain_holds(pool: &sqlx::PgPool, tenant: &str) {
    let tenant = twh_domain::id::TenantId(Uuid::parse_str(tenant).unwrap());
    let rows = sqlx::query(
        "select sequence, action, entity_kind, entity_id, old::text, new::text, actor_kind, actor_id, ip, user_agent, request_id,
                (extract(epoch from recorded_at) * 1000000)::bigint as micros, hash
         from control_audit where tenant_id = $1 order by sequence",
    )
    .bind(tenant.0)
    .fetch_all(pool)
    .await
    .unwrap();
    let mut hash = genesis(CONTROL_CHAIN, tenant);
    for (number, row) in (1..).zip(&rows) {
        let record = ControlRecord {
            tenant,
            sequence: row.get("sequence"),
            action: row.get("action"),
            entity_kind: row.get("entity_kind"),
            entity: row.get("entity_id"),
            old: row.get("old"),
            new: row.get("new"),
            actor: twh_domain::actor::Actor {
                kind: row.get("actor_kind"),
                id: row.get("actor_id"),
                ip: row.get("ip"),
                user_agent: row.get("user_agent"),
            },
            request_id: row.get("request_id"),
            recorded_at: Timestamp::from_micros(row.get("micros")),
        };
        assert_eq!(record.sequence, number);
        hash = record.chain(&hash);
        assert_eq!(row.get::<Vec<u8>, _>("hash"), hash.as_slice(), "record {number}");
    }
    assert!(rows.len() >= 3);
}
