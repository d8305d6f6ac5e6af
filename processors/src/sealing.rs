//! Keeps the hashes of full subtrees of each tenant's Merkle tree, so that proofs are quick.
//!
//! Every process may run it. What it has not kept yet is computed when it is asked for, so that nothing waits for it.

use crate::runtime::Backoff;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use twh_sinks::postgres::{PgPool, tree};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Tenants in a round.
const TENANTS: i64 = 100;

/// Looks again and again until `stop`.
pub async fn run(pool: PgPool, stop: CancellationToken) {
    let mut backoff = Backoff::new(INTERVAL, Duration::from_secs(60));
    while !stop.is_cancelled() {
        let pause = match tree::seal(&pool, TENANTS).await {
            Ok(0) => {
                backoff.reset();
                INTERVAL
            }
            // There may be more.
            Ok(_) => Duration::from_millis(50),
            Err(error) => {
                tracing::warn!(%error, "sealing: the hashes of full subtrees cannot be kept now; trying again");
                backoff.pause()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}
