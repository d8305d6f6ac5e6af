//! What browsers are sent and bring, as types that tell the API's description of themselves.

use actix_web::body::BoxBody;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY, SET_COOKIE};
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, dev, web};
use serde_json::json;
use std::pin::Pin;
use twh_edge::body::FormBody;
use twh_edge::error::ApiError;
use twh_edge::openapi::{Describe, Operation};

/// Sends the browser to a provider, with a cookie that it comes back with.
pub(crate) struct ToProvider {
    pub(super) url: String,
    pub(super) cookie: String,
}

impl Responder for ToProvider {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Found()
            .insert_header((LOCATION, self.url))
            .insert_header((SET_COOKIE, self.cookie))
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            .finish()
    }
}

impl Describe for ToProvider {
    fn describe(operation: &mut Operation<'_>) {
        operation.answers(302, "To the identity provider.", None, &["Location"]);
    }
}

/// The metadata of our side.
pub(crate) struct Metadata(pub(super) String);

const METADATA_TYPE: &str = "application/samlmetadata+xml";

impl Responder for Metadata {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().content_type(METADATA_TYPE).body(self.0)
    }
}

impl Describe for Metadata {
    fn describe(operation: &mut Operation<'_>) {
        operation.answers(200, "The metadata (SAML 2.0).", None, &[]);
        operation.answers_also(200, METADATA_TYPE, &json!({ "type": "string" }));
    }
}

/// The form that a browser brings from a provider of SAML.
pub(crate) struct SamlForm(
    #[cfg_attr(not(feature = "saml"), expect(dead_code, reason = "never read"))] pub(super) web::Bytes,
);

impl FromRequest for SamlForm {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let form = FormBody::from_request(request, payload);
        Box::pin(async move { form.await.map(|form| Self(form.0)) })
    }
}

impl Describe for SamlForm {
    fn describe(operation: &mut Operation<'_>) {
        let text = json!({ "type": "string" });
        operation.takes_form(&json!({ "type": "object", "properties": { "SAMLResponse": text, "RelayState": text } }));
    }
}
