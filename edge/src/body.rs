//! Bodies: read within a limit, understood as JSON, refused with every field that is wrong.

use crate::access::ENDPOINTS;
use crate::error::{ApiError, ErrorCode};
use crate::openapi::{Describe, Operation};
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use actix_web::{FromRequest, HttpRequest, dev, web};
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::marker::PhantomData;
use std::time::Duration;
use time::OffsetDateTime;
use twh_domain::command::{OPERATIONS_MAX, Payload};
use twh_domain::timestamp::Timestamp;
use twh_domain::validate::Problem;

/// How much of a body that is too large is read and thrown away, so that the client gets to read the answer.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a body may take to arrive: a client that trickles it holds a connection, nothing else.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// How far a client's clock may be ahead of ours.
const CLOCK_SKEW_MICROS: i64 = 5 * 60 * 1_000_000;
/// The first microsecond of the year 10000, which RFC 3339 has no way to write (section 1: years 0000 to 9999).
const YEAR_10000_MICROS: i64 = 253_402_300_800_000_000;
/// Longest field path or problem in an answer, in characters: both may quote what the client sent.
const QUOTE_LENGTH_MAX: usize = 300;

/// The largest body that is taken, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit(pub usize);

impl Default for BodyLimit {
    fn default() -> Self {
        Self(1024 * 1024)
    }
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// The largest form, in bytes: what a browser brings from elsewhere, from whom nobody knows yet.
const FORM_BYTES_MAX: usize = 256 * 1024;

/// What a request says of its body.
struct Declared {
    media: &'static str,
    is_media: bool,
    plain: bool,
    length: usize,
}

impl Declared {
    /// What it says of a body that is to be of a media type.
    fn of(request: &HttpRequest, media: &'static str) -> Self {
        let header = |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        Self {
            media,
            is_media: header(CONTENT_TYPE).is_some_and(|content_type| is_of(content_type, media)),
            plain: header(CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity")),
            length: header(CONTENT_LENGTH).and_then(|text| text.parse().ok()).unwrap_or(0),
        }
    }

    /// Reads the body, within the limit and in time.
    async fn read(&self, payload: dev::Payload, limit: usize) -> Result<web::Bytes, ApiError> {
        if self.length > DRAIN_BYTES_MAX {
            return Err(too_large(limit));
        }
        let late = |_| Err(ApiError::new(ErrorCode::RequestTimeout, "the body took too long to arrive"));
        actix_web::rt::time::timeout(ARRIVES_WITHIN, read(payload, limit)).await.unwrap_or_else(late)
    }

    /// Refuses a body that is of another type.
    fn must_hold(&self) -> Result<(), ApiError> {
        let problem = match (self.plain, self.is_media) {
            (true, true) => return Ok(()),
            (false, _) => "send the body without a Content-Encoding".to_owned(),
            (true, false) => format!("send Content-Type: {}", self.media),
        };
        Err(ApiError::new(ErrorCode::UnsupportedMediaType, problem))
    }
}

/// A body that is declared as JSON, within the limit; `{}` where it is empty.
#[derive(Debug)]
pub struct JsonBody(pub web::Bytes);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let limit = request.app_data::<BodyLimit>().copied().unwrap_or_default().0;
        let (declared, payload) = (Declared::of(request, JSON), payload.take());
        Box::pin(async move {
            let bytes = declared.read(payload, limit).await?;
            if bytes.is_empty() {
                return Ok(Self(web::Bytes::from_static(b"{}")));
            }
            declared.must_hold()?;
            Ok(Self(bytes))
        })
    }
}

/// A body that is declared as a form.
#[derive(Debug)]
pub struct FormBody(pub web::Bytes);

impl FromRequest for FormBody {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let (declared, payload) = (Declared::of(request, FORM), payload.take());
        Box::pin(async move {
            let bytes = declared.read(payload, FORM_BYTES_MAX).await?;
            declared.must_hold()?;
            Ok(Self(bytes))
        })
    }
}

