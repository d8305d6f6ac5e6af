//! Turns events into deliveries: keeps the events of tenants that have webhooks, and queues one delivery for each subscription
//! that wants one, in the transaction that moves the partition.

use super::backlog::Behind;
use super::dispatcher::Dispatcher;
use super::{Webhooks, now, render};
use crate::runtime::{ApplyError, DecodeError, Decoded, Record, Worker, owned};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use twh_domain::id::TenantId;
use twh_schemas::records::DomainEvent;
use twh_sinks::kafka::Reached;
use twh_sinks::postgres::positions::{Hold, skip};
use twh_sinks::postgres::webhooks::deliveries::{self, NewDelivery};
use twh_sinks::postgres::webhooks::events::{self, Event};
use twh_sinks::postgres::webhooks::subscriptions::{self, State, Subscription};
use uuid::Uuid;

/// An event is told to subscriptions that are older than it, or younger by no more than this: clocks differ, and who has just
/// subscribed expects to hear of what comes next. Catching up with a long log tells nobody of what was before them.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Deliveries queued in one transaction; those of the event that reaches it are queued with it. What a batch comes to is events
/// times subscriptions, and has no bound of its own.
const QUEUED_MAX: usize = 20_000;

/// Deliveries of a tenant in one transaction; what more there is of it is queued by its own backlog, so that others of the
/// partition do not wait for it.
const TENANT_QUEUED_MAX: usize = 5_000;
/// Tenants and subscriptions that are remembered; then all are forgotten, and looked up as they come.
const REMEMBERED_MAX: usize = 100_000;

/// The first of a batch's records, and what is to be written of them.
#[derive(Default)]
struct Part {
    records: usize,
    events: Vec<Arc<Event>>,
    queued: Vec<NewDelivery>,
    /// How many are queued of each tenant.
    shares: HashMap<TenantId, usize>,
    /// The tenants that get a backlog, and through which sequence all is queued.
    behind: BTreeMap<TenantId, i64>,
}

/// What works on one partition of the events.
pub struct Fanout {
    webhooks: Webhooks,
    hold: Hold,
    subscriptions: HashMap<TenantId, (i64, Vec<Subscription>)>,
    /// The last sequence of each tenant that was written here.
    last: HashMap<TenantId, i64>,
    behind: Behind,
    /// Sends, once the partition stands where it is to be read from.
    dispatcher: Option<Dispatcher>,
    /// What was taken on and is not written.
    taken: Option<(Vec<Decoded<DomainEvent>>, Reached)>,
}

impl Fanout {
    pub(super) fn new(webhooks: Webhooks, hold: Hold, behind: HashSet<TenantId>) -> Self {
        Self {
            webhooks,
            hold,
            subscriptions: HashMap::new(),
            last: HashMap::new(),
            behind: Arc::new(Mutex::new(behind)),
            dispatcher: None,
            taken: None,
        }
    }

    /// The group, as its positions name it.
    pub(super) fn group(&self) -> &str {
        &self.hold.group
    }

    /// Writes what was taken on, a part after another.
    async fn write(&mut self) -> Result<(), ApplyError> {
        while let Some((mut batch, reached)) = self.taken.take() {
            let written = self.queue(&batch, reached).await;
            batch.drain(..*written.as_ref().unwrap_or(&0));
            if written.is_err() || !batch.is_empty() {
                self.taken = Some((batch, reached));
            }
            written?;
        }
        Ok(())
    }

    /// Queues what the first of a batch's records lead to, and says how many records that were.
    async fn queue(&mut self, batch: &[Decoded<DomainEvent>], reached: Reached) -> Result<usize, ApplyError> {
        self.forget_some();
        let kept = self.look_up(batch).await?;
        let repeats = self.repeats(batch, &kept).await?;
        let shared = Arc::clone(&self.behind);
        let mut behind = shared.lock().await;
        let Part { records, events, queued, behind: begun, .. } = self.part(batch, &kept, repeats, &behind);
        let begun: Vec<_> = begun.into_iter().collect();
        // What the last record of a part was is not known any more; the one that was written last stands for it.
        let last = self.hold.reached.last;
        let reached = batch.get(records).map_or(reached, |next| Reached { next_offset: next.record.offset, last });
        let pool = &self.webhooks.settings.pool;
        if events.is_empty() {
            // Nobody is to hear of it: a crash that forgets the move costs a second look.
            skip(pool, &self.hold, reached).await?;
        } else {
            deliveries::fan_out(pool, &self.hold, reached, &events, &queued, &begun).await?;
        }
        self.hold.reached = reached;
        behind.extend(begun.iter().map(|(tenant, _)| *tenant));
        drop(behind);
        for (tenant, sequence) in events.iter().filter_map(|event| Some((event.tenant, event.sequence?))) {
            let last = self.last.entry(tenant).or_insert(sequence);
            *last = sequence.max(*last);
        }
        if let Some(dispatcher) = &self.dispatcher {
            dispatcher.queued(queued).await;
            for (tenant, sequence) in begun {
                tracing::info!(tenant_id = %tenant, sequence, "webhooks: a tenant's events lead to many deliveries; they are queued by its own backlog");
                dispatcher.behind(tenant).await;
            }
        }
        Ok(records)
    }

