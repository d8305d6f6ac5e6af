//! What has a version: the client that has it already is told so, and gets nothing twice.

use actix_web::body::BoxBody;
use actix_web::{HttpRequest, HttpResponse, Responder};
use schemars::JsonSchema;
use serde_json::json;
use std::marker::PhantomData;
use twh_edge::headers::{etag, has_version};
use twh_edge::openapi::{Describe, Operation};

/// An answer with a `T` in it and its version as `ETag`; 304 where `If-None-Match` names it.
pub(crate) struct Versioned<T> {
    pub(crate) response: HttpResponse,
    of: PhantomData<T>,
}

impl<T> Versioned<T> {
    /// With this JSON, which is made where the client does not have it yet.
    pub(crate) fn new(request: &HttpRequest, version: Option<i64>, json: impl FnOnce() -> String) -> Self {
        let mut response = HttpResponse::Ok();
        if let Some(version) = version {
            response.insert_header(etag(version));
            if has_version(request, version) {
                return Self {
                    response: HttpResponse::NotModified().insert_header(etag(version)).finish(),
                    of: PhantomData,
                };
            }
        }
        Self { response: response.content_type("application/json").body(json()), of: PhantomData }
    }
}

impl<T> Responder for Versioned<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.response
    }
}

impl<T: JsonSchema> Describe for Versioned<T> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = json!(operation.output::<T>());
        describe_versioned(operation, &schema);
    }
}

/// Says what [`Versioned`] answers with.
pub(crate) fn describe_versioned(operation: &mut Operation<'_>, schema: &serde_json::Value) {
    operation.takes_header("If-None-Match", false, &json!({ "type": "string" }), "An ETag that you have.");
    operation.answers(200, "OK", Some(schema), &["ETag"]);
    operation.answers(304, "You have it already.", None, &["ETag"]);
}
