//! The write side's endpoints: each is a kind of command on a path.

use crate::answer::{answer, pending};
use crate::batch;
use crate::compose::{Asked, command};
use crate::gateway::Gateway;
use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use twh_edge::auth::Caller;
use twh_edge::body::{JsonBody, parse_payload};
use twh_edge::error::ApiError;
use twh_edge::headers::{Prefer, idempotency_key, if_match, if_match_missing, traceparent};
use twh_edge::request::RequestId;
use twh_edge::routes::Routes;
use uuid::Uuid;

/// Method, path, kind of command. A path with `{id}` acts on what is there; one without makes something new.
const ENDPOINTS: &[(Method, &str, &str)] = &[
    (Method::POST, "/v1/items", "item.create"),
    (Method::PATCH, "/v1/items/{id}", "item.update"),
    (Method::POST, "/v1/locations", "location.create"),
    (Method::PATCH, "/v1/locations/{id}", "location.update"),
    (Method::POST, "/v1/suppliers", "supplier.create"),
    (Method::PATCH, "/v1/suppliers/{id}", "supplier.update"),
    (Method::POST, "/v1/purchase_orders", "purchase_order.create"),
    (Method::POST, "/v1/purchase_orders/{id}/order", "purchase_order.order"),
    (Method::POST, "/v1/purchase_orders/{id}/receive", "purchase_order.receive"),
    (Method::POST, "/v1/purchase_orders/{id}/close", "purchase_order.close"),
    (Method::POST, "/v1/purchase_orders/{id}/cancel", "purchase_order.cancel"),
    (Method::POST, "/v1/sales_orders", "sales_order.create"),
    (Method::POST, "/v1/sales_orders/{id}/allocate", "sales_order.allocate"),
    (Method::POST, "/v1/sales_orders/{id}/ship", "sales_order.ship"),
    (Method::POST, "/v1/sales_orders/{id}/close", "sales_order.close"),
    (Method::POST, "/v1/sales_orders/{id}/cancel", "sales_order.cancel"),
    (Method::POST, "/v1/transfers", "transfer.create"),
    (Method::POST, "/v1/transfers/{id}/dispatch", "transfer.dispatch"),
    (Method::POST, "/v1/transfers/{id}/receive", "transfer.receive"),
    (Method::POST, "/v1/transfers/{id}/close", "transfer.close"),
    (Method::POST, "/v1/transfers/{id}/cancel", "transfer.cancel"),
    (Method::POST, "/v1/returns", "return.create"),
    (Method::POST, "/v1/adjustments", "adjustment.create"),
    (Method::POST, "/v1/counts", "count.create"),
    (Method::POST, "/v1/reservations", "reservation.create"),
    (Method::POST, "/v1/reservations/{id}/release", "reservation.release"),
];

/// The write side's routes; they need a `web::Data<Gateway>`.
#[must_use]
pub fn routes() -> Routes {
    let table = Routes::new().on(Method::POST, "/v1/commands:batch", batch::handle);
    ENDPOINTS.iter().fold(table, |table, (method, path, kind)| {
        let handler = move |request: HttpRequest, caller: Caller, gateway: web::Data<Gateway>, body: JsonBody| async move {
            handle(kind, &request, &caller, &gateway, &body.0).await
        };
        table.on(method.clone(), path, handler)
    })
}

/// True for what must say which version it is meant for: updates, and ends that cannot be taken back.
pub(crate) fn needs_if_match(kind: &str) -> bool {
    matches!(kind.rsplit('.').next(), Some("update" | "cancel" | "close"))
}

async fn handle(
    kind: &str,
    request: &HttpRequest,
    caller: &Caller,
    gateway: &Gateway,
    body: &[u8],
) -> Result<HttpResponse, ApiError> {
    let key = idempotency_key(request)?;
    let subject = subject(kind, request)?;
    let expected_version = if_match(request)?;
    let conditional = request.headers().contains_key(actix_web::http::header::IF_MATCH);
    if needs_if_match(kind) && !conditional {
        return Err(if_match_missing());
    }
    let payload = parse_payload(kind, body)?;
    submit(request, caller, gateway, key, vec![Asked { subject, expected_version, payload }], false).await
}

/// The id in the path, where there is one. What is no id names nothing.
fn subject(kind: &str, request: &HttpRequest) -> Result<Option<Uuid>, ApiError> {
    let Some(text) = request.match_info().get("id") else { return Ok(None) };
    let noun = kind.split('.').next().unwrap_or_default().replace('_', " ");
    Uuid::parse_str(text).map(Some).map_err(|_| ApiError::not_found(&noun))
}

/// Sends a command and answers with what became of it, or with 202 when that takes too long or is not waited for.
pub(crate) async fn submit(
    request: &HttpRequest,
    caller: &Caller,
    gateway: &Gateway,
    key: String,
    asked: Vec<Asked>,
    atomic: bool,
) -> Result<HttpResponse, ApiError> {
    let request_id = RequestId::of(request);
    let prefer = Prefer::of(request.headers());
    let command = command(caller, &request_id, key, asked);
    let mut acknowledged =
        gateway.hand_over(&command, traceparent(request.headers()).as_deref())?.acknowledged().await?;
    if !prefer.respond_async {
        let wait = prefer.wait.map_or_else(|| gateway.outcome_wait(), |wait| wait.min(gateway.outcome_wait()));
        if let Some(outcome) = acknowledged.outcome(wait).await {
            return Ok(answer(&outcome, atomic, &request_id));
        }
    }
    Ok(pending(command.command_id, acknowledged.position))
}
