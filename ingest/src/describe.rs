//! What commands are sent with and answered with, as types that tell the API's description of themselves.

use actix_web::body::BoxBody;
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, dev};
use futures::future::LocalBoxFuture;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::json;
use std::marker::PhantomData;
use twh_domain::commands::Shape;
use twh_domain::decimal::Quantity;
use twh_domain::id::{CommandId, ItemId, LocationId};
use twh_domain::outcome::Position;
use twh_edge::access::Sends;
use twh_edge::body::JsonBody;
use twh_edge::openapi::{Describe, Operation};
use twh_edge::results::{BatchResult, Results};

/// The body of an endpoint's command.
pub(crate) struct CommandBody<E> {
    pub(crate) json: JsonBody,
    endpoint: PhantomData<E>,
}

impl<E: Sends> FromRequest for CommandBody<E> {
    type Error = <JsonBody as FromRequest>::Error;
    type Future = LocalBoxFuture<'static, Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let json = JsonBody::from_request(request, payload);
        Box::pin(async move { Ok(Self { json: json.await?, endpoint: PhantomData }) })
    }
}

impl<E: Sends> Describe for CommandBody<E> {
    fn describe(operation: &mut Operation<'_>) {
        operation.sends_command(E::COMMAND);
    }
}

/// The answer to an endpoint's command: the document, or that it is not decided yet.
pub(crate) struct Sent<E> {
    response: HttpResponse,
    endpoint: PhantomData<E>,
}

impl<E> From<HttpResponse> for Sent<E> {
    fn from(response: HttpResponse) -> Self {
        Self { response, endpoint: PhantomData }
    }
}

impl<E> Responder for Sent<E> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.response
    }
}

fn collect_str<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

/// A command that is durable and not decided yet.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PendingCommand {
    pub(crate) command_id: CommandId,
    #[schemars(extend("enum" = ["pending"]))]
    pub(crate) status: &'static str,
    #[serde(serialize_with = "collect_str")]
    pub(crate) position: Position,
}

const OF_COMMANDS: [&str; 3] = ["X-TWH-Position", "X-TWH-Command-Id", "Idempotent-Replayed"];
const PENDING: &str = "It is durable and will be decided; Location says where to ask.";

impl<E: Sends> Describe for Sent<E> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = Some(json!(E::COMMAND.subject.schema(operation.outputs())));
        let [position, id, replayed] = OF_COMMANDS;
        if E::COMMAND.shape == Shape::Create {
            operation.answers(201, "Created.", schema.as_ref(), &["ETag", "Location", position, id, replayed]);
        } else {
            operation.answers(200, "Done.", schema.as_ref(), &["ETag", position, id, replayed]);
        }
        let pending = json!(operation.output::<PendingCommand>());
        operation.answers(202, PENDING, Some(&pending), &["Location", position, id]);
    }
}

/// The answer to a batch.
pub(crate) struct BatchSent(HttpResponse);

impl From<HttpResponse> for BatchSent {
    fn from(response: HttpResponse) -> Self {
        Self(response)
    }
}

impl Responder for BatchSent {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.0
    }
}

/// A quantity before and after.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BeforeAndAfter {
    pub(crate) before: Option<Quantity>,
    pub(crate) after: Option<Quantity>,
}

/// What a batch would change of a level.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StockChange {
    pub(crate) item_id: ItemId,
    pub(crate) location_id: LocationId,
    pub(crate) qty_on_hand: BeforeAndAfter,
    pub(crate) qty_reserved: BeforeAndAfter,
    pub(crate) available: BeforeAndAfter,
}

/// What became of a batch; of a rehearsal, what would become of it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BatchResults {
    #[schemars(with = "Vec<BatchResult>")]
    results: Results,
    /// `true` of a rehearsal.
    #[schemars(with = "bool")]
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    /// Of a rehearsal: the levels that would change, 10,000 at most.
    #[schemars(with = "Vec<StockChange>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stock_changes: Option<Vec<StockChange>>,
    /// Of a rehearsal: how many levels would change.
    #[schemars(with = "usize")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stock_changes_count: Option<usize>,
}

impl BatchResults {
    pub(crate) const fn of(results: Results) -> Self {
        Self { results, dry_run: None, stock_changes: None, stock_changes_count: None }
    }

    /// Of a rehearsal, with those of the levels that are told, and how many there are.
    pub(crate) const fn rehearsed(results: Results, changes: Vec<StockChange>, count: usize) -> Self {
        Self { results, dry_run: Some(true), stock_changes: Some(changes), stock_changes_count: Some(count) }
    }
}

impl Describe for BatchSent {
    fn describe(operation: &mut Operation<'_>) {
        operation.sends_commands();
        let key = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" });
        operation.takes_header("Idempotency-Key", false, &key, "Of an atomic batch, which is one command.");
        let schema = json!(operation.output::<BatchResults>());
        let [position, id, replayed] = OF_COMMANDS;
        operation.answers(200, "What became of each.", Some(&schema), &[position, id, replayed]);
        let pending = json!(operation.output::<PendingCommand>());
        operation.answers(202, PENDING, Some(&pending), &["Location", position, id]);
        // An atomic batch is refused as its commands are.
        operation.refuses_as_commands();
    }
}
