//! What bodies and answers of several endpoints have in common.

use actix_web::HttpRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use twh_domain::timestamp::Timestamp;
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::query::{self, LIMIT_MAX};
use uuid::Uuid;

/// A page of a list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl PageQuery {
    /// Where it begins, and how long it is.
    pub(crate) fn place(&self) -> Result<(Option<Uuid>, i64), ApiError> {
        Ok((self.cursor.as_deref().map(cursor::decode::<Uuid>).transpose()?, query::limit(self.limit)?))
    }
}

/// An id in a path; what is no id names nothing.
pub(crate) fn path_id(request: &HttpRequest, name: &str, noun: &str) -> Result<Uuid, ApiError> {
    let text = request.match_info().get(name).unwrap_or_default();
    Uuid::parse_str(text).map_err(|_| ApiError::not_found(noun))
}

/// The subscription in a path.
pub(crate) fn webhook_id(request: &HttpRequest) -> Result<Uuid, ApiError> {
    path_id(request, "id", "webhook subscription")
}

pub(crate) fn no_webhook() -> ApiError {
    ApiError::not_found("webhook subscription")
}

/// Tells null from what is left out.
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

pub(crate) fn later(at: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_micros(at.micros().saturating_add(seconds.saturating_mul(1_000_000)))
}
