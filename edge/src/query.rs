//! Query parameters: known ones with sound values; anything else is refused by name, not passed over.

use crate::error::{ApiError, ErrorCode};
use crate::openapi::{Describe, Operation};
use actix_web::{FromRequest, HttpRequest, dev};
use futures::future::{Ready, ready};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::convert::Infallible;
use std::marker::PhantomData;
use twh_domain::validate::short;

/// Rows in a page where the client does not say.
const LIMIT_DEFAULT: i64 = 50;
/// Most rows in a page.
pub const LIMIT_MAX: i64 = 1_000;

/// Reads the query; its type denies unknown fields.
fn parse<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
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

/// The query parameters of a request, which are the fields of a type. They are read when asked for: by then, the caller is
/// known.
#[derive(Debug)]
pub struct Query<T> {
    request: HttpRequest,
    fields: PhantomData<T>,
}

impl<T: DeserializeOwned> Query<T> {
    /// Reads them.
    pub fn read(&self) -> Result<T, ApiError> {
        parse(&self.request)
    }
}

impl<T> FromRequest for Query<T> {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        ready(Ok(Self { request: request.clone(), fields: PhantomData }))
    }
}

impl<T: JsonSchema> Describe for Query<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.takes_query::<T>();
    }
}

/// A parameter that cannot be used.
#[must_use]
pub fn invalid(parameter: &str, problem: &str) -> ApiError {
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
