//! Query parameters: known ones with sound values; anything else is refused by name, not passed over.

use crate::error::{ApiError, ErrorCode};
use actix_web::HttpRequest;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Rows in a page where the client does not say.
const LIMIT_DEFAULT: i64 = 50;
/// Most rows in a page.
const LIMIT_MAX: i64 = 1_000;
/// Longest parameter or problem in an answer, in characters: both may quote what the client sent.
const QUOTE_LENGTH_MAX: usize = 300;

/// Reads the query; its type denies unknown fields.
pub fn parse<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(request.query_string().as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let problem = error.inner().to_string();
        // serde tells of a parameter that stands twice in words only.
        let twice = problem.strip_prefix("duplicate field `").and_then(|rest| rest.split('`').next());
        let path = error.path().to_string();
        let parameter = twice.unwrap_or(if path == "." { "" } else { &path });
        invalid(parameter, &problem)
    })
}

/// A parameter that cannot be used.
#[must_use]
pub fn invalid(parameter: &str, problem: &str) -> ApiError {
    let short = |text: &str| text.chars().take(QUOTE_LENGTH_MAX).collect::<String>();
    let (parameter, problem) = (short(parameter), short(problem));
    let name = if parameter.is_empty() { "a query parameter" } else { &parameter };
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