/// A body of a known shape. It is understood when asked for: by then, the caller is known.
#[derive(Debug)]
pub struct Body<T> {
    json: JsonBody,
    shape: PhantomData<T>,
}

impl<T: DeserializeOwned> Body<T> {
    /// Reads it.
    pub fn read(&self) -> Result<T, ApiError> {
        parse(&self.json.0)
    }
}

impl<T> FromRequest for Body<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let json = JsonBody::from_request(request, payload);
        Box::pin(async move { Ok(Self { json: json.await?, shape: PhantomData }) })
    }
}

impl<T: JsonSchema> Describe for Body<T> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = operation.inputs().subschema_for::<T>();
        operation.takes(&schema);
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::BodyTooLarge, format!("the body may be {limit} bytes long at most"))
}

fn is_of(content_type: &str, media: &str) -> bool {
    content_type.split(';').next().is_some_and(|named| named.trim().eq_ignore_ascii_case(media))
}

async fn read(mut payload: dev::Payload, limit: usize) -> Result<web::Bytes, ApiError> {
    let mut kept = web::BytesMut::new();
    let mut length = 0_usize;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk
            .map_err(|error| ApiError::new(ErrorCode::MalformedJson, format!("the body could not be read: {error}")))?;
        length = length.saturating_add(chunk.len());
        if length <= limit {
            kept.extend_from_slice(&chunk);
        } else if length > DRAIN_BYTES_MAX {
            break;
        }
    }
    if length > limit { Err(too_large(limit)) } else { Ok(kept.freeze()) }
}

/// Reads a body of a known shape.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(json_error)?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::MalformedJson, format!("the body is not JSON: {error}"))
        .details(json!([{ "line": error.line(), "column": error.column() }]))
}

fn json_error(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    if !error.inner().is_data() {
        return malformed(error.inner());
    }
    field_error(&error.path().to_string(), error.inner())
}

/// What serde says about a field, told by its path.
fn field_error(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    // serde_json says where in the text; the path says it better.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = text.strip_suffix(&place).unwrap_or(&text);
    let parent = if path == "." { "" } else { path };
    let named = |prefix: &str| problem.strip_prefix(prefix)?.split('`').next();
    // These two serde tells of the object that the field is in.
    if let Some(field) = named("missing field `") {
        return refused(&join(parent, field), "is required");
    }
    if let Some(field) = named("duplicate field `") {
        return refused(&join(parent, field), "stands twice");
    }
    if problem.starts_with("unknown field") {
        return refused(parent, "is not a field of this body");
    }
    refused(parent, problem)
}

fn join(parent: &str, field: &str) -> String {
    match parent {
        "" => field.to_owned(),
        own if own == field || own.ends_with(&format!(".{field}")) => own.to_owned(),
        parent => format!("{parent}.{field}"),
    }
}

/// As much of a text as an answer quotes.
fn short(text: &str) -> String {
    text.chars().take(QUOTE_LENGTH_MAX).collect()
}

fn refused(field: &str, problem: &str) -> ApiError {
    invalid(json!([{ "field": short(field), "problem": short(problem) }]))
}

fn invalid(details: Value) -> ApiError {
    ApiError::new(ErrorCode::ValidationFailed, "the body is not what this endpoint takes; the details name each field")
        .details(details)
}

/// Reads and checks the body of a command.
pub fn parse_payload(kind: &str, body: &[u8]) -> Result<Payload, ApiError> {
    // serde reads an array as a record too, field by field in its own order: no client can mean that.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let Value::Object(_) = parse::<Value>(body)? else { return Err(refused("", "is not an object")) };
    }
    if !kind.ends_with(".update") {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let mut track = serde_path_to_error::Track::new();
        let read = Payload::deserialize_kind(kind, serde_path_to_error::Deserializer::new(&mut reader, &mut track));
        let payload = match read {
            None => return Err(unknown_kind(kind)),
            Some(Ok(payload)) => payload,
            Some(Err(error)) if error.is_data() => {
                return Err(field_error(&track.path().to_string(), &error));
            }
            Some(Err(error)) => return Err(malformed(&error)),
        };
        reader.end().map_err(|error| malformed(&error))?;
        return check(payload);
    }
    let Once(body) = parse(body)?;
    payload_from_value(kind, Value::Object(body))
}

