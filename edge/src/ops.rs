//! What the one who runs it asks: is it alive, is it ready, how is it doing.

use crate::routes::Routes;
use actix_web::http::Method;
use actix_web::{HttpResponse, web};
use futures::future::BoxFuture;
use prometheus::{Encoder as _, TextEncoder};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use time::OffsetDateTime;
use twh_domain::timestamp::Timestamp;
use twh_sinks::tasks::health;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks a part whether it is there.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A role of the process, whose parts say for themselves whether they work ([`health`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Its name.
    pub role: &'static str,
    /// Requests stand on it: without it the process is taken out of the load balancer.
    pub answers: bool,
    /// Requests stand on the whole of it: without any of its shares the process is taken out as well.
    pub answers_as_a_whole: bool,
}

/// What `/ready` tells.
#[derive(Clone, Default)]
pub struct Checks {
    /// What everything stands on, by name: it is asked each time.
    pub parts: Vec<(&'static str, Check)>,
    /// What some requests are answered without: asked as well, and told.
    pub besides: Vec<(&'static str, Check)>,
    /// What the process does.
    pub roles: Vec<Serving>,
    /// What works, and should be otherwise.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
struct ReadyQuery {
    /// Only this role is asked about.
    role: Option<String>,
}

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

async fn ready(checks: web::Data<Checks>, query: web::Query<ReadyQuery>) -> HttpResponse {
    let asked_for = query.role.as_deref();
    let roles: Vec<&Serving> =
        checks.roles.iter().filter(|one| asked_for.is_none_or(|name| one.role == name)).collect();
    if asked_for.is_some() && roles.is_empty() {
        return HttpResponse::NotFound().json(json!({ "status": "the process has no such role" }));
    }
    // A process that answers requests is taken from all tenants when it is not ready: not for what only some of them wait for.
    let answers = asked_for.is_none() && roles.iter().any(|one| one.answers);
    let (checked, besides) = futures::join!(ask(&checks.parts), ask(&checks.besides));
    let are_well = |of: &[(_, Result<(), String>)]| of.iter().all(|(_, answer)| answer.is_ok());
    let mut whole = are_well(&besides);
    let mut ready = are_well(&checked) && (whole || answers);
    let mut parts: serde_json::Map<_, _> = checked
        .into_iter()
        .chain(besides)
        .map(|(name, answer)| (name.to_owned(), json!(answer.err().unwrap_or_else(|| "ready".to_owned()))))
        .collect();
    for Serving { role, answers: serves, answers_as_a_whole } in roles {
        let standing = health::standing(role);
        whole &= standing.is_empty();
        let stands_for_requests = *serves || (*answers_as_a_whole && health::all_wait(role));
        ready &= standing.is_empty() || (answers && !stands_for_requests);
        let said = standing.iter().map(|one| format!("{}: {}", one.part, one.reason)).collect::<Vec<_>>().join("; ");
        parts.insert((*role).to_owned(), json!(if said.is_empty() { "ready" } else { &said }));
    }
    let (mut response, status) = match (ready, whole) {
        (true, true) => (HttpResponse::Ok(), "ready"),
        (true, false) => (HttpResponse::Ok(), "degraded"),
        (false, _) => (HttpResponse::ServiceUnavailable(), "not ready"),
    };
    let mut body = json!({ "status": status, "parts": parts });
    if let (Some(body), false) = (body.as_object_mut(), checks.warnings.is_empty()) {
        body.insert("warnings".to_owned(), json!(checks.warnings));
    }
    response.json(body)
}

/// Asks all at once.
async fn ask(checks: &[(&'static str, Check)]) -> Vec<(&'static str, Result<(), String>)> {
    let asked = checks.iter().map(|(name, check)| async move {
        let answer = tokio::time::timeout(CHECK_TIMEOUT, check()).await;
        (*name, answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned())))
    });
    futures::future::join_all(asked).await
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
