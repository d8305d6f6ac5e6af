//! Turns at changing the state of subscriptions: one change of a tenant at a time, and a tenant does not wait for another's.
//!
//! A tenant is remembered while it has a turn or waits for one, and for as long as what it used up of its notices counts.

use super::notices::Allowance;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Mutex as Lock, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use twh_domain::id::TenantId;

/// Changes under way at once: when the subscribers of many tenants die together, what is sent to the others still finds a
/// connection.
const TOGETHER_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Turns {
    tenants: Mutex<HashMap<TenantId, Arc<Lock<Allowance>>>>,
    together: Arc<Semaphore>,
}

/// A tenant's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// What the tenant may still have of notices.
    pub(super) allowance: OwnedMutexGuard<Allowance>,
    _together: Option<OwnedSemaphorePermit>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { tenants: Mutex::default(), together: Arc::new(Semaphore::new(TOGETHER_MAX)) }
    }
}

impl Turns {
    /// Waits for a tenant's turn.
    pub(super) async fn of(&self, tenant: TenantId) -> Turn {
        let lock = self.lock(tenant);
        let allowance = lock.lock_owned().await;
        // Nobody closes it: then there would be no bound, and the turn is had all the same.
        let together = Arc::clone(&self.together).acquire_owned().await.ok();
        Turn { allowance, _together: together }
    }

    fn lock(&self, tenant: TenantId) -> Arc<Lock<Allowance>> {
        let now = Instant::now();
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        // Who holds the other end of one has a turn or waits for it.
        tenants.retain(|_, lock| Arc::strong_count(lock) > 1 || !lock.try_lock().is_ok_and(|one| one.is_whole(now)));
        Arc::clone(tenants.entry(tenant).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;
    use uuid::Uuid;

    #[tokio::test]
    async fn a_tenant_waits_for_its_own_change_and_for_no_other_tenants() {
        let (turns, [slow, quick]) = (Turns::default(), [1, 2].map(|number| TenantId(Uuid::from_u128(number))));
        let held = turns.of(slow).await;
        timeout(Duration::from_secs(10), turns.of(quick)).await.expect("no other holds it up");
        assert!(timeout(Duration::from_millis(50), turns.of(slow)).await.is_err(), "its own does");
        drop(held);
        timeout(Duration::from_secs(10), turns.of(slow)).await.expect("it is over");
    }

    #[tokio::test]
    async fn who_is_not_there_is_forgotten_and_who_has_used_up_notices_is_not() {
        let (turns, [gone, told, next]) = (Turns::default(), [1, 2, 3].map(|number| TenantId(Uuid::from_u128(number))));
        drop(turns.of(gone).await);
        turns.of(told).await.allowance.take(1, Instant::now());
        drop(turns.of(next).await);
        let tenants = turns.tenants.lock().unwrap();
        assert_eq!((tenants.contains_key(&gone), tenants.contains_key(&told), tenants.len()), (false, true, 2));
    }
}
