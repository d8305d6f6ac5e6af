//! What the one who runs it asks: is it alive, is it ready, how is it doing.

use crate::routes::Routes;
use actix_web::http::Method;
use actix_web::{HttpResponse, web};
use futures::future::BoxFuture;
use prometheus::{Encoder as _, TextEncoder};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks a part whether it is there.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Everything that must be there before this process can serve, by name.
#[derive(Clone, Default)]
pub struct Checks(pub Vec<(&'static str, Check)>);

/// Serves `/health`, `/ready` and `/metrics`.
pub fn configure(checks: &Checks, config: &mut web::ServiceConfig) {
    config.app_data(web::Data::new(checks.clone()));
    Routes::new()
        .route(Method::GET, "/health", health)
        .route(Method::GET, "/ready", ready)
        .route(Method::GET, "/metrics", metrics)
        .configure(config);
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

async fn metrics() -> HttpResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
        Ok(()) => HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}