/// Reads and checks the body of a command that stands inside a larger body.
pub fn payload_from_value(kind: &str, body: Value) -> Result<Payload, ApiError> {
    let Value::Object(mut body) = body else { return Err(refused("", "is not an object")) };
    if kind.ends_with(".update") {
        nulls_to_clear(&mut body)?;
    }
    let mut track = serde_path_to_error::Track::new();
    match Payload::deserialize_kind(kind, serde_path_to_error::Deserializer::new(Value::Object(body), &mut track)) {
        None => Err(unknown_kind(kind)),
        Some(Ok(payload)) => check(payload),
        Some(Err(error)) => Err(field_error(&track.path().to_string(), &error)),
    }
}

fn unknown_kind(kind: &str) -> ApiError {
    refused("type", &format!("there is no command {kind:?}"))
}

/// In a PATCH, `null` empties a field (RFC 7396); the command says so by name.
fn nulls_to_clear(body: &mut Map<String, Value>) -> Result<(), ApiError> {
    if body.contains_key("clear") {
        return Err(refused("clear", "is not a field of this body"));
    }
    let cleared: Vec<String> =
        body.iter().filter(|(_, value)| value.is_null()).map(|(field, _)| field.clone()).collect();
    body.retain(|_, value| !value.is_null());
    body.insert("clear".to_owned(), json!(cleared));
    Ok(())
}

fn check(payload: Payload) -> Result<Payload, ApiError> {
    let mut problems = payload.problems();
    let mut about = |field: &str, problem: &str| {
        problems.push(Problem { field: field.to_owned(), problem: problem.to_owned() });
    };
    if let Some(at) = payload.occurred_at() {
        let now = Timestamp::from(OffsetDateTime::now_utc());
        if at.micros() > now.micros() + CLOCK_SKEW_MICROS {
            about("occurred_at", "lies in the future");
        } else if at.micros() < 0 {
            about("occurred_at", "lies before 1970");
        }
    }
    // An offset can carry a sound text out of the years that can be written down: 9999-12-31T23:59:59-01:00.
    if let Payload::CreateReservation(body) = &payload
        && body.expires_at.is_some_and(|at| !(0..YEAR_10000_MICROS).contains(&at.micros()))
    {
        about("expires_at", "must lie in the years 1970 to 9999, UTC");
    }
    if problems.is_empty() {
        return Ok(payload);
    }
    // A client makes names of its own: the keys of metadata, and what an update is to empty.
    for Problem { field, problem } in &mut problems {
        (*field, *problem) = (short(field), short(problem));
    }
    Err(invalid(json!(problems)))
}

/// An object in which each field stands once: of two values, none is the one that was meant.
struct Once(Map<String, Value>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OnceVisitor)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Once;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Once, A::Error> {
        let mut fields = Map::new();
        while let Some((field, value)) = access.next_entry::<String, Value>()? {
            if fields.contains_key(&field) {
                return Err(serde::de::Error::custom(format_args!("duplicate field `{field}`")));
            }
            fields.insert(field, value);
        }
        Ok(Once(fields))
    }
}

fn once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    Once::deserialize(deserializer).map(|Once(fields)| fields)
}

