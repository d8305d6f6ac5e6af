//! What reads answer, against the real PostgreSQL in a database of this test's own: the ledger's rows are written here as
//! the ledger would, so that each answer can be worked out by hand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, middleware, web};
use serde_json::{Value, json};
use sqlx::{Executor as _, PgPool};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use twh_accounts::provision::{self, NewTenant};
use twh_edge::auth::Authenticator;
use twh_edge::request::around;
use twh_edge::routes::not_found;
use twh_edge::tokens::Tokens;
use twh_sinks::outbound::Outbound;
use twh_sinks::postgres::connect;
use twh_sinks::postgres::tenant::TenantPool;
use twh_sinks::secrets::{Secrets, new_master_key};
use twh_tests::database::Databases;
use twh_webhooks::Webhooks;
use uuid::Uuid;

/// A database that is there for one test.
struct World {
    url: String,
    pool: PgPool,
    readers: TenantPool,
    secrets: Secrets,
    tenant: NewTenant,
}

impl World {
    /// Runs a test in a new database, and drops that whatever comes of the test.
    async fn with<F: Future<Output = ()> + 'static>(test: impl FnOnce(World) -> F) {
        let name = format!("twh_reads_{}", Uuid::new_v4().simple());
        let mut databases = Databases::shared().await.unwrap();
        let url = databases.create_migrated(&name).await.unwrap();
        let pool = connect(&url, 4, "api-tests").unwrap();
        let outcome = {
            let pool = pool.clone();
            let secrets = Secrets::parse(&new_master_key("test").unwrap()).unwrap();
            let tenant = provision::tenant(&pool, &secrets, "reads", "enterprise").await.unwrap();
            let readers = TenantPool::connect(&url, 4, "api-tests", Duration::from_secs(10)).unwrap();
            actix_web::rt::spawn(test(World { url, pool, readers, secrets, tenant })).await
        };
        pool.close().await;
        databases.remove(&[name]).await.unwrap();
        outcome.unwrap();
    }

    async fn execute(&self, sql: &str) {
        let sql = sql.replace(":tenant", &format!("'{}'", self.tenant.tenant_id));
        self.pool.execute(sql.as_str()).await.unwrap();
    }

    async fn document(&self, collection: &str, id: Uuid, code: Option<&str>, status: Option<&str>, document: &str) {
        let text = |value: Option<&str>| value.map_or_else(|| "null".to_owned(), |value| format!("'{value}'"));
        self.execute(&format!(
            "insert into {collection} (tenant_id, id, code, status, version, created_at, updated_at, document)
             values (:tenant, '{id}', {}, {}, 3, now(), now(), '{document}')",
            text(code),
            text(status)
        ))
        .await;
    }

    /// Items A and B, locations M and N.
    async fn catalogue(&self) -> Catalogue {
        let [a, b, m, n] = [1, 2, 3, 4].map(Uuid::from_u128);
        self.document("items", a, Some("A"), None, r#"{"name": "Apple 100%", "type": "stock"}"#).await;
        self.document("items", b, Some("B"), None, r#"{"name": "apricot",  "type": "service"}"#).await;
        self.document("locations", m, Some("M"), None, "{}").await;
        self.document("locations", n, Some("N"), None, "{}").await;
        Catalogue { a, b, m, n }
    }

    /// A movement: `(on hand, reserved)` of the change and after it, hours of `occurred_at` and `recorded_at`.
    async fn movement(
        &self,
        sequence: i64,
        level: (Uuid, Uuid),
        kind: &str,
        change: (i64, i64),
        after: (i64, i64),
        hours: (u8, u8),
    ) {
        let (item, location) = level;
        let [change_on_hand, change_reserved, on_hand, reserved] =
            [change.0, change.1, after.0, after.1].map(|units| units * 1_000_000);
        let (occurred, recorded) = hours;
        self.execute(&format!(
            "insert into stock_movements values (:tenant, {sequence}, '{item}', '{location}', '{kind}',
             (select count(*) + 1 from stock_movements where tenant_id = :tenant and item_id = '{item}' and location_id = '{location}'),
             {change_on_hand}, {change_reserved}, {on_hand}, {reserved}, 'count', '{}', 1, null, '{}', 0, {sequence}0,
             '2026-03-01T{occurred:02}:00:00Z', '2026-03-01T{recorded:02}:00:00Z', '\\x00')",
            Uuid::from_u128(77),
            Uuid::from_u128(88),
        ))
        .await;
        self.execute(&format!(
            "insert into stock_levels values (:tenant, '{item}', '{location}', {on_hand}, {reserved}, 1, null, now())
             on conflict (tenant_id, item_id, location_id) do update set on_hand_micro = {on_hand}, reserved_micro = {reserved}"
        ))
        .await;
        self.execute(&format!(
            "insert into ledger_heads values (:tenant, {sequence}, '', 0, 0, '', now())
             on conflict (tenant_id) do update set movement_sequence = {sequence}"
        ))
        .await;
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body, _) = self.get_with(path, &[]).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, Vec<u8>, actix_web::http::header::HeaderMap) {
        let routes = twh_api::routes().merge(twh_webhooks::routes());
        let tokens = Arc::new(Tokens::load(self.pool.clone(), self.secrets.clone()).await.unwrap());
        let app = init_service(
            App::new()
                .app_data(web::Data::new(Authenticator::new(self.pool.clone(), self.secrets.clone(), tokens)))
                .app_data(web::Data::new(twh_api::Reads {
                    pool: self.readers.clone(),
                    wait: Duration::from_millis(100),
                    signer: None,
                    engine: None,
                    secrets: self.secrets.clone(),
                    partitions: 1,
                }))
                .app_data(web::Data::new(Webhooks {
                    control: twh_edge::control::Control::new(self.pool.clone()),
                    readers: self.readers.clone(),
                    secrets: self.secrets.clone(),
                    outbound: Outbound::new(Vec::new()).unwrap(),
                }))
                .wrap(middleware::from_fn(around))
                .configure(|config| routes.configure(config))
                .default_service(web::to(not_found)),
        )
        .await;
        let key = format!("Bearer {}", self.tenant.api_key);
        let mut request = TestRequest::get().uri(path).insert_header(("authorization", key));
        for (name, value) in headers {
            request = request.insert_header((*name, *value));
        }
        let response = call_service(&app, request.to_request()).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, read_body(response).await.to_vec(), headers)
    }

    /// Every row of a list, walked page by page.
    async fn walk(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        let join = if path.contains('?') { '&' } else { '?' };
        loop {
            let (status, page) = self.get(&format!("{path}{join}limit={limit}{cursor}")).await;
            assert_eq!(status, 200, "{page}");
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit);
            rows.extend(data.iter().cloned());
            assert!(rows.len() <= 100, "the pages of {path} do not end");
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }
}

