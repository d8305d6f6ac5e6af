//! What commands make the ledger write, guessed before they stand on the log: a small command may write a long document. A tenant has
//! so many bytes in flight and no more, so that what it sends never keeps the others of its partition waiting for long; and the
//! limiter is told what a request is worth.
//!
//! The ledger has bounds of its own and needs none of this: a guess that is wrong costs time, and never a command.

use quick_cache::sync::Cache;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use twh_domain::commands::{Command, Operation, Payload, Shape};
use twh_domain::entity::{EntityKey, EntityKind};
use twh_domain::id::TenantId;
use twh_domain::outcome::{Outcome, Verdict};
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::shares::{Share, Shares};
use twh_schemas::partition::partition_of;
use twh_sinks::postgres::documents::document_lengths;
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
    const fn is_heavy(self) -> bool {
        self.bytes >= TRUSTED_BYTES
    }

    /// Requests that it costs beyond those that its commands cost.
    pub(crate) fn surcharge(self) -> u32 {
        let beyond = self.bytes.saturating_sub(self.commands * FREE_BYTES);
        u32::try_from(beyond / BYTES_A_REQUEST).unwrap_or(u32::MAX)
    }
}

/// What a request holds until its commands are decided; given back when dropped.
pub(crate) struct Held {
    tenant: TenantId,
    weight: Weight,
    /// What its documents may be long by now, as guessed: believed until one knows better, or until they are decided.
    grown: Vec<(Uuid, usize)>,
    known: Arc<Known>,
    _share: Share,
    _of_partition: Option<Share<i32>>,
}

impl Held {
    /// Whether it matters so much that it is held until the commands are decided.
    pub(crate) const fn is_heavy(&self) -> bool {
        self.weight.is_heavy()
    }

    /// Remembers how long the documents of an outcome are.
    pub(crate) fn learn(&self, outcome: &Outcome) {
        self.known.learn(outcome);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (id, guessed) in &self.grown {
            let key = (self.tenant, *id);
            if self.known.lengths.get(&key) == Some(*guessed) {
                self.known.lengths.remove(&key);
            }
        }
    }
}

/// How long documents are, as far as outcomes have told.
struct Known {
    lengths: Cache<(TenantId, Uuid), usize>,
}

impl Known {
    fn learn(&self, outcome: &Outcome) {
        let Verdict::Accepted { resources, .. } = outcome.verdict.as_ref() else { return };
        for resource in resources.iter().filter(|resource| is_weighed(resource.kind)) {
            self.lengths.insert((outcome.tenant, resource.id), resource.document.len());
        }
    }
}

/// The lengths of a request's documents, as its operations come one after another.
#[derive(Default)]
struct Growth {
    /// Of each document: its length before the request, and the most that an operation has written into it so far.
    documents: HashMap<Uuid, (usize, usize)>,
}

impl Growth {
    /// An operation that writes `own` bytes of its own into a document that was `before` long: how long it may be then.
    fn write(&mut self, id: Uuid, before: usize, own: usize) -> usize {
        let (before, most) = self.documents.entry(id).or_insert((before, 0));
        *most = own.max(*most);
        *before + *most
    }
}

/// Guesses, and who holds what.
pub(crate) struct Weights {
    known: Arc<Known>,
    /// What tenants have in flight.
    shares: Arc<Shares>,
    /// What heavy requests have in flight on each partition, whosesoever they are: the neighbours wait for all of it.
    of_partitions: Arc<Shares<i32>>,
    partitions: i32,
}

