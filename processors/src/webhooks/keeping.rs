//! Forgets events and deliveries whose time is over, a little at a time. What still waits then is given up first, so that it is
//! seen to be: nothing that was not sent is forgotten as if it had been.

use super::now;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::webhooks::{deliveries, events};
use twh_sinks::postgres::{PgPool, sqlx};

const LOOK: Duration = Duration::from_secs(60);
/// Rows forgotten in one transaction.
const STEP: i64 = 5_000;

/// Keeps events and what was done with for `kept`, until it is told to stop.
pub async fn keep(pool: PgPool, kept: Duration, stop: CancellationToken) {
    loop {
        match forget(&pool, kept, &stop).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "webhook events and deliveries whose time is over were forgotten"),
            Err(error) => {
                tracing::warn!(%error, "webhook events and deliveries whose time is over cannot be forgotten")
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn forget(pool: &PgPool, kept: Duration, stop: &CancellationToken) -> Result<u64, sqlx::Error> {
    let mut count = 0;
    while !stop.is_cancelled() {
        let micros = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_micros(now().micros().saturating_sub(micros));
        let mut connection = pool.acquire().await?;
        let given_up = deliveries::give_up_old(&mut connection, before, now(), STEP).await?;
        if given_up > 0 {
            tracing::warn!(
                count = given_up,
                "webhook deliveries waited until their events' time was over and were given up"
            );
        }
        let gone = given_up
            + deliveries::forget(&mut connection, before, STEP).await?
            + deliveries::forget_deleted(&mut connection, STEP).await?
            + events::forget(&mut connection, before, STEP).await?;
        count += gone;
        if gone == 0 {
            break;
        }
    }
    Ok(count)
}