/// The numbers of the rows of a list of large rows, and how many pages they came in. `next` is what an answer says of the next page, and
/// the parameter that asks for it.
async fn numbers_of(world: &World, path: &str, number: &str, (says, asks): (&str, &str)) -> (Vec<u64>, usize) {
    let (mut numbers, mut pages, mut place) = (Vec::new(), 0, String::new());
    loop {
        let (status, body, _) = world.get_with(&format!("{path}{place}"), &[]).await;
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body[..body.len().min(500)]));
        assert!(body.len() <= 8_000_000, "{path}: {} bytes", body.len());
        let page: Value = serde_json::from_slice(&body).unwrap();
        let rows = page["data"].as_array().unwrap();
        numbers.extend(rows.iter().map(|row| row.pointer(number).and_then(Value::as_u64).unwrap()));
        pages += 1;
        let next = &page[says];
        if next.is_null() || rows.is_empty() {
            return (numbers, pages);
        }
        place = format!("&{asks}={}", next.as_str().map_or_else(|| next.to_string(), str::to_owned));
    }
}

#[derive(Clone, Copy)]
struct Catalogue {
    a: Uuid,
    b: Uuid,
    m: Uuid,
    n: Uuid,
}

#[actix_web::test]
async fn a_document_is_served_byte_for_byte_and_only_once_to_who_has_it() {
    World::with(|world| async move {
        let id = Uuid::from_u128(9);
        let spelled = r#"{"b" :  1, "a":"2.50"}"#;
        world.document("sales_orders", id, Some("SO-1"), Some("draft"), spelled).await;
        let path = format!("/v1/sales_orders/{id}");
        let (status, body, headers) = world.get_with(&path, &[]).await;
        assert_eq!((status, body.as_slice()), (200, spelled.as_bytes()));
        assert_eq!(headers.get("etag").unwrap(), "\"3\"");
        let (status, body, headers) = world.get_with(&path, &[("if-none-match", "\"2\", W/\"3\"")]).await;
        assert_eq!((status, body.len(), headers.get("etag").unwrap().to_str().unwrap()), (304, 0, "\"3\""));
        assert_eq!(world.get_with(&path, &[("if-none-match", "\"2\"")]).await.0, 200);
    })
    .await;
}