    /// What is remembered has a bound.
    fn forget_some(&mut self) {
        let subscriptions: usize = self.subscriptions.values().map(|(_, list)| list.len()).sum();
        if self.subscriptions.len() + subscriptions > REMEMBERED_MAX {
            self.subscriptions.clear();
        }
        if self.last.len() > REMEMBERED_MAX {
            self.last.clear();
        }
    }

    /// Of the batch's tenants, those whose events are kept; their subscriptions are as they are now.
    async fn look_up(&mut self, batch: &[Decoded<DomainEvent>]) -> Result<BTreeSet<TenantId>, ApplyError> {
        let tenants: BTreeSet<Uuid> = batch.iter().map(|decoded| decoded.item.tenant_id.0).collect();
        let tenants: Vec<Uuid> = tenants.into_iter().collect();
        let pool = &self.webhooks.settings.pool;
        let kept = subscriptions::kept_among(pool, &tenants).await?;
        let changed: Vec<_> = kept
            .iter()
            .filter(|kept| self.subscriptions.get(&kept.tenant).is_none_or(|(version, _)| *version != kept.version))
            .collect();
        if !changed.is_empty() {
            let ids: Vec<Uuid> = changed.iter().map(|kept| kept.tenant.0).collect();
            let found = subscriptions::of_tenants(pool, &ids).await?;
            // A change after the version was read is met with the next batch.
            for kept in changed {
                self.subscriptions.insert(kept.tenant, (kept.version, Vec::new()));
            }
            for (subscription, _) in found {
                if let Some((_, list)) = self.subscriptions.get_mut(&subscription.tenant) {
                    list.push(subscription);
                }
            }
        }
        Ok(kept.iter().map(|kept| kept.tenant).collect())
    }

    /// Of a batch's events, those that are kept, and so queued, already: a ledger that crashes before it forgets what it has
    /// told tells it again. Asked is for what is not newer than all that was written here.
    async fn repeats(
        &self,
        batch: &[Decoded<DomainEvent>],
        kept: &BTreeSet<TenantId>,
    ) -> Result<HashSet<(TenantId, Uuid)>, ApplyError> {
        let may_be = |event: &&DomainEvent| {
            kept.contains(&event.tenant_id)
                && self.last.get(&event.tenant_id).is_none_or(|last| event.sequence <= *last)
        };
        let asked = batch.iter().map(|decoded| &decoded.item).filter(may_be);
        let (tenants, ids): (Vec<Uuid>, Vec<Uuid>) = asked.map(|event| (event.tenant_id.0, event.event_id.0)).unzip();
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        Ok(events::kept_of(&self.webhooks.settings.pool, &tenants, &ids).await?)
    }

    /// As many of a batch's records as one transaction should write, with their deliveries.
    fn part(
        &self,
        batch: &[Decoded<DomainEvent>],
        kept: &BTreeSet<TenantId>,
        mut repeats: HashSet<(TenantId, Uuid)>,
        behind: &HashSet<TenantId>,
    ) -> Part {
        let mut part = Part::default();
        for decoded in batch {
            if part.queued.len() >= QUEUED_MAX {
                break;
            }
            part.records += 1;
            // A batch may hold an event twice.
            let (tenant, id) = (decoded.item.tenant_id, decoded.item.event_id.0);
            if !kept.contains(&tenant) || !repeats.insert((tenant, id)) {
                continue;
            }
            let event = match render::event(&decoded.item) {
                Ok(event) => Arc::new(event),
                Err(error) => {
                    tracing::error!(%error, event_id = %decoded.item.event_id, "an event's document is no JSON; nobody is told of it");
                    continue;
                }
            };
            if !behind.contains(&event.tenant) {
                let sequence = decoded.item.sequence;
                part.queue(&event, sequence, self.subscriptions.get(&event.tenant).map_or(&[], |(_, list)| list));
            }
            part.events.push(event);
        }
        part
    }
}

