//! `commands:batch`: many commands in one request, each with its own outcome; or, atomic, one command of many operations.

use crate::answer::{outcome_entry, pending_body, pending_location};
use crate::body::{BatchBody, BatchEntry, payload_from_value, unknown_kind};
use crate::compose::{Asked, command};
use crate::describe::{BatchResults, BatchSent};
use crate::gateway::{Acknowledged, Gateway, UnderWay};
use crate::rehearsal;
use crate::routes::submit;
use actix_web::{HttpRequest, HttpResponse, web};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_domain::commands::{Command, CommandKind, OPERATIONS_MAX, Shape};
use twh_domain::id::CommandId;
use twh_edge::access::{BatchCommands, need_of_command};
use twh_edge::auth::{Caller, Identity};
use twh_edge::body::Body;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::headers::{
    Prefer, check_idempotency_key, idempotency_key, if_match_missing, parse_if_match, traceparent,
};
use twh_edge::limits::{cost_of_batch, raise};
use twh_edge::query::Query;
use twh_edge::request::RequestId;
use twh_edge::results::{BatchResult, Results};
use twh_edge::room::has_room;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchQuery {
    /// Says what would come of it, and does none of it.
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn handle(
    caller: Caller<BatchCommands>,
    request: HttpRequest,
    gateway: web::Data<Gateway>,
    query: Query<BatchQuery>,
    body: Body<BatchBody>,
) -> Result<BatchSent, ApiError> {
    let query = query.read()?;
    let batch = body.read()?;
    if batch.commands.is_empty() || batch.commands.len() > OPERATIONS_MAX {
        let problem = json!([{ "field": "commands", "problem": format!("must hold 1 to {OPERATIONS_MAX} commands") }]);
        return Err(ApiError::new(ErrorCode::ValidationFailed, "the batch is empty or too long").details(problem));
    }
    raise(&request, 1, cost_of_batch(batch.commands.len())).await?;
    if query.dry_run {
        let key = request.headers().contains_key("idempotency-key").then(|| idempotency_key(&request)).transpose()?;
        return rehearsal::handle(&request, &caller, &gateway, key, batch).await.map(BatchSent::from);
    }
    let answered = if batch.atomic {
        atomic(&request, &caller, &gateway, batch).await
    } else {
        each(&request, &caller, &gateway, batch).await
    };
    answered.map(BatchSent::from)
}

/// What an entry asks for, checked as its endpoint would.
pub(crate) fn asked(caller: &Identity, entry: BatchEntry) -> Result<Asked, ApiError> {
    let kind = CommandKind::of(&entry.kind).ok_or_else(|| unknown_kind(&entry.kind))?;
    if let Some(need) = need_of_command(kind.name) {
        caller.must(need)?;
    }
    let payload = payload_from_value(kind, Value::Object(entry.body))?;
    let creates = kind.shape == Shape::Create;
    if kind.internal || creates == entry.id.is_some() {
        let problem = if kind.internal {
            json!([{ "field": "type", "problem": "is not for clients" }])
        } else if creates {
            json!([{ "field": "id", "problem": "must be left out: the id is made here" }])
        } else {
            json!([{ "field": "id", "problem": "is required: what does the command act upon?" }])
        };
        return Err(
            ApiError::new(ErrorCode::ValidationFailed, "the command is not one that can be sent").details(problem)
        );
    }
    let expected_version = match entry.if_match.as_deref() {
        // An ETag as it came, or the version in it.
        Some(text) if text.starts_with('"') || text == "*" => parse_if_match(text)?,
        Some(text) => parse_if_match(&format!("\"{text}\""))?,
        None if kind.if_match => return Err(if_match_missing()),
        None => None,
    };
    Ok(Asked { subject: entry.id, expected_version, payload })
}

async fn atomic(
    request: &HttpRequest,
    caller: &Identity,
    gateway: &Gateway,
    batch: BatchBody,
) -> Result<HttpResponse, ApiError> {
    let key = idempotency_key(request)?;
    let mut all = Vec::with_capacity(batch.commands.len());
    for (index, entry) in batch.commands.into_iter().enumerate() {
        all.push(asked(caller, entry).map_err(|error| in_batch(&error, index))?);
    }
    submit(request, caller, gateway, key, all, true).await
}

/// The error of one entry, as the error of the whole.
pub(crate) fn in_batch(error: &ApiError, index: usize) -> ApiError {
    let mut details = error.body("").get("details").cloned().unwrap_or_default();
    for row in details.as_array_mut().into_iter().flatten() {
        if let Some(row) = row.as_object_mut() {
            row.insert("index".to_owned(), json!(index));
        }
    }
    ApiError::new(error.code(), format!("command {index} of the batch: {error}")).details(details)
}

/// Every entry is handed over before any is waited for, so that the log has them in their order, together.
async fn each(
    request: &HttpRequest,
    caller: &Identity,
    gateway: &Gateway,
    batch: BatchBody,
) -> Result<HttpResponse, ApiError> {
    let request_id = RequestId::of(request);
    let trace = traceparent(request.headers());
    let prefer = Prefer::of(request.headers());
    let paid = cost_of_batch(batch.commands.len());
    let composed: Vec<_> = batch.commands.into_iter().map(|entry| compose(entry, caller, &request_id)).collect();
    let sound: Vec<_> = composed.iter().flatten().collect();
    let held = gateway.weigh(request, caller.tenant_id, &sound, paid, true).await?;
    let under_way: Vec<_> = composed
        .into_iter()
        .map(|command| {
            let command = command?;
            Ok((command.command_id, gateway.hand_over(&command, trace.as_deref())?))
        })
        .collect();
    let deadline = Instant::now() + gateway.outcome_wait(prefer.wait);
    let mut results = Results::default();
    let mut undecided = None;
    for entry in under_way {
        let settled = match entry {
            Ok((id, under_way)) => settle(gateway, id, under_way, prefer, deadline, &request_id).await,
            Err(error) => Err(error),
        };
        results.push(match settled {
            Ok(Settled::Decided(entry)) => entry,
            Ok(Settled::Undecided(entry, acknowledged)) => {
                undecided = Some(acknowledged);
                entry
            }
            Err(error) => BatchResult::error(&error, &request_id),
        });
    }
    if !has_room(request, caller.tenant_id, results.bytes()) {
        results.shorten();
    }
    // The last is decided after the others.
    if let Some(last) = undecided {
        last.keep(held);
    }
    Ok(HttpResponse::Ok().json(BatchResults::of(results)))
}

/// The command that an entry asks for.
fn compose(entry: BatchEntry, caller: &Identity, request_id: &str) -> Result<Command, ApiError> {
    let key = entry
        .idempotency_key
        .as_deref()
        .ok_or_else(|| ApiError::new(ErrorCode::IdempotencyKeyRequired, "give each command its idempotency_key"))?;
    let key = check_idempotency_key(key)?.to_owned();
    Ok(command(caller, request_id, key, vec![asked(caller, entry)?]))
}

/// What an entry is answered with.
enum Settled {
    Decided(BatchResult),
    Undecided(BatchResult, Acknowledged),
}

async fn settle(
    gateway: &Gateway,
    id: CommandId,
    under_way: UnderWay,
    prefer: Prefer,
    deadline: Instant,
    request_id: &str,
) -> Result<Settled, ApiError> {
    let mut acknowledged = under_way.acknowledged().await?;
    let wait = if prefer.respond_async { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
    let outcome = if wait.is_zero() { None } else { acknowledged.outcome(wait).await };
    let outcome = match outcome {
        Some(outcome) => gateway.with_documents(outcome).await?,
        None => None,
    };
    Ok(match outcome {
        Some(outcome) => Settled::Decided(outcome_entry(&outcome, request_id)),
        None => {
            let position = acknowledged.position;
            let entry = BatchResult::pending(id, position, pending_location(id, position), &pending_body(id, position));
            Settled::Undecided(entry, acknowledged)
        }
    })
}