impl Weights {
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            known: Arc::new(Known { lengths: Cache::new(REMEMBERED_MAX) }),
            shares: Shares::new(IN_FLIGHT_BYTES_MAX),
            of_partitions: Shares::new(IN_FLIGHT_BYTES_MAX),
            partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        }
    }

    /// Guesses what commands of one tenant write. With `ask`, or where the tenant has much in flight, the lengths of documents
    /// that are not known are looked up.
    pub(crate) async fn guess(&self, pool: &TenantPool, tenant: TenantId, commands: &[&Command], ask: bool) -> Guess {
        let operations = || commands.iter().flat_map(|command| &command.operations);
        let mut unknown: BTreeMap<EntityKind, BTreeSet<Uuid>> = BTreeMap::new();
        for key in operations().filter_map(|operation| changes(tenant, operation)) {
            if self.known.lengths.get(&(tenant, key.id)).is_none() {
                unknown.entry(key.kind).or_default().insert(key.id);
            }
        }
        if !unknown.is_empty() && (ask || self.shares.in_use(tenant) >= TRUSTED_BYTES) {
            // Commands are taken while the database is away.
            let _ = tokio::time::timeout(LOOK_UP_PATIENCE, self.look_up(pool, tenant, unknown)).await;
        }
        Guess::of(tenant, operations(), |id| self.known.lengths.get(&(tenant, id)))
    }

    /// Learns the lengths of documents, until they are more than a tenant may have in flight.
    async fn look_up(
        &self,
        pool: &TenantPool,
        tenant: TenantId,
        unknown: BTreeMap<EntityKind, BTreeSet<Uuid>>,
    ) -> Result<(), sqlx::Error> {
        let mut sum = 0;
        let mut connection = pool.of(tenant).await?;
        for (kind, ids) in unknown {
            let ids: Vec<_> = ids.into_iter().collect();
            for some in ids.chunks(LOOKED_UP_AT_ONCE) {
                if sum > IN_FLIGHT_BYTES_MAX {
                    return Ok(());
                }
                for (id, length) in document_lengths(&mut connection, kind, tenant, some).await? {
                    self.known.lengths.insert((tenant, id), length);
                    sum += length;
                }
            }
        }
        Ok(())
    }

    /// Takes what a request writes from the tenant's share, and where that is much, from the partition's, as soon as there is so
    /// much left.
    ///
    /// # Errors
    /// [`ErrorCode::OutputTooLarge`] for more than a tenant may have in flight at all; [`ErrorCode::RateLimited`] where what the
    /// tenant has in flight does not end in time, [`ErrorCode::Overloaded`] where it is what all have on its partition.
    pub(crate) async fn hold(&self, tenant: TenantId, Guess { weight, grown }: Guess) -> Result<Held, ApiError> {
        if weight.bytes > IN_FLIGHT_BYTES_MAX {
            let message = format!(
                "the request would write about {} bytes of documents, {IN_FLIGHT_BYTES_MAX} at most; send fewer commands in one",
                weight.bytes
            );
            return Err(ApiError::new(ErrorCode::OutputTooLarge, message));
        }
        let Some(share) = self.shares.take(tenant, weight.bytes, PATIENCE).await else {
            let message = "the tenant's requests in flight write as much as they may at once";
            return Err(ApiError::new(ErrorCode::RateLimited, message).retry_after(1));
        };
        let of_partition = if weight.is_heavy() {
            let partition = partition_of(tenant.to_string().as_bytes(), self.partitions);
            let Some(share) = self.of_partitions.take(partition, weight.bytes, PATIENCE).await else {
                let message = "requests in flight write as much as the ledger takes at once";
                return Err(ApiError::new(ErrorCode::Overloaded, message).retry_after(1));
            };
            Some(share)
        } else {
            None
        };
        for (id, length) in &grown {
            self.known.lengths.insert((tenant, *id), *length);
        }
        let known = Arc::clone(&self.known);
        Ok(Held { tenant, weight, grown, known, _share: share, _of_partition: of_partition })
    }

    /// Remembers how long the documents of an outcome are.
    pub(crate) fn learn(&self, outcome: &Outcome) {
        self.known.learn(outcome);
    }
}

/// What a request's commands are guessed to write.
pub(crate) struct Guess {
    pub(crate) weight: Weight,
    /// The documents that may be longer after it.
    grown: Vec<(Uuid, usize)>,
}

