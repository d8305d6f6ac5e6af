//! Attempts, written down: many at once, and one by one where the database refuses one of them for what is in it.

use serde_json::json;
use std::collections::HashMap;
use twh_sinks::postgres::failure::{Failure, described};
use twh_sinks::postgres::webhooks::deliveries::{self, Attempted, Fate};
use twh_sinks::postgres::{PgPool, sqlx};
use uuid::Uuid;

/// Writes attempts down, and says where each delivery stands now. Of one that the database refuses it is written down that it was
/// made, and not what was answered.
pub(super) async fn record(pool: &PgPool, attempted: &[Attempted]) -> Result<HashMap<Uuid, Fate>, sqlx::Error> {
    let together = deliveries::record(pool, attempted).await;
    if !is_refused(&together) {
        return together;
    }
    let mut fates = HashMap::with_capacity(attempted.len());
    for one in attempted {
        let mut alone = deliveries::record(pool, std::slice::from_ref(one)).await;
        if let Err(error) = &alone
            && is_refused(&alone)
        {
            let reason = described(error);
            tracing::error!(subscription_id = %one.subscription, delivery_id = %one.id, reason, "what was answered to an attempt cannot be kept");
            alone = deliveries::record(pool, &[without_answer(one)]).await;
        }
        fates.extend(alone?);
    }
    Ok(fates)
}

fn without_answer(attempted: &Attempted) -> Attempted {
    let error = "what was answered cannot be kept";
    let attempt = json!({ "at": attempted.at, "took_ms": 0, "status": null, "error": error });
    Attempted { attempt: attempt.to_string(), ..attempted.clone() }
}

fn is_refused(written: &Result<HashMap<Uuid, Fate>, sqlx::Error>) -> bool {
    written.as_ref().is_err_and(|error| Failure::of(error) == Failure::Data)
}
