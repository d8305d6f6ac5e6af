//! Bodies of commands: understood as the kind of command that they are for, refused with every field that is wrong.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use twh_domain::commands::{CommandKind, OPERATIONS_MAX, Payload, Shape};
use twh_domain::timestamp::Timestamp;
use twh_domain::validate::{Problem, short};
use twh_edge::access::ENDPOINTS;
use twh_edge::body::{UniqueKeys, field_error, invalid, malformed, parse, refused, unique_keys};
use twh_edge::error::ApiError;

/// How far a client's clock may be ahead of ours.
const CLOCK_SKEW_MICROS: i64 = 5 * 60 * 1_000_000;

/// Reads and checks the body of a command.
pub fn parse_payload(kind: &CommandKind, body: &[u8]) -> Result<Payload, ApiError> {
    // serde reads an array as a record too, field by field in its own order: no client can mean that.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let Value::Object(_) = parse::<Value>(body)? else { return Err(refused("", "is not an object")) };
    }
    if kind.shape != Shape::Update {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let mut track = serde_path_to_error::Track::new();
        let read =
            Payload::deserialize_kind(kind.name, serde_path_to_error::Deserializer::new(&mut reader, &mut track));
        let payload = match read {
            None => return Err(unknown_kind(kind.name)),
            Some(Ok(payload)) => payload,
            Some(Err(error)) if error.is_data() => {
                return Err(field_error(&track.path().to_string(), &error));
            }
            Some(Err(error)) => return Err(malformed(&error)),
        };
        reader.end().map_err(|error| malformed(&error))?;
        return check(payload);
    }
    let UniqueKeys(body) = parse(body)?;
    payload_from_value(kind, Value::Object(body))
}

/// Reads and checks the body of a command that stands inside a larger body.
pub fn payload_from_value(kind: &CommandKind, body: Value) -> Result<Payload, ApiError> {
    let Value::Object(mut body) = body else { return Err(refused("", "is not an object")) };
    if kind.shape == Shape::Update {
        nulls_to_clear(&mut body)?;
    }
    let mut track = serde_path_to_error::Track::new();
    match Payload::deserialize_kind(kind.name, serde_path_to_error::Deserializer::new(Value::Object(body), &mut track))
    {
        None => Err(unknown_kind(kind.name)),
        Some(Ok(payload)) => check(payload),
        Some(Err(error)) => Err(field_error(&track.path().to_string(), &error)),
    }
}

pub(crate) fn unknown_kind(kind: &str) -> ApiError {
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
        && body.expires_at.is_some_and(|at| at.micros() < 0 || !at.is_writable())
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
    #[serde(default, deserialize_with = "unique_keys")]
    pub body: Map<String, Value>,
}

/// The kinds of commands that clients send.
fn kinds(_: &mut SchemaGenerator) -> Schema {
    let kinds: Vec<_> = ENDPOINTS.iter().filter_map(|endpoint| endpoint.command).map(|command| command.name).collect();
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
    use twh_domain::commands::COMMAND_KINDS;
    use twh_edge::body::parse;
    use twh_edge::error::ErrorCode;

    fn refusal(kind: &str, body: &str) -> (ErrorCode, Value) {
        let error = parse_payload(CommandKind::named(kind), body.as_bytes()).unwrap_err();
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
        let Payload::UpdateItem(update) =
            parse_payload(CommandKind::named("item.update"), br#"{"name": null, "unit": "kg"}"#).unwrap()
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
            let error = parse_payload(CommandKind::named(kind), body.as_bytes()).unwrap_err();
            assert!(error.body("r").to_string().len() < 2_000);
        }
        let error = unknown_kind(&"x".repeat(100_000));
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
        fn hostile_bodies_are_refused_or_can_be_written_down(kind in prop::sample::select(COMMAND_KINDS), body in json_value()) {
            if let Ok(payload) = parse_payload(kind, body.to_string().as_bytes()) {
                prop_assert!(serde_json::to_string(&payload).is_ok());
            }
            let _ = payload_from_value(kind, body);
        }

        #[test]
        fn hostile_bytes_never_panic(kind in prop::sample::select(COMMAND_KINDS), body in prop::collection::vec(any::<u8>(), 0..200)) {
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
        let payload = parse_payload(CommandKind::named("reservation.create"), last.as_bytes()).unwrap();
        assert!(serde_json::to_string(&payload).unwrap().contains("9999-12-31T23:59:59.999999Z"));
    }

    #[test]
    fn the_future_has_not_happened() {
        let body = r#"{"location_code": "M", "reason": "x", "lines": [{"sku": "A", "quantity": 1}], "occurred_at": "2999-01-01T00:00:00Z"}"#;
        assert_eq!(refusal("adjustment.create", body).1[0]["field"], "occurred_at");
    }
}