impl Part {
    /// Queues an event for those who want it, or begins its tenant's backlog before it.
    fn queue(&mut self, event: &Arc<Event>, sequence: i64, subscriptions: &[Subscription]) {
        if self.behind.contains_key(&event.tenant) {
            return;
        }
        let told: Vec<_> = subscriptions.iter().filter(|one| is_for(one, event)).collect();
        let share = self.shares.entry(event.tenant).or_default();
        if *share + told.len() > TENANT_QUEUED_MAX {
            self.behind.insert(event.tenant, sequence - 1);
            return;
        }
        *share += told.len();
        self.queued.extend(told.into_iter().map(|one| delivery(event, one.id)));
    }
}

/// A delivery of an event that happens.
pub(super) fn delivery(event: &Arc<Event>, subscription: Uuid) -> NewDelivery {
    let id = delivery_id(event, fastrand::u32(..));
    NewDelivery { id, subscription, event: Arc::clone(event), replay: None, at: now() }
}

/// A delivery's id, of version 7: it sorts as its event does among the tenant's, whichever machine queues it and whatever its clock
/// says. 48 bits are the milliseconds of the ledger's record, which never go back, 42 the event's sequence, and 32 are drawn.
fn delivery_id(event: &Event, drawn: u32) -> Uuid {
    let millis = u128::try_from(event.recorded_at.micros().div_euclid(1_000)).unwrap_or_default();
    let sequence = u128::try_from(event.sequence.unwrap_or_default()).unwrap_or_default();
    let (high, low) = (sequence >> 30 & 0xfff, sequence & 0x3fff_ffff);
    let variant = 0b10;
    Uuid::from_u128(
        (millis & 0xffff_ffff_ffff) << 80 | 7 << 76 | high << 64 | variant << 62 | low << 32 | u128::from(drawn),
    )
}

/// Whether a subscription is told of an event that happens now.
pub(super) fn is_for(subscription: &Subscription, event: &Event) -> bool {
    let slack = i64::try_from(CLOCKS_DIFFER.as_micros()).unwrap_or_default();
    matches!(subscription.state, State::Active | State::Quarantined)
        && event.recorded_at.micros() + slack >= subscription.created_at.micros()
        && subscription.filter.wants(&event.event_type, &event.items, &event.locations)
}

impl Worker for Fanout {
    type Item = DomainEvent;

    /// A gap in the sequence tells subscribers of it.
    const LEAVES_OUT: bool = true;

    fn begin(&mut self) {
        self.dispatcher = Some(Dispatcher::start(self.webhooks.clone(), self.hold.clone(), Arc::clone(&self.behind)));
    }

    async fn decode(&mut self, record: &Record) -> Result<DomainEvent, DecodeError> {
        let settings = &self.webhooks.settings;
        let event = settings.schemas.events.decode(&record.payload).await?;
        owned(record, event.tenant_id, settings.partitions)?;
        Ok(event)
    }

    async fn apply(&mut self, batch: Vec<Decoded<DomainEvent>>, reached: Reached) -> Result<(), ApplyError> {
        self.taken = Some((batch, reached));
        self.write().await
    }

    async fn written(&mut self) -> Result<(), ApplyError> {
        self.write().await
    }

    async fn finish(&mut self) -> Result<(), ApplyError> {
        self.write().await
    }

    fn applied_through(&self) -> i64 {
        self.hold.reached.next_offset
    }

    async fn drain(self) {
        if let Some(dispatcher) = self.dispatcher {
            dispatcher.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twh_domain::timestamp::Timestamp;

    #[test]
    fn deliveries_sort_as_their_events_do_whatever_is_drawn() {
        let event = |micros: i64, sequence: i64| Event {
            tenant: TenantId(Uuid::nil()),
            id: Uuid::nil(),
            sequence: Some(sequence),
            event_type: String::new(),
            position: None,
            items: Vec::new(),
            locations: Vec::new(),
            ordering_keys: Vec::new(),
            recorded_at: Timestamp::from_micros(micros),
            body: "".into(),
        };
        let now = 1_700_000_000_000_000;
        let in_order =
            [(now, 1), (now, 2), (now + 500, 3), (now + 999, 1 << 30), (now + 999, (1 << 42) - 1), (now + 1_000, 9)];
        let ids = in_order.map(|(micros, sequence)| delivery_id(&event(micros, sequence), fastrand::u32(..)));
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        for id in ids {
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        }
        let (seconds, nanos) = ids[5].get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos), (1_700_000_000, 1_000_000));
    }
}
