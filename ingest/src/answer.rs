//! From an outcome to an answer.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde_json::json;
use twh_domain::id::CommandId;
use twh_domain::outcome::{Outcome, Position, Resource, Verdict};
use twh_edge::error::ApiError;
use twh_edge::headers::etag;

/// The answer to a command of one operation, or of an atomic batch.
pub(crate) fn answer(outcome: &Outcome, atomic: bool, request_id: &str) -> HttpResponse {
    let mut response = match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => ApiError::from(refusal).response(request_id),
        Verdict::Accepted { resources, .. } if atomic => {
            let results: Vec<_> = resources.iter().map(entry).collect();
            HttpResponse::Ok().json(json!({ "results": results }))
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

const fn status(resource: &Resource) -> StatusCode {
    if resource.created { StatusCode::CREATED } else { StatusCode::OK }
}

fn location(resource: &Resource) -> String {
    format!("/v1/{}/{}", resource.kind.collection(), resource.id)
}

fn single(resource: &Resource) -> HttpResponse {
    let mut response = HttpResponse::build(status(resource));
    response.content_type("application/json").insert_header(etag(resource.version));
    if resource.created {
        response.insert_header(("Location", location(resource)));
    }
    response.body(resource.document.as_bytes().to_vec())
}

/// A document as an entry of a batch's answer.
pub(crate) fn entry(resource: &Resource) -> serde_json::Value {
    let body: serde_json::Value = serde_json::from_str(&resource.document).unwrap_or_default();
    let (_, tag) = etag(resource.version);
    json!({ "status": status(resource).as_u16(), "etag": tag, "location": location(resource), "body": body })
}

/// An outcome as an entry of a batch's answer.
pub(crate) fn outcome_entry(outcome: &Outcome, request_id: &str) -> serde_json::Value {
    let mut entry = match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => error_entry(&ApiError::from(refusal), request_id),
        Verdict::Accepted { resources, .. } => match resources.first() {
            Some(resource) => entry(resource),
            None => error_entry(&ApiError::internal("an accepted command has no resource"), request_id),
        },
    };
    let decided = outcome.replay_of.unwrap_or(outcome.command_id);
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("command_id".to_owned(), json!(decided));
        entry.insert("position".to_owned(), json!(outcome.position.to_string()));
        entry.insert("replayed".to_owned(), json!(outcome.replay_of.is_some()));
    }
    entry
}

/// An error as an entry of a batch's answer.
pub(crate) fn error_entry(error: &ApiError, request_id: &str) -> serde_json::Value {
    json!({ "status": error.code().status().as_u16(), "body": error.body(request_id) })
}

/// The body that says that a command is durable and not decided yet.
pub(crate) fn pending_body(command: CommandId, position: Position) -> serde_json::Value {
    json!({ "command_id": command, "status": "pending", "position": position.to_string() })
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
