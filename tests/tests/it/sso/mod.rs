//! Sign-on, held against a certified provider and against one that lies: who comes in and as what, and everybody who must not.

mod browser;
mod certified;
mod hostile;
#[cfg(feature = "saml")]
mod saml;

use browser::Browser;
use certified::Certified;
use hostile::{Hostile, Signer};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use twh_sinks::postgres::sqlx;
use twh_sinks::secrets::new_master_key;
use twh_tests::{Answer, Tenant, World};
use uuid::Uuid;

const PASSWORD: &str = "correct horse battery";
const CLIENT_SECRET: &str = "a-secret-that-nobody-may-read";
const CLIENT_ID: &str = "twh";
/// The providers of these tests are on loopback; the tenants sign themselves up, and ask faster than their free plan allows.
const LOOPBACK: &[(&str, &str)] = &[("TWH_OUTBOUND_ALLOWED", "127.0.0.0/8"), ("TWH_RATE_LIMITS", "off")];

async fn ask(caller: &Tenant, method: &str, path: &str, body: Option<Value>) -> Answer {
    let headers = [("content-type", "application/json")];
    let body = body.map(|body| body.to_string().into_bytes());
    caller.send(Method::from_bytes(method.as_bytes()).unwrap(), path, &headers, body).await.unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

/// A tenant with a person who has a password; says what the sign-up answered, and calls as that person.
async fn sign_up(anyone: &Tenant, email: &str) -> (Value, Tenant) {
    let body = json!({ "organization": "Acme", "name": "Ada", "email": email, "password": PASSWORD });
    let answer = ask(anyone, "POST", "/v1/auth/signup", Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let admin = anyone.with(text(&answer.body, "/tokens/access_token"));
    (answer.body, admin)
}

async fn provider(admin: &Tenant, issuer: &str, more: Value) -> Answer {
    let mut body = json!({
        "name": "Corporate", "kind": "oidc", "issuer": issuer, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
        "role_by_group": { "builders": "dev", "owners": "admin", "clerks": "read_only" },
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask(admin, "POST", "/v1/identity-providers", Some(body)).await
}

fn code(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.code())
}

async fn actions(admin: &Tenant) -> Vec<String> {
    let audit = ask(admin, "GET", "/v1/audit?limit=100", None).await;
    audit.body["data"].as_array().unwrap().iter().map(|row| text(row, "/action").to_owned()).collect()
}

/// What a caller is, or that it is nobody.
async fn role(caller: &Tenant) -> String {
    let me = ask(caller, "GET", "/v1/me", None).await;
    me.body.get("role").and_then(Value::as_str).unwrap_or(me.code()).to_owned()
}

#[tokio::test]
async fn people_come_by_a_certified_provider_with_the_role_of_their_groups() {
    let world = World::start_with(&[LOOPBACK[0], LOOPBACK[1], ("TWH_LOG", "debug")]).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let (account, admin) = sign_up(&anyone, "admin@example.com").await;
    let callback = format!("{}/v1/auth/sso/callback", world.url);
    let mut certified = Certified::start((CLIENT_ID, CLIENT_SECRET), &callback).await;
    let grace = |groups: Value| json!({ "grace": { "email": "grace@example.com", "name": "Grace", "groups": groups } });
    certified.people(&grace(json!(["builders", "clerks"])));
    let made = provider(&admin, &certified.issuer, json!({})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(text(&made.body, "/redirect_uri"), callback);
    let start = text(&made.body, "/start_url").to_owned();
    // The first time makes the person, in the provider's tenant, with the highest of its roles.
    let mut browser = Browser::new();
    let (sent_back, first) = browser.signs_on(&start, "grace").await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(text(&first.body, "/tenant_id"), text(&account, "/tenant/id"));
    assert_eq!((text(&first.body, "/user/email"), text(&first.body, "/tenants/0/role")), ("grace@example.com", "dev"));
    assert_eq!(first.header("cache-control"), "no-store");
    let grace_id = text(&first.body, "/user/id").to_owned();
    let session = admin.with(text(&first.body, "/tokens/access_token"));
    assert_eq!(role(&session).await, "dev");
    assert!(ask(&admin, "GET", "/v1/members", None).await.body.to_string().contains(&grace_id));
    // The same address once more: neither the state nor the code works again.
    let again = browser.get(&sent_back).await;
    assert_eq!(code(&again), (401, "SIGN_ON_NOT_OPEN"), "{}", again.body);
    // A second time is the same person, with the role that the groups give now; also in the session that is open.
    certified.people(&json!({ "grace": { "email": "g@example.com", "name": "Grace H.", "groups": ["clerks"] } }));
    let (_, second) = Browser::new().signs_on(&start, "grace").await;
    assert_eq!((text(&second.body, "/user/id"), text(&second.body, "/tenants/0/role")), (&*grace_id, "read_only"));
    assert_eq!(role(&session).await, "read_only");
    // Keys that changed are found without a restart.
    certified.restart().await;
    let (_, third) = Browser::new().signs_on(&start, "grace").await;
    assert_eq!(third.status, 200, "{}", third.body);
    // Sent back to another browser than the one that began: nobody is signed in by somebody else's link.
    let mut victim = Browser::new();
    let (link, _) = Browser::new().comes_back(&start, "grace").await;
    let forced = victim.get(&link).await;
    assert_eq!(code(&forced), (401, "SIGN_ON_NOT_OPEN"), "{}", forced.body);
    // A code of one sign-on in another: PKCE and the nonce are not the same.
    let (mine, theirs) =
        (Browser::new().comes_back(&start, "grace").await, Browser::new().comes_back(&start, "grace").await);
    let mut browser = mine.1;
    let mixed = browser.get(&mine.0.replace(&parameter(&mine.0, "code"), &parameter(&theirs.0, "code"))).await;
    assert_eq!(code(&mixed), (401, "SIGN_ON_FAILED"), "{}", mixed.body);
    // Who says no at the provider is told so.
    let refused = Browser::new().says_no(&start).await;
    assert_eq!(code(&refused), (403, "SIGN_ON_DENIED"), "{}", refused.body);
    assert!(text(&refused.body, "/message").contains("access_denied"), "{}", refused.body);
    // No group with a role: refused, and what was open is over.
    certified.people(&grace(json!(["strangers"])));
    let (_, denied) = Browser::new().signs_on(&start, "grace").await;
    assert_eq!(code(&denied), (403, "SIGN_ON_DENIED"), "{}", denied.body);
    assert_eq!(role(&session).await, "UNAUTHENTICATED");
    // All of it is in the account; the secret is neither there, nor in the tables, nor in the log.
    let account = actions(&admin).await;
    let told = ["member.join", "member.update", "user.update", "session.begin", "session.end"];
    for action in told.iter().chain(&["identity_provider.create"]) {
        assert!(account.iter().any(|known| known == action), "{action}: {account:?}");
    }
    world.is_sound().await.unwrap();
    let mut kept = ask(&admin, "GET", "/v1/audit?limit=100", None).await.body.to_string();
    kept.push_str(&ask(&admin, "GET", "/v1/identity-providers", None).await.body.to_string());
    let pool = world.pool().await.unwrap();
    for table in ["identity_providers", "identities", "sign_on_attempts", "control_audit", "users"] {
        let sql = format!("select coalesce(string_agg(t::text, ' '), '') from {table} t");
        kept.push_str(&sqlx::query_scalar::<_, String>(&sql).fetch_one(&pool).await.unwrap());
    }
    kept.push_str(&std::fs::read_to_string(world.log_path()).unwrap());
    let hex: String = CLIENT_SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    for secret in [CLIENT_SECRET, &hex, &parameter(&sent_back, "state"), &parameter(&sent_back, "code")] {
        assert!(!kept.contains(secret), "{secret} is kept in the clear");
    }
}

fn parameter(url: &str, name: &str) -> String {
    let url = reqwest::Url::parse(url).unwrap();
    url.query_pairs().find(|(own, _)| own == name).unwrap_or_else(|| panic!("no {name} in {url}")).1.into_owned()
}

/// A world with a tenant whose provider lies as it is told to.
async fn with_hostile() -> (World, Tenant, Hostile, String) {
    let world = World::start_with(LOOPBACK).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let (_, admin) = sign_up(&anyone, "admin@example.com").await;
    let hostile = Hostile::start().await;
    let made = provider(&admin, &hostile.issuer, json!({})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let start = text(&made.body, "/start_url").to_owned();
    (world, admin, hostile, start)
}

/// Begins a sign-on, has the provider give this ID token for its code, and comes back.
async fn with_token(hostile: &Hostile, start: &str, token: impl FnOnce(&str) -> String) -> Answer {
    let mut browser = Browser::new();
    let asked = browser.get(start).await;
    assert_eq!(asked.status, 302, "{}", asked.body);
    let there = asked.header("location").to_owned();
    hostile.gives(&token(&parameter(&there, "nonce")));
    let back = format!("{}?code=c&state={}", parameter(&there, "redirect_uri"), parameter(&there, "state"));
    browser.get(&back).await
}

#[tokio::test]
async fn an_id_token_that_is_not_wholly_right_lets_nobody_in() {
    let (_world, _, hostile, start) = with_hostile().await;
    let (signer, issuer) = (hostile.signer(), hostile.issuer.clone());
    let good = |nonce: &str| {
        let now = Hostile::now();
        json!({ "iss": issuer, "aud": CLIENT_ID, "sub": "mallory", "nonce": nonce, "iat": now, "exp": now + 60,
                "groups": ["builders"], "email": "mallory@example.com" })
    };
    let let_in = with_token(&hostile, &start, |nonce| signer.signs(&good(nonce))).await;
    assert_eq!(let_in.status, 200, "{}", let_in.body);
    // What is wrong with it, one thing at a time.
    let now = Hostile::now();
    let wrong = [
        ("another nonce", json!({ "nonce": "another" })),
        ("no nonce", json!({ "nonce": null })),
        ("another audience", json!({ "aud": "another" })),
        ("no audience", json!({ "aud": null })),
        ("several audiences, given to nobody", json!({ "aud": [CLIENT_ID, "another"] })),
        ("given to another", json!({ "aud": [CLIENT_ID, "another"], "azp": "another" })),
        ("alone, given to another", json!({ "azp": "another" })),
        ("another issuer", json!({ "iss": "https://accounts.example.com" })),
        ("two issuers", json!({ "iss": [issuer, "https://accounts.example.com"] })),
        ("expired", json!({ "exp": now - 120 })),
        ("never expires", json!({ "exp": null })),
        ("not yet", json!({ "nbf": now + 600 })),
        ("from the future", json!({ "iat": now + 600 })),
        ("from before", json!({ "iat": now - 600 })),
        ("of no time", json!({ "iat": null })),
        ("nobody", json!({ "sub": null })),
        ("an empty name", json!({ "sub": "" })),
        ("an endless name", json!({ "sub": "x".repeat(256) })),
    ];
    for (what, change) in wrong {
        let answer = with_token(&hostile, &start, |nonce| {
            let mut claims = good(nonce);
            for (name, value) in change.as_object().unwrap() {
                if value.is_null() {
                    claims.as_object_mut().unwrap().remove(name);
                } else {
                    claims[name] = value.clone();
                }
            }
            signer.signs(&claims)
        })
        .await;
        assert_eq!(code(&answer), (401, "SIGN_ON_FAILED"), "{what}: {}", answer.body);
    }
    // Given to us among several, and within the skew of clocks: good.
    let fine = with_token(&hostile, &start, |nonce| {
        let mut claims = good(nonce);
        claims["aud"] = json!([CLIENT_ID, "another"]);
        claims["azp"] = json!(CLIENT_ID);
        claims["exp"] = json!(now - 20);
        signer.signs(&claims)
    })
    .await;
    assert_eq!(fine.status, 200, "{}", fine.body);
    // Signed by nobody, with what everybody knows, with a key of the token's own, by a stranger.
    let stranger = Signer::new("k1");
    for (what, token) in [
        ("alg none", Box::new(|nonce: &str| Signer::none(&good(nonce))) as Box<dyn Fn(&str) -> String>),
        ("HS256 with the public key", Box::new(|nonce: &str| signer.signs_hs256(&good(nonce)))),
        (
            "HS256 with the client secret",
            Box::new(|nonce: &str| Signer::signs_with(CLIENT_SECRET.as_bytes(), &good(nonce))),
        ),
        ("a key in the header", Box::new(|nonce: &str| stranger.signs_with_own_key_in_header(&good(nonce)))),
        ("a stranger under a known name", Box::new(|nonce: &str| stranger.signs(&good(nonce)))),
        ("an unknown extension", Box::new(|nonce: &str| signer.signs_critically(&good(nonce)))),
        ("changed", Box::new(|nonce: &str| signer.signs(&good(nonce)).replacen('.', ".e", 1))),
        ("no token", Box::new(|_: &str| "x".to_owned())),
    ] {
        let answer = with_token(&hostile, &start, token).await;
        assert_eq!(code(&answer), (401, "SIGN_ON_FAILED"), "{what}: {}", answer.body);
    }
    // Keys are fetched once more for a name that is not known, and not for each of a flood of them.
    let before = hostile.key_fetches();
    for number in 0..10 {
        let unknown = Signer::new(&format!("unknown-{number}"));
        let answer = with_token(&hostile, &start, |nonce| unknown.signs(&good(nonce))).await;
        assert_eq!(code(&answer), (401, "SIGN_ON_FAILED"), "{}", answer.body);
    }
    assert!(hostile.key_fetches() - before <= 1, "{} fetches", hostile.key_fetches() - before);
    // The userinfo of somebody else is not taken for this person's.
    hostile.userinfo(&json!({ "sub": "victim", "groups": ["owners"] }));
    let answer = with_token(&hostile, &start, |nonce| {
        let mut claims = good(nonce);
        claims.as_object_mut().unwrap().remove("groups");
        signer.signs(&claims)
    })
    .await;
    assert_eq!(code(&answer), (401, "SIGN_ON_FAILED"), "{}", answer.body);
}

#[tokio::test]
async fn an_answer_that_belongs_elsewhere_is_refused() {
    let (world, admin, hostile, start) = with_hostile().await;
    let begin = async || {
        let mut browser = Browser::new();
        let there = browser.get(&start).await.header("location").to_owned();
        (browser, there)
    };
    let back = |there: &str, more: &str| {
        format!("{}?state={}{more}", parameter(there, "redirect_uri"), parameter(there, "state"))
    };
    let (mut browser, there) = begin().await;
    assert_eq!(parameter(&there, "code_challenge_method"), "S256");
    assert_eq!(parameter(&there, "code_challenge").len(), 43);
    let mixed = browser.get(&back(&there, "&code=c&iss=https%3A%2F%2Fanother.example")).await;
    assert_eq!(code(&mixed), (401, "SIGN_ON_FAILED"), "{}", mixed.body);
    let (mut browser, there) = begin().await;
    let named = browser.get(&back(&there, &format!("&error=access_denied&iss={}", hostile.issuer))).await;
    assert_eq!(code(&named), (403, "SIGN_ON_DENIED"), "{}", named.body);
    // A provider that says that it names itself must.
    let names_itself = hostile.with("authorization_response_iss_parameter_supported", &json!(true));
    let made = provider(&admin, &names_itself, json!({})).await;
    let mut browser = Browser::new();
    let there = browser.get(text(&made.body, "/start_url")).await.header("location").to_owned();
    let silent = browser.get(&back(&there, "&code=c")).await;
    assert!(code(&silent) == (401, "SIGN_ON_FAILED") && silent.body.to_string().contains("9207"), "{}", silent.body);
    // A state that nobody gave out, none, two; another browser's cookie; a value instead of ours.
    let callback = format!("{}/v1/auth/sso/callback", world.url);
    let unknown = Browser::new().get(&format!("{callback}?code=c&state=x")).await;
    assert_eq!(code(&unknown), (401, "SIGN_ON_NOT_OPEN"));
    for query in ["code=c", "code=c&state=a&state=b", &format!("state={}", "x".repeat(5_000))] {
        assert_eq!(code(&Browser::new().get(&format!("{callback}?{query}")).await), (400, "INVALID_QUERY"), "{query}");
    }
    let ((_, there), (mut other, _)) = (begin().await, begin().await);
    assert_eq!(code(&other.get(&back(&there, "&code=c")).await), (401, "SIGN_ON_NOT_OPEN"));
    // Too late.
    let (mut browser, there) = begin().await;
    let pool = world.pool().await.unwrap();
    sqlx::query("update sign_on_attempts set expires_at = now()").execute(&pool).await.unwrap();
    assert_eq!(code(&browser.get(&back(&there, "&code=c")).await), (401, "SIGN_ON_NOT_OPEN"));
    // The provider's error is told in the standard's words only.
    let (mut browser, there) = begin().await;
    let odd = browser.get(&back(&there, "&error=%3Cscript%3E&error_description=click+here")).await;
    assert!(code(&odd) == (403, "SIGN_ON_DENIED") && !odd.body.to_string().contains("script"), "{}", odd.body);
    // A code that the provider does not take; a provider that is not one.
    hostile.gives_nothing();
    let (mut browser, there) = begin().await;
    assert_eq!(code(&browser.get(&back(&there, "&code=c")).await), (401, "SIGN_ON_FAILED"));
    let liar = provider(&admin, &format!("{}/other", hostile.issuer), json!({})).await;
    let answer = Browser::new().get(text(&liar.body, "/start_url")).await;
    assert_eq!(code(&answer), (502, "IDENTITY_PROVIDER_UNAVAILABLE"), "{}", answer.body);
}

#[tokio::test]
async fn an_asserted_address_takes_over_nobody() {
    let (_world, admin, hostile, start) = with_hostile().await;
    let (signer, issuer) = (hostile.signer(), hostile.issuer.clone());
    let asserted = |nonce: &str, subject: &str, email: &str| {
        let now = Hostile::now();
        signer.signs(&json!({ "iss": issuer, "aud": CLIENT_ID, "sub": subject, "nonce": nonce, "iat": now,
            "exp": now + 60, "groups": ["owners"], "email": email, "email_verified": true }))
    };
    // A person of another tenant, with a password; the admin of this tenant has its provider assert that address.
    let (victim, victim_session) = sign_up(&admin, "victim@example.com").await;
    let came = with_token(&hostile, &start, |nonce| asserted(nonce, "x", "Victim@example.com")).await;
    assert_eq!(came.status, 200, "{}", came.body);
    assert_ne!(text(&came.body, "/user/id"), text(&victim, "/user/id"));
    assert_eq!(came.body["tenants"].as_array().unwrap().len(), 1, "{}", came.body);
    let thief = admin.with(text(&came.body, "/tokens/access_token"));
    let header = [("x-tenant-id", text(&victim, "/tenant/id"))];
    assert_eq!(thief.send(Method::GET, "/v1/me", &header, None).await.unwrap().status, 403);
    // The victim signs in as ever, and nobody else does with that address; the thief gets no password for it.
    let login = |password: &str| json!({ "email": "victim@example.com", "password": password });
    let own = ask(&admin, "POST", "/v1/auth/login", Some(login(PASSWORD))).await;
    assert_eq!(text(&own.body, "/user/id"), text(&victim, "/user/id"));
    let change = json!({ "current_password": PASSWORD, "new_password": "another long one" });
    assert_eq!(ask(&thief, "POST", "/v1/auth/password", Some(change)).await.code(), "INVALID_CREDENTIALS");
    assert_eq!(role(&victim_session).await, "admin");
    // The same address under another subject is another person; the same subject at another provider too.
    let other = with_token(&hostile, &start, |nonce| asserted(nonce, "y", "victim@example.com")).await;
    assert_ne!(text(&other.body, "/user/id"), text(&came.body, "/user/id"));
    let second = provider(&victim_session, &hostile.issuer, json!({})).await;
    let elsewhere =
        with_token(&hostile, text(&second.body, "/start_url"), |nonce| asserted(nonce, "x", "x@example.com")).await;
    assert_eq!(text(&elsewhere.body, "/tenant_id"), text(&victim, "/tenant/id"), "{}", elsewhere.body);
    assert_ne!(text(&elsewhere.body, "/user/id"), text(&came.body, "/user/id"));
    // Who comes by a provider keeps nobody from an account of their own with the same address.
    let came = with_token(&hostile, &start, |nonce| asserted(nonce, "z", "new@example.com")).await;
    let (own, _) = sign_up(&admin, "new@example.com").await;
    assert_ne!(text(&own, "/user/id"), text(&came.body, "/user/id"));
}

#[tokio::test]
async fn who_was_removed_or_has_no_provider_any_more_is_out() {
    let (_world, admin, hostile, start) = with_hostile().await;
    let (signer, issuer) = (hostile.signer(), hostile.issuer.clone());
    let come = async |subject: &str, groups: Value| {
        with_token(&hostile, &start, |nonce| {
            let now = Hostile::now();
            signer.signs(&json!({ "iss": issuer, "aud": CLIENT_ID, "sub": subject, "nonce": nonce, "iat": now,
                "exp": now + 60, "groups": groups, "email": "e@example.com" }))
        })
        .await
    };
    // Removed by an admin: out at once, and not back because the provider still knows them; back when an admin says so.
    let eve = come("eve", json!(["builders"])).await;
    let (eve_id, session) = (text(&eve.body, "/user/id"), admin.with(text(&eve.body, "/tokens/access_token")));
    let path = format!("/v1/members/{eve_id}");
    assert_eq!(ask(&admin, "DELETE", &path, None).await.status, 204);
    assert_eq!(role(&session).await, "UNAUTHENTICATED");
    assert_eq!(code(&come("eve", json!(["builders"])).await), (403, "SIGN_ON_DENIED"));
    assert_eq!(ask(&admin, "PATCH", &path, Some(json!({ "role": "read_only" }))).await.status, 200);
    let back = come("eve", json!(["builders"])).await;
    assert_eq!((text(&back.body, "/user/id"), text(&back.body, "/tenants/0/role")), (eve_id, "dev"));
    // The last admin stays one, whatever the groups say: by sign-on as by every other way.
    let owner = come("owner", json!(["owners"])).await;
    let owner = admin.with(text(&owner.body, "/tokens/access_token"));
    let members = ask(&owner, "GET", "/v1/members", None).await.body;
    let with_password = members["data"].as_array().unwrap().iter().find(|m| m["email"] == "admin@example.com").unwrap();
    let path = format!("/v1/members/{}", text(with_password, "/id"));
    assert_eq!(ask(&owner, "PATCH", &path, Some(json!({ "role": "dev" }))).await.status, 200);
    let stays = come("owner", json!(["builders"])).await;
    assert_eq!(text(&stays.body, "/tenants/0/role"), "admin", "{}", stays.body);
    // Nor can all admins be locked out with their provider.
    let provider = format!(
        "/v1/identity-providers/{}",
        text(&ask(&owner, "GET", "/v1/identity-providers", None).await.body, "/data/0/id")
    );
    let off = Some(json!({ "enabled": false }));
    assert_eq!(code(&ask(&owner, "PATCH", &provider, off.clone()).await), (409, "LAST_ADMIN"));
    assert_eq!(code(&ask(&owner, "DELETE", &provider, None).await), (409, "LAST_ADMIN"));
    assert_eq!(ask(&owner, "PATCH", &path, Some(json!({ "role": "admin" }))).await.status, 200);
    let less = come("owner", json!(["builders"])).await;
    assert_eq!(text(&less.body, "/tenants/0/role"), "dev", "{}", less.body);
    // Disabled: sessions end, refresh tokens with them, and nobody begins or ends a sign-on.
    let refresh = json!({ "refresh_token": text(&less.body, "/tokens/refresh_token") });
    let mut browser = Browser::new();
    let there = browser.get(&start).await.header("location").to_owned();
    assert_eq!(ask(&admin, "PATCH", &provider, off).await.status, 200);
    assert_eq!(role(&owner).await, "UNAUTHENTICATED");
    assert_eq!(ask(&admin, "POST", "/v1/auth/refresh", Some(refresh)).await.code(), "INVALID_TOKEN");
    let back = format!("{}?code=c&state={}", parameter(&there, "redirect_uri"), parameter(&there, "state"));
    assert_eq!(code(&browser.get(&back).await), (403, "SIGN_ON_DENIED"));
    assert_eq!(Browser::new().get(&start).await.status, 404);
    // Enabled again, nobody's old session is back; deleted, its people are gone.
    assert_eq!(ask(&admin, "PATCH", &provider, Some(json!({ "enabled": true }))).await.status, 200);
    assert_eq!(role(&owner).await, "UNAUTHENTICATED");
    let again = come("owner", json!(["builders"])).await;
    let again = admin.with(text(&again.body, "/tokens/access_token"));
    assert_eq!(ask(&admin, "DELETE", &provider, None).await.status, 204);
    assert_eq!(role(&again).await, "UNAUTHENTICATED");
    assert_eq!(Browser::new().get(&start).await.status, 404);
    assert_eq!(ask(&admin, "GET", "/v1/members", None).await.body["data"].as_array().unwrap().len(), 1);
    let account = actions(&admin).await;
    let removed = account.iter().filter(|action| *action == "member.remove").count();
    assert!(removed == 3 && account.iter().any(|action| action == "identity_provider.delete"), "{account:?}");
}

#[tokio::test]
async fn a_provider_is_checked_before_it_is_kept_and_leads_into_no_private_network() {
    let world =
        World::start_with(&[("TWH_RATE_LIMITS", "off"), ("TWH_PUBLIC_URL", "https://twh.example/")]).await.unwrap();
    let anyone = world.tenant().await.unwrap();
    let (_, admin) = sign_up(&anyone, "admin@example.com").await;
    let wrong = json!({
        "name": "", "kind": "ldap", "client_id": "with space", "groups_claim": "", "default_role": "king",
        "role_by_group": { "a": "queen", "": "dev" },
    });
    let answer = ask(&admin, "POST", "/v1/identity-providers", Some(wrong)).await;
    let fields: Vec<_> = answer.body["details"].as_array().unwrap().iter().map(|one| text(one, "/field")).collect();
    let expected = [
        "name",
        "client_id",
        "groups_claim",
        "default_role",
        "role_by_group",
        "role_by_group.a",
        "issuer",
        "client_secret",
        "kind",
    ];
    assert_eq!((answer.status.as_u16(), fields), (422, expected.to_vec()), "{}", answer.body);
    for issuer in [
        "http://idp.example.com",
        "https://127.0.0.1",
        "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/",
        "https://2130706433",
        "https://user:pass@idp.example.com",
        "https://idp.example.com/?tenant=1",
        "file:///etc/passwd",
    ] {
        let answer = provider(&admin, issuer, json!({})).await;
        assert!(
            answer.status == 422 && text(&answer.body, "/details/0/field") == "issuer",
            "{issuer}: {}",
            answer.body
        );
    }
    // A name is looked up when it is called: what it leads to is refused there.
    let inward = provider(&admin, "https://localhost:1", json!({})).await;
    let start = format!("{}/v1/auth/sso/{}/start", world.url, inward.id());
    let answer = Browser::new().get(&start).await;
    assert_eq!(code(&answer), (502, "IDENTITY_PROVIDER_UNAVAILABLE"), "{}", answer.body);
    assert!(text(&answer.body, "/message").contains("no address that may be called"), "{}", answer.body);
    // The addresses are those that the outside sees.
    assert_eq!(text(&inward.body, "/redirect_uri"), "https://twh.example/v1/auth/sso/callback");
    assert!(text(&inward.body, "/start_url").starts_with("https://twh.example/v1/auth/sso/"));
    // What identifies it stays; the rest changes, null among it.
    let path = format!("/v1/identity-providers/{}", inward.id());
    let moved = ask(&admin, "PATCH", &path, Some(json!({ "issuer": "https://other.example", "kind": "saml" }))).await;
    assert_eq!(moved.body["details"].as_array().map(Vec::len), Some(2), "{}", moved.body);
    let changed = json!({ "default_role": "billing", "client_secret": "another", "role_by_group": {} });
    let changed = ask(&admin, "PATCH", &path, Some(changed)).await;
    assert!(changed.status == 200 && !changed.body.to_string().contains("another"), "{}", changed.body);
    assert_ne!(changed.body["secret_changed_at"], inward.body["secret_changed_at"]);
    let unset = ask(&admin, "PATCH", &path, Some(json!({ "default_role": null }))).await;
    assert_eq!((&unset.body["default_role"], &unset.body["role_by_group"]), (&Value::Null, &json!({})));
    // Another tenant's does not exist.
    let (_, other) = sign_up(&anyone, "other@example.com").await;
    for (method, body) in [("GET", None), ("PATCH", Some(json!({}))), ("DELETE", None)] {
        assert_eq!(ask(&other, method, &path, body).await.status, 404, "{method}");
    }
    assert_eq!(ask(&other, "GET", "/v1/identity-providers", None).await.body["data"], json!([]));
    // The secret is sealed anew under another master key, once.
    let known = std::fs::read_to_string(std::env::var("TWH_SECRETS_FILE").expect("./dev env")).unwrap();
    let file = std::env::temp_dir().join(format!("twh_sso_{}", Uuid::new_v4().simple()));
    std::fs::write(&file, format!("{}{known}", new_master_key("newer").unwrap())).unwrap();
    for resealed in ["1 client secrets", "0 client secrets"] {
        let mut reseal = world.command(&["secrets", "reseal"]).unwrap();
        let output = reseal.env("TWH_SECRETS_FILE", &file).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(resealed), "{said} {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn what_discovery_names_leads_into_no_private_network_either() {
    let (_world, admin, hostile, _) = with_hostile().await;
    for endpoint in ["jwks_uri", "token_endpoint", "userinfo_endpoint", "authorization_endpoint"] {
        let issuer = hostile.with(endpoint, &json!("http://169.254.169.254/latest/meta-data"));
        let made = provider(&admin, &issuer, json!({})).await;
        let answer = Browser::new().get(text(&made.body, "/start_url")).await;
        assert_eq!(code(&answer), (502, "IDENTITY_PROVIDER_UNAVAILABLE"), "{endpoint}: {}", answer.body);
    }
    // Nor does a redirect, and nothing is read without end or waited for without end.
    for document in ["redirect", "endless"] {
        let made = provider(&admin, &format!("{}/{document}", hostile.issuer), json!({})).await;
        let asked = tokio::time::timeout(Duration::from_secs(30), async {
            Browser::new().get(text(&made.body, "/start_url")).await
        });
        let answer = asked.await.expect("it waits for ever");
        assert_eq!(code(&answer), (502, "IDENTITY_PROVIDER_UNAVAILABLE"), "{document}: {}", answer.body);
    }
    let never = format!("/v1/auth/sso/{}/start", Uuid::new_v4());
    assert_eq!(code(&ask(&admin, "GET", &never, None).await), (404, "NOT_FOUND"));
}
