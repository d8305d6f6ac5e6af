//! What tenants, or partitions, may have of something at once, in bytes: each a share of the same size, so that none takes what is the
//! others'. Who has nothing takes no room here.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use twh_domain::id::TenantId;

/// Semaphores count in these.
const UNIT_BYTES: usize = 1_024;

/// So many bytes, as semaphores count.
pub(crate) fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The shares of those who have something of theirs.
#[derive(Debug)]
pub struct Shares<K = TenantId> {
    /// What a share is.
    bytes: usize,
    of: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Eq + Hash + Copy> Shares<K> {
    /// Shares of so many bytes each.
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, of: Mutex::default() })
    }

    /// What one may have at once.
    #[must_use]
    pub const fn whole(&self) -> usize {
        self.bytes
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Semaphore>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, key: K) -> Arc<Semaphore> {
        let whole = || Arc::new(Semaphore::new(self.bytes / UNIT_BYTES));
        Arc::clone(self.lock().entry(key).or_insert_with(whole))
    }

    /// How much one has now.
    #[must_use]
    pub fn in_use(&self, key: K) -> usize {
        let left = self.lock().get(&key).map(|share| share.available_permits());
        left.map_or(0, |left| self.bytes.saturating_sub(left * UNIT_BYTES))
    }

    /// True where nobody has anything.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes so much of a share, once there is so much left; `None` where that takes longer than `patience`. More than a
    /// share is never left.
    pub async fn take(self: &Arc<Self>, key: K, bytes: usize, patience: Duration) -> Option<Share<K>> {
        let mut share = Share { permit: None, key, shares: Arc::clone(self) };
        if bytes > 0 {
            let permit = self.of(key).acquire_many_owned(units(bytes));
            share.permit = Some(tokio::time::timeout(patience, permit).await.ok()?.ok()?);
        }
        Some(share)
    }

    /// Takes so much of a share where it is left now.
    pub fn try_take(self: &Arc<Self>, key: K, bytes: usize) -> Option<Share<K>> {
        let mut share = Share { permit: None, key, shares: Arc::clone(self) };
        share.resize(bytes).then_some(share)
    }
}

/// What somebody has of a share; given back when dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash + Copy = TenantId> {
    permit: Option<OwnedSemaphorePermit>,
    key: K,
    shares: Arc<Shares<K>>,
}

impl<K: Eq + Hash + Copy> Share<K> {
    /// Whose share it is of.
    #[must_use]
    pub const fn key(&self) -> K {
        self.key
    }

    /// Gives back what is more than so much, or takes what is less; false, and nothing changed, where that is not left.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let (wanted, has) = (units(bytes), self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        let has = u32::try_from(has).unwrap_or(u32::MAX);
        if wanted < has {
            let surplus = usize::try_from(has - wanted).unwrap_or_default();
            drop(self.permit.as_mut().and_then(|permit| permit.split(surplus)));
        } else if wanted > has {
            let Ok(more) = self.shares.of(self.key).try_acquire_many_owned(wanted - has) else { return false };
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                none => *none = Some(more),
            }
        }
        true
    }
}

impl<K: Eq + Hash + Copy> Drop for Share<K> {
    fn drop(&mut self) {
        let mut shares = self.shares.lock();
        drop(self.permit.take());
        // Another that has some of it, or waits for some, has the semaphore in its hand.
        if shares.get(&self.key).is_some_and(|share| Arc::strong_count(share) == 1) {
            shares.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn tenant(number: u128) -> TenantId {
        TenantId(Uuid::from_u128(number))
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_its_share_and_no_more_and_takes_nothing_of_anothers() {
        let shares = Shares::new(8_192);
        let half = shares.take(tenant(1), 4_096, PATIENCE).await.unwrap();
        let rest = shares.take(tenant(1), 4_000, PATIENCE).await.unwrap();
        assert_eq!((shares.in_use(tenant(1)), shares.in_use(tenant(2))), (8_192, 0));
        assert!(shares.take(tenant(1), 1, PATIENCE).await.is_none() && shares.try_take(tenant(1), 1).is_none());
        assert!(shares.take(tenant(1), 8_193, PATIENCE).await.is_none(), "more than a share is never left");
        drop(shares.take(tenant(2), 8_192, PATIENCE).await.unwrap());
        // Who waits is served as soon as there is enough.
        let waits = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.take(tenant(1), 4_096, PATIENCE).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(half);
        assert!(waits.await.unwrap());
        drop(rest);
        assert!(shares.is_unused(), "who has nothing takes no room");
    }

    #[tokio::test]
    async fn what_is_taken_shrinks_and_grows_and_is_given_back_whole() {
        let shares = Shares::new(8_192);
        let mut share = shares.take(tenant(1), 4_096, PATIENCE).await.unwrap();
        assert!(share.resize(1_025));
        assert_eq!(shares.in_use(tenant(1)), 2_048);
        let other = shares.try_take(tenant(1), 4_096).unwrap();
        assert!(!share.resize(8_192), "the other has it");
        assert_eq!(shares.in_use(tenant(1)), 6_144, "nothing changed");
        assert!(share.resize(4_096) && share.resize(0) && share.resize(2_048));
        drop((share, other));
        assert!(shares.is_unused());
        drop(shares.try_take(tenant(1), 0).unwrap());
        assert!(shares.is_unused());
    }
}