#[actix_web::test]
async fn another_tenants_document_answers_as_one_that_does_not_exist() {
    World::with(|world| async move {
        let id = Uuid::from_u128(9);
        world.document("items", id, Some("A"), None, "{}").await;
        let tenant = provision::tenant(&world.pool, &world.secrets, "other", "enterprise").await.unwrap();
        let World { url, pool, readers, secrets, .. } = &world;
        let (url, pool, readers, secrets) = (url.clone(), pool.clone(), readers.clone(), secrets.clone());
        let owner = World { url, pool, readers, secrets, tenant };
        let body = |answer: (u16, Value)| {
            (answer.0, answer.1["code"].clone(), answer.1["message"].clone(), answer.1["details"].clone())
        };
        for tail in ["", "/stock", "/movements"] {
            let others = body(owner.get(&format!("/v1/items/{id}{tail}")).await);
            let nobodys = body(owner.get(&format!("/v1/items/{}{tail}", Uuid::from_u128(10))).await);
            assert_eq!(others, nobodys);
            assert_eq!(body(owner.get(&format!("/v1/items/no-id{tail}")).await), nobodys);
            assert_eq!((nobodys.0, &nobodys.1), (404, &json!("NOT_FOUND")));
        }
        assert!(owner.walk("/v1/items", 10).await.is_empty());
        assert!(owner.walk("/v1/stock", 10).await.is_empty());
        assert_eq!(world.walk("/v1/items", 10).await.len(), 1);
    })
    .await;
}

