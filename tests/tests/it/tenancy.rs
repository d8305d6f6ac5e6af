//! No tenant sees another's: not by what the queries say, and not by what an answer lets on.

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::BTreeMap;
use std::time::Duration;
use twh_edge::access::{ENDPOINTS, EndpointInfo, Need};
use twh_sinks::postgres::tenant::TenantPool;
use twh_tests::{Answer, Shared, Tenant, World};
use uuid::Uuid;

/// One of each kind of thing that has an id, by the segment of the path that it stands under.
async fn one_of_each(tenant: &Tenant) -> BTreeMap<&'static str, String> {
    let done = async |path: &str, body: Value| {
        let answer = tenant.post(path, body).await.unwrap();
        assert!(answer.status.is_success(), "{path}: {}", answer.body);
        (answer.body["id"].as_str().unwrap_or_default().to_owned(), answer.header("x-twh-command-id").to_owned())
    };
    let line = json!([{ "sku": "A", "quantity": "1" }]);
    let at = |lines: &Value| json!({ "location_code": "L", "lines": lines });
    let mut made = BTreeMap::new();
    let (item, command) = done("/v1/items", json!({ "sku": "A" })).await;
    made.extend([("items", item), ("commands", command)]);
    made.insert("locations", done("/v1/locations", json!({ "code": "L" })).await.0);
    done("/v1/locations", json!({ "code": "M" })).await;
    made.insert("suppliers", done("/v1/suppliers", json!({ "code": "S" })).await.0);
    let found = json!({ "location_code": "L", "reason": "found", "lines": [{ "sku": "A", "quantity": "9" }] });
    made.insert("adjustments", done("/v1/adjustments", found).await.0);
    made.insert("purchase_orders", done("/v1/purchase_orders", at(&line)).await.0);
    made.insert("sales_orders", done("/v1/sales_orders", at(&line)).await.0);
    let transfer = json!({ "from_location_code": "L", "to_location_code": "M", "lines": line });
    made.insert("transfers", done("/v1/transfers", transfer).await.0);
    let back = json!({ "location_code": "L", "lines": [{ "sku": "A", "quantity": "1", "disposition": "restock" }] });
    made.insert("returns", done("/v1/returns", back).await.0);
    let counted = json!({ "location_code": "L", "lines": [{ "sku": "A", "quantity_counted": "5" }] });
    made.insert("counts", done("/v1/counts", counted).await.0);
    let held = json!({ "sku": "A", "location_code": "L", "quantity": "1" });
    made.insert("reservations", done("/v1/reservations", held).await.0);
    made.insert("api-keys", done("/v1/api-keys", json!({ "name": "k", "role": "dev" })).await.0);
    let hook = json!({ "url": "https://subscriber.invalid/", "event_types": ["*"] });
    made.insert("webhooks", done("/v1/webhooks/register", hook).await.0);
    made
}

/// A person who is the admin of a new tenant, as it calls, and its id.
async fn admin(anyone: &Tenant, email: &str) -> (Tenant, String) {
    let body = json!({ "organization": "Acme", "name": "Ada", "email": email, "password": "correct horse battery" });
    let answer = anyone.post("/v1/auth/signup", body).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    let text = |pointer| answer.body.pointer(pointer).and_then(Value::as_str).unwrap();
    (anyone.with(text("/tokens/access_token")), text("/user/id").to_owned())
}

/// What only a person can make, likewise.
async fn one_of_each_of_people(admin: &Tenant, person: String) -> BTreeMap<&'static str, String> {
    let invitation = json!({ "email": "new@example.com", "role": "dev" });
    let invitation = admin.done("/v1/invitations", invitation).await.unwrap();
    let provider = json!({
        "name": "Okta", "kind": "oidc", "issuer": "https://id.example.com", "client_id": "twh", "client_secret": "secret",
    });
    let provider = admin.done("/v1/identity-providers", provider).await.unwrap();
    let key = admin.done("/v1/api-keys", json!({ "name": "k", "role": "dev" })).await.unwrap();
    BTreeMap::from([
        ("members", person),
        ("invitations", invitation.id().to_owned()),
        ("identity-providers", provider.id().to_owned()),
        ("api-keys", key.id().to_owned()),
    ])
}

