//! Around every request: its id, its log line, its metrics, what is left of its limits, and the shape of its errors.

use crate::error::ApiError;
use crate::guard::protect;
use crate::held::held;
use crate::limits::{Admission, Payer};
use crate::room::settle;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tracing::Instrument as _;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REFLECTS: HeaderName = HeaderName::from_static("x-twh-reflects");
const REQUEST_ID_LENGTH_MAX: usize = 128;

twh_sinks::metrics! {
    REQUESTS: IntCounterVec = "twh_http_requests_total", "Requests answered.", labels ["method", "route", "status"];
    SECONDS: HistogramVec = "twh_http_request_seconds", "Time to answer, in seconds.", labels ["method", "route"], buckets [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
}

/// The request's id: the client's own where it is sound, else a new one.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

impl RequestId {
    /// The id of a request that passed the middleware.
    #[must_use]
    pub fn of(request: &HttpRequest) -> String {
        request.extensions().get::<Self>().map(|id| id.0.clone()).unwrap_or_default()
    }
}

/// The last command that an answer reflects: whoever reads for a request puts one into its extensions, and says it once it has
/// looked.
#[derive(Debug, Clone, Default)]
pub struct Reflected(Arc<OnceLock<Position>>);

impl Reflected {
    /// All that was read reflects what is up to this position. What is said first holds: what is read later reflects it too.
    pub fn through(&self, position: Position) {
        let _ = self.0.set(position);
    }

    fn write_header(&self, headers: &mut HeaderMap) {
        let value = self.0.get().and_then(|position| HeaderValue::from_str(&position.to_string()).ok());
        // A read model has said how far it is itself.
        if let Some(value) = value.filter(|_| !headers.contains_key(REFLECTS)) {
            headers.insert(REFLECTS, value);
        }
    }
}

/// Who called, for the log line; set once the caller is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerTenant(pub(crate) TenantId);

fn request_id(request: &ServiceRequest) -> String {
    let sound =
        |text: &&str| (1..=REQUEST_ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    let own = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sound);
    own.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The method as a metric's label: clients make methods up, and each would be a time series for good.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Requests of this process that are not answered yet.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// A request, until it is answered or its client is gone.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much the requests under way in this process are of so many, in per mille.
#[must_use]
pub fn under_way_per_mille(of: usize) -> u32 {
    let under_way = UNDER_WAY.load(Ordering::Relaxed);
    u32::try_from(under_way.saturating_mul(1_000) / of.max(1)).unwrap_or(u32::MAX)
}

/// The middleware: use with `actix_web::middleware::from_fn`.
pub async fn around<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let _under_way = UnderWay::begin();
    let begun = Instant::now();
    let id = request_id(&request);
    let method = method_label(request.method());
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", request_id = %id, tenant_id = tracing::field::Empty);
    let answered = next.call(request).instrument(span.clone()).await;
    let mut response = match answered {
        Ok(response) => shaped(response.map_into_boxed_body(), &id),
        // An error that did not become an answer on the way: the request is gone with it, the shape is not.
        Err(error) => {
            let response = shape(&error, error.as_response_error().status_code(), &id);
            return Err(InternalError::from_response(error, response).into());
        }
    };
    let size = response.response().body().size();
    let bytes = match size {
        BodySize::Sized(bytes) => bytes,
        // Who streams pays for it while it does.
        BodySize::None | BodySize::Stream => 0,
    };
    let paid = Payer::of(response.request()).pay(bytes).await;
    let settled = settle(response.request(), size);
    let room = settled.unwrap_or_else(|refused| {
        *response.response_mut() = refused.response(&id);
        None
    });
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let admission = paid.or_else(|| response.request().extensions().get::<Admission>().cloned());
    if let Some(admission) = admission {
        admission.write_headers(response.headers_mut());
    }
    let reflected = response.request().extensions().get::<Reflected>().cloned();
    if let Some(reflected) = reflected.filter(|_| response.status().is_success()) {
        reflected.write_header(response.headers_mut());
    }
    let request = response.request().clone();
    protect(&request, response.headers_mut());
    let route = response.request().match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let status = response.status().as_u16();
    let elapsed = begun.elapsed();
    REQUESTS.with_label_values(&[method, &route, &status.to_string()]).inc();
    SECONDS.with_label_values(&[method, &route]).observe(elapsed.as_secs_f64());
    if let Some(CallerTenant(tenant)) = response.request().extensions().get::<CallerTenant>() {
        span.record("tenant_id", tracing::field::display(tenant));
    }
    let entered = span.enter();
    let microseconds = elapsed.as_micros();
    if route.starts_with("/v1") {
        tracing::info!(method, route, status, microseconds, "answered");
    } else {
        tracing::debug!(method, route, status, microseconds, "answered");
    }
    drop(entered);
    Ok(response.map_body(|_, body| held(body, room)))
}

/// Gives an answer that carries an error the shape of our errors, with the request's id.
fn shaped(response: ServiceResponse<BoxBody>, id: &str) -> ServiceResponse<BoxBody> {
    let Some(error) = response.response().error() else { return response };
    let new = shape(error, response.status(), id);
    response.into_response(new)
}

fn shape(error: &Error, status: actix_web::http::StatusCode, id: &str) -> HttpResponse {
    match error.as_error::<ApiError>() {
        Some(known) => known.response(id),
        None => ApiError::from_status(status, &error.to_string()).response(id),
    }
}
