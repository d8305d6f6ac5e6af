//! Changes of who may call, of subscriptions and the like: each is a transaction that begins with its tenants' accounts of changes.
//!
//! A tenant's changes come one after the other, so that many at once would only wait, each with a connection that others need: a
//! tenant has few at once here, and the rest wait with none. A change that the database gave up for another's sake is made again.

use crate::error::{ApiError, ErrorCode};
use quick_cache::sync::Cache;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use twh_domain::id::TenantId;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::accounts::audit::ControlChange;

/// Changes of a tenant that have a connection: one is made, and the next is there when it ends.
const AT_ONCE: usize = 2;
/// How long a change waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a change is made in all, where the database gives it up.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// Tenants whose turns are remembered. One that is pushed out while it changes something may have as many again.
const TENANTS_MAX: usize = 10_000;

/// Where changes are made.
#[derive(Clone)]
pub struct Control {
    pool: PgPool,
    turns: Arc<Cache<TenantId, Arc<Semaphore>>>,
}

impl Control {
    /// Over a database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, turns: Arc::new(Cache::new(TENANTS_MAX)) }
    }

    /// The database, for what is only read.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Makes a change of these tenants, whole or not at all. The work is done anew, from its beginning, where the database gave the
    /// transaction up.
    pub async fn change<T>(
        &self,
        tenants: impl IntoIterator<Item = TenantId>,
        work: impl AsyncFn(&mut ControlChange) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        // Turns are taken in one order by all, or two could wait for each other.
        let tenants: Vec<_> = tenants.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let mut turns = Vec::with_capacity(tenants.len());
        for tenant in &tenants {
            let Ok(turn) =
                self.turns.get_or_insert_with(tenant, || Ok::<_, Infallible>(Arc::new(Semaphore::new(AT_ONCE))));
            let turn = tokio::time::timeout(PATIENCE, turn.acquire_owned()).await;
            let busy = || ApiError::new(ErrorCode::Overloaded, "too many changes of the tenant wait already");
            turns.push(turn.map_err(|_| busy().retry_after(1))?.map_err(ApiError::internal)?);
        }
        let mut attempt = 1;
        loop {
            match self.attempt(&tenants, &work).await {
                Err(error) if error.was_given_up() && attempt < ATTEMPTS => {
                    tokio::time::sleep(PAUSE * fastrand::u32(attempt..=2 * attempt)).await;
                    attempt += 1;
                }
                made => return made,
            }
        }
    }

    async fn attempt<T>(
        &self,
        tenants: &[TenantId],
        work: &impl AsyncFn(&mut ControlChange) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut change = ControlChange::begin(&self.pool, tenants).await.map_err(ApiError::database)?;
        let made = work(&mut change).await?;
        change.commit().await.map_err(ApiError::database)?;
        Ok(made)
    }
}
