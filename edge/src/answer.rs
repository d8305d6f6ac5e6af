//! Answers, with what is in them in their type.

use crate::openapi::{Describe, Operation};
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::TryIntoHeaderPair;
use actix_web::{HttpRequest, HttpResponse, Responder};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use std::marker::PhantomData;
use twh_sinks::postgres::page;

/// An answer with a `T` in it, and its status.
#[derive(Debug)]
pub struct Answer<T, const STATUS: u16 = 200> {
    response: HttpResponse,
    of: PhantomData<T>,
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl<T: Serialize, const STATUS: u16> Answer<T, STATUS> {
    /// With this in it.
    pub fn of(body: &T) -> Self {
        Self { response: HttpResponse::build(status(STATUS)).json(body), of: PhantomData }
    }
}

impl<T, const STATUS: u16> Answer<T, STATUS> {
    /// With a `T` that is written down already.
    #[must_use]
    pub fn written(json: impl Into<String>) -> Self {
        let response = HttpResponse::build(status(STATUS)).content_type("application/json").body(json.into());
        Self { response, of: PhantomData }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, header: impl TryIntoHeaderPair) -> Self {
        if let Ok((name, value)) = header.try_into_pair() {
            self.response.headers_mut().insert(name, value);
        }
        self
    }
}

impl<T, const STATUS: u16> Responder for Answer<T, STATUS> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.response
    }
}

impl<T: JsonSchema, const STATUS: u16> Describe for Answer<T, STATUS> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = json!(operation.output::<T>());
        let headers: &[&str] = if STATUS == 201 { &["Location"] } else { &[] };
        operation.answers(STATUS, status(STATUS).canonical_reason().unwrap_or_default(), Some(&schema), headers);
    }
}

/// An answer with nothing in it: it is done.
#[derive(Debug, Clone, Copy)]
pub struct Done;

impl Responder for Done {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::NoContent().finish()
    }
}

impl Describe for Done {
    fn describe(operation: &mut Operation<'_>) {
        operation.answers(204, "Done.", None, &[]);
    }
}

/// A page of rows and where the next begins.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Send it as `cursor` for the next page; `null` at the end.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of what was found; `place` is where a row stands.
    pub fn of<R>(found: &page::Page<R>, place: impl Fn(&R) -> String, row: impl Fn(&R) -> T) -> Self {
        Self { data: found.rows.iter().map(row).collect(), next_cursor: next_cursor(found, place) }
    }
}

/// Where the page after a page begins; `place` is where a row stands.
pub fn next_cursor<R>(found: &page::Page<R>, place: impl Fn(&R) -> String) -> Option<String> {
    found.rows.last().filter(|_| found.has_more).map(place)
}
