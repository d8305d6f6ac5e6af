//! What became of a command.

use crate::reader::Reader;
use actix_web::HttpRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use twh_domain::id::CommandId;
use twh_domain::outcome::{Position, Refusal, Resource};
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{GetCommand, may_see};
use twh_edge::answer::Answer;
use twh_edge::error::ApiError;
use twh_edge::query::{self, Query};
use twh_edge::request::RequestId;
use twh_edge::results::{BatchResult, Made, Results};
use twh_sinks::postgres::outcomes::{Answered, OutcomeRow, Reference, find_outcome};
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
    /// The body of that answer: the document, the results of a batch, or the error. Where the documents of a batch are more than
    /// an answer may hold, each result's `body` has a `document_reference` (`type`, `id`, `version`, `location`) instead.
    #[schemars(with = "serde_json::Map<String, Value>")]
    body: Box<RawValue>,
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
        Some(position) if !reader.owns(position) => {
            return Err(query::invalid("position", "is a position of a partition where you have no commands"));
        }
        Some(position) => !reader.has_applied(position).await?,
        None => false,
    };
    match find_outcome(&mut reader.ledger().await?, reader.tenant_id, command).await.map_err(ApiError::database)? {
        // Who may not see one of its documents is told no more than a stranger.
        Some(outcome) if !outcome.documents.kinds().all(|kind| may_see(reader.scopes, kind)) => Err(missing()),
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
            ("rejected", error.code().status().as_u16(), raw(&error.body(request_id)))
        }
        None => match &outcome.documents {
            Answered::Whole(documents) => match documents.as_slice() {
                [one] => ("accepted", made(one).status(), json_of(&one.document)),
                many => {
                    let of = |one: &Resource| BatchResult::document(made(one), &one.document);
                    ("accepted", 200, results(many.iter().map(of)))
                }
            },
            Answered::References(many) => {
                let of = |one: &Reference| Made { kind: one.kind, id: one.id, version: one.version };
                ("accepted", 200, results(many.iter().map(|one| BatchResult::reference(of(one)))))
            }
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

fn made(document: &Resource) -> Made {
    Made { kind: document.kind, id: document.id, version: document.version }
}

#[derive(Serialize)]
struct OfBatch {
    results: Results,
}

/// As the batch itself answers.
fn results(all: impl Iterator<Item = BatchResult>) -> Box<RawValue> {
    raw(&OfBatch { results: all.collect() })
}

fn raw(body: &impl Serialize) -> Box<RawValue> {
    to_raw_value(body).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn json_of(document: &str) -> Box<RawValue> {
    RawValue::from_string(document.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
