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
use twh_sinks::postgres::SNAPSHOT;
use twh_sinks::postgres::builds::{Freshness, Projection, freshness};
use twh_sinks::postgres::sqlx::{Connection as _, PgConnection, Postgres, Transaction};
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
    /// The build of a read model that answers, once it reflects what is asked for; with a transaction in which it goes on
    /// answering, whatever is put in its place.
    pub(crate) async fn projected<'a>(
        &self,
        connection: &'a mut TenantConnection,
        projection: Projection,
    ) -> Result<(Transaction<'a, Postgres>, Freshness), ApiError> {
        self.await_projected(connection, projection).await?;
        let mut tx = connection.begin_with(SNAPSHOT).await.map_err(ApiError::database)?;
        let fresh = self.serving(&mut tx, projection).await?;
        Ok((tx, fresh))
    }

    /// How far the build that answers is.
    async fn serving(&self, connection: &mut PgConnection, projection: Projection) -> Result<Freshness, ApiError> {
        let fresh = freshness(connection, projection, self.tenant_id).await.map_err(ApiError::database)?;
        fresh.ok_or_else(|| not_made(projection))
    }

    /// Waits until the build knows anything of the tenant, and reflects what is asked for.
    async fn await_projected(&self, connection: &mut TenantConnection, projection: Projection) -> Result<(), ApiError> {
        let deadline = Instant::now() + self.wait;
        let mut pause = PAUSE_FIRST;
        loop {
            let fresh = self.serving(connection, projection).await?;
            if fresh.has_begun() && self.at_least.is_none_or(|wanted| fresh.reaches(wanted)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let Some(wanted) = self.at_least else { return Err(not_made(projection)) };
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

fn not_made(projection: Projection) -> ApiError {
    let message = format!("the read model {} is not made yet: does the role projections run?", projection.name());
    ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(2)
}
