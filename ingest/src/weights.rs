//! What commands make the ledger write, guessed before they stand on the log: a small command may write a long document. A tenant has
//! so many bytes in flight and no more, so that what it sends never keeps the others of its partition waiting for long; and the
//! limiter is told what a request is worth.
//!
//! The ledger has bounds of its own and needs none of this: a guess that is wrong costs time, and never a command.

use quick_cache::sync::Cache;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use twh_domain::commands::{Command, Operation, Payload, Shape};
use twh_domain::entity::{EntityKey, EntityKind};
use twh_domain::id::TenantId;
use twh_domain::outcome::{Outcome, Verdict};
use twh_edge::error::{ApiError, ErrorCode};
use twh_sinks::postgres::queries::document_lengths;
use twh_sinks::postgres::sqlx;
use twh_sinks::postgres::tenant::TenantPool;
use uuid::Uuid;

/// What a tenant's requests may make the ledger write at once, in this process. It is what the ledger writes in about a second.
const IN_FLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A tenant with less than this in flight is not looked up: a client that sends one command after another pays nothing.
const TRUSTED_BYTES: usize = 64 * 1024;
/// How long a request waits for those of its tenant that are in flight.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the lengths of stored documents may take to be found; without them a document is taken for a short one.
const LOOK_UP_PATIENCE: Duration = Duration::from_millis(500);
/// Lengths that one query asks for: to know one, PostgreSQL reads the document.
const LOOKED_UP_AT_ONCE: usize = 32;
/// Lengths that are remembered: some megabytes.
const REMEMBERED_MAX: usize = 100_000;
/// What a document takes that is not known, without its lines.
const DOCUMENT_BYTES: usize = 2_048;
/// What a line of a document takes.
const LINE_BYTES: usize = 360;
/// Semaphores count in these.
const UNIT_BYTES: usize = 1_024;
/// A command is given so much for the request that it costs anyway.
const FREE_BYTES: usize = 4_096;
/// What costs one more request.
const BYTES_A_REQUEST: usize = 16 * 1_024;

/// What commands are guessed to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight {
    bytes: usize,
    commands: usize,
}

impl Weight {
    /// Requests that it costs beyond those that its commands cost.
    pub(crate) fn surcharge(self) -> u32 {
        let beyond = self.bytes.saturating_sub(self.commands * FREE_BYTES);
        u32::try_from(beyond / BYTES_A_REQUEST).unwrap_or(u32::MAX)
    }
}

/// A tenant's share that a request holds; given back when dropped.
pub(crate) struct Held {
    permit: Option<OwnedSemaphorePermit>,
    tenant: TenantId,
    weight: Weight,
    shares: Arc<Shares>,
}

impl Held {
    /// Whether it matters so much that it is held until the commands are decided.
    pub(crate) const fn is_heavy(&self) -> bool {
        self.weight.bytes >= TRUSTED_BYTES
    }
}

#[derive(Default)]
struct Shares(Mutex<HashMap<TenantId, Arc<Semaphore>>>);

impl Shares {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Arc<Semaphore>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, tenant: TenantId) -> Arc<Semaphore> {
        let whole = || Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX / UNIT_BYTES));
        Arc::clone(self.lock().entry(tenant).or_insert_with(whole))
    }

    fn in_flight(&self, tenant: TenantId) -> usize {
        let left = self.lock().get(&tenant).map_or(IN_FLIGHT_BYTES_MAX / UNIT_BYTES, |share| share.available_permits());
        IN_FLIGHT_BYTES_MAX.saturating_sub(left * UNIT_BYTES)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut shares = self.shares.lock();
        drop(self.permit.take());
        // Who is not in flight takes no room. Another holder, or one that waits, has the share in its hand.
        if shares.get(&self.tenant).is_some_and(|share| Arc::strong_count(share) == 1) {
            shares.remove(&self.tenant);
        }
    }
}

/// What is known of documents, and what tenants have in flight.
pub(crate) struct Weights {
    lengths: Cache<(TenantId, Uuid), usize>,
    shares: Arc<Shares>,
}

impl Weights {
    pub(crate) fn new() -> Self {
        Self { lengths: Cache::new(REMEMBERED_MAX), shares: Arc::default() }
    }

    /// Guesses what commands of one tenant write. With `ask`, or where the tenant has much in flight, the lengths of documents
    /// that are not known are looked up.
    pub(crate) async fn guess(&self, pool: &TenantPool, tenant: TenantId, commands: &[&Command], ask: bool) -> Weight {
        let mut bytes = 0;
        let mut changed: Vec<EntityKey> = Vec::new();
        for operation in commands.iter().flat_map(|command| &command.operations) {
            bytes += writes(&operation.payload);
            changed.extend(changes(tenant, operation));
        }
        let mut unknown: BTreeMap<EntityKind, BTreeSet<Uuid>> = BTreeMap::new();
        for key in &changed {
            match self.lengths.get(&(tenant, key.id)) {
                Some(length) => bytes += length,
                None => _ = unknown.entry(key.kind).or_default().insert(key.id),
            }
        }
        if !unknown.is_empty() && (ask || self.shares.in_flight(tenant) >= TRUSTED_BYTES) {
            let found = self.look_up(pool, tenant, unknown);
            // Commands are taken while the database is away.
            if let Ok(Ok(found)) = tokio::time::timeout(LOOK_UP_PATIENCE, found).await {
                bytes += changed.iter().filter_map(|key| found.get(&key.id)).sum::<usize>();
            }
        }
        Weight { bytes, commands: commands.iter().map(|command| command.operations.len()).sum() }
    }

