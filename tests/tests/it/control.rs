//! What is not the ledger's can be verified too: keys, members, plans, identity providers, webhooks and invitations are what the
//! account of changes says, outcomes are there while they count, and the account can be held against a signed checkpoint.

use crate::proof::verify;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::BTreeSet;
use twh_domain::id::TenantId;
use twh_edge::access::ENDPOINTS;
use twh_sinks::postgres::verification::{Check, Finding, KnownHeads, Progress};
use twh_tests::mail::MailServer;
use twh_tests::{Tenant, World};

const PASSWORD: &str = "correct horse battery";
/// What a sign-on by an identity provider changes is verified where there is one: `sso`.
const BY_PROVIDER: [&str; 1] = ["/v1/auth/sso/saml/acs"];

/// Calls endpoints, and knows which it has called.
#[derive(Default)]
struct Driver(BTreeSet<(&'static str, &'static str)>);

impl Driver {
    async fn call(
        &mut self,
        caller: &Tenant,
        method: &'static str,
        path: &'static str,
        ids: &[&str],
        body: Value,
    ) -> Value {
        self.0.insert((method, path));
        let to = ids.iter().fold(path.to_owned(), |path, id| {
            let (head, rest) = path.split_once('{').unwrap();
            format!("{head}{id}{}", rest.split_once('}').unwrap().1)
        });
        let headers = [("content-type", "application/json")];
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = caller.send(method, &to, &headers, Some(body.to_string().into_bytes())).await.unwrap();
        assert!(answer.status.is_success(), "{to}: {} {}", answer.status, answer.body);
        answer.body
    }

    /// Every endpoint that may change what is not the ledger's was called.
    fn has_called_all(&self) {
        let left: Vec<_> = ENDPOINTS
            .iter()
            .filter(|endpoint| endpoint.method != "GET" && endpoint.command.is_none())
            .filter(|endpoint| endpoint.path != "/v1/commands:batch" && !BY_PROVIDER.contains(&endpoint.path))
            .filter(|endpoint| !self.0.contains(&(endpoint.method.as_str(), endpoint.path)))
            .map(|endpoint| endpoint.name)
            .collect();
        assert_eq!(left, [] as [&str; 0]);
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}")).to_owned()
}

/// What one tenant made, by its ids.
struct Made {
    tenant: String,
    sandbox: String,
    narrowed: String,
    revoked: String,
    laundered: String,
    owner: String,
    member: String,
    provider: String,
    removed_provider: String,
    webhook: String,
    deleted_webhook: String,
    invitation: String,
    admin: Tenant,
    in_sandbox: Tenant,
}

async fn keys(driver: &mut Driver, admin: &Tenant) -> [String; 2] {
    const MAKE: &str = "/v1/api-keys";
    const ONE: &str = "/v1/api-keys/{id}";
    let narrowed = json!({ "name": "n", "role": "dev", "scopes": ["read:catalog"], "ip_allowed": ["127.0.0.0/8"] });
    let narrowed = driver.call(admin, "POST", MAKE, &[], narrowed).await;
    assert_eq!(admin.with(&text(&narrowed, "/key")).get("/v1/items").await.unwrap().status, 200);
    let soon = json!({ "name": "e", "role": "read_only", "expires_at": "2100-01-01T00:00:00.123456Z" });
    let expiring = text(&driver.call(admin, "POST", MAKE, &[], soon).await, "/id");
    let grace = json!({ "grace_seconds": 60 });
    let rotated = driver.call(admin, "POST", "/v1/api-keys/{id}/rotate", &[&expiring], grace).await;
    let rotated = text(&rotated, "/id");
    driver.call(admin, "POST", "/v1/api-keys/{id}/rotate", &[&rotated], json!({})).await;
    let revoked = text(&driver.call(admin, "POST", MAKE, &[], json!({ "name": "r", "role": "admin" })).await, "/id");
    driver.call(admin, "DELETE", ONE, &[&revoked], json!({})).await;
    driver.call(admin, "DELETE", ONE, &[&expiring], json!({})).await;
    [text(&narrowed, "/id"), revoked]
}

