//! What became of a command.

use crate::reader::Reader;
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use twh_domain::entity::EntityKind;
use twh_domain::id::CommandId;
use twh_domain::outcome::{Position, Refusal};
use twh_edge::access::GetCommand;
use twh_edge::error::ApiError;
use twh_edge::headers::etag;
use twh_edge::query;
use twh_edge::request::RequestId;
use twh_sinks::postgres::queries::{Document, OutcomeRow, applied_through, find_outcome};
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandQuery {
    position: Option<String>,
}

pub(crate) async fn one(reader: Reader<GetCommand>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let missing = || ApiError::not_found("command");
    let text = request.match_info().get("id").unwrap_or_default();
    let command = CommandId(Uuid::parse_str(text).map_err(|_| missing())?);
    let asked: CommandQuery = query::parse(&request)?;
    let position = match asked.position.as_deref().map(str::parse::<Position>) {
        None => None,
        Some(Ok(position)) => Some(position),
        Some(Err(_)) => return Err(query::invalid("position", "must be a partition and an offset such as 0-17")),
    };
    // How far the ledger has come is read first: what it had decided by then is found by the second look.
    let undecided = match position {
        Some(position) => applied_through(&reader.pool, position.partition)
            .await
            .map_err(ApiError::database)?
            .is_none_or(|next| next <= position.offset),
        None => false,
    };
    match find_outcome(&reader.pool, reader.tenant_id, command).await.map_err(ApiError::database)? {
        Some(outcome) => Ok(HttpResponse::Ok().json(decided(command, &outcome, &RequestId::of(&request)))),
        None if undecided => Ok(HttpResponse::Ok().insert_header(("Retry-After", "1")).json(json!({
            "command_id": command,
            "status": "pending",
            "position": position.map(|position| position.to_string()),
        }))),
        None => Err(missing()),
    }
}

fn decided(command: CommandId, outcome: &OutcomeRow, request_id: &str) -> Value {
    let (status, http_status, body) = match &outcome.refusal {
        Some((code, message, details)) => {
            let error =
                ApiError::from(&Refusal { code: code.clone(), message: message.clone(), details: details.clone() });
            ("rejected", error.code().status().as_u16(), error.body(request_id))
        }
        None => match outcome.documents.as_slice() {
            [(_, document)] => ("accepted", http_status(document), json!(raw(&document.json))),
            many => ("accepted", 200, json!({ "results": many.iter().map(entry).collect::<Vec<_>>() })),
        },
    };
    json!({
        "command_id": outcome.replay_of.unwrap_or(command),
        "status": status,
        "http_status": http_status,
        "body": body,
        "position": format!("{}-{}", outcome.position.0, outcome.position.1),
        "recorded_at": outcome.recorded_at,
        "replayed": outcome.replay_of.is_some(),
    })
}

const fn http_status(document: &Document) -> u16 {
    if document.version == 1 { 201 } else { 200 }
}

/// A document as the batch that made it answers it.
fn entry((kind, document): &(EntityKind, Document)) -> Value {
    let (_, tag) = etag(document.version);
    json!({
        "status": http_status(document),
        "etag": tag,
        "location": format!("/v1/{}/{}", kind.collection(), document.id),
        "body": raw(&document.json),
    })
}

fn raw(document: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(document.to_owned()).ok()
}