    /// The lengths of documents, until they are more than a tenant may have in flight.
    async fn look_up(
        &self,
        pool: &TenantPool,
        tenant: TenantId,
        unknown: BTreeMap<EntityKind, BTreeSet<Uuid>>,
    ) -> Result<HashMap<Uuid, usize>, sqlx::Error> {
        let mut found = HashMap::new();
        let mut sum = 0;
        let mut connection = pool.of(tenant).await?;
        for (kind, ids) in unknown {
            let ids: Vec<_> = ids.into_iter().collect();
            for some in ids.chunks(LOOKED_UP_AT_ONCE) {
                if sum > IN_FLIGHT_BYTES_MAX {
                    return Ok(found);
                }
                for (id, length) in document_lengths(&mut connection, kind, tenant, some).await? {
                    self.lengths.insert((tenant, id), length);
                    found.insert(id, length);
                    sum += length;
                }
            }
        }
        Ok(found)
    }

    /// Takes from the tenant's share what a request writes, as soon as there is so much left.
    ///
    /// # Errors
    /// [`ErrorCode::OutputTooLarge`] for more than a tenant may have in flight at all; [`ErrorCode::RateLimited`] where what is
    /// in flight does not end in time.
    pub(crate) async fn hold(&self, tenant: TenantId, weight: Weight) -> Result<Held, ApiError> {
        if weight.bytes > IN_FLIGHT_BYTES_MAX {
            let message = format!(
                "the request would write about {} bytes of documents, {IN_FLIGHT_BYTES_MAX} at most; send fewer commands in one",
                weight.bytes
            );
            return Err(ApiError::new(ErrorCode::OutputTooLarge, message));
        }
        let units = u32::try_from(weight.bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let share = self.shares.of(tenant);
        let mut held = Held { permit: None, tenant, weight, shares: Arc::clone(&self.shares) };
        match tokio::time::timeout(PATIENCE, share.acquire_many_owned(units)).await {
            Ok(Ok(permit)) => {
                held.permit = Some(permit);
                Ok(held)
            }
            _ => {
                let message = "the tenant's requests in flight write as much as they may at once";
                Err(ApiError::new(ErrorCode::RateLimited, message).retry_after(1))
            }
        }
    }

    /// Remembers how long the documents of an outcome are.
    pub(crate) fn learn(&self, outcome: &Outcome) {
        let Verdict::Accepted { resources, .. } = outcome.verdict.as_ref() else { return };
        for resource in resources.iter().filter(|resource| is_weighed(resource.kind)) {
            self.lengths.insert((outcome.tenant, resource.id), resource.document.len());
        }
    }
}

/// The kinds whose documents may be long and are acted upon.
const fn is_weighed(kind: EntityKind) -> bool {
    (kind.has_lines() && !kind.is_final()) || matches!(kind, EntityKind::Item)
}

/// What an operation writes of itself.
fn writes(payload: &Payload) -> usize {
    if payload.kind().shape == Shape::Act {
        return 0;
    }
    let size = payload.size();
    DOCUMENT_BYTES + size.lines * LINE_BYTES + size.text
}

/// The stored document that an operation writes again, where its length matters.
fn changes(tenant: TenantId, operation: &Operation) -> Option<EntityKey> {
    let command = operation.payload.kind();
    let subject = (command.shape != Shape::Create).then_some((command.subject, operation.subject));
    let (kind, id) = operation.payload.also_writes().or(subject)?;
    is_weighed(kind).then_some(EntityKey { tenant, kind, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId(Uuid::from_u128(1))
    }

    fn weight(bytes: usize, commands: usize) -> Weight {
        Weight { bytes, commands }
    }

    #[test]
    fn what_is_short_costs_nothing_more() {
        assert_eq!(weight(4_000, 1).surcharge(), 0);
        assert_eq!(weight(400_000, 100).surcharge(), 0);
        assert_eq!(weight(380_000, 1).surcharge(), 22);
        assert_eq!(weight(8 << 20, 1_000).surcharge(), 262);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_a_share_in_flight_and_no_more() {
        let weights = Weights::new();
        let other = TenantId(Uuid::from_u128(2));
        let half = weight(IN_FLIGHT_BYTES_MAX / 2, 1);
        let first = weights.hold(tenant(), half).await.unwrap();
        let second = weights.hold(tenant(), half).await.unwrap();
        assert_eq!(weights.shares.in_flight(tenant()), IN_FLIGHT_BYTES_MAX);
        let third = weights.hold(tenant(), half).await;
        assert_eq!(third.err().map(|error| error.code()), Some(ErrorCode::RateLimited));
        drop(weights.hold(other, half).await.unwrap());
        drop(first);
        let third = weights.hold(tenant(), half).await.unwrap();
        let more = weights.hold(tenant(), weight(IN_FLIGHT_BYTES_MAX + 1, 1)).await;
        assert_eq!(more.err().map(|error| error.code()), Some(ErrorCode::OutputTooLarge));
        drop((second, third));
        assert!(weights.shares.lock().is_empty(), "who is not in flight takes no room");
    }
}
