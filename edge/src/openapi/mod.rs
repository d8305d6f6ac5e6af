//! The API's description (OpenAPI 3.1), made from the handlers: what a handler takes and answers with stands in its type, and
//! each such type tells of itself here.

mod document;

pub use document::Document;
pub(crate) use document::code_schema;

use crate::access::{EndpointInfo, Need};
use crate::error::{ApiError, ErrorCode};
use actix_web::{HttpRequest, web};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use twh_domain::commands::{CommandKind, Shape};

/// Where schemas of what clients send stand until it is known whether what we answer has the same.
const INPUTS: &str = "/components/inputs";
const OUTPUTS: &str = "/components/schemas";

/// Something that a handler takes or answers with, and that an operation's description tells of.
pub trait Describe {
    /// Adds itself to an operation.
    fn describe(operation: &mut Operation<'_>);
}

/// Describes an endpoint's operation by its handler's types.
pub(crate) fn describe<A: Describe, O: Describe>(operation: &mut Operation<'_>) {
    A::describe(operation);
    O::describe(operation);
}

/// The schemas of all operations so far: what is taken, and what is answered.
pub struct Schemas {
    inputs: SchemaGenerator,
    outputs: SchemaGenerator,
}

fn settings(path: &'static str) -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = path.into();
        settings.meta_schema = None;
    })
}

impl Default for Schemas {
    fn default() -> Self {
        Self {
            inputs: settings(INPUTS).for_deserialize().into_generator(),
            outputs: settings(OUTPUTS).for_serialize().into_generator(),
        }
    }
}

/// The description of one endpoint, while it is made.
pub struct Operation<'a> {
    endpoint: &'a EndpointInfo,
    schemas: &'a mut Schemas,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Map<String, Value>>,
    says_what_it_reflects: bool,
    refusals: BTreeSet<ErrorCode>,
}

/// Refused by every endpoint that someone may call.
const TO_CALLERS: &[ErrorCode] = &[
    ErrorCode::InvalidTenantId,
    ErrorCode::Unauthenticated,
    ErrorCode::Forbidden,
    ErrorCode::IpNotAllowed,
    ErrorCode::TooManyAttempts,
    ErrorCode::RateLimited,
    ErrorCode::Overloaded,
];
/// Refused by what reads a body.
const OF_BODIES: &[ErrorCode] =
    &[ErrorCode::MalformedJson, ErrorCode::BodyTooLarge, ErrorCode::UnsupportedMediaType, ErrorCode::ValidationFailed];
/// Refused by what sends a command.
const OF_COMMANDS: &[ErrorCode] = &[
    ErrorCode::IdempotencyKeyRequired,
    ErrorCode::IdempotencyKeyInvalid,
    ErrorCode::IdempotencyKeyMismatch,
    ErrorCode::InvalidIfMatch,
    ErrorCode::PreconditionFailed,
    ErrorCode::Duplicate,
    ErrorCode::UnknownReference,
    ErrorCode::QuantityOutOfRange,
    ErrorCode::DocumentTooLarge,
    ErrorCode::OutputTooLarge,
    ErrorCode::CommandLogUnavailable,
    ErrorCode::LedgerHalted,
];
/// Refused by commands that move stock or promise it.
const OF_MOVES: &[ErrorCode] = &[
    ErrorCode::InsufficientStock,
    ErrorCode::QuantityExceeded,
    ErrorCode::IllegalTransition,
    ErrorCode::UnknownLine,
    ErrorCode::ItemNotStocked,
];