#[actix_web::test]
async fn pages_hold_every_row_once_in_order() {
    World::with(|world| async move {
        for number in 1..=7_u128 {
            let status = if number % 2 == 0 { "draft" } else { "shipped" };
            let document = format!(r#"{{"n": {number}}}"#);
            world
                .document(
                    "sales_orders",
                    Uuid::from_u128(number),
                    Some(&format!("SO-{number}")),
                    Some(status),
                    &document,
                )
                .await;
            world.document("suppliers", Uuid::from_u128(number), Some(&format!("S-{number}")), None, &document).await;
        }
        let numbers = |rows: Vec<Value>| rows.iter().map(|row| row["n"].as_u64().unwrap()).collect::<Vec<_>>();
        for limit in [1, 2, 3, 6, 7, 8] {
            assert_eq!(numbers(world.walk("/v1/sales_orders", limit).await), [7, 6, 5, 4, 3, 2, 1], "newest first");
            assert_eq!(numbers(world.walk("/v1/suppliers", limit).await), [1, 2, 3, 4, 5, 6, 7], "as they came");
            assert_eq!(numbers(world.walk("/v1/sales_orders?status=draft", limit).await), [6, 4, 2]);
        }
        assert_eq!(numbers(world.walk("/v1/sales_orders?number=SO-5", 5).await), [5]);
    })
    .await;
}

#[actix_web::test]
async fn filters_find_what_they_say_and_others_are_refused() {
    World::with(|world| async move {
        let Catalogue { a, .. } = world.catalogue().await;
        world.execute(&format!("insert into item_barcodes values (:tenant, '4006381333931', '{a}')")).await;
        let found =
            |rows: Vec<Value>| rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        for (query, names) in [
            ("name=ap", vec!["Apple 100%", "apricot"]),
            ("name=APPLE%20100%25", vec!["Apple 100%"]),
            ("name=%25", vec![]),
            ("name=a_p", vec![]),
            ("barcode=4006381333931", vec!["Apple 100%"]),
            ("sku=B", vec!["apricot"]),
            ("type=service", vec!["apricot"]),
            ("type=service&sku=A", vec![]),
        ] {
            assert_eq!(found(world.walk(&format!("/v1/items?{query}"), 10).await), names, "{query}");
        }
        for path in [
            "/v1/items?status=draft",
            "/v1/items?type=imaginary",
            "/v1/sales_orders?status=imaginary",
            "/v1/sales_orders?sku=A",
            "/v1/items?sku=%00",
            "/v1/stock?as_of_basis=recorded",
            "/v1/stock?as_of=yesterday",
            "/v1/stock?sku=%00",
            "/v1/movements?type=LOST",
            "/v1/movements?item_id=7",
            "/v1/commands/00000000-0000-0000-0000-000000000001?position=x",
            "/v1/commands/00000000-0000-0000-0000-000000000001?position=1-0",
        ] {
            let (status, body) = world.get(path).await;
            assert_eq!((status, body["code"].as_str()), (400, Some("INVALID_QUERY")), "{path}: {body}");
            assert!(!body["details"][0]["field"].as_str().unwrap().is_empty(), "{path}: {body}");
        }
    })
    .await;
}

/// A late fact (recorded at 12, true since 9) parts what the books said from what was true.
#[actix_web::test]
async fn as_of_tells_what_the_books_said_or_what_was_true() {
    World::with(|world| async move {
        let Catalogue { a, b, m, n } = world.catalogue().await;
        world.movement(1, (a, m), "RECEIVE", (10, 0), (10, 0), (8, 8)).await;
        world.movement(2, (a, n), "RECEIVE", (1, 0), (1, 0), (8, 8)).await;
        world.movement(3, (a, m), "COUNT", (2, 0), (12, 0), (10, 10)).await;
        world.movement(4, (a, m), "RESERVE", (0, 4), (12, 4), (11, 11)).await;
        world.movement(5, (a, m), "ADJUST", (-5, 0), (7, 4), (9, 12)).await;
        world.movement(6, (b, m), "RECEIVE", (3, 0), (3, 0), (13, 13)).await;
        let level = async |query: &str| {
            let rows = world.walk(&format!("/v1/stock?sku=A&location_code=M&{query}"), 1).await;
            let row = rows.first().cloned().unwrap_or_default();
            assert!(rows.len() <= 1 && (rows.is_empty() || row["sku"] == "A" && row["location_code"] == "M"));
            json!([row["qty_on_hand"], row["qty_reserved"], row["available"], row["version"], row["last_counted_at"]])
        };
        let at = |hour: u8, basis: &str| format!("as_of=2026-03-01T{hour:02}:00:00Z&as_of_basis={basis}");
        let counted = "2026-03-01T10:00:00Z";
        assert_eq!(level(&at(7, "recorded")).await, json!([null, null, null, null, null]), "nothing yet");
        assert_eq!(level(&at(9, "recorded")).await, json!(["10", "0", "10", 1, null]));
        assert_eq!(level(&at(11, "recorded")).await, json!(["12", "4", "8", 3, counted]));
        assert_eq!(level(&at(12, "recorded")).await, json!(["7", "4", "3", 4, counted]));
        assert_eq!(level(&at(9, "occurred")).await, json!(["5", "0", "5", 2, null]), "the late fact counts from 9 on");
        assert_eq!(level(&at(11, "occurred")).await, json!(["7", "4", "3", 4, counted]));
        world
            .execute("insert into ledger_partitions values (0, 'c', 56, 1, 'me', now()), (1, 'c', 9, 1, 'me', now())")
            .await;
        assert_eq!(level("as_of=0-29").await, json!(["10", "0", "10", 1, null]), "the third movement is at offset 30");
        assert_eq!(level("as_of=0-30").await, json!(["12", "0", "12", 2, counted]));
        assert_eq!(level("as_of=0-55").await, json!(["7", "4", "3", 4, counted]));
        for refused in ["0-30&as_of_basis=occurred", "1-5", "x", "0-", "2026-13-01T00:00:00Z"] {
            let (status, body) = world.get(&format!("/v1/stock?as_of={refused}")).await;
            assert_eq!((status, &body["code"]), (400, &json!("INVALID_QUERY")), "{refused}: {body}");
        }
        let (status, body) = world.get("/v1/stock?as_of=0-56").await;
        assert_eq!((status, &body["code"]), (503, &json!("POSITION_NOT_REACHED")), "{body}");
        let all = world.walk(&format!("/v1/stock?{}", at(12, "recorded")), 1).await;
        assert_eq!(all.len(), 2, "{all:?}");
        let of_m = world.walk(&format!("/v1/stock?location_id={m}&{}", at(13, "occurred")), 1).await;
        assert_eq!(of_m.iter().map(|row| row["sku"].clone()).collect::<Vec<_>>(), ["A", "B"]);
    })
    .await;
}

#[actix_web::test]
async fn a_read_waits_for_the_position_that_it_asks_for() {
    World::with(|world| async move {
        world.execute("insert into ledger_partitions values (0, 'c', 56, 1, 'me', now())").await;
        let ask = async |position: &str| {
            let (status, body, headers) = world.get_with("/v1/items", &[("x-twh-at-least", position)]).await;
            let body: Value = serde_json::from_slice(&body).unwrap();
            (status, body["code"].clone(), headers.contains_key("retry-after"))
        };
        assert_eq!(ask("0-55").await, (200, Value::Null, false));
        assert_eq!(ask("0-56").await, (503, json!("POSITION_NOT_REACHED"), true));
        // Of a partition that is not the tenant's, or of none, it is said at once, and nothing of how far that is.
        for nonsense in ["0", "x-1", "0-99999999999999999999", "", "1-0", "7816-156", "-1-0"] {
            assert_eq!(ask(nonsense).await, (400, json!("INVALID_POSITION"), false), "{nonsense:?}");
        }
        let arrives = async {
            actix_web::rt::time::sleep(Duration::from_millis(30)).await;
            world.execute("update ledger_partitions set next_offset = 57").await;
        };
        let (waited, ()) = futures::future::join(ask("0-56"), arrives).await;
        assert_eq!(waited.0, 200, "it came in time");
    })
    .await;
}

#[actix_web::test]
async fn the_ledger_is_read_newest_first_by_every_filter() {
    World::with(|world| async move {
        let Catalogue { a, b, m, n } = world.catalogue().await;
        for sequence in 1..=6 {
            let level = [(a, m), (b, n), (a, n)][usize::try_from(sequence).unwrap() % 3];
            let kind = if sequence == 4 { "COUNT" } else { "RECEIVE" };
            world.movement(sequence, level, kind, (1, 0), (1, 0), (8, 8)).await;
        }
        let ids = |rows: Vec<Value>| rows.iter().map(|row| row["id"].as_i64().unwrap()).collect::<Vec<_>>();
        for limit in [1, 2, 5, 6] {
            assert_eq!(ids(world.walk("/v1/movements", limit).await), [6, 5, 4, 3, 2, 1]);
            assert_eq!(ids(world.walk(&format!("/v1/items/{a}/movements"), limit).await), [6, 5, 3, 2]);
            assert_eq!(ids(world.walk(&format!("/v1/movements?item_id={a}&location_id={n}"), limit).await), [5, 2]);
            assert_eq!(ids(world.walk("/v1/movements?type=COUNT", limit).await), [4]);
        }
        let (status, one) = world.get("/v1/movements/4").await;
        assert_eq!(
            (status, &one["type"], &one["change_on_hand"], &one["hash"]),
            (200, &json!("COUNT"), &json!("1"), &json!("00"))
        );
        assert_eq!(world.get("/v1/movements/7").await.0, 404);
    })
    .await;
}

#[actix_web::test]
async fn an_items_stock_counts_what_is_on_its_way() {
    World::with(|world| async move {
        let Catalogue { a, m, n, .. } = world.catalogue().await;
        for (location, on_hand, reserved) in [(m, 10, 4), (n, 5, 0)] {
            world
                .execute(&format!(
                    "insert into stock_levels values (:tenant, '{a}', '{location}', {on_hand}000000, {reserved}000000, 2, null, now())"
                ))
                .await;
        }
        let line = format!(r#"{{"item_id": "{a}", "quantity_in_transit": "2.5"}}"#);
        for (number, status) in [(1, "in_transit"), (2, "partially_received"), (3, "closed"), (4, "draft")] {
            let document = format!(r#"{{"to_location_id": "{n}", "lines": [{line}, {{"item_id": "x", "quantity_in_transit": "9"}}]}}"#);
            world.document("transfers", Uuid::from_u128(number), Some(&format!("T-{number}")), Some(status), &document).await;
        }
        let (status, stock) = world.get(&format!("/v1/items/{a}/stock")).await;
        assert_eq!(status, 200, "{stock}");
        let totals = ["qty_on_hand", "qty_reserved", "available", "qty_in_transit"].map(|field| stock[field].as_str().unwrap());
        assert_eq!(totals, ["15", "4", "11", "5"]);
        assert_eq!(stock["in_transit"], json!([{ "to_location_id": n, "quantity": "5" }]));
        assert_eq!(stock["levels"].as_array().unwrap().len(), 2);
    })
    .await;
}

#[actix_web::test]
async fn a_command_is_pending_then_decided_and_a_repeat_tells_the_first_answer() {
    World::with(|world| async move {
        let [accepted, refused, batch, repeat, unknown] = [1, 2, 3, 4, 5].map(Uuid::from_u128);
        world.execute("insert into ledger_partitions values (0, 'c', 100, 1, 'o', now())").await;
        let audit = async |sequence: i64, operation: &str, kind: &str, version: i64, command: Uuid| {
            world
                .execute(&format!(
                    "insert into audit_log values (:tenant, {sequence}, {operation}, 'x', '{kind}', '{}', {version}, '{{\"n\": {sequence}}}',
                     'api_key', 'k', null, null, 'r', '{command}', now(), '\\x00')",
                    Uuid::from_u128(500)
                ))
                .await;
        };
        audit(1, "0", "item", 1, accepted).await;
        audit(2, "0", "sales_order", 1, batch).await;
        audit(3, "null", "reservation", 2, batch).await;
        audit(4, "1", "sales_order", 2, batch).await;
        for (command, repeats, verdict) in [
            (accepted, "null", "true, null, null, null, 1, 1"),
            (refused, "null", "false, 'INSUFFICIENT_STOCK', 'short', '[{\"line\": 1}]', null, null"),
            (batch, "null", "true, null, null, null, 2, 4"),
            (repeat, &format!("'{refused}'"), "true, null, null, null, null, null"),
        ] {
            world
                .execute(&format!("insert into command_outcomes values (:tenant, '{command}', null, 'f', {repeats}, {verdict}, 0, 41, now())"))
                .await;
        }
        let path = |command: Uuid| format!("/v1/commands/{command}");
        let (_, one) = world.get(&path(accepted)).await;
        assert_eq!((&one["status"], &one["http_status"], &one["body"]), (&json!("accepted"), &json!(201), &json!({"n": 1})));
        assert_eq!(one["position"], "0-41");
        let (_, no) = world.get(&path(refused)).await;
        assert_eq!((&no["status"], &no["http_status"], &no["body"]["code"]), (&json!("rejected"), &json!(409), &json!("INSUFFICIENT_STOCK")));
        assert_eq!(no["body"]["details"], json!([{"line": 1}]));
        let (_, again) = world.get(&path(repeat)).await;
        assert_eq!((&again["status"], &again["replayed"]), (&json!("rejected"), &json!(true)));
        let (_, many) = world.get(&path(batch)).await;
        let entry = |status: u16, version: i64, n: i64| {
            json!({ "status": status, "etag": format!("\"{version}\""), "body": { "n": n },
                    "location": format!("/v1/sales_orders/{}", Uuid::from_u128(500)) })
        };
        assert_eq!(many["body"], json!({ "results": [entry(201, 1, 2), entry(200, 2, 4)] }), "as the batch itself answers");
        let (status, body, headers) = world.get_with(&format!("{}?position=0-100", path(unknown)), &[]).await;
        let pending: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &pending["status"], &pending["position"]), (200, &json!("pending"), &json!("0-100")));
        assert_eq!(headers.get("retry-after").unwrap(), "1");
        assert_eq!(world.get(&format!("{}?position=0-99", path(unknown))).await.0, 404, "the ledger is past it");
        assert_eq!(world.get(&path(unknown)).await.0, 404);
    })
    .await;
}

