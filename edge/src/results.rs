//! What became of the commands of a batch, one by one: with the documents, or, where these are more than an answer may hold,
//! with what says where they are.

use crate::error::ApiError;
use crate::headers::etag;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use twh_domain::entity::EntityKind;
use twh_domain::id::CommandId;
use twh_domain::outcome::Position;
use twh_sinks::postgres::page::PAGE_BYTES_MAX;
use uuid::Uuid;

/// What became of one command of a batch.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BatchResult {
    /// As its endpoint would have answered.
    status: u16,
    /// The document, the error, or that it is not decided yet. Where the batch's answer would be larger than 4 MiB, it is
    /// `{"document_reference": {"type", "id", "version", "location"}}` in place of each document, and errors have no details.
    #[schemars(with = "Map<String, Value>")]
    body: Box<RawValue>,
    /// What stands for the body in an answer that would be too large.
    #[serde(skip)]
    short: Box<RawValue>,
    #[schemars(with = "String")]
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[schemars(with = "String")]
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[schemars(with = "CommandId")]
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<CommandId>,
    #[schemars(with = "Position")]
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[schemars(with = "bool")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
}

/// A document as a command left it.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Its kind.
    pub kind: EntityKind,
    /// Its id.
    pub id: Uuid,
    /// Its version.
    pub version: i64,
}

impl Made {
    /// The status that the command is answered with.
    #[must_use]
    pub const fn status(self) -> u16 {
        if self.version == 1 { 201 } else { 200 }
    }

    /// Where the document is.
    #[must_use]
    pub fn location(self) -> String {
        format!("/v1/{}/{}", self.kind.collection(), self.id)
    }

    /// What stands for the document where there is no room for it.
    #[must_use]
    pub fn reference(self) -> Value {
        let Self { kind, id, version } = self;
        json!({ "document_reference": { "type": kind.name(), "id": id, "version": version, "location": self.location() } })
    }
}

fn raw(value: &(impl Serialize + ?Sized)) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

impl BatchResult {
    fn new(status: u16, body: Box<RawValue>, short: Box<RawValue>) -> Self {
        Self { status, body, short, etag: None, location: None, command_id: None, position: None, replayed: None }
    }

    /// The document that a command made or changed.
    #[must_use]
    pub fn document(of: Made, document: &str) -> Self {
        let body = RawValue::from_string(document.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self::made(of, body)
    }

    /// Where that document is.
    #[must_use]
    pub fn reference(of: Made) -> Self {
        Self::made(of, raw(&of.reference()))
    }

    fn made(of: Made, body: Box<RawValue>) -> Self {
        let (etag, location) = (Some(etag(of.version).1), Some(of.location()));
        Self { etag, location, ..Self::new(of.status(), body, raw(&of.reference())) }
    }

    /// Why a command was refused.
    #[must_use]
    pub fn error(error: &ApiError, request_id: &str) -> Self {
        let short = error.clone().details(json!([]));
        Self::new(error.code().status().as_u16(), raw(&error.body(request_id)), raw(&short.body(request_id)))
    }

    /// That a command is durable and not decided yet.
    #[must_use]
    pub fn pending(command: CommandId, position: Position, location: String, body: &impl Serialize) -> Self {
        let decided_later = Self::new(202, raw(body), raw(body));
        Self {
            location: Some(location),
            command_id: Some(command),
            position: Some(position.to_string()),
            ..decided_later
        }
    }

    /// With the command, its place on the log, and whether it had been decided before.
    #[must_use]
    pub fn of_command(self, command: CommandId, position: Position, replayed: bool) -> Self {
        Self { command_id: Some(command), position: Some(position.to_string()), replayed: Some(replayed), ..self }
    }

    /// Of what was not done: it has no place on the log, and stands under no path.
    #[must_use]
    pub fn without_place(self) -> Self {
        Self { location: None, command_id: None, position: None, ..self }
    }

    fn shorten(&mut self) {
        self.body.clone_from(&self.short);
    }
}

/// What became of all commands of a batch: at most some 4 MiB.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Results {
    results: Vec<BatchResult>,
    #[serde(skip)]
    bytes: usize,
}

impl Results {
    /// About how many bytes it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Says where documents are in place of each.
    pub fn shorten(&mut self) {
        self.results.iter_mut().for_each(BatchResult::shorten);
    }

    /// Adds what became of the next.
    pub fn push(&mut self, mut next: BatchResult) {
        let was_short = self.bytes > PAGE_BYTES_MAX;
        self.bytes = self.bytes.saturating_add(next.body.get().len());
        if was_short {
            next.shorten();
        }
        self.results.push(next);
        if !was_short && self.bytes > PAGE_BYTES_MAX {
            self.shorten();
        }
    }
}

impl FromIterator<BatchResult> for Results {
    fn from_iter<I: IntoIterator<Item = BatchResult>>(all: I) -> Self {
        let mut results = Self::default();
        all.into_iter().for_each(|one| results.push(one));
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn results_that_are_too_large_together_say_where_their_documents_are() {
        let document = format!(r#"{{"text":"{}"}}"#, "x".repeat(1024 * 1024));
        let of = |number: u128| Made { kind: EntityKind::SalesOrder, id: Uuid::from_u128(number), version: 2 };
        let all = |count: u128| -> Value {
            let refused = ApiError::new(ErrorCode::InsufficientStock, "short").details(json!([{ "line": 1 }]));
            let mut results: Results = (0..count).map(|number| BatchResult::document(of(number), &document)).collect();
            results.push(BatchResult::error(&refused, "r"));
            serde_json::to_value(&results).unwrap()
        };
        let whole = all(3);
        assert_eq!(whole[2]["body"]["text"].as_str().unwrap().len(), 1024 * 1024);
        assert_eq!(whole[3]["body"]["details"], json!([{ "line": 1 }]));
        let short = all(6);
        for number in 0..6_usize {
            let reference = &short[number]["body"]["document_reference"];
            assert_eq!((&reference["type"], &reference["version"]), (&json!("sales_order"), &json!(2)), "{reference}");
            assert_eq!((&reference["location"], &short[number]["status"]), (&short[number]["location"], &json!(200)));
        }
        assert_eq!(
            (&short[6]["body"]["code"], &short[6]["body"]["details"]),
            (&json!("INSUFFICIENT_STOCK"), &json!([]))
        );
    }
}
