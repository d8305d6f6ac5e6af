//! Query parameters: known ones with sound values; anything else is refused by name, not passed over.

use crate::error::{ApiError, ErrorCode};
use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;
use serde_json::json;

/// Rows in a page where the client does not say.
const LIMIT_DEFAULT: i64 = 50;
/// Most rows in a page.
const LIMIT_MAX: i64 = 1_000;

/// Reads the query; its type denies unknown fields.
pub fn parse<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    web::Query::<T>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| invalid("", &error.to_string()))
}

/// A parameter that cannot be used.
#[must_use]
pub fn invalid(parameter: &str, problem: &str) -> ApiError {
    let name = if parameter.is_empty() { "a query parameter" } else { parameter };
    ApiError::new(ErrorCode::InvalidQuery, format!("{name}: {problem}"))
        .details(json!([{ "field": parameter, "problem": problem }]))
}

/// The size of a page.
pub fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(invalid("limit", &format!("must be 1 to {LIMIT_MAX}"))),
    }
}
