//! The write side's endpoints: each is a kind of command on a path.

use crate::answer::{answer, document_bytes, pending};
use crate::batch;
use crate::body::parse_payload;
use crate::compose::{Asked, command};
use crate::describe::{CommandBody, Sent};
use crate::gateway::Gateway;
use actix_web::{HttpRequest, HttpResponse, web};
use twh_domain::commands::CommandKind;
use twh_edge::access::{self, EachSender, Sends, each_sender};
use twh_edge::auth::{Caller, Identity};
use twh_edge::error::ApiError;
use twh_edge::headers::{Prefer, idempotency_key, if_match, if_match_missing, traceparent};
use twh_edge::limits::cost_of_batch;
use twh_edge::request::RequestId;
use twh_edge::room::has_room;
use twh_edge::routes::Routes;
use uuid::Uuid;

/// The write side's routes; they need a `web::Data<Gateway>`.
#[must_use]
pub fn routes() -> Routes {
    each_sender(Senders(Routes::new().on(access::BatchCommands, batch::handle))).0
}

/// A route for each endpoint that sends a command.
struct Senders(Routes);

impl EachSender for Senders {
    fn sender<E: Sends>(self, endpoint: E) -> Self {
        let handler =
            async |caller: Caller<E>, request: HttpRequest, gateway: web::Data<Gateway>, body: CommandBody<E>| {
                handle(E::COMMAND, &request, &caller, &gateway, &body.json.0).await.map(Sent::<E>::from)
            };
        Self(self.0.on(endpoint, handler))
    }
}

async fn handle(
    kind: &CommandKind,
    request: &HttpRequest,
    caller: &Identity,
    gateway: &Gateway,
    body: &[u8],
) -> Result<HttpResponse, ApiError> {
    let key = idempotency_key(request)?;
    let subject = subject(kind, request)?;
    let expected_version = if_match(request)?;
    let conditional = request.headers().contains_key(actix_web::http::header::IF_MATCH);
    if kind.if_match && !conditional {
        return Err(if_match_missing());
    }
    let payload = parse_payload(kind, body)?;
    submit(request, caller, gateway, key, vec![Asked { subject, expected_version, payload }], false).await
}

/// The id in the path, where there is one. What is no id names nothing.
fn subject(kind: &CommandKind, request: &HttpRequest) -> Result<Option<Uuid>, ApiError> {
    let Some(text) = request.match_info().get("id") else { return Ok(None) };
    Uuid::parse_str(text).map(Some).map_err(|_| ApiError::not_found(kind.subject.noun()))
}

/// Sends a command and answers with what became of it, or with 202 when that takes too long or is not waited for.
pub(crate) async fn submit(
    request: &HttpRequest,
    caller: &Identity,
    gateway: &Gateway,
    key: String,
    asked: Vec<Asked>,
    atomic: bool,
) -> Result<HttpResponse, ApiError> {
    let request_id = RequestId::of(request);
    let prefer = Prefer::of(request.headers());
    let paid = if atomic { cost_of_batch(asked.len()) } else { 1 };
    let command = command(caller, &request_id, key, asked);
    let held = gateway.weigh(request, caller.tenant_id, &[&command], paid, atomic || prefer.respond_async).await?;
    let mut acknowledged =
        gateway.hand_over(&command, traceparent(request.headers()).as_deref())?.acknowledged().await?;
    let position = acknowledged.position;
    if !prefer.respond_async
        && let Some(outcome) = acknowledged.outcome(gateway.outcome_wait(prefer.wait)).await
    {
        // Documents that are too long to be answered, or for which there is no room now, are found by the command's id.
        let outcome = gateway.with_documents(outcome).await?;
        let outcome = outcome.filter(|outcome| has_room(request, caller.tenant_id, document_bytes(outcome)));
        return Ok(match outcome {
            Some(outcome) => answer(&outcome, atomic, &request_id),
            None => pending(command.command_id, position),
        });
    }
    acknowledged.keep(held);
    Ok(pending(command.command_id, position))
}