async fn webhooks(driver: &mut Driver, admin: &Tenant, in_sandbox: &Tenant) -> [String; 2] {
    const ONE: &str = "/v1/webhooks/{id}";
    let made = json!({ "url": "https://a.invalid/", "event_types": ["item.*"], "description": "ä" });
    let id = text(&driver.call(admin, "POST", "/v1/webhooks/register", &[], made.clone()).await, "/id");
    let change = json!({ "url": "https://b.invalid/", "event_types": ["*"], "rate_per_second": 5, "ordering": "key" });
    driver.call(admin, "PATCH", ONE, &[&id], change).await;
    driver.call(admin, "POST", "/v1/webhooks/{id}/rotate", &[&id], json!({ "overlap_seconds": 60 })).await;
    let sent = text(&driver.call(admin, "POST", "/v1/webhooks/{id}/test", &[&id], json!({})).await, "/id");
    driver.call(admin, "POST", "/v1/webhooks/{id}/deliveries/{delivery_id}/replay", &[&id, &sent], json!({})).await;
    let replay = driver.call(admin, "POST", "/v1/webhooks/{id}/replay", &[&id], json!({ "from_sequence": 1 })).await;
    let replay = text(&replay, "/id");
    driver.call(admin, "POST", "/v1/webhooks/{id}/replays/{replay_id}/cancel", &[&id, &replay], json!({})).await;
    driver.call(admin, "PATCH", ONE, &[&id], json!({ "state": "disabled" })).await;
    driver.call(admin, "PATCH", ONE, &[&id], json!({ "state": "active", "description": null })).await;
    let gone = text(&driver.call(admin, "POST", "/v1/webhooks/register", &[], made).await, "/id");
    driver.call(admin, "DELETE", ONE, &[&gone], json!({})).await;
    driver.call(in_sandbox, "POST", "/v1/webhooks/listen", &[], json!({})).await;
    [id, gone]
}

async fn providers(driver: &mut Driver, admin: &Tenant) -> [String; 2] {
    const ONE: &str = "/v1/identity-providers/{id}";
    let made = json!({ "name": "P", "kind": "oidc", "issuer": "https://id.example", "client_id": "twh",
        "client_secret": "secret", "role_by_group": { "staff": "read_only" } });
    let id = text(&driver.call(admin, "POST", "/v1/identity-providers", &[], made.clone()).await, "/id");
    let change = json!({ "role_by_group": { "staff": "dev" }, "default_role": "billing", "client_secret": "another" });
    driver.call(admin, "PATCH", ONE, &[&id], change).await;
    driver.call(admin, "PATCH", ONE, &[&id], json!({ "enabled": false, "default_role": null })).await;
    let gone = text(&driver.call(admin, "POST", "/v1/identity-providers", &[], made).await, "/id");
    driver.call(admin, "DELETE", ONE, &[&gone], json!({})).await;
    [id, gone]
}

/// A person who joins, has another role, is removed and joins again; and an invitation that is open.
async fn people(driver: &mut Driver, admin: &Tenant) -> [String; 2] {
    const ONE: &str = "/v1/members/{id}";
    let invite = json!({ "email": "eve@example.com", "role": "dev" });
    let accept = |token: String| json!({ "token": token, "name": "Eve", "password": PASSWORD });
    let mut eve = String::new();
    for _ in 0..2 {
        let token = text(&driver.call(admin, "POST", "/v1/invitations", &[], invite.clone()).await, "/token");
        let joined = driver.call(admin, "POST", "/v1/auth/invitations/accept", &[], accept(token)).await;
        eve = text(&joined, "/user/id");
        driver.call(admin, "PATCH", ONE, &[&eve], json!({ "role": "billing" })).await;
        driver.call(admin, "DELETE", ONE, &[&eve], json!({})).await;
    }
    let token = text(&driver.call(admin, "POST", "/v1/invitations", &[], invite.clone()).await, "/token");
    driver.call(admin, "POST", "/v1/auth/invitations/accept", &[], accept(token)).await;
    let revoked = text(&driver.call(admin, "POST", "/v1/invitations", &[], invite.clone()).await, "/id");
    driver.call(admin, "DELETE", "/v1/invitations/{id}", &[&revoked], json!({})).await;
    [eve, text(&driver.call(admin, "POST", "/v1/invitations", &[], invite).await, "/id")]
}