/// Holds that another's answers exactly as one that does not exist.
fn is_as_absent(endpoint: &EndpointInfo, foreign: Answer, none: Answer) {
    let told = |mut answer: Answer| {
        answer.body.as_object_mut().unwrap().remove("request_id").expect("an error has its request's id");
        (answer.status.as_u16(), compared(&answer.headers), answer.body)
    };
    let (foreign, none) = (told(foreign), told(none));
    assert_eq!(foreign, none, "{} {}", endpoint.method, endpoint.path);
    assert_eq!(foreign.0, 404, "{} {}: {}", endpoint.method, endpoint.path, foreign.2);
}

fn compared(headers: &HeaderMap) -> BTreeMap<String, String> {
    // Whether the connection stays depends on whether the body had arrived.
    let own = ["connection", "x-request-id", "date", "ratelimit", "x-twh-position", "x-twh-command-id"];
    let kept =
        headers.iter().filter(|(name, _)| !own.contains(&name.as_str()) && !name.as_str().starts_with("x-ratelimit"));
    kept.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_id_is_answered_as_one_that_does_not_exist() {
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off")]).await.unwrap();
    let (own, other) = (world.tenant().await.unwrap(), world.tenant().await.unwrap());
    let of_other = one_of_each(&other).await;
    let (person, _) = admin(&own, "own@example.com").await;
    let (stranger, id) = admin(&own, "other@example.com").await;
    let of_stranger = one_of_each_of_people(&stranger, id).await;
    let mut asked = 0;
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path.contains("/{id}") && endpoint.need != Need::Nobody)
    {
        let kind = endpoint.path.split('/').nth(2).unwrap();
        let ((own, id), body) = match (of_other.get(kind), of_stranger.get(kind)) {
            (Some(id), _) => ((&own, id), json!({})),
            (None, Some(id)) if endpoint.path == "/v1/members/{id}" => ((&person, id), json!({ "role": "dev" })),
            (None, Some(id)) => ((&person, id), json!({})),
            (None, None) => panic!("{kind} is not made here"),
        };
        let answer = async |id: &str| {
            let path = endpoint.path.replace("{id}", id);
            let key = Uuid::new_v4().to_string();
            let headers =
                [("idempotency-key", key.as_str()), ("if-match", "\"1\""), ("content-type", "application/json")];
            let method = Method::from_bytes(endpoint.method.as_str().as_bytes()).unwrap();
            let sent = (method != Method::GET).then(|| body.to_string().into_bytes());
            own.send(method, &path, &headers, sent).await.unwrap()
        };
        is_as_absent(endpoint, answer(id).await, answer(&Uuid::now_v7().to_string()).await);
        asked += 1;
    }
    assert!(asked >= 35, "{asked}");
    // What was asked for is all there still.
    for (caller, made) in [(&other, &of_other), (&stranger, &of_stranger)] {
        for (kind, id) in made.iter().filter(|(kind, _)| !["members", "invitations"].contains(kind)) {
            assert_eq!(caller.get(&format!("/v1/{kind}/{id}")).await.unwrap().status, 200, "{kind}");
        }
    }
    assert_eq!(stranger.get("/v1/members").await.unwrap().body["data"][0]["role"], "admin");
    assert_eq!(stranger.get("/v1/invitations").await.unwrap().body["data"][0]["status"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_to_another_is_absent_below_a_subscription_of_ones_own() {
    let server = Shared::server().await.unwrap();
    let (own, other) = (server.tenant().await.unwrap(), server.tenant().await.unwrap());
    let subscribe = async |tenant: &Tenant| {
        let hook = json!({ "url": "https://subscriber.invalid/", "event_types": ["*"] });
        tenant.done("/v1/webhooks/register", hook).await.unwrap().id().to_owned()
    };
    let (hook, foreign_hook) = (subscribe(&own).await, subscribe(&other).await);
    let delivery = other.done(&format!("/v1/webhooks/{foreign_hook}/test"), json!({})).await.unwrap().id().to_owned();
    let all = json!({ "from_sequence": 1 });
    let replay = other.done(&format!("/v1/webhooks/{foreign_hook}/replay"), all).await.unwrap().id().to_owned();
    let mut asked = 0;
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path.contains("_id}")) {
        let id = if endpoint.path.contains("{delivery_id}") { &delivery } else { &replay };
        let answer = async |id: &str| {
            let path = endpoint.path.replace("{id}", &hook).replace("{delivery_id}", id).replace("{replay_id}", id);
            let method = Method::from_bytes(endpoint.method.as_str().as_bytes()).unwrap();
            own.send(method, &path, &[], None).await.unwrap()
        };
        is_as_absent(endpoint, answer(id).await, answer(&Uuid::now_v7().to_string()).await);
        asked += 1;
    }
    assert!(asked >= 4, "{asked}");
    let kept = format!("/v1/webhooks/{foreign_hook}/replays/{replay}");
    assert_ne!(other.get(&kept).await.unwrap().body["state"], "cancelled");
}

const OF_TENANTS: &str = "select c.relname::text, c.relrowsecurity,
        exists (select from pg_policy p where p.polrelid = c.oid and 'twh_tenant'::regrole = any (p.polroles)
            and p.polqual is not null) as has_policy
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1";

async fn count(connection: &mut PgConnection, table: &str) -> i64 {
    sqlx::query_scalar(&format!("select count(*) from {table}")).fetch_one(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_shows_a_tenant_its_own_rows_and_lets_it_write_none() {
    let world = World::start().await.unwrap();
    let tenants = [world.tenant().await.unwrap(), world.tenant().await.unwrap()];
    for tenant in &tenants {
        one_of_each(tenant).await;
    }
    let owner = world.pool().await.unwrap();
    let tables = sqlx::query(OF_TENANTS).fetch_all(&owner).await.unwrap();
    assert!(tables.len() > 20, "{}", tables.len());
    let mut held = PgConnection::connect(&world.database_url).await.unwrap();
    sqlx::query("set role twh_tenant").execute(&mut held).await.unwrap();
    let pool = TenantPool::connect(&world.database_url, 1, "test", Duration::from_secs(10)).unwrap();
    let (mut readable, mut filled) = (0, 0);
    for table in &tables {
        let name: String = table.get(0);
        assert!(table.get::<bool, _>(1), "{name} has no row-level security: secure_by_tenant('{name}')");
        assert!(table.get::<bool, _>(2), "{name} has no policy: secure_by_tenant('{name}')");
        let all = count(&mut owner.acquire().await.unwrap(), &name).await;
        let may: bool = sqlx::query_scalar("select has_table_privilege('twh_tenant', $1, 'select')")
            .bind(&name)
            .fetch_one(&owner)
            .await
            .unwrap();
        for change in ["insert", "update", "delete", "truncate"] {
            let may: bool = sqlx::query_scalar("select has_table_privilege('twh_tenant', $1, $2)")
                .bind(&name)
                .bind(change)
                .fetch_one(&owner)
                .await
                .unwrap();
            assert!(!may, "the role may {change} {name}");
        }
        if !may {
            continue;
        }
        readable += 1;
        assert_eq!(count(&mut held, &name).await, 0, "{name} without a tenant");
        let mut seen = 0;
        for tenant in &tenants {
            let id = Uuid::parse_str(&tenant.id).unwrap();
            let mut connection = pool.of(twh_domain::id::TenantId(id)).await.unwrap();
            let strangers: i64 = sqlx::query_scalar(&format!("select count(*) from {name} where tenant_id <> $1"))
                .bind(id)
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            assert_eq!(strangers, 0, "{name}");
            seen += count(&mut connection, &name).await;
        }
        assert_eq!(seen, all, "{name}: what the two see is all there is");
        filled += i64::from(all > 0);
    }
    assert!(readable >= 18 && filled >= 15, "{readable} tables can be read, {filled} of them have rows");
    // Views run as their owner: each says itself whose rows it shows.
    let views: Vec<String> = sqlx::query_scalar(VIEWS).fetch_all(&owner).await.unwrap();
    assert!(views.iter().any(|view| view == "control_state"), "{views:?}");
    for view in views {
        assert_eq!(count(&mut held, &view).await, 0, "{view} without a tenant");
        for tenant in &tenants {
            let id = Uuid::parse_str(&tenant.id).unwrap();
            let mut connection = pool.of(twh_domain::id::TenantId(id)).await.unwrap();
            let seen: Vec<(Uuid, i64)> =
                sqlx::query_as(&format!("select tenant_id, count(*) from {view} group by tenant_id"))
                    .fetch_all(&mut *connection)
                    .await
                    .unwrap();
            assert!(matches!(seen[..], [(only, _)] if only == id), "{view}: {seen:?}");
        }
    }
}

const VIEWS: &str = "select c.relname::text from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm')
        and has_any_column_privilege('twh_tenant', c.oid, 'select') order by 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_is_replaced_before_anybody_notices() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let (owner, pool) = (
        world.pool().await.unwrap(),
        TenantPool::connect(&world.database_url, 3, "dying", Duration::from_secs(10)).unwrap(),
    );
    let id = twh_domain::id::TenantId(Uuid::parse_str(&tenant.id).unwrap());
    let held = [pool.of(id).await.unwrap(), pool.of(id).await.unwrap(), pool.of(id).await.unwrap()];
    drop(held);
    // They go back to the pool by tasks of their own, of which nothing tells. One that dies before it is back is replaced too.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let ended = sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dying'")
        .execute(&owner)
        .await
        .unwrap();
    assert_eq!(ended.rows_affected(), 3);
    let mut connection = pool.of(id).await.unwrap();
    assert_eq!(count(&mut connection, "control_audit").await, 2, "the tenant and its key");
}

const REACHED: &str = "select c.relname::text from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
        and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
        and (has_table_privilege('twh_tenant', c.oid, 'insert, update, delete, truncate')
            or has_any_column_privilege('twh_tenant', c.oid, 'select, insert, update'))
    order by 1";

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_tenant_of_its_own_is_out_of_reach() {
    let world = World::start().await.unwrap();
    let owner = world.pool().await.unwrap();
    let reached: Vec<String> = sqlx::query_scalar(REACHED).fetch_all(&owner).await.unwrap();
    // How far the ledger and consumer groups are on each partition is no tenant's.
    assert_eq!(reached, ["consumer_positions", "ledger_partitions", "projection_builds"]);
    // Nor is there another way: the role is no more than a role, and sees a function's rows as itself.
    let more: i64 = sqlx::query_scalar(
        "select count(*) from pg_roles r where r.rolname = 'twh_tenant'
             and (r.rolsuper or r.rolbypassrls or r.rolcanlogin or r.rolcreaterole or r.rolcreatedb
                 or exists (select from pg_auth_members m where m.member = r.oid))",
    )
    .fetch_one(&owner)
    .await
    .unwrap();
    let definers: Vec<String> = sqlx::query_scalar(
        "select proname::text from pg_proc where pronamespace = 'public'::regnamespace and prosecdef order by 1",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    // The one function that does not takes its tenant from the connection's setting alone (decision 15).
    assert_eq!((more, definers), (0, vec!["search_items".to_owned()]));
}
