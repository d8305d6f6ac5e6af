//! Bodies: read within a limit, understood as JSON, refused with every field that is wrong.

use crate::error::{ApiError, ErrorCode};
use crate::openapi::{Describe, Operation};
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use actix_web::{FromRequest, HttpRequest, dev, web};
use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::marker::PhantomData;
use std::time::Duration;
use twh_domain::validate::short;

/// How much of a body that is too large is read and thrown away, so that the client gets to read the answer.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a body may take to arrive: a client that trickles it holds a connection, nothing else.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

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

/// The body is no JSON.
pub fn malformed(error: &serde_json::Error) -> ApiError {
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
pub fn field_error(path: &str, error: &serde_json::Error) -> ApiError {
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

/// One field is wrong.
pub fn refused(field: &str, problem: &str) -> ApiError {
    invalid(json!([{ "field": short(field), "problem": short(problem) }]))
}

/// Fields are wrong: a list of `field` and `problem`.
pub fn invalid(details: Value) -> ApiError {
    ApiError::new(ErrorCode::ValidationFailed, "the body is not what this endpoint takes; the details name each field")
        .details(details)
}

/// An object in which each field stands once: of two values, none is the one that was meant.
#[derive(Debug)]
pub struct UniqueKeys(pub Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueKeysVisitor)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<UniqueKeys, A::Error> {
        let mut fields = Map::new();
        while let Some((field, value)) = access.next_entry::<String, Value>()? {
            if fields.contains_key(&field) {
                return Err(serde::de::Error::custom(format_args!("duplicate field `{field}`")));
            }
            fields.insert(field, value);
        }
        Ok(UniqueKeys(fields))
    }
}

/// Reads a field that is such an object.
pub fn unique_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    UniqueKeys::deserialize(deserializer).map(|UniqueKeys(fields)| fields)
}
