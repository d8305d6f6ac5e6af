//! What the one who runs it asks: is it alive, is it ready, how is it doing.

use crate::routes::Routes;
use actix_web::http::Method;
use actix_web::{HttpResponse, web};
use futures::future::BoxFuture;
use prometheus::{Encoder as _, TextEncoder};
use serde::Serialize;
use serde_json::json;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use time::OffsetDateTime;
use twh_domain::timestamp::Timestamp;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks a part whether it is there.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Everything that must be there before this process can serve, by name.
#[derive(Clone, Default)]
pub struct Checks(pub Vec<(&'static str, Check)>);

/// How far a consumer group is behind, on a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// The group.
    pub group: String,
    /// What it reads.
    pub topic: String,
    /// Which partition.
    pub partition: i32,
    /// The first offset that it has not applied.
    pub next_offset: i64,
    /// The offset of the next record to come.
    pub end_offset: i64,
    /// What is between them: records that it has not applied.
    pub lag: i64,
}

/// How far every consumer group is behind, when it was last looked at.
#[derive(Debug, Clone, Default)]
pub struct Lags(Arc<RwLock<Option<Seen>>>);

#[derive(Debug)]
struct Seen {
    at: OffsetDateTime,
    lags: Vec<Lag>,
}

impl Lags {
    /// Notes what was seen now.
    pub fn saw(&self, lags: Vec<Lag>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Seen { at: OffsetDateTime::now_utc(), lags });
    }
}

/// Serves `/health` and `/ready`, which are for everybody.
pub fn probes(checks: &Checks, config: &mut web::ServiceConfig) {
    config.app_data(web::Data::new(checks.clone()));
    Routes::new().route(Method::GET, "/health", health).route(Method::GET, "/ready", ready).configure(config);
}

/// Serves `/metrics` and, where someone looks, `/lag`: for those who run it only.
pub fn configure(lags: &Lags, config: &mut web::ServiceConfig) {
    config.app_data(web::Data::new(lags.clone()));
    Routes::new().route(Method::GET, "/metrics", metrics).route(Method::GET, "/lag", lag).configure(config);
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

async fn ready(checks: web::Data<Checks>) -> HttpResponse {
    let asked = checks.0.iter().map(|(name, check)| async move {
        let answer = tokio::time::timeout(CHECK_TIMEOUT, check()).await;
        (*name, answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned())))
    });
    let answers = futures::future::join_all(asked).await;
    let ready = answers.iter().all(|(_, answer)| answer.is_ok());
    let parts: serde_json::Map<_, _> = answers
        .into_iter()
        .map(|(name, answer)| (name.to_owned(), json!(answer.err().unwrap_or_else(|| "ready".to_owned()))))
        .collect();
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(json!({ "status": if ready { "ready" } else { "not ready" }, "parts": parts }))
}

async fn lag(lags: web::Data<Lags>) -> HttpResponse {
    match &*lags.0.read().unwrap_or_else(PoisonError::into_inner) {
        Some(Seen { at, lags }) => HttpResponse::Ok().json(json!({ "looked_at": Timestamp::from(*at), "groups": lags })),
        None => HttpResponse::ServiceUnavailable()
            .json(json!({ "looked_at": null, "problem": "nobody has looked yet: a process of the role api does, every few seconds" })),
    }
}

async fn metrics() -> HttpResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
        Ok(()) => HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}
