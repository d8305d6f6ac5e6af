//! What holds for every request, whatever it asks: its id, the shape of its errors, and that nothing it sends brings a handler down.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

use actix_web::http::{Method, StatusCode};
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, middleware, web};
use serde_json::{Value, json};
use std::sync::Arc;
use twh_edge::access::{AnswerSize, Endpoint, EndpointInfo, Guarded, Need, Open};
use twh_edge::answer::Answer;
use twh_edge::api_key::{ApiKey, Environment};
use twh_edge::auth::{Authenticator, Caller};
use twh_edge::body::{Body, BodyLimit};
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::openapi::Document;
use twh_edge::ops::{self, Check, Checks, Serving};
use twh_edge::query::{self, Query};
use twh_edge::reference::Reference;
use twh_edge::request::{RequestId, around};
use twh_edge::routes::{Routes, not_found};
use twh_edge::tokens::Tokens;
use twh_sinks::postgres::connect;
use twh_sinks::secrets::{Secrets, new_master_key};
use twh_sinks::tasks::health::Part;

const LIMIT_BYTES: usize = 1_000;

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    limit: Option<i64>,
    cursor: Option<String>,
}

type Anything = Answer<serde_json::Map<String, Value>>;

fn anything(value: &Value) -> Anything {
    Answer::written(value.to_string())
}

async fn page(query: Query<PageQuery>) -> Result<Anything, ApiError> {
    let asked = query.read()?;
    let after = asked.cursor.as_deref().map(cursor::decode::<i64>).transpose()?;
    Ok(anything(&json!({ "limit": query::limit(asked.limit)?, "after": after })))
}

async fn write(request: actix_web::HttpRequest, body: Body<Value>) -> Result<Anything, ApiError> {
    let body = body.read()?;
    Ok(anything(&json!({ "body": body, "request_id": RequestId::of(&request) })))
}

macro_rules! endpoint {
    ($name:ident $method:ident $path:literal $kind:ident) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Endpoint for $name {
            const INFO: EndpointInfo = EndpointInfo {
                name: stringify!($name),
                method: Method::$method,
                path: $path,
                need: Need::Caller,
                command: None,
                gives: AnswerSize::Small,
                refuses: &[],
                summary: "",
            };
        }
        impl $kind for $name {}
    };
}
endpoint!(ListThings GET "/v1/things" Open);
endpoint!(AddThing POST "/v1/things" Open);
endpoint!(GetThing GET "/v1/things/{id}" Open);
endpoint!(GetThingStock GET "/v1/things/stock" Open);
endpoint!(Who GET "/v1/who" Guarded);

async fn who(caller: Caller<Who>) -> Anything {
    anything(&json!({ "tenant_id": caller.tenant_id }))
}

async fn broken() -> Result<Anything, ApiError> {
    Err(ApiError::internal("password=secret at 10.0.0.1"))
}

/// What an answer is made of.
struct Answered {
    status: StatusCode,
    headers: actix_web::http::header::HeaderMap,
    body: Vec<u8>,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
    /// Holds that it is an error of ours: the shape, and one id in header and body.
    fn is_error(&self, status: u16, code: &str) {
        let body = self.json();
        assert_eq!((self.status.as_u16(), body["code"].as_str()), (status, Some(code)), "{body}");
        assert!(!body["message"].as_str().unwrap().is_empty() && body["details"].is_array(), "{body}");
        assert!(!self.header("x-request-id").is_empty());
        assert_eq!(body["request_id"], self.header("x-request-id"));
    }
}

async fn ask(request: TestRequest) -> Answered {
    let refused: Check = Arc::new(|| Box::pin(async { Err("it is away".to_owned()) }));
    let checks = Checks { parts: vec![("database", refused)], ..Checks::default() };
    // Nobody listens there: what needs the database meets one that is down.
    let pool = connect("postgres://nobody@127.0.0.1:1/nothing", 1, "edge-tests").unwrap();
    let routes = Routes::new()
        .open(ListThings, page)
        .merge(Routes::new().open(AddThing, write))
        .open(GetThing, broken)
        .open(GetThingStock, page)
        .on(Who, who);
    let secrets = Secrets::parse(&new_master_key("test").unwrap()).unwrap();
    let tokens = Arc::new(Tokens::new(pool.clone(), secrets.clone()));
    let app = init_service(
        App::new()
            .app_data(BodyLimit(LIMIT_BYTES))
            .app_data(web::Data::new(Authenticator::new(pool, secrets, tokens)))
            .wrap(middleware::from_fn(around))
            .configure(|config| ops::probes(&checks, config))
            .configure(|config| ops::configure(&ops::Lags::default(), config))
            .configure(|config| Reference::new(&Document::of(&Routes::new(), "0")).configure(config))
            .configure(|config| routes.configure(config))
            .default_service(web::to(not_found)),
    )
    .await;
    let response = call_service(&app, request.to_request()).await;
    let (status, headers) = (response.status(), response.headers().clone());
    Answered { status, headers, body: read_body(response).await.to_vec() }
}

fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(path)
}

fn post(body: impl Into<web::Bytes>) -> TestRequest {
    TestRequest::post().uri("/v1/things").insert_header(("content-type", "application/json")).set_payload(body)
}

#[actix_web::test]
async fn a_request_is_answered_under_its_own_id_or_a_new_one() {
    let answer = ask(get("/v1/things").insert_header(("x-request-id", "order-7"))).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (StatusCode::OK, "order-7"));
    let inside = ask(post("{}").insert_header(("x-request-id", "order-8"))).await;
    assert_eq!(inside.json()["request_id"], "order-8");
    for unsound in ["", "with space", &"x".repeat(129)] {
        let answer = ask(get("/v1/things").insert_header(("x-request-id", unsound))).await;
        let id = uuid::Uuid::parse_str(answer.header("x-request-id")).expect("a new id");
        assert_eq!(id.get_version_num(), 7, "ids sort by time");
    }
}

#[actix_web::test]
async fn an_error_has_the_same_shape_wherever_it_arises() {
    ask(get("/nowhere")).await.is_error(404, "ROUTE_NOT_FOUND");
    ask(get("/v1/things/x/y")).await.is_error(404, "ROUTE_NOT_FOUND");
    ask(post("{}").insert_header(("content-type", "text/plain"))).await.is_error(415, "UNSUPPORTED_MEDIA_TYPE");
    ask(post("{}").insert_header(("content-encoding", "gzip"))).await.is_error(415, "UNSUPPORTED_MEDIA_TYPE");
    ask(post(vec![b' '; LIMIT_BYTES + 1])).await.is_error(413, "BODY_TOO_LARGE");
    let as_long_as_can_be = format!("{{}}{}", " ".repeat(LIMIT_BYTES - 2));
    assert_eq!(ask(post(as_long_as_can_be)).await.status, StatusCode::OK);
    let method = ask(TestRequest::delete().uri("/v1/things")).await;
    method.is_error(405, "METHOD_NOT_ALLOWED");
    assert_eq!(method.header("allow"), "GET, HEAD, POST");
    for path in ["/health", "/ready", "/metrics"] {
        ask(TestRequest::post().uri(path)).await.is_error(405, "METHOD_NOT_ALLOWED");
    }
    for path in ["/docs/api/", "/docs/api/swagger-ui.css"] {
        assert_eq!(ask(get(path)).await.status, StatusCode::OK, "{path}");
        ask(TestRequest::post().uri(path)).await.is_error(405, "METHOD_NOT_ALLOWED");
    }
    for path in ["/docs/api/nothing.js", "/docs/api/a/b", "/docs/api/..%2f..%2fCargo.toml"] {
        ask(get(path)).await.is_error(404, "ROUTE_NOT_FOUND");
    }
}

