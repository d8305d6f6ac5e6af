//! Bodies: read within a limit, understood as JSON, refused with every field that is wrong.

use crate::error::{ApiError, ErrorCode};
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{FromRequest, HttpRequest, dev, web};
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use twh_domain::command::Payload;
use twh_domain::timestamp::Timestamp;

/// How much of a body that is too large is read and thrown away, so that the client gets to read the answer.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How far a client's clock may be ahead of ours.
const CLOCK_SKEW_MICROS: i64 = 5 * 60 * 1_000_000;

/// The largest body that is taken, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit(pub usize);

/// A body that is declared as JSON, within the limit; `{}` where it is empty.
#[derive(Debug)]
pub struct JsonBody(pub web::Bytes);

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let limit = request.app_data::<BodyLimit>().map_or(0, |limit| limit.0);
        let declared = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default().to_owned());
        let payload = payload.take();
        Box::pin(async move {
            let bytes = read(payload, limit).await?;
            if bytes.is_empty() {
                return Ok(Self(web::Bytes::from_static(b"{}")));
            }
            if declared.is_some_and(|text| is_json(&text)) {
                Ok(Self(bytes))
            } else {
                Err(ApiError::new(ErrorCode::UnsupportedMediaType, "send Content-Type: application/json"))
            }
        })
    }
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
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
    if length > limit {
        Err(ApiError::new(ErrorCode::BodyTooLarge, format!("the body may be {limit} bytes long at most")))
    } else {
        Ok(kept.freeze())
    }
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
    field_error(&error.path().to_string(), &error.inner().to_string())
}

fn field_error(path: &str, problem: &str) -> ApiError {
    // serde_json says where in the text; the path says it better.
    let problem = problem.split(" at line ").next().unwrap_or(problem);
    let field = if path == "." { "" } else { path };
    invalid(json!([{ "field": field, "problem": problem }]))
}

fn invalid(details: Value) -> ApiError {
    ApiError::new(ErrorCode::ValidationFailed, "the body is not what this endpoint takes; the details name each field")
        .details(details)
}

/// Reads and checks the body of a command.
pub fn parse_payload(kind: &str, body: &[u8]) -> Result<Payload, ApiError> {
    if !kind.ends_with(".update") {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let mut track = serde_path_to_error::Track::new();
        let read = Payload::deserialize_kind(kind, serde_path_to_error::Deserializer::new(&mut reader, &mut track));
        let payload = match read {
            None => return Err(unknown_kind(kind)),
            Some(Ok(payload)) => payload,
            Some(Err(error)) if error.is_data() => {
                return Err(field_error(&track.path().to_string(), &error.to_string()));
            }
            Some(Err(error)) => return Err(malformed(&error)),
        };
        reader.end().map_err(|error| malformed(&error))?;
        return check(payload);
    }
    payload_from_value(kind, parse(body)?)
}

/// Reads and checks the body of a command that stands inside a larger body.
pub fn payload_from_value(kind: &str, body: Value) -> Result<Payload, ApiError> {
    let Value::Object(mut body) = body else { return Err(field_error("", "is not an object")) };
    if kind.ends_with(".update") {
        nulls_to_clear(&mut body)?;
    }
    let mut track = serde_path_to_error::Track::new();
    match Payload::deserialize_kind(kind, serde_path_to_error::Deserializer::new(Value::Object(body), &mut track)) {
        None => Err(unknown_kind(kind)),
        Some(Ok(payload)) => check(payload),
        Some(Err(error)) => Err(field_error(&track.path().to_string(), &error.to_string())),
    }
}

fn unknown_kind(kind: &str) -> ApiError {
    invalid(json!([{ "field": "type", "problem": format!("there is no command {kind:?}") }]))
}

/// In a PATCH, `null` empties a field (RFC 7396); the command says so by name.
fn nulls_to_clear(body: &mut Map<String, Value>) -> Result<(), ApiError> {
    if body.contains_key("clear") {
        return Err(field_error("clear", "unknown field `clear`"));
    }
    let cleared: Vec<String> =
        body.iter().filter(|(_, value)| value.is_null()).map(|(field, _)| field.clone()).collect();
    body.retain(|_, value| !value.is_null());
    body.insert("clear".to_owned(), json!(cleared));
    Ok(())
}

fn check(payload: Payload) -> Result<Payload, ApiError> {
    let mut problems = payload.problems();
    if let Some(at) = payload.occurred_at() {
        let now = Timestamp::from(OffsetDateTime::now_utc());
        let problem = if at.micros() > now.micros() + CLOCK_SKEW_MICROS {
            Some("lies in the future")
        } else if at.micros() < 0 {
            Some("lies before 1970")
        } else {
            None
        };
        problems.extend(problem.map(|problem| twh_domain::validate::Problem {
            field: "occurred_at".to_owned(),
            problem: problem.to_owned(),
        }));
    }
    if problems.is_empty() { Ok(payload) } else { Err(invalid(json!(problems))) }
}

/// One command of `commands:batch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchEntry {
    /// The kind of command.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it acts upon; absent where it makes something new.
    pub id: Option<uuid::Uuid>,
    /// Its key, where the batch is not one command.
    pub idempotency_key: Option<String>,
    /// The version that the client saw.
    pub if_match: Option<String>,
    /// As the endpoint's body.
    #[serde(default)]
    pub body: Map<String, Value>,
}

/// The body of `commands:batch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchBody {
    /// All or nothing.
    #[serde(default)]
    pub atomic: bool,
    /// What to do, in order.
    pub commands: Vec<BatchEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn the_future_has_not_happened() {
        let body = r#"{"location_code": "M", "reason": "x", "lines": [{"sku": "A", "quantity": 1}], "occurred_at": "2999-01-01T00:00:00Z"}"#;
        assert_eq!(refusal("adjustment.create", body).1[0]["field"], "occurred_at");
    }
}