/// One command of `commands:batch`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchEntry {
    /// The kind of command: the resource and the action.
    #[serde(rename = "type")]
    #[schemars(schema_with = "kinds")]
    pub kind: String,
    /// What it acts upon; left out where it makes something new.
    pub id: Option<uuid::Uuid>,
    /// Its key, where the batch is not one command.
    #[schemars(length(min = 1, max = 255))]
    pub idempotency_key: Option<String>,
    /// The version that the client saw.
    pub if_match: Option<String>,
    /// As the endpoint's body.
    #[serde(default, deserialize_with = "once")]
    pub body: Map<String, Value>,
}

/// The kinds of commands that clients send.
fn kinds(_: &mut SchemaGenerator) -> Schema {
    let kinds: Vec<_> = ENDPOINTS.iter().filter_map(|endpoint| endpoint.command).collect();
    json_schema!({ "type": "string", "enum": kinds })
}

/// The body of `commands:batch`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchBody {
    /// All or nothing.
    #[serde(default)]
    pub atomic: bool,
    /// What to do, in order.
    #[schemars(length(min = 1, max = OPERATIONS_MAX))]
    pub commands: Vec<BatchEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use twh_domain::command::KINDS;

    fn refusal(kind: &str, body: &str) -> (ErrorCode, Value) {
        let error = parse_payload(kind, body.as_bytes()).unwrap_err();
        (error.code(), error.body("r")["details"].clone())
    }

    #[test]
    fn what_is_wrong_is_named_by_field() {
        let cases = [
            (r#"{"sku": 7}"#, "sku"),
            (r#"{"sku": "A", "colour": "red"}"#, "colour"),
            (r#"{"sku": "A", "sale_price": {"amount": "1.2.3", "currency": "EUR"}}"#, "sale_price.amount"),
            (r#"{"sku": "A", "sale_price": {"amount": "1", "currency": "eur"}}"#, "sale_price.currency"),
            ("{\"sku\": \"A\\u0000B\"}", "sku"),
            (r#"{"sku": "😀"}"#, "sku"),
            (r#"{"sku": "A", "reorder_point": 1234567890123456789012345678901234567890}"#, "reorder_point"),
            (r#"{"sku": "A", "metadata": {"a": 1}}"#, "metadata.a"),
            (r#"{"name": "A"}"#, "sku"),
            (r#"{"sku": "A", "sku": "B"}"#, "sku"),
            (r#"{"sku": "A", "cost_price": {"amount": "1"}}"#, "cost_price.currency"),
            (r#"{"sku": null}"#, "sku"),
            (r#"[]"#, ""),
            (r#"["A", null, null, "stock", null, [], null, null, null, {}]"#, ""),
        ];
        for (body, field) in cases {
            let (code, details) = refusal("item.create", body);
            assert_eq!(code, ErrorCode::ValidationFailed, "{body}");
            assert_eq!(details[0]["field"], field, "{body}: {details}");
        }
        let (_, details) = refusal(
            "sales_order.create",
            r#"{"location_code": "M", "lines": [{"sku": "A", "quantity": 1}, {"sku": "B", "quantity": "x"}]}"#,
        );
        assert_eq!(details[0]["field"], "lines[1].quantity");
        let (_, details) = refusal("sales_order.create", r#"{"lines": [{"quantity": 0}]}"#);
        assert_eq!(details.as_array().unwrap().len(), 3, "all problems at once: {details}");
    }

    #[test]
    fn what_is_not_json_is_told_by_line_and_column() {
        for body in ["", "{", "[1,", "{\"sku\": \"A\"} x", "{\"sku\": \"\u{1}\"}", &"[".repeat(100_000)] {
            let (code, _) = refusal("item.create", body);
            assert!(matches!(code, ErrorCode::MalformedJson | ErrorCode::ValidationFailed), "{body:.20}");
        }
        assert_eq!(refusal("item.create", "{\"sku\"").0, ErrorCode::MalformedJson);
    }

    #[test]
    fn null_clears_in_an_update_and_only_what_may_be_empty() {
        let Payload::UpdateItem(update) = parse_payload("item.update", br#"{"name": null, "unit": "kg"}"#).unwrap()
        else {
            panic!()
        };
        assert_eq!(update.clear, ["name"]);
        assert_eq!(refusal("item.update", r#"{"unit": null}"#).1[0]["field"], "unit");
        assert_eq!(refusal("item.update", r#"{"clear": ["name"]}"#).1[0]["field"], "clear");
        assert_eq!(refusal("item.update", r#"{"sku": "B"}"#).1[0]["field"], "sku");
        assert_eq!(
            refusal("item.update", r#"{"name": "A", "name": null}"#).1[0]["field"],
            "name",
            "which one is meant?"
        );
    }

    #[test]
    fn an_answer_quotes_little_of_what_was_sent() {
        for (kind, body) in [
            ("item.create", format!(r#"{{"{}": 1}}"#, "x".repeat(100_000))),
            ("item.create", format!(r#"{{"sku": "A", "type": "{}"}}"#, "é".repeat(9_999))),
            ("item.create", format!(r#"{{"sku": "A", "metadata": {{"{}": ""}}}}"#, "x".repeat(100_000))),
            ("item.update", format!(r#"{{"{}": null}}"#, "x".repeat(100_000))),
        ] {
            let error = parse_payload(kind, body.as_bytes()).unwrap_err();
            assert!(error.body("r").to_string().len() < 2_000);
        }
        let error = payload_from_value(&"x".repeat(100_000), json!({})).unwrap_err();
        assert!(error.body("r").to_string().len() < 2_000);
    }

    /// JSON of the shapes that clients get wrong: the fields there are, with values of any kind.
    fn json_value() -> impl Strategy<Value = Value> {
        let field = prop::sample::select(vec![
            "sku",
            "name",
            "lines",
            "quantity",
            "line",
            "item_id",
            "location_code",
            "sale_price",
            "amount",
            "currency",
            "metadata",
            "barcodes",
            "occurred_at",
            "expires_at",
            "clear",
            "type",
            "\0",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            prop::sample::select(vec!["A", "M", "1.5", "EUR", "0000-01-01T00:00:00+23:59", "2026-03-01T09:30:00Z"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(field.clone(), inner, 0..6).prop_map(|fields| Value::Object(
                    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn hostile_bodies_are_refused_or_can_be_written_down(kind in prop::sample::select(KINDS), body in json_value()) {
            if let Ok(payload) = parse_payload(kind, body.to_string().as_bytes()) {
                prop_assert!(serde_json::to_string(&payload).is_ok());
            }
            let _ = payload_from_value(kind, body);
        }

        #[test]
        fn hostile_bytes_never_panic(kind in prop::sample::select(KINDS), body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_payload(kind, &body);
            let _ = parse::<BatchBody>(&body);
        }
    }

    /// A time that no calendar here can write would end whoever writes it down: the edge, and each ledger that reads the log.
    #[test]
    fn every_time_that_is_taken_can_be_written_down() {
        for time in ["0000-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z"] {
            let body = format!(r#"{{"sku": "A", "location_code": "M", "quantity": 1, "expires_at": "{time}"}}"#);
            assert_eq!(refusal("reservation.create", &body).1[0]["field"], "expires_at", "{time}");
        }
        let last = r#"{"sku": "A", "location_code": "M", "quantity": 1, "expires_at": "9999-12-31T23:59:59.999999Z"}"#;
        let payload = parse_payload("reservation.create", last.as_bytes()).unwrap();
        assert!(serde_json::to_string(&payload).unwrap().contains("9999-12-31T23:59:59.999999Z"));
    }

    #[test]
    fn the_future_has_not_happened() {
        let body = r#"{"location_code": "M", "reason": "x", "lines": [{"sku": "A", "quantity": 1}], "occurred_at": "2999-01-01T00:00:00Z"}"#;
        assert_eq!(refusal("adjustment.create", body).1[0]["field"], "occurred_at");
    }
}