#[actix_web::test]
async fn two_tables_on_one_path_are_both_served() {
    assert_eq!(ask(get("/v1/things")).await.json()["limit"], 50);
    assert_eq!(ask(post("{\"a\": 1}")).await.json()["body"], json!({ "a": 1 }));
    assert_eq!(ask(get("/v1/things/stock")).await.status, StatusCode::OK, "a literal stands before a parameter");
    assert_eq!(ask(TestRequest::default().method(Method::HEAD).uri("/v1/things")).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn a_defect_of_ours_is_not_told_to_the_client() {
    let answer = ask(get("/v1/things/7")).await;
    answer.is_error(500, "INTERNAL");
    assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
}

#[actix_web::test]
async fn nobody_passes_without_a_key_and_a_database_that_is_down_is_no_refusal() {
    for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic dXNlcg=="), Some("twh_test_1")] {
        let request = header.into_iter().fold(get("/v1/who"), |to, value| to.insert_header(("authorization", value)));
        let answer = ask(request).await;
        answer.is_error(401, "UNAUTHENTICATED");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    ask(get("/v1/who").insert_header(("authorization", "Bearer twh_test_1"))).await.is_error(401, "UNAUTHENTICATED");
    let key = format!("Bearer {}", ApiKey::new(Environment::Sandbox, &[7; 32]).reveal());
    let answer = ask(get("/v1/who").insert_header(("authorization", key))).await;
    answer.is_error(503, "SERVICE_UNAVAILABLE");
    assert_eq!(answer.header("retry-after"), "1");
}

#[actix_web::test]
async fn a_query_parameter_that_cannot_be_used_is_named() {
    for (query, field) in [
        ("colour=red", "colour"),
        ("limit=many", "limit"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=zz", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=22", "cursor"),
    ] {
        let answer = ask(get(&format!("/v1/things?{query}"))).await;
        answer.is_error(400, "INVALID_QUERY");
        assert_eq!(answer.json()["details"][0]["field"], field, "{query}");
    }
}

#[actix_web::test]
async fn a_page_goes_on_where_its_cursor_says() {
    let answer = ask(get(&format!("/v1/things?cursor={}", cursor::encode(&41_i64)))).await;
    assert_eq!(answer.json()["after"], 41);
}

#[actix_web::test]
async fn the_one_who_runs_it_is_told_which_part_is_away() {
    assert_eq!(ask(get("/health")).await.status, StatusCode::OK);
    let ready = ask(get("/ready")).await;
    assert_eq!((ready.status.as_u16(), &ready.json()["parts"]["database"]), (503, &json!("it is away")));
}

#[actix_web::test]
async fn a_role_that_stands_is_told_and_takes_the_process_out_only_where_requests_stand_on_it() {
    let reached: Check = Arc::new(|| Box::pin(async { Ok(()) }));
    let both = vec![
        Serving { role: "test_http", answers: true, answers_as_a_whole: false },
        Serving { role: "test_group", answers: false, answers_as_a_whole: true },
    ];
    let alone = vec![Serving { role: "test_group", answers: false, answers_as_a_whole: true }];
    let (http, group) = (Part::new("test_http", "task"), Part::share("test_group", "partition 4 of g"));
    let (writes, away): (_, Check) =
        (std::cell::RefCell::new(true), Arc::new(|| Box::pin(async { Err("read-only".to_owned()) })));
    let asked = async |roles: &[Serving], path: &str| {
        let checks = Checks {
            parts: vec![("database", Arc::clone(&reached))],
            besides: vec![("writes", if *writes.borrow() { Arc::clone(&reached) } else { Arc::clone(&away) })],
            roles: roles.to_vec(),
            warnings: vec!["one copy".to_owned()],
        };
        let app = App::new().configure(|config| ops::probes(&checks, config));
        let answer = call_service(&init_service(app).await, get(path).to_request()).await;
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_slice(&read_body(answer).await).unwrap();
        (status, body["status"].as_str().unwrap().to_owned(), body)
    };
    let brief = async |roles: &[Serving], path: &str| {
        let (code, status, _) = asked(roles, path).await;
        (code, status)
    };
    let (ready, degraded, not) =
        ((200, "ready".to_owned()), (200, "degraded".to_owned()), (503, "not ready".to_owned()));
    assert_eq!(brief(&both, "/ready").await, ready);
    assert_eq!(asked(&both, "/ready").await.2["warnings"], json!(["one copy"]));

    group.stands("halted: the log ends at 7");
    assert_eq!(brief(&both, "/ready").await, degraded, "other tenants are served");
    let body = asked(&both, "/ready").await.2;
    assert_eq!(body["parts"]["test_group"], "partition 4 of g: halted: the log ends at 7");
    assert_eq!((&body["parts"]["test_http"], &body["parts"]["database"]), (&json!("ready"), &json!("ready")));
    assert_eq!(brief(&both, "/ready?role=test_group").await, not, "who asks about the role is told");
    assert_eq!(brief(&both, "/ready?role=test_http").await, ready);
    assert_eq!(brief(&alone, "/ready").await, not, "nobody is sent to a process without an API");
    assert_eq!(asked(&alone, "/ready?role=test_http").await.0, 404);

    // What waits may be a share of the work, or all of it.
    group.waits("no database");
    assert_eq!(brief(&both, "/ready").await, not, "nothing of the group is done");
    let share = Part::share("test_group", "partition 5 of g");
    assert_eq!(brief(&both, "/ready").await, degraded);
    share.waits("no database");
    assert_eq!(brief(&both, "/ready").await, not);
    drop(share);

    group.works();
    *writes.borrow_mut() = false;
    assert_eq!(brief(&both, "/ready").await, degraded, "reads are answered");
    assert_eq!(brief(&alone, "/ready").await, not);
    *writes.borrow_mut() = true;
    http.stands("it panicked");
    assert_eq!(brief(&both, "/ready").await, not);
    assert_eq!(brief(&both, "/ready?role=test_group").await, ready);
    http.works();
    assert_eq!(brief(&both, "/ready").await, ready);
}

#[actix_web::test]
async fn what_clients_make_up_makes_no_new_time_series() {
    for (method, path) in [("MADEUP1", "/v1/things"), ("MADEUP2", "/made/up/path")] {
        ask(TestRequest::default().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path)).await;
    }
    let metrics = ask(get("/metrics")).await;
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(
        text.contains("twh_http_requests_total") && !text.contains("MADEUP") && !text.contains("made/up"),
        "{text}"
    );
}
