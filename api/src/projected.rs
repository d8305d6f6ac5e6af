//! Answers out of read models, which say what they reflect.

use crate::reader::{PAUSE_FIRST, PAUSE_MAX, Read};
use actix_web::body::BoxBody;
use actix_web::{HttpRequest, HttpResponse, Responder};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use std::time::Instant;
use twh_domain::outcome::Position;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::openapi::{Describe, Operation};
use twh_sinks::postgres::builds::{Freshness, Projection, freshness};
use twh_sinks::postgres::tenant::TenantConnection;

/// What a read model says, and the last command that it reflects.
pub(crate) struct Projected<T> {
    body: T,
    reflects: Option<Position>,
}

impl<T> Projected<T> {
    pub(crate) fn of(body: T, fresh: &Freshness) -> Self {
        Self { body, reflects: fresh.reflects }
    }
}

impl<T: Serialize> Responder for Projected<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        if let Some(position) = self.reflects {
            response.insert_header(("x-twh-reflects", position.to_string()));
        }
        response.json(&self.body)
    }
}

impl<T: JsonSchema> Describe for Projected<T> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = json!(operation.output::<T>());
        operation.answers(200, "OK", Some(&schema), &["X-TWH-Reflects"]);
        operation.refuses(&[ErrorCode::ServiceUnavailable]);
    }
}

impl Read {
    /// The build of a read model that answers, once it reflects what is asked for.
    pub(crate) async fn projected(
        &self,
        connection: &mut TenantConnection,
        projection: Projection,
    ) -> Result<Freshness, ApiError> {
        let deadline = Instant::now() + self.wait;
        let mut pause = PAUSE_FIRST;
        loop {
            let fresh = freshness(connection, projection, self.tenant_id).await.map_err(ApiError::database)?;
            let fresh = fresh.ok_or_else(|| {
                let message =
                    format!("the read model {} is not made yet: does the role projections run?", projection.name());
                ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(2)
            })?;
            let Some(wanted) = self.at_least.filter(|wanted| !fresh.reaches(*wanted)) else { return Ok(fresh) };
            if Instant::now() >= deadline {
                let message = format!(
                    "the read model {} is {} events behind the ledger, and does not reflect {wanted} yet",
                    projection.name(),
                    fresh.events_behind
                );
                return Err(ApiError::new(ErrorCode::PositionNotReached, message).retry_after(1));
            }
            actix_web::rt::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
