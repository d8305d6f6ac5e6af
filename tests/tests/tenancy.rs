//! No tenant sees another's: not by what the queries say, and not by what an answer lets on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::BTreeMap;
use twh_edge::access::{ENDPOINTS, Need};
use twh_sinks::postgres::tenant::TenantPool;
use twh_tests::{Tenant, World};
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
    made
}

fn compared(headers: &HeaderMap) -> BTreeMap<String, String> {
    // Whether the connection stays depends on whether the body had arrived.
    let own =
        ["connection", "x-request-id", "date", "content-length", "ratelimit", "x-twh-position", "x-twh-command-id"];
    let kept =
        headers.iter().filter(|(name, _)| !own.contains(&name.as_str()) && !name.as_str().starts_with("x-ratelimit"));
    kept.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_id_is_answered_as_one_that_does_not_exist() {
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off")]).await.unwrap();
    let (own, other) = (world.tenant().await.unwrap(), world.tenant().await.unwrap());
    let of_other = one_of_each(&other).await;
    let mut asked = 0;
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path.contains("/{id}") && endpoint.need != Need::Nobody)
    {
        let kind = endpoint.path.split('/').nth(2).unwrap();
        let Some(id) = of_other.get(kind) else {
            // People, invitations and identity providers: what an API key cannot make; the tests of access have them.
            assert!(["members", "invitations", "identity-providers"].contains(&kind), "{kind} is not made here");
            continue;
        };
        let body = match endpoint.command {
            Some("return.create") => unreachable!("creates have no id"),
            _ => json!({}),
        };
        let answer = async |id: &str| {
            let path = endpoint.path.replace("{id}", id);
            let key = Uuid::new_v4().to_string();
            let headers =
                [("idempotency-key", key.as_str()), ("if-match", "\"1\""), ("content-type", "application/json")];
            let method = Method::from_bytes(endpoint.method.as_str().as_bytes()).unwrap();
            let sent = (method != Method::GET).then(|| body.to_string().into_bytes());
            let mut answer = own.send(method, &path, &headers, sent).await.unwrap();
            answer.body.as_object_mut().unwrap().remove("request_id").expect("an error has its request's id");
            (answer.status.as_u16(), compared(&answer.headers), answer.body)
        };
        let (foreign, none) = (answer(id).await, answer(&Uuid::now_v7().to_string()).await);
        assert_eq!(foreign, none, "{} {}", endpoint.method, endpoint.path);
        assert_eq!(foreign.0, 404, "{} {}: {}", endpoint.method, endpoint.path, foreign.2);
        asked += 1;
    }
    assert!(asked >= 30, "{asked}");
}

const OF_TENANTS: &str = "select c.relname::text, c.relrowsecurity,
        exists (select from pg_policy p where p.polrelid = c.oid and 'twh_tenant'::regrole = any (p.polroles)) as has_policy
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
    let pool = TenantPool::connect(&world.database_url, 1, "test").unwrap();
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_is_replaced_before_anybody_notices() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let (owner, pool) = (world.pool().await.unwrap(), TenantPool::connect(&world.database_url, 3, "dying").unwrap());
    let id = twh_domain::id::TenantId(Uuid::parse_str(&tenant.id).unwrap());
    let held = [pool.of(id).await.unwrap(), pool.of(id).await.unwrap(), pool.of(id).await.unwrap()];
    drop(held);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let ended = sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dying'")
        .execute(&owner)
        .await
        .unwrap();
    assert_eq!(ended.rows_affected(), 3);
    let mut connection = pool.of(id).await.unwrap();
    assert_eq!(count(&mut connection, "control_audit").await, 2, "the tenant and its key");
}