impl Guess {
    /// Adds up operations in their order; `before` says how long a document is that is known.
    fn of<'a>(
        tenant: TenantId,
        operations: impl Iterator<Item = &'a Operation>,
        before: impl Fn(Uuid) -> Option<usize>,
    ) -> Self {
        let (mut bytes, mut commands, mut growth) = (0, 0, Growth::default());
        for operation in operations {
            commands += 1;
            let own = writes(&operation.payload);
            bytes += match changes(tenant, operation) {
                Some(key) if key.id == operation.subject => growth.write(key.id, before(key.id).unwrap_or(0), own),
                Some(key) => growth.write(key.id, before(key.id).unwrap_or(0), 0) + own,
                None => own,
            };
        }
        let grown = growth.documents.into_iter().filter(|(_, (_, most))| *most > DOCUMENT_BYTES);
        let grown = grown.map(|(id, (before, most))| (id, before + most)).collect();
        Self { weight: Weight { bytes, commands }, grown }
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
    use serde_json::json;

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

    fn guess(bytes: usize) -> Guess {
        Guess { weight: weight(bytes, 1), grown: Vec::new() }
    }

    async fn refused(weights: &Weights, tenant: TenantId, guess: Guess) -> Option<ErrorCode> {
        weights.hold(tenant, guess).await.err().map(|error| error.code())
    }

    fn update(id: u128, body: serde_json::Value) -> Operation {
        let payload = Payload::deserialize_kind("item.update", body).unwrap().unwrap();
        Operation { subject: Uuid::from_u128(id), expected_version: None, payload }
    }

    fn sum(operations: &[Operation], before: usize) -> Guess {
        Guess::of(tenant(), operations.iter(), |_| Some(before))
    }

    #[test]
    fn what_a_request_writes_into_a_document_it_writes_again_with_each_later_command() {
        let text = "\u{1}".repeat(500);
        let long: serde_json::Map<_, _> = (0..50).map(|key| (key.to_string(), json!(text))).collect();
        let mut commands = vec![update(1, json!({ "metadata": long }))];
        let once = sum(&commands, 0).weight.bytes;
        assert!((150_000..160_000).contains(&once), "as JSON, in which each of these bytes takes six: {once}");
        commands.extend((0..99).map(|_| update(1, json!({ "name": "n" }))));
        let all = sum(&commands, 0);
        assert!(all.weight.bytes >= 100 * once, "{}", all.weight.bytes);
        assert_eq!(all.grown, [(Uuid::from_u128(1), once)]);
        // What is replaced does not add up.
        let many: Vec<_> = (0..100).map(|_| update(1, json!({ "metadata": { "a": "b".repeat(500) } }))).collect();
        let each = sum(&many[..1], 4_000).weight.bytes;
        assert_eq!(sum(&many, 4_000).weight.bytes, 100 * each);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_document_may_be_long_is_believed_until_one_knows_better() {
        let weights = Weights::new(1);
        let (id, key) = (Uuid::from_u128(1), (tenant(), Uuid::from_u128(1)));
        let grown = || Guess { weight: weight(9, 1), grown: vec![(id, 500_000)] };
        let held = weights.hold(tenant(), grown()).await.unwrap();
        assert_eq!(weights.known.lengths.get(&key), Some(500_000));
        drop(held);
        assert_eq!(weights.known.lengths.get(&key), None, "nobody told how long it became");
        let held = weights.hold(tenant(), grown()).await.unwrap();
        weights.known.lengths.insert(key, 400_000);
        drop(held);
        assert_eq!(weights.known.lengths.get(&key), Some(400_000), "the outcome told");
    }

    #[tokio::test(start_paused = true)]
    async fn what_many_tenants_have_in_flight_on_a_partition_is_bounded_and_short_commands_pass() {
        let weights = Weights::new(1);
        let others = |number| TenantId(Uuid::from_u128(number));
        let mut held = Vec::new();
        for number in 0..4 {
            held.push(weights.hold(others(number), guess(IN_FLIGHT_BYTES_MAX / 4)).await.unwrap());
        }
        assert_eq!(refused(&weights, others(9), guess(TRUSTED_BYTES)).await, Some(ErrorCode::Overloaded));
        drop(weights.hold(others(9), guess(TRUSTED_BYTES - 1)).await.unwrap());
        held.pop();
        drop(weights.hold(others(9), guess(TRUSTED_BYTES)).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_a_share_in_flight_and_no_more() {
        let weights = Weights::new(64);
        // On another partition.
        let other = TenantId(Uuid::from_u128(2));
        let half = || guess(IN_FLIGHT_BYTES_MAX / 2);
        let first = weights.hold(tenant(), half()).await.unwrap();
        let second = weights.hold(tenant(), half()).await.unwrap();
        assert_eq!(weights.shares.in_use(tenant()), IN_FLIGHT_BYTES_MAX);
        assert_eq!(refused(&weights, tenant(), half()).await, Some(ErrorCode::RateLimited));
        drop(weights.hold(other, half()).await.unwrap());
        drop(first);
        let third = weights.hold(tenant(), half()).await.unwrap();
        let more = refused(&weights, tenant(), guess(IN_FLIGHT_BYTES_MAX + 1)).await;
        assert_eq!(more, Some(ErrorCode::OutputTooLarge));
        drop((second, third));
        assert!(weights.shares.is_unused(), "who is not in flight takes no room");
    }
}
