//! What became of a command.

use crate::reader::Reader;
use actix_web::HttpRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use twh_domain::entity::EntityKind;
use twh_domain::id::CommandId;
use twh_domain::outcome::{Position, Refusal};
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{GetCommand, may_see};
use twh_edge::answer::Answer;
use twh_edge::error::ApiError;
use twh_edge::headers::etag;
use twh_edge::query::{self, Query};
use twh_edge::request::RequestId;
use twh_sinks::postgres::queries::{Document, OutcomeRow, applied_through, find_outcome};
use uuid::Uuid;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandQuery {
    /// The `X-TWH-Position` of the command: tells one that is not decided yet from one that never was.
    #[schemars(with = "Option<Position>")]
    position: Option<String>,
}

/// What became of a command.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CommandOutcome {
    command_id: CommandId,
    #[schemars(extend("enum" = ["pending", "accepted", "rejected"]))]
    status: &'static str,
    /// Its place in the log.
    position: String,
    /// Where it is decided.
    #[serde(flatten)]
    decided: Option<Decided>,
}

/// The decision on a command.
#[derive(Serialize, JsonSchema)]
struct Decided {
    /// The status that the write was answered with, or would have been.
    http_status: u16,
    /// The body of that answer: the document, the results of a batch, or the error.
    #[schemars(with = "serde_json::Map<String, Value>")]
    body: Value,
    recorded_at: Timestamp,
    /// Whether its Idempotency-Key had been used for the same before.
    replayed: bool,
}

pub(crate) async fn one(
    reader: Reader<GetCommand>,
    request: HttpRequest,
    query: Query<CommandQuery>,
) -> Result<Answer<CommandOutcome>, ApiError> {
    let missing = || ApiError::not_found("command");
    let text = request.match_info().get("id").unwrap_or_default();
    let command = CommandId(Uuid::parse_str(text).map_err(|_| missing())?);
    let asked = query.read()?;
    let position = match asked.position.as_deref().map(str::parse::<Position>) {
        None => None,
        Some(Ok(position)) => Some(position),
        Some(Err(_)) => return Err(query::invalid("position", "must be a partition and an offset such as 0-17")),
    };
    // How far the ledger has come is read first: what it had decided by then is found by the second look.
    let undecided = match position {
        Some(position) => applied_through(&mut *reader.ledger().await?, position.partition)
            .await
            .map_err(ApiError::database)?
            .is_none_or(|next| next <= position.offset),
        None => false,
    };
    match find_outcome(&mut *reader.ledger().await?, reader.tenant_id, command).await.map_err(ApiError::database)? {
        // Who may not see one of its documents is told no more than a stranger.
        Some(outcome) if !outcome.documents.iter().all(|(kind, _)| may_see(reader.scopes, *kind)) => Err(missing()),
        Some(outcome) => Ok(Answer::of(&decided(command, &outcome, &RequestId::of(&request)))),
        None if undecided => {
            let position = position.map(|position| position.to_string()).unwrap_or_default();
            let pending = CommandOutcome { command_id: command, status: "pending", position, decided: None };
            Ok(Answer::of(&pending).header(("Retry-After", "1")))
        }
        None => Err(missing()),
    }
}

fn decided(command: CommandId, outcome: &OutcomeRow, request_id: &str) -> CommandOutcome {
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
    CommandOutcome {
        command_id: outcome.replay_of.unwrap_or(command),
        status,
        position: format!("{}-{}", outcome.position.0, outcome.position.1),
        decided: Some(Decided {
            http_status,
            body,
            recorded_at: outcome.recorded_at,
            replayed: outcome.replay_of.is_some(),
        }),
    }
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
