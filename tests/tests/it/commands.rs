//! The API under retries, races, stale views and bad input.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_tests::{Answer, Shared, Tenant, World};

fn adjust(quantity: i64) -> Value {
    json!({ "location_code": "MAIN", "reason": "found", "lines": [{ "sku": "WIDGET", "quantity": quantity }] })
}

async fn order(tenant: &Tenant, quantity: i64) -> Answer {
    tenant
        .done(
            "/v1/sales_orders",
            json!({ "location_code": "MAIN", "lines": [{ "sku": "WIDGET", "quantity": quantity }] }),
        )
        .await
        .unwrap()
}

/// Waits for a process that the test itself started.
async fn until_ready(url: &str) {
    let (begun, ready) = (Instant::now(), format!("{url}/ready"));
    while !reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_retries_at_once_make_one_movement_and_equal_answers() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 10).await.unwrap();
    let before = tenant.movements().await.unwrap();
    let answers = join_all((0..50).map(|_| tenant.post_as("/v1/adjustments", "once", adjust(5)))).await;
    let answers: Vec<Answer> = answers.into_iter().map(Result::unwrap).collect();
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (StatusCode::CREATED, &answers[0].body));
        for name in ["etag", "location", "x-twh-position", "x-twh-command-id"] {
            assert_eq!(answer.header(name), answers[0].header(name), "{name}");
        }
    }
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotent-replayed") == "true").count(), 49);
    assert_eq!(tenant.movements().await.unwrap(), before + 1);
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "15");
    let other = tenant.post_as("/v1/adjustments", "once", adjust(6)).await.unwrap();
    assert_eq!((other.status.as_u16(), other.code()), (422, "IDEMPOTENCY_KEY_MISMATCH"));
    let spelled = tenant
        .post_as(
            "/v1/adjustments",
            "once",
            json!({ "lines": [{ "quantity": "5.0", "sku": "WIDGET" }], "reason": "found", "location_code": "MAIN" }),
        )
        .await
        .unwrap();
    assert_eq!(spelled.body, answers[0].body, "the same request, spelled otherwise, is the same request");
    assert_eq!(
        tenant.post_as("/v1/adjustments", "system/x", adjust(1)).await.unwrap().code(),
        "IDEMPOTENCY_KEY_INVALID"
    );
    let without = tenant
        .send(
            Method::POST,
            "/v1/adjustments",
            &[("content-type", "application/json")],
            Some(adjust(1).to_string().into()),
        )
        .await
        .unwrap();
    assert_eq!((without.status.as_u16(), without.code()), (400, "IDEMPOTENCY_KEY_REQUIRED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_race_for_the_last_piece_never_oversell() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 7).await.unwrap();
    let orders = join_all((0..20).map(|_| order(&tenant, 1))).await;
    let paths: Vec<String> = orders.iter().map(|order| format!("/v1/sales_orders/{}/allocate", order.id())).collect();
    let answers = join_all(paths.iter().map(|path| tenant.post(path, json!({})))).await;
    let allocated = answers.iter().filter(|answer| answer.as_ref().unwrap().status == StatusCode::OK).count();
    assert_eq!(allocated, 7);
    assert_eq!(tenant.level("WIDGET").await.unwrap(), ("7".to_owned(), "7".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_saw_an_older_version_changes_nothing() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    let item = tenant.done("/v1/items", json!({ "sku": "WIDGET" })).await.unwrap();
    assert_eq!((item.status, item.header("etag")), (StatusCode::CREATED, "\"1\""));
    let path = item.header("location").to_owned();
    let patch = async |if_match: Option<&str>, name: &str| {
        let key = uuid::Uuid::new_v4().to_string();
        let mut headers = vec![("idempotency-key", key.as_str()), ("content-type", "application/json")];
        headers.extend(if_match.map(|tag| ("if-match", tag)));
        tenant.send(Method::PATCH, &path, &headers, Some(json!({ "name": name }).to_string().into())).await.unwrap()
    };
    assert_eq!(patch(None, "a").await.code(), "PRECONDITION_REQUIRED");
    assert_eq!(patch(Some("W/\"1\""), "a").await.code(), "INVALID_IF_MATCH");
    let changed = patch(Some("\"1\""), "first").await;
    assert_eq!((changed.status, changed.header("etag")), (StatusCode::OK, "\"2\""));
    let stale = patch(Some("\"1\""), "second").await;
    assert_eq!((stale.status.as_u16(), stale.code()), (412, "PRECONDITION_FAILED"));
    let read = tenant.get(&path).await.unwrap();
    assert_eq!((&read.body, read.header("etag")), (&changed.body, "\"2\""));
    assert_eq!(
        tenant.send(Method::GET, &path, &[("if-none-match", "\"2\"")], None).await.unwrap().status,
        StatusCode::NOT_MODIFIED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_says_what_was_short() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 3).await.unwrap();
    let order = order(&tenant, 5).await;
    let answer = tenant.post(&format!("/v1/sales_orders/{}/allocate", order.id()), json!({})).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.code()), (409, "INSUFFICIENT_STOCK"));
    let detail = &answer.body["details"][0];
    assert_eq!(
        (&detail["sku"], &detail["requested"], &detail["available"]),
        (&json!("WIDGET"), &json!("5"), &json!("3"))
    );
    assert_eq!(answer.body["request_id"], json!(answer.header("x-request-id")));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_at_the_edge_and_leaves_nothing_behind() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 3).await.unwrap();
    let before = tenant.movements().await.unwrap();
    let lines = |count: usize| {
        json!({ "location_code": "MAIN", "reason": "x", "lines": vec![json!({ "sku": "WIDGET", "quantity": 1 }); count] }).to_string()
    };
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("/v1/items", b"{".to_vec(), 400, "MALFORMED_JSON"),
        ("/v1/items", b"\xff\xfe".to_vec(), 400, "MALFORMED_JSON"),
        ("/v1/items", format!("{{\"sku\": \"A\", \"x\": {}", "[".repeat(200_000)).into_bytes(), 422, "VALIDATION_FAILED"),
        ("/v1/items", br#"{"sku": "A", "colour": "red"}"#.to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/items", br#"{"sku": 5}"#.to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/items", b"{\"sku\": \"A\\u0000\"}".to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/items", "{\"sku\": \"😀\"}".as_bytes().to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/items", b"{\"sku\": \"A\", \"name\": \"x\\u0000y\"}".to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/items", b"null".to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/items", b"[]".to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/adjustments", lines(1_001).into_bytes(), 422, "VALIDATION_FAILED"),
        ("/v1/adjustments", lines(100_000).into_bytes(), 413, "BODY_TOO_LARGE"),
        ("/v1/adjustments", vec![b' '; 10_000_000], 413, "BODY_TOO_LARGE"),
        ("/v1/adjustments", format!(r#"{{"location_code":"MAIN","reason":"x","lines":[{{"sku":"WIDGET","quantity":{}}}]}}"#, "9".repeat(40)).into_bytes(), 422, "VALIDATION_FAILED"),
        ("/v1/adjustments", br#"{"location_code":"MAIN","reason":"x","lines":[{"sku":"WIDGET","quantity":1},{"sku":"NOPE","quantity":1}]}"#.to_vec(), 422, "UNKNOWN_REFERENCE"),
        ("/v1/adjustments", br#"{"location_code":"MAIN","reason":"x","lines":[{"sku":"WIDGET","quantity":1},{"sku":"WIDGET","quantity":-90}]}"#.to_vec(), 409, "INSUFFICIENT_STOCK"),
        ("/v1/sales_orders/not-an-id/ship", b"{}".to_vec(), 404, "NOT_FOUND"),
        ("/v1/sales_orders/0193f1d2-0000-7000-8000-000000000000/ship", b"{}".to_vec(), 404, "NOT_FOUND"),
        ("/v1/commands:batch", br#"{"commands": []}"#.to_vec(), 422, "VALIDATION_FAILED"),
        ("/v1/nowhere", b"{}".to_vec(), 404, "ROUTE_NOT_FOUND"),
        ("/v1/stock", b"{}".to_vec(), 405, "METHOD_NOT_ALLOWED"),
    ];
    for (path, body, status, code) in cases {
        let shown = String::from_utf8_lossy(&body).chars().take(60).collect::<String>();
        let key = uuid::Uuid::new_v4().to_string();
        let answer = tenant
            .send(Method::POST, path, &[("idempotency-key", &key), ("content-type", "application/json")], Some(body))
            .await
            .unwrap();
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{path} {shown}: {}", answer.body);
        assert!(
            answer.body["message"].is_string()
                && answer.body["details"].is_array()
                && answer.body["request_id"].is_string(),
            "{path} {shown}"
        );
    }
    let text = tenant
        .send(
            Method::POST,
            "/v1/items",
            &[("idempotency-key", "k"), ("content-type", "text/plain")],
            Some(b"{\"sku\":\"A\"}".to_vec()),
        )
        .await
        .unwrap();
    assert_eq!((text.status.as_u16(), text.code()), (415, "UNSUPPORTED_MEDIA_TYPE"));
    for path in [
        "/v1/items?colour=red",
        "/v1/items?limit=0",
        "/v1/items?cursor=zz",
        "/v1/stock?as_of=yesterday",
        "/v1/movements?type=MAGIC",
        "/v1/stock?sku=%00",
    ] {
        let answer = tenant.get(path).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "INVALID_QUERY"), "{path}");
    }
    let mut stranger = tenant.clone();
    stranger.key = "twh_test_no".to_owned();
    assert_eq!(stranger.get("/v1/items").await.unwrap().code(), "UNAUTHENTICATED");
    assert_eq!(tenant.movements().await.unwrap(), before, "nothing was half done");
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_waited_for_is_found_later() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 3).await.unwrap();
    let headers = [("idempotency-key", "later"), ("content-type", "application/json"), ("prefer", "respond-async")];
    let answer =
        tenant.send(Method::POST, "/v1/adjustments", &headers, Some(adjust(-90).to_string().into())).await.unwrap();
    assert_eq!((answer.status, &answer.body["status"]), (StatusCode::ACCEPTED, &json!("pending")));
    let begun = Instant::now();
    let found = loop {
        let found = tenant.get(answer.header("location")).await.unwrap();
        assert_eq!(found.status, StatusCode::OK, "{}", found.body);
        if found.body["status"] != "pending" {
            break found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        (&found.body["status"], &found.body["http_status"], &found.body["body"]["code"]),
        (&json!("rejected"), &json!(409), &json!("INSUFFICIENT_STOCK"))
    );
    assert_eq!(tenant.get("/v1/commands/0193f1d2-0000-7000-8000-000000000000").await.unwrap().code(), "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_makes_a_batch_wait_longer_than_the_server_does() {
    let world = World::prepare(&[("TWH_OUTCOME_WAIT_MS", "300")]).await.unwrap();
    // Without a ledger nothing is decided.
    let mut server = world.command(&["ingest"]).unwrap().spawn().unwrap();
    until_ready(&world.url).await;
    let tenant = world.tenant().await.unwrap();
    let entry = json!({ "type": "item.create", "idempotency_key": "a", "body": { "sku": "WIDGET" } });
    let body = json!({ "commands": [entry] }).to_string().into_bytes();
    let headers = [("content-type", "application/json"), ("prefer", "wait=40")];
    let begun = Instant::now();
    let answer = tenant.send(Method::POST, "/v1/commands:batch", &headers, Some(body)).await.unwrap();
    assert_eq!(answer.body["results"][0]["status"], 202, "{}", answer.body);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    server.kill().await.unwrap();
}

/// As large as a body may be, asked of a process without a ledger: the command and its outcome both go over the log, whose
/// next records wait for neither.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_command_and_its_outcome_hold_up_nobody() {
    const ITEMS: usize = 1_000;
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off"), ("TWH_TOPIC_PARTITIONS", "1")]).await.unwrap();
    let address = twh_tests::free_address().unwrap();
    let mut ingest = world.command(&["ingest"]).unwrap();
    let mut ingest = ingest.env("TWH_HTTP_ADDR", &address).env("TWH_OPS_ADDR", "127.0.0.1:0").spawn().unwrap();
    let url = format!("http://{address}");
    until_ready(&url).await;
    let (large, other) = (world.tenant().await.unwrap().at(&url), world.tenant().await.unwrap());
    let create = |number: usize| json!({ "type": "item.create", "body": { "sku": format!("L-{number}"), "description": "d".repeat(1_500) } });
    let batch = json!({ "atomic": true, "commands": (0..ITEMS).map(create).collect::<Vec<_>>() });
    assert!((1_500_000..2_000_000).contains(&batch.to_string().len()), "{}", batch.to_string().len());
    let done = large.post_as("/v1/commands:batch", "large", batch.clone()).await.unwrap();
    assert_eq!((done.status, done.body["results"].as_array().map(Vec::len)), (StatusCode::OK, Some(ITEMS)));
    let again = large.post_as("/v1/commands:batch", "large", batch).await.unwrap();
    assert_eq!((again.status, again.headers.get("idempotent-replayed").is_some()), (StatusCode::OK, true));
    // On the same partition, more than a queue of the outbox holds.
    for number in 0..30 {
        let made = other.post("/v1/suppliers", json!({ "code": format!("S-{number}") })).await.unwrap();
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    }
    let pool = world.pool().await.unwrap();
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>("select count(*) from outbox").fetch_one(&pool).await.unwrap() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the outbox does not empty");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ingest.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_a_batch_has_its_own_outcome_unless_the_batch_is_atomic() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 3).await.unwrap();
    let entry = |key: &str, quantity: i64| json!({ "type": "adjustment.create", "idempotency_key": key, "body": adjust(quantity) });
    let batch = json!({ "commands": [entry("a", 1), entry("b", -90), entry("a", 1), entry("c", 2), { "type": "nonsense", "idempotency_key": "d" }] });
    let answer = tenant.post("/v1/commands:batch", batch).await.unwrap();
    let statuses: Vec<_> =
        answer.body["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 409, 201, 201, 422], "{}", answer.body);
    assert_eq!(answer.body["results"][2]["replayed"], true);
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "6");
    let atomic = |second: i64| json!({ "atomic": true, "commands": [{ "type": "adjustment.create", "body": adjust(4) }, { "type": "adjustment.create", "body": adjust(second) }] });
    let refused = tenant.post("/v1/commands:batch", atomic(-90)).await.unwrap();
    assert_eq!(
        (refused.status.as_u16(), refused.code(), &refused.body["details"][0]["index"]),
        (409, "INSUFFICIENT_STOCK", &json!(1))
    );
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "6");
    let done = tenant.post_as("/v1/commands:batch", "both", atomic(-10)).await.unwrap();
    assert_eq!((done.status, done.body["results"].as_array().unwrap().len()), (StatusCode::OK, 2));
    let again = tenant.post_as("/v1/commands:batch", "both", atomic(-10)).await.unwrap();
    assert_eq!((again.body, again.headers.get("idempotent-replayed").is_some()), (done.body, true));
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_documents_do_not_exist() {
    let server = Shared::server().await.unwrap();
    let (mine, theirs) = (server.tenant().await.unwrap(), server.tenant().await.unwrap());
    theirs.stock("WIDGET", 3).await.unwrap();
    let order = order(&theirs, 1).await;
    let path = order.header("location").to_owned();
    let (hidden, absent) = (
        mine.get(&path).await.unwrap(),
        mine.get("/v1/sales_orders/0193f1d2-0000-7000-8000-000000000000").await.unwrap(),
    );
    assert_eq!(
        (hidden.status, &hidden.body["message"], &hidden.body["details"]),
        (absent.status, &absent.body["message"], &absent.body["details"])
    );
    assert_eq!(mine.post(&format!("{path}/allocate"), json!({})).await.unwrap().code(), "NOT_FOUND");
    let command = order.header("x-twh-command-id");
    assert_eq!(mine.get(&format!("/v1/commands/{command}")).await.unwrap().code(), "NOT_FOUND");
    for list in ["/v1/items", "/v1/sales_orders", "/v1/stock", "/v1/movements"] {
        assert_eq!(mine.get(list).await.unwrap().body["data"], json!([]), "{list}");
    }
    mine.stock("WIDGET", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_lapses_by_itself() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 3).await.unwrap();
    let soon = (std::time::SystemTime::now() + Duration::from_secs(2))
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let soon = twh_domain::timestamp::Timestamp::from_millis(i64::try_from(soon).unwrap() * 1_000).to_string();
    let body = json!({ "sku": "WIDGET", "location_code": "MAIN", "quantity": 2, "expires_at": soon });
    let reservation = tenant.done("/v1/reservations", body).await.unwrap();
    assert_eq!(tenant.level("WIDGET").await.unwrap().1, "2");
    let begun = Instant::now();
    while tenant.level("WIDGET").await.unwrap().1 != "0" {
        assert!(begun.elapsed() < Duration::from_secs(20), "it still holds");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(tenant.get(reservation.header("location")).await.unwrap().body["status"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_told_as_of_either_time() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    tenant.stock("WIDGET", 10).await.unwrap();
    let mut late = adjust(-4);
    late["occurred_at"] = json!("2020-05-05T00:00:00Z");
    let late = tenant.done("/v1/adjustments", late).await.unwrap();
    let as_of = async |query: String| {
        let answer = tenant.get(&format!("/v1/stock?{query}")).await.unwrap();
        answer.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["qty_on_hand"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        as_of("as_of=2020-06-01T00:00:00Z".to_owned()).await,
        Vec::<String>::new(),
        "the books said nothing then"
    );
    assert_eq!(
        as_of("as_of=2020-06-01T00:00:00Z&as_of_basis=occurred".to_owned()).await,
        ["-4"],
        "a late fact changes what was true"
    );
    let recorded = late.body["created_at"].as_str().unwrap();
    assert_eq!(as_of(format!("as_of={recorded}")).await, ["6"]);
    let movements = tenant.get("/v1/movements?limit=1").await.unwrap();
    let next = format!("/v1/movements?limit=1&cursor={}", movements.body["next_cursor"].as_str().unwrap());
    let older = tenant.get(&next).await.unwrap();
    assert_eq!((&movements.body["data"][0]["id"], &older.body["data"][0]["id"]), (&json!(2), &json!(1)));
    assert_eq!((&older.body["next_cursor"], &older.body["data"][0]["on_hand_after"]), (&Value::Null, &json!("10")));
}