/// 503 tells a client to come again; a statement that can never work must not.
#[actix_web::test]
async fn a_database_that_is_away_and_a_defect_of_ours_are_told_apart() {
    World::with(|world| async move {
        world.catalogue().await;
        world.execute("alter table suppliers rename to lost").await;
        let (status, body) = world.get("/v1/suppliers").await;
        assert_eq!((status, body["code"].as_str()), (500, Some("INTERNAL")));
        assert!(!body.to_string().contains("suppliers"), "{body}");
    })
    .await;
}

/// Rows of 1.5 MB; and a supplier that alone is more than a page may hold.
#[actix_web::test]
async fn every_list_of_large_rows_ends_its_pages_in_bytes_and_gives_each_row_once() {
    const ROWS: usize = 3;
    World::with(|world| async move {
        let document = "json_build_object('n', n, 'text', repeat('x', 1500000))";
        let id = "lpad(to_hex(n), 32, '0')::uuid";
        let rows = format!("from generate_series(1, {ROWS}) n");
        let collections = [
            "items", "locations", "suppliers", "purchase_orders", "sales_orders", "transfers", "returns", "adjustments", "counts",
            "reservations",
        ];
        for collection in collections {
            world
                .execute(&format!(
                    "insert into {collection} (tenant_id, id, code, status, version, created_at, updated_at, document)
                     select :tenant, {id}, 'C' || n, 'active', 1, now(), now(), {document} {rows}"
                ))
                .await;
        }
        world
            .execute("update suppliers set document = json_build_object('n', 2, 'text', repeat('x', 5000000)) where code = 'C2'")
            .await;
        let command = Uuid::from_u128(77);
        world
            .execute(&format!(
                "insert into audit_log select :tenant, n, n, 'x', 'sales_order', '{}', n, {document}, 'api_key', 'k', null, null, 'r',
                     '{command}', now(), '\\x00' {rows}",
                Uuid::from_u128(500)
            ))
            .await;
        world.execute("insert into ledger_heads values (:tenant, 0, '', 0, 0, '', now())").await;
        world.execute(&format!("update ledger_heads set audit_sequence = {ROWS}")).await;
        let verdict = format!("true, null, null, null, 1, {ROWS}");
        world
            .execute(&format!("insert into command_outcomes values (:tenant, '{command}', null, 'f', null, {verdict}, 0, 41, now())"))
            .await;
        world
            .execute(&format!(
                "insert into webhook_events (tenant_id, id, sequence, event_type, item_ids, location_ids, ordering_keys, recorded_at, body)
                 select :tenant, {id}, n, 'order.shipped', '{{}}', '{{}}', '{{}}', now(), {document}::text {rows}"
            ))
            .await;
        let webhook = Uuid::from_u128(900);
        world
            .execute(&format!(
                "insert into webhook_subscriptions (tenant_id, id, url, event_types, item_ids, location_ids, ordering, concurrency_max,
                     timeout_ms, state, state_since, secret, secret_hint, has_client_certificate, created_by, created_at, updated_at, version)
                 values (:tenant, '{webhook}', 'https://example.com', '{{*}}', '{{}}', '{{}}', 'none', 1, 1000, 'active', now(), '', '', false,
                     'k', now(), now(), 1)"
            ))
            .await;
        world
            .execute(&format!(
                "insert into webhook_deliveries (tenant_id, subscription_id, id, event_id, state, next_attempt_at, created_at, attempts)
                 select :tenant, '{webhook}', {id}, {id}, 'dead_lettered', now(), now(), jsonb_build_array({document}) {rows}"
            ))
            .await;
        let cursor = ("next_cursor", "cursor");
        let mut lists: Vec<_> =
            collections.map(|collection| (format!("/v1/{collection}?limit=1000"), "/n", cursor)).to_vec();
        lists.extend([
            ("/v1/audit?limit=1000".to_owned(), "/sequence", cursor),
            (format!("/v1/audit?limit=1000&entity_id={}", Uuid::from_u128(500)), "/new/n", cursor),
            ("/v1/events?limit=1000".to_owned(), "/n", ("next_after", "after")),
            (format!("/v1/webhooks/{webhook}/deliveries?limit=1000"), "/attempts/0/n", cursor),
            ("/v1/items/search?limit=100".to_owned(), "/item/n", cursor),
        ]);
        let all: Vec<_> = (1..=u64::try_from(ROWS).unwrap()).collect();
        for (path, number, next) in lists {
            let (mut numbers, pages) = numbers_of(&world, &path, number, next).await;
            numbers.sort_unstable();
            // The account of control has the tenant's own beginning, too.
            if path.starts_with("/v1/audit?limit=1000") && !path.contains("entity_id") {
                numbers.dedup();
            }
            assert_eq!(numbers, all, "{path}");
            assert!(pages >= if path.contains("suppliers") { 3 } else { 2 }, "{path}: {pages} pages");
        }
        // A batch has no next page: it says where its documents are.
        let (status, body, _) = world.get_with(&format!("/v1/commands/{command}"), &[]).await;
        let outcome: Value = serde_json::from_slice(&body).unwrap();
        let results = outcome["body"]["results"].as_array().unwrap();
        assert_eq!((status, results.len(), body.len() < 10_000), (200, ROWS, true), "{} bytes", body.len());
        let location = format!("/v1/sales_orders/{}", Uuid::from_u128(500));
        let reference = json!({ "type": "sales_order", "id": Uuid::from_u128(500), "version": 3, "location": location });
        assert_eq!(results[2]["body"], json!({ "document_reference": reference }));
        assert_eq!((&results[2]["etag"], &results[2]["location"]), (&json!("\"3\""), &json!(location)));
        // What is read to keep comes in parts, each line whole.
        let (status, body, _) = world.get_with("/v1/audit/export?chain=ledger", &[]).await;
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        assert_eq!((status, lines.count()), (200, ROWS));
    })
    .await;
}