/// Uses every endpoint that changes what is not the ledger's, and the commands of who runs the platform.
async fn use_all(world: &World, mails: &MailServer) -> Made {
    let anyone = world.tenant().await.unwrap();
    let mut driver = Driver::default();
    let organization =
        json!({ "organization": "Acme", "name": "Ada", "email": "Ada@example.com", "password": PASSWORD });
    let account = driver.call(&anyone, "POST", "/v1/auth/signup", &[], organization).await;
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    let session = driver.call(&anyone, "POST", "/v1/auth/login", &[], login).await;
    let refresh = json!({ "refresh_token": text(&session, "/tokens/refresh_token") });
    let session = driver.call(&anyone, "POST", "/v1/auth/refresh", &[], refresh).await;
    let ada = anyone.with(&text(&session, "/tokens/access_token"));
    let change = json!({ "current_password": PASSWORD, "new_password": "another long one" });
    driver.call(&ada, "POST", "/v1/auth/password", &[], change).await;
    driver.call(&ada, "POST", "/v1/auth/logout", &[], json!({})).await;
    driver.call(&anyone, "POST", "/v1/auth/password-forgotten", &[], json!({ "email": "ada@example.com" })).await;
    let reset = json!({ "token": mails.token_for("ada@example.com").await.unwrap(), "password": PASSWORD });
    driver.call(&anyone, "POST", "/v1/auth/password-reset", &[], reset).await;
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    let session = driver.call(&anyone, "POST", "/v1/auth/login", &[], login).await;
    let mut admin = anyone.with(&text(&session, "/tokens/access_token"));
    admin.id = text(&account, "/tenant/id");
    let mut in_sandbox = anyone.with(&text(&account, "/sandbox/api_key"));
    in_sandbox.id = text(&account, "/sandbox/id");
    let [narrowed, revoked] = keys(&mut driver, &admin).await;
    let laundered = json!({ "name": "l", "role": "read_only" });
    let laundered = text(&driver.call(&in_sandbox, "POST", "/v1/api-keys", &[], laundered).await, "/id");
    let [webhook, deleted_webhook] = webhooks(&mut driver, &admin, &in_sandbox).await;
    let [provider, removed_provider] = providers(&mut driver, &admin).await;
    let [member, invitation] = people(&mut driver, &admin).await;
    driver.has_called_all();
    for arguments in [
        vec!["tenant", "plan", "--tenant", &admin.id, "--plan", "growth"],
        vec!["secrets", "reseal"],
        vec!["user", "password-reset", "--email", "ada@example.com"],
    ] {
        let output = world.command(&arguments).unwrap().output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    // Something of the ledger too, refused and answered twice.
    admin.stock("WIDGET", 10).await.unwrap();
    for _ in 0..2 {
        assert_eq!(admin.post_as("/v1/items", "same", json!({ "sku": "WIDGET" })).await.unwrap().status, 409);
    }
    let owner = text(&account, "/user/id");
    let (tenant, sandbox) = (admin.id.clone(), in_sandbox.id.clone());
    Made {
        tenant,
        sandbox,
        narrowed,
        revoked,
        laundered,
        owner,
        member,
        provider,
        removed_provider,
        webhook,
        deleted_webhook,
        invitation,
        admin,
        in_sandbox,
    }
}

async fn verification(tenant: &Tenant) -> Value {
    let mut path = "/v1/ledger/verification".to_owned();
    loop {
        let answer = tenant.get(&path).await.unwrap();
        match answer.body["next_cursor"].as_str() {
            None => return answer.body,
            Some(cursor) => path = format!("/v1/ledger/verification?cursor={cursor}"),
        }
    }
}

/// What a superuser may do: nothing refers to another row, nothing is append-only.
const UNBOUND: &str = "do $$ declare c record; begin
    for c in select conrelid::regclass as of, conname from pg_constraint
            where contype = 'f' and connamespace = 'public'::regnamespace loop
        execute format('alter table %s drop constraint %I', c.of, c.conname);
    end loop;
    drop trigger append_only on control_audit;
end $$";
/// What is forged and put back.
const FORGED: [&str; 11] = [
    "tenants",
    "api_keys",
    "users",
    "memberships",
    "identities",
    "invitations",
    "identity_providers",
    "webhook_subscriptions",
    "control_audit",
    "control_audit_heads",
    "command_outcomes",
];

async fn execute(pool: &PgPool, statement: &str) -> u64 {
    sqlx::query(statement).execute(pool).await.unwrap_or_else(|error| panic!("{statement}: {error}")).rows_affected()
}

/// What `twh verify` finds, without a process for each time.
async fn findings(pool: &PgPool, tenant: &str) -> Vec<Finding> {
    let mut progress = Progress::new(TenantId(tenant.parse().unwrap()));
    while !progress.is_done() {
        progress.step(&mut pool.acquire().await.unwrap(), &KnownHeads::default()).await.unwrap();
    }
    progress.findings().to_vec()
}

async fn put_back(pool: &PgPool) {
    for table in FORGED {
        execute(pool, &format!("delete from {table}")).await;
        execute(pool, &format!("insert into {table} select * from kept_{table}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_changes_verify_and_every_forgery_is_found_and_named() {
    let mails = MailServer::start().unwrap();
    let key = std::env::temp_dir().join(format!("twh_key_{}.pem", uuid::Uuid::new_v4().simple()));
    let settings = [
        ("TWH_RATE_LIMITS", "off"),
        ("TWH_SMTP_URL", mails.url.as_str()),
        ("TWH_MAIL_FROM", "stock@example.com"),
        ("TWH_LEDGER_KEY_FILE", key.to_str().unwrap()),
    ];
    let mut world = World::prepare(&settings).await.unwrap();
    let made = world.command(&["ledger-key", "--out", key.to_str().unwrap()]).unwrap().output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    world.start_server().await.unwrap();
    let made = use_all(&world, &mails).await;
    let pool = world.pool().await.unwrap();
    // What changes without a record is not compared.
    execute(&pool, "update api_keys set last_used_at = now() + interval '1 hour'").await;
    let (code, report) = verify(&world, &[]).await;
    assert_eq!((code, &report["findings"]), (Some(0), &json!([])), "{report}");
    assert!(report["control_state"].as_i64().unwrap() >= 20 && report["outcomes"].as_i64().unwrap() >= 3, "{report}");
    // Nor does a tenant see more or less of its own.
    let own = verification(&made.admin).await;
    assert_eq!(own["status"], "sound", "{own}");
    assert!(own["checked"]["control_state"].as_i64().unwrap() >= 13, "{own}");

    // What was forged stays seen when the row is changed rightly afterwards.
    execute(&pool, &format!("update api_keys set role = 'admin' where key_id = '{}'", made.laundered)).await;
    let forged = verification(&made.in_sandbox).await;
    assert_eq!(forged["findings"][0]["row"], json!(format!("API key {}", made.laundered)), "{forged}");
    let path = format!("/v1/api-keys/{}", made.laundered);
    assert_eq!(made.in_sandbox.send(Method::DELETE, &path, &[], None).await.unwrap().status, 204);
    let (code, report) = verify(&world, &["--tenant", &made.sandbox]).await;
    let finding = &report["findings"][0];
    assert_eq!((code, &finding["check"]), (Some(2), &json!("control_records")), "{report}");
    assert!(text(finding, "/problem").starts_with("role had been changed"), "{report}");

    let checkpoint = made.admin.get("/v1/audit/checkpoint").await.unwrap().body;
    let note = text(&checkpoint, "/checkpoint");
    let (records, hash) = (checkpoint["records"].as_i64().unwrap(), text(&checkpoint, "/chain_hash"));
    assert!(note.contains(&format!("/accounts/{}\n{records}\nchain {hash}\n\n— ", made.tenant)), "{note}");
    world.stop_server().await.unwrap();
    execute(&pool, UNBOUND).await;
    for table in FORGED {
        execute(&pool, &format!("create table kept_{table} as select * from {table}")).await;
    }
    let (what, statement, ..) = &forgeries(&made)[0];
    execute(&pool, statement).await;
    let (code, report) = verify(&world, &["--tenant", &made.tenant]).await;
    assert_eq!((code, &report["ledger"]), (Some(2), &json!("unsound")), "{what}: {report}");
    put_back(&pool).await;
    for (what, statement, check, row) in forgeries(&made) {
        assert!(execute(&pool, &statement).await > 0, "{what}");
        let findings = findings(&pool, &made.tenant).await;
        let found = findings.iter().find(|finding| finding.check == check && finding.row.starts_with(&row));
        assert!(found.is_some(), "{what}: {findings:?}");
        put_back(&pool).await;
    }
    cut_off_and_erased(&world, &pool, &made.tenant, &format!("{records}:{hash}")).await;
    put_back(&pool).await;
    assert_eq!(verify(&world, &["--tenant", &made.tenant]).await.0, Some(0), "all is put back");
    std::fs::remove_file(&key).unwrap();
}

/// What only shows against a checkpoint that was kept elsewhere, and what shows by itself.
async fn cut_off_and_erased(world: &World, pool: &PgPool, tenant: &str, known: &str) {
    let of = |more: &'static str| [&["--tenant", tenant, "--known-control-head"], &[more] as &[&str]].concat();
    let known = [&["--tenant", tenant, "--known-control-head"], &[known] as &[&str]].concat();
    assert_eq!(verify(world, &known).await.0, Some(0));
    let other = of("2:0000000000000000000000000000000000000000000000000000000000000000");
    let (code, report) = verify(world, &other).await;
    assert_eq!((code, &report["findings"][0]["row"]), (Some(2), &json!("control record 2")), "{report}");
    // The last records, and the head set back to what it was then: all of it fits together.
    let cut = "with cut as (delete from control_audit where tenant_id = $1::uuid and sequence > $2)
        update control_audit_heads h set sequence = c.sequence, hash = c.hash from control_audit c
        where h.tenant_id = $1::uuid and c.tenant_id = $1::uuid and c.sequence = $2";
    let last: i64 = sqlx::query_scalar("select sequence from control_audit_heads where tenant_id = $1::uuid")
        .bind(tenant)
        .fetch_one(pool)
        .await
        .unwrap();
    sqlx::query(cut).bind(tenant).bind(last - 1).execute(pool).await.unwrap();
    let (code, report) = verify(world, &known).await;
    let row = format!("control record {last}");
    assert_eq!((code, &report["findings"][0]["row"]), (Some(2), &json!(row)), "{report}");
    // All of a tenant's account, and then the tenant with it.
    for table in ["control_audit", "control_audit_heads"] {
        execute(pool, &format!("delete from {table} where tenant_id = '{tenant}'")).await;
    }
    let row = json!(format!("tenant {tenant}"));
    for forgotten in
        ["tenants", "api_keys", "memberships", "invitations", "identity_providers", "webhook_subscriptions"]
    {
        let (code, report) = verify(world, &[]).await;
        let findings = report["findings"].as_array().unwrap();
        let erased = findings.iter().any(|found| found["row"] == row && found["check"] == "control_records");
        assert!(code == Some(2) && erased, "{forgotten}: {report}");
        execute(pool, &format!("delete from {forgotten} where tenant_id = '{tenant}'")).await;
    }
    let (code, report) = verify(world, &[]).await;
    assert_eq!(code, Some(2), "its ledger is left: {report}");
}

/// What is done, in words and in SQL; the check that finds it; how the row that it names begins.
type Forgery = (&'static str, String, Check, String);

fn forgeries(made: &Made) -> Vec<Forgery> {
    let Made { tenant, narrowed, revoked, owner, member, provider, webhook, invitation, .. } = made;
    let state = |what, statement: String, row: String| (what, statement, Check::ControlState, row);
    let key = |what, set: &str, id: &str| {
        state(what, format!("update api_keys set {set} where key_id = '{id}'"), format!("API key {id}"))
    };
    let copy = |id: &str| {
        format!(
            "insert into api_keys select (jsonb_populate_record(k, jsonb_build_object('key_id', '{id}', 'key_hash', '\\x00'))).*
             from api_keys k where key_id = '{narrowed}'"
        )
    };
    let nil = uuid::Uuid::nil().to_string();
    let new = uuid::Uuid::now_v7().to_string();
    let person = |what, set: &str, id: &str| {
        state(what, format!("update users set {set} where user_id = '{id}'"), format!("member {id}"))
    };
    let of_provider = |what, set: &str, id: &str| {
        let row = format!("identity provider {id}");
        state(what, format!("update identity_providers set {set} where provider_id = '{id}'"), row)
    };
    let hook = |what, set: &str, id: &str| {
        let row = format!("webhook subscription {id}");
        state(what, format!("update webhook_subscriptions set {set} where id = '{id}'"), row)
    };
    let invited = |what, set: &str| {
        let row = format!("invitation {invitation}");
        state(what, format!("update invitations set {set} where invitation_id = '{invitation}'"), row)
    };
    let outcome = |what, statement: &str| {
        let accepted = format!("where tenant_id = '{tenant}' and accepted and first_audit = 2");
        (what, format!("{statement} {accepted}"), Check::Outcomes, "outcome of command ".to_owned())
    };
    vec![
        key("a key that can do more", "role = 'admin', scopes = null, ip_allowed = null", narrowed),
        key("a key with all of its role's scopes", "scopes = null", narrowed),
        key("a key from everywhere", "ip_allowed = null", narrowed),
        key("a key that is another's secret", "key_hash = '\\x01'", narrowed),
        key("a key of another tenant", &format!("tenant_id = '{}'", made.sandbox), narrowed),
        key("a key that was revoked", "revoked_at = null", revoked),
        key("a key that is gone", "key_id = gen_random_uuid()", narrowed),
        state("a key that nobody made", copy(&new), format!("API key {new}")),
        state("a key that comes before all", copy(&nil), format!("API key {nil}")),
        state(
            "another plan",
            format!("update tenants set plan = 'enterprise' where tenant_id = '{tenant}'"),
            format!("tenant {tenant}"),
        ),
        state(
            "a live tenant",
            format!("update tenants set environment = 'sandbox' where tenant_id = '{tenant}'"),
            format!("tenant {tenant}"),
        ),
        state(
            "another role",
            format!("update memberships set role = 'admin' where user_id = '{member}'"),
            format!("member {member}"),
        ),
        state(
            "a member who was never taken in",
            format!("insert into memberships values ('{new}', '{tenant}', 'admin', now())"),
            "member ".to_owned(),
        ),
        person(
            "another's password",
            &format!("password_hash = (select password_hash from users where user_id = '{owner}')"),
            member,
        ),
        person("another's address", "email_key = 'mallory@example.com'", owner),
        of_provider("an identity provider that gives more", "role_by_group = '{\"staff\":\"admin\"}'", provider),
        of_provider("an identity provider for all", "default_role = 'admin', enabled = true", provider),
        of_provider("an identity provider that is another", "issuer = 'https://mallory.example'", provider),
        of_provider(
            "an identity provider that was removed",
            "deleted_at = null, enabled = true",
            &made.removed_provider,
        ),
        hook("another subscriber", "url = 'https://mallory.example/'", webhook),
        hook("more events", "event_types = '{item.*}'", webhook),
        hook("a subscription that is off", "state = 'disabled'", webhook),
        hook("a subscription that was deleted", "state = 'active'", &made.deleted_webhook),
        invited("an invitation as more", "role = 'admin'"),
        invited("an invitation with another's token", "token_hash = '\\x01'"),
        invited("an invitation for longer", "expires_at = expires_at + interval '1 year'"),
        outcome("an outcome that is gone", "delete from command_outcomes"),
        outcome("an outcome without its key", "update command_outcomes set idempotency_key = null"),
        outcome("an outcome that is a refusal", "update command_outcomes set accepted = false"),
    ]
}

#[tokio::test]
async fn what_stood_before_records_carried_rows_gets_a_record_and_is_held_to_it() {
    let world = World::prepare(&[]).await.unwrap();
    let migrate = async || {
        let output = world.command(&["migrate"]).unwrap().output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    migrate().await;
    let pool = world.pool().await.unwrap();
    let id = uuid::Uuid::now_v7();
    execute(&pool, &format!("insert into tenants (tenant_id, name) values ('{id}', 'from before')")).await;
    let insert = format!(
        "insert into api_keys (key_id, tenant_id, key_hash, name, hint, role, created_by, created_at)
         select gen_random_uuid(), '{id}', int4send(n), 'k', 'k', 'dev', 'x', now() from generate_series(1, 700) n"
    );
    execute(&pool, &insert).await;
    let (code, report) = verify(&world, &[]).await;
    assert_eq!((code, &report["findings"][0]["row"]), (Some(2), &json!(format!("tenant {id}"))), "{report}");
    execute(&pool, "insert into control_unaccounted select tenant_id, kind, id from control_state where not gone")
        .await;
    migrate().await;
    let (code, report) = verify(&world, &[]).await;
    assert_eq!((code, &report["control_state"]), (Some(0), &json!(701)), "{report}");
    execute(&pool, "update api_keys set role = 'admin' where key_hash = int4send(7)").await;
    assert_eq!(verify(&world, &[]).await.0, Some(2));
    // Whoever may write to tables cannot have a row accounted for a second time.
    execute(&pool, "insert into control_unaccounted select tenant_id, kind, id from control_state where not gone")
        .await;
    migrate().await;
    let (code, report) = verify(&world, &[]).await;
    let problem = report["findings"][0]["problem"].as_str().unwrap_or_default();
    assert!(code == Some(2) && problem.contains("no action"), "{report}");
}
