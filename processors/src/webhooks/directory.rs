//! Which tenants have webhooks, and when something of theirs has changed: asked for once for all partitions of a process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use twh_domain::id::TenantId;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::webhooks::subscriptions::all_kept;
use twh_sinks::tasks;

/// How often changes are looked for: the most that a test, a replay or a change of a subscription waits.
const LOOK: Duration = Duration::from_millis(250);
/// Changes are looked for so far back: longer than a transaction may stand open.
const LOOK_BACK_S: f64 = 20.0;
/// How often everything is looked at.
const LOOK_AT_ALL: Duration = Duration::from_secs(30);

twh_sinks::metrics! {
    TENANTS: IntGauge = "twh_webhook_tenants", "Tenants whose events are kept for webhooks.";
}

/// The versions of tenants: each rises with every change.
pub(super) type Versions = Arc<HashMap<TenantId, i64>>;

/// Looks for changes until it is told to stop.
pub(super) fn start(pool: PgPool, stop: CancellationToken) -> watch::Receiver<Versions> {
    let (sender, receiver) = watch::channel(Versions::default());
    let sender = Arc::new(sender);
    // It ends when it is told to, and is begun again otherwise.
    drop(tasks::keep("webhooks", "webhook_directory", move || look(pool.clone(), Arc::clone(&sender), stop.clone())));
    receiver
}

async fn look(pool: PgPool, sender: Arc<watch::Sender<Versions>>, stop: CancellationToken) {
    let mut looked_at_all: Option<Instant> = None;
    loop {
        let all = looked_at_all.is_none_or(|at| at.elapsed() > LOOK_AT_ALL);
        match all_kept(&pool, (!all).then_some(LOOK_BACK_S)).await {
            Ok(kept) => {
                let changed = kept.iter().any(|kept| sender.borrow().get(&kept.tenant) != Some(&kept.version));
                if changed {
                    let mut versions = HashMap::clone(&sender.borrow());
                    versions.extend(kept.iter().map(|kept| (kept.tenant, kept.version)));
                    TENANTS.set(i64::try_from(versions.len()).unwrap_or(i64::MAX));
                    sender.send_replace(Arc::new(versions));
                }
                if all {
                    looked_at_all = Some(Instant::now());
                }
            }
            Err(error) => tracing::warn!(%error, "changes of webhooks cannot be looked for; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