impl<'a> Operation<'a> {
    fn new(endpoint: &'a EndpointInfo, schemas: &'a mut Schemas) -> Self {
        let mut operation = Self {
            endpoint,
            schemas,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            says_what_it_reflects: false,
            refusals: BTreeSet::from([ErrorCode::Internal, ErrorCode::ServiceUnavailable]),
        };
        operation.refusals.extend(endpoint.refuses);
        for name in endpoint.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            let schema = match name {
                "sequence" => json!({ "type": "integer", "format": "int64", "minimum": 1 }),
                _ => json!({ "type": "string", "format": "uuid" }),
            };
            operation.parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
            operation.refusals.insert(ErrorCode::NotFound);
        }
        operation
    }

    /// The endpoint that is described.
    #[must_use]
    pub const fn endpoint(&self) -> &EndpointInfo {
        self.endpoint
    }

    /// The schema of something that is answered.
    pub fn output<T: JsonSchema>(&mut self) -> Schema {
        self.schemas.outputs.subschema_for::<T>()
    }

    /// Schemas of what is answered.
    pub const fn outputs(&mut self) -> &mut SchemaGenerator {
        &mut self.schemas.outputs
    }

    /// Schemas of what is taken.
    pub const fn inputs(&mut self) -> &mut SchemaGenerator {
        &mut self.schemas.inputs
    }

    /// Takes a body of this schema; it may be left out where nothing in it is required.
    pub fn takes(&mut self, schema: &Schema) {
        let required = resolved(schema, self.schemas.inputs.definitions()).get("required").is_some();
        self.body = Some(json!({ "required": required, "content": { "application/json": { "schema": schema } } }));
        self.refuses(OF_BODIES);
    }

    /// Takes a form.
    pub fn takes_form(&mut self, schema: &Value) {
        self.body =
            Some(json!({ "required": true, "content": { "application/x-www-form-urlencoded": { "schema": schema } } }));
        self.refuses(&[ErrorCode::BodyTooLarge, ErrorCode::RequestTimeout, ErrorCode::UnsupportedMediaType]);
    }

    /// Takes a header.
    pub fn takes_header(&mut self, name: &str, required: bool, schema: &Value, description: &str) {
        let parameter =
            json!({ "name": name, "in": "header", "required": required, "schema": schema, "description": description });
        self.parameters.push(parameter);
    }

    /// Takes the query parameters that are the fields of a type.
    pub fn takes_query<T: JsonSchema>(&mut self) {
        let schema = T::json_schema(&mut self.schemas.inputs);
        let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut field = field.clone();
            let description = field.as_object_mut().and_then(|field| field.remove("description"));
            not_null(&mut field);
            let mut parameter = json!({ "name": name, "in": "query", "required": required.iter().any(|one| one == name), "schema": field });
            if let (Some(parameter), Some(description)) = (parameter.as_object_mut(), description) {
                parameter.insert("description".to_owned(), description);
            }
            self.parameters.push(parameter);
        }
        self.refuses(&[ErrorCode::InvalidQuery]);
    }

    /// Answers with a status: a body of this schema, where there is one, and these headers (see [`document`]).
    pub fn answers(&mut self, status: u16, description: &str, schema: Option<&Value>, headers: &[&str]) {
        let mut answer = Map::from_iter([("description".to_owned(), json!(description))]);
        if let Some(schema) = schema {
            answer.insert("content".to_owned(), json!({ "application/json": { "schema": schema } }));
        }
        let mut named: Map<String, Value> = headers.iter().map(|name| header(name)).collect();
        named.extend([header("X-Request-Id")]);
        if self.endpoint.need != Need::Nobody {
            named.extend([header("RateLimit"), header("RateLimit-Policy")]);
        }
        answer.insert("headers".to_owned(), Value::Object(named));
        self.answers.insert(status, answer);
    }

    /// Adds a media type to an answer.
    pub fn answers_also(&mut self, status: u16, media_type: &str, schema: &Value) {
        let content = self.answers.entry(status).or_default().entry("content").or_insert_with(|| json!({}));
        if let Some(content) = content.as_object_mut() {
            content.insert(media_type.to_owned(), json!({ "schema": schema }));
        }
    }

    /// Says the last command that its answers reflect.
    pub const fn says_what_it_reflects(&mut self) {
        self.says_what_it_reflects = true;
    }

    /// May refuse with these codes.
    pub fn refuses(&mut self, codes: &[ErrorCode]) {
        self.refusals.extend(codes);
    }

    /// Is for callers only.
    pub fn is_guarded(&mut self) {
        self.refuses(TO_CALLERS);
        let schema = json!({ "type": "string", "format": "uuid" });
        self.takes_header("X-Tenant-ID", false, &schema, "In which of their tenants a person acts.");
    }

    /// Sends a command, whose body it takes.
    pub fn sends_command(&mut self, command: &CommandKind) {
        let schema = command.schema(&mut self.schemas.inputs);
        self.takes(&schema);
        self.sends_commands();
        if command.shape == Shape::Act || command.moves_stock || command.stocked_items {
            self.refuses(OF_MOVES);
        }
        let conditional = command.if_match;
        if command.shape != Shape::Create {
            let tag =
                json!({ "type": "string", "pattern": "^(\\*|\"(0|-?[1-9][0-9]{0,17})\")$", "examples": ["\"3\""] });
            let description = "The ETag of the version that it is meant for: refused where there is another by now.";
            self.takes_header("If-Match", conditional, &tag, description);
            if conditional {
                self.refuses(&[ErrorCode::PreconditionRequired]);
            }
        }
        let key = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" });
        let description = "Your name for what you want done: the same on each retry of it, which then changes nothing.";
        self.takes_header("Idempotency-Key", true, &key, description);
    }

    /// May refuse as any command does.
    pub fn refuses_as_commands(&mut self) {
        self.refuses(OF_MOVES);
        self.refuses(&[ErrorCode::NotFound, ErrorCode::PreconditionRequired]);
    }

    /// Sends commands: may be told not to wait for them, and is told where they are.
    pub fn sends_commands(&mut self) {
        self.refuses(OF_COMMANDS);
        let prefer = json!({ "type": "string", "examples": ["respond-async", "wait=2"] });
        self.takes_header("Prefer", false, &prefer, "`respond-async`, or `wait=` and seconds (RFC 7240).");
    }

    fn into_value(mut self) -> Value {
        if self.says_what_it_reflects {
            for headers in self.answers.values_mut().filter_map(|answer| answer.get_mut("headers")?.as_object_mut()) {
                headers.extend([header("X-TWH-Reflects")]);
            }
        }
        let mut answers: Map<String, Value> =
            self.answers.into_iter().map(|(status, answer)| (status.to_string(), Value::Object(answer))).collect();
        let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
        for code in self.refusals {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
        for (status, codes) in by_status {
            let lines: Vec<_> = codes.iter().map(|code| format!("`{}`: {}", code.name(), code.meaning())).collect();
            let mut headers = Map::from_iter([header("X-Request-Id")]);
            if matches!(status, 429 | 503) {
                headers.extend([header("Retry-After")]);
            }
            answers.insert(
                status.to_string(),
                json!({ "description": lines.join("\n\n"), "headers": headers,
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } } }),
            );
        }
        let mut operation = json!({
            "operationId": snake_case(self.endpoint.name),
            "summary": self.endpoint.summary,
            "tags": [tag(self.endpoint.path)],
            "security": security(self.endpoint.need),
            "parameters": self.parameters,
            "responses": answers,
        });
        if let (Some(operation), Some(body)) = (operation.as_object_mut(), self.body) {
            operation.insert("requestBody".to_owned(), body);
        }
        operation
    }
}

