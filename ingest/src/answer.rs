//! From an outcome to an answer.

use crate::describe::{BatchResults, PendingCommand};
use actix_web::HttpResponse;
use twh_domain::id::CommandId;
use twh_domain::outcome::{Outcome, Position, Resource, Verdict};
use twh_edge::error::ApiError;
use twh_edge::headers::etag;
use twh_edge::results::{BatchResult, Made, Results};

/// The answer to a command of one operation, or of an atomic batch.
pub(crate) fn answer(outcome: &Outcome, atomic: bool, request_id: &str) -> HttpResponse {
    let mut response = match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => ApiError::from(refusal).response(request_id),
        Verdict::Accepted { resources, .. } if atomic => {
            let results: Results = resources.iter().map(entry).collect();
            HttpResponse::Ok().json(BatchResults::of(results))
        }
        Verdict::Accepted { resources, .. } => match resources.first() {
            Some(resource) => single(resource),
            None => ApiError::internal("an accepted command has no resource").response(request_id),
        },
    };
    let decided = outcome.replay_of.unwrap_or(outcome.command_id);
    insert(&mut response, "x-twh-position", &outcome.position.to_string());
    insert(&mut response, "x-twh-command-id", &decided.to_string());
    if outcome.replay_of.is_some() {
        insert(&mut response, "idempotent-replayed", "true");
    }
    response
}

fn insert(response: &mut HttpResponse, name: &'static str, value: &str) {
    if let Ok(value) = actix_web::http::header::HeaderValue::from_str(value) {
        response.headers_mut().insert(actix_web::http::header::HeaderName::from_static(name), value);
    }
}

const fn made(resource: &Resource) -> Made {
    Made { kind: resource.kind, id: resource.id, version: resource.version }
}

fn single(resource: &Resource) -> HttpResponse {
    let mut response = match resource.created {
        true => HttpResponse::Created(),
        false => HttpResponse::Ok(),
    };
    response.content_type("application/json").insert_header(etag(resource.version));
    if resource.created {
        response.insert_header(("Location", made(resource).location()));
    }
    response.body(resource.document.as_bytes().to_vec())
}

/// How long the documents of an outcome are.
pub(crate) fn document_bytes(outcome: &Outcome) -> usize {
    match outcome.verdict.as_ref() {
        Verdict::Rejected(_) => 0,
        Verdict::Accepted { resources, .. } => resources.iter().map(|resource| resource.document.len()).sum(),
    }
}

/// A document as an entry of a batch's answer.
pub(crate) fn entry(resource: &Resource) -> BatchResult {
    BatchResult::document(made(resource), &resource.document)
}

/// An outcome as an entry of a batch's answer.
pub(crate) fn outcome_entry(outcome: &Outcome, request_id: &str) -> BatchResult {
    let entry = match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => BatchResult::error(&ApiError::from(refusal), request_id),
        Verdict::Accepted { resources, .. } => match resources.first() {
            Some(resource) => entry(resource),
            None => BatchResult::error(&ApiError::internal("an accepted command has no resource"), request_id),
        },
    };
    let decided = outcome.replay_of.unwrap_or(outcome.command_id);
    entry.of_command(decided, outcome.position, outcome.replay_of.is_some())
}

/// The body that says that a command is durable and not decided yet.
pub(crate) const fn pending_body(command: CommandId, position: Position) -> PendingCommand {
    PendingCommand { command_id: command, status: "pending", position }
}

/// Where to ask what became of a command.
pub(crate) fn pending_location(command: CommandId, position: Position) -> String {
    format!("/v1/commands/{command}?position={position}")
}

/// The answer that says that a command is durable and not decided yet.
pub(crate) fn pending(command: CommandId, position: Position) -> HttpResponse {
    HttpResponse::Accepted()
        .insert_header(("Location", pending_location(command, position)))
        .insert_header(("X-TWH-Position", position.to_string()))
        .insert_header(("X-TWH-Command-Id", command.to_string()))
        .json(pending_body(command, position))
}
