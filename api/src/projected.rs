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

/// What a read model says, the last command that it reflects, and how many events it leaves out.
pub(crate) struct Projected<T> {
    body: T,
    reflects: Option<Position>,
    left_out: i64,
}

impl<T> Projected<T> {
    pub(crate) fn of(body: T, fresh: &Freshness) -> Self {
        Self { body, reflects: fresh.reflects, left_out: fresh.events_left_out }
    }
}

impl<T: Serialize> Responder for Projected<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        if let Some(position) = self.reflects {
            response.insert_header(("x-twh-reflects", position.to_string()));
        }
        if self.left_out > 0 {
            response.insert_header(("x-twh-incomplete", self.left_out.to_string()));
        }
        response.json(&self.body)
    }
}

impl<T: JsonSchema> Describe for Projected<T> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = json!(operation.output::<T>());
        operation.answers(200, "OK", Some(&schema), &["X-TWH-Reflects", "X-TWH-Incomplete"]);
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
        let awaited = self.await_projected(connection, projection).await?;
        let mut tx = connection.begin_with(SNAPSHOT).await.map_err(ApiError::database)?;
        let Some(mut fresh) = self.serving(&mut tx, projection).await? else {
            return Err(self.not_yet(projection, None));
        };
        // What came meanwhile and is behind takes nothing back: a build only goes on.
        if fresh.build == awaited.build {
            fresh.reflects = awaited.reflects.max(fresh.reflects);
        } else if !self.is_enough(&fresh) {
            return Err(self.not_yet(projection, Some(&fresh)));
        }
        Ok((tx, fresh))
    }

    /// How far the build that answers is; `None` where there is none yet.
    async fn serving(
        &self,
        connection: &mut PgConnection,
        projection: Projection,
    ) -> Result<Option<Freshness>, ApiError> {
        freshness(connection, projection, self.tenant_id).await.map_err(ApiError::database)
    }

    /// Whether a build knows anything of the tenant, and reflects what is asked for.
    fn is_enough(&self, fresh: &Freshness) -> bool {
        fresh.has_begun() && self.at_least.is_none_or(|wanted| fresh.reaches(wanted))
    }

    /// Waits until the build that answers [is enough](Self::is_enough).
    async fn await_projected(
        &self,
        connection: &mut TenantConnection,
        projection: Projection,
    ) -> Result<Freshness, ApiError> {
        let deadline = Instant::now() + self.wait;
        let mut pause = PAUSE_FIRST;
        loop {
            let fresh = self.serving(connection, projection).await?;
            match fresh {
                Some(fresh) if self.is_enough(&fresh) => return Ok(fresh),
                fresh if Instant::now() >= deadline => return Err(self.not_yet(projection, fresh.as_ref())),
                _ => {}
            }
            actix_web::rt::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn not_yet(&self, projection: Projection, fresh: Option<&Freshness>) -> ApiError {
        let name = projection.name();
        let Some(wanted) = self.at_least else {
            let message = format!("the read model {name} is not made yet: does the role projections run?");
            return ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(2);
        };
        let behind = match fresh {
            Some(fresh) => format!("is {} events behind the ledger", fresh.events_behind),
            None => "is not made yet".to_owned(),
        };
        let message = format!("the read model {name} {behind}, and does not reflect {wanted} yet");
        ApiError::new(ErrorCode::PositionNotReached, message).retry_after(1)
    }
}