fn header(name: &str) -> (String, Value) {
    (name.to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }))
}

/// A schema, or the one that it refers to.
fn resolved<'a>(schema: &'a Schema, definitions: &'a Map<String, Value>) -> &'a Value {
    let named = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    named.and_then(|name| definitions.get(name)).unwrap_or_else(|| schema.as_value())
}

/// A parameter is there or it is not: it is never `null`.
fn not_null(schema: &mut Value) {
    let Some(types) = schema.get_mut("type") else { return };
    if let Some(several) = types.as_array_mut() {
        several.retain(|one| one != "null");
        if let [only] = several.as_slice() {
            *types = only.clone();
        }
    }
}

fn security(need: Need) -> Value {
    match need {
        Need::Nobody => json!([]),
        Need::Caller | Need::Person => json!([{ "bearer": [] }]),
        Need::OneOf(any) => any.iter().map(|scope| json!({ "bearer": [scope.name()] })).collect(),
    }
}

/// `ListItems` as `list_items`.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// The resource that a path is of.
fn tag(path: &str) -> &str {
    match path.strip_prefix("/v1/") {
        Some(rest) => rest.split(['/', ':']).next().unwrap_or_default(),
        None => "auth",
    }
}

impl Describe for HttpRequest {
    fn describe(_: &mut Operation<'_>) {}
}

impl<T: ?Sized> Describe for web::Data<T> {
    fn describe(_: &mut Operation<'_>) {}
}

impl<T: Describe> Describe for Result<T, ApiError> {
    fn describe(operation: &mut Operation<'_>) {
        T::describe(operation);
    }
}

macro_rules! describe_tuple {
    ($($argument:ident)*) => {
        impl<$($argument: Describe,)*> Describe for ($($argument,)*) {
            #[allow(unused_variables, reason = "a handler may take nothing")]
            fn describe(operation: &mut Operation<'_>) {
                $($argument::describe(operation);)*
            }
        }
    };
}
describe_tuple!();
describe_tuple!(A);
describe_tuple!(A B);
describe_tuple!(A B C);
describe_tuple!(A B C D);
describe_tuple!(A B C D F);
describe_tuple!(A B C D F G);
