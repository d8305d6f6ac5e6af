//! The baseline behind the same HTTP server: the same middleware, authentication, headers and bodies; what is behind them is
//! one transaction a request.

use crate::naive::{NaiveError, adjust};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Result;
use std::sync::Arc;
use twh_domain::commands::{CommandKind, Payload};
use twh_edge::access::CreateAdjustment;
use twh_edge::auth::{Authenticator, Caller};
use twh_edge::body::{BodyLimit, JsonBody};
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::headers::idempotency_key;
use twh_edge::tokens::Tokens;
use twh_ingest::body::parse_payload;
use twh_sinks::postgres::{PgPool, connect};
use twh_sinks::secrets::Secrets;

const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
const CONNECTIONS: u32 = 32;

async fn handle(
    caller: Caller<CreateAdjustment>,
    request: HttpRequest,
    pool: web::Data<PgPool>,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let key = idempotency_key(&request)?;
    let Payload::CreateAdjustment(adjustment) = parse_payload(CommandKind::named("adjustment.create"), &body.0)? else {
        return Err(ApiError::internal("not an adjustment"));
    };
    let line = adjustment.lines.first().ok_or_else(|| ApiError::internal("no line"))?;
    let sku = line.sku.as_deref().unwrap_or_default();
    let fingerprint = format!("{sku} {}", line.quantity);
    let quantity = line.quantity.micros() / 1_000_000;
    let answer =
        adjust(&pool, caller.tenant_id, &key, &fingerprint, sku, quantity).await.map_err(|error| match error {
            NaiveError::Mismatch => ApiError::new(ErrorCode::ValidationFailed, "the key was used for another request"),
            NaiveError::Shortage => ApiError::new(ErrorCode::ValidationFailed, "not enough stock"),
            NaiveError::Database(error) => ApiError::database(error),
        })?;
    Ok(HttpResponse::Created().content_type("application/json").body(answer))
}

async fn ready() -> HttpResponse {
    HttpResponse::Ok().finish()
}

/// Serves the baseline until the process ends.
pub async fn serve_baseline(address: &str, database_url: &str, secrets: Secrets, workers: usize) -> Result<()> {
    let pool = connect(database_url, CONNECTIONS, "twh-bench-baseline")?;
    let tokens = Arc::new(Tokens::load(pool.clone(), secrets.clone()).await?);
    let authenticator = web::Data::new(Authenticator::new(pool.clone(), secrets, tokens));
    let pool = web::Data::new(pool);
    let factory = move || {
        App::new()
            .app_data(authenticator.clone())
            .app_data(pool.clone())
            .app_data(BodyLimit(BODY_BYTES_MAX))
            .wrap(from_fn(twh_edge::request::around))
            .route("/ready", web::get().to(ready))
            .route("/v1/adjustments", web::post().to(handle))
    };
    HttpServer::new(factory).workers(workers).bind(address)?.run().await?;
    Ok(())
}