#[actix_web::test]
async fn a_read_that_takes_too_long_is_ended() {
    World::with(|world| async move {
        let readers = TenantPool::connect(&world.url, 2, "api-tests", Duration::from_millis(200)).unwrap();
        let world = World { readers, ..world };
        let mut held = world.pool.begin().await.unwrap();
        held.execute("lock table suppliers in access exclusive mode").await.unwrap();
        let begun = std::time::Instant::now();
        let (status, body) = world.get("/v1/suppliers").await;
        assert_eq!((status, body["code"].as_str()), (503, Some("SERVICE_UNAVAILABLE")), "{body}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        held.rollback().await.unwrap();
        assert_eq!(world.get("/v1/suppliers").await.0, 200);
    })
    .await;
}

/// Every level is as large as one can be: their sums have more digits.
#[actix_web::test]
async fn sums_of_the_largest_quantities_are_exact() {
    World::with(|world| async move {
        let Catalogue { a, m, n, .. } = world.catalogue().await;
        const LARGEST: &str = "999999999999999999";
        for (location, reserved) in [(m, LARGEST), (n, "0")] {
            world
                .execute(&format!(
                    "insert into stock_levels values (:tenant, '{a}', '{location}', -{LARGEST}, {reserved}, 1, null, now())"
                ))
                .await;
        }
        let line = format!(r#"{{"item_id": "{a}", "quantity_in_transit": "999999999999.999999"}}"#);
        let document = format!(r#"{{"to_location_id": "{n}", "lines": [{line}, {line}]}}"#);
        world.document("transfers", Uuid::from_u128(1), Some("T-1"), Some("in_transit"), &document).await;
        let (_, stock) = world.get(&format!("/v1/items/{a}/stock")).await;
        let sums = ["qty_on_hand", "qty_reserved", "available", "qty_in_transit"].map(|name| stock[name].as_str().unwrap());
        assert_eq!(sums, ["-1999999999999.999998", "999999999999.999999", "-2999999999999.999997", "1999999999999.999998"]);
        let (_, levels) = world.get(&format!("/v1/stock?location_id={m}")).await;
        assert_eq!(levels["data"][0]["available"], "-1999999999999.999998");
        for path in ["/v1/items/search?q=apple", "/v1/items/search?sort=available&location_code=M"] {
            let (status, found) = world.get(path).await;
            assert_eq!((status, &found["data"][0]["stock"]["available"]), (200, &json!("-2999999999999.999997")), "{found}");
        }
    })
    .await;
}
