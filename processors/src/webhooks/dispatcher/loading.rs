//! Subscriptions as they are now, and the queues of those that are sent to.

use super::{AGAIN, Dispatch, Ended, LOADS_MAX, Refreshed, Running, Slot, later, wake};
use crate::webhooks::lane::{Lane, Rules};
use crate::webhooks::now;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use twh_domain::id::TenantId;
use twh_sinks::postgres::sqlx;
use twh_sinks::postgres::webhooks::deliveries::{self, Queue};
use twh_sinks::postgres::webhooks::replays;
use twh_sinks::postgres::webhooks::subscriptions::{self, Sealed, State, Subscription};
use uuid::Uuid;

impl Dispatch {
    /// Reads anew what tenants of this partition have, where it has changed.
    pub(super) fn refresh(&mut self) {
        if self.refreshing {
            return;
        }
        let versions = Arc::clone(&self.webhooks.versions.borrow());
        let changed: Vec<_> = versions
            .iter()
            .filter(|(tenant, version)| self.versions.get(tenant) != Some(version))
            .filter(|(tenant, _)| self.webhooks.is_on(**tenant, self.partition))
            .map(|(tenant, version)| (*tenant, *version))
            .collect();
        if changed.is_empty() {
            return;
        }
        self.refreshing = true;
        let pool = self.webhooks.settings.pool.clone();
        self.tasks.spawn(async move {
            let tenants: Vec<Uuid> = changed.iter().map(|(tenant, _)| tenant.0).collect();
            let read = async {
                let subscriptions = subscriptions::of_tenants(&pool, &tenants).await?;
                let ids: Vec<Uuid> = subscriptions.iter().map(|(subscription, _)| subscription.id).collect();
                let with_queue = deliveries::with_queue(&pool, &ids).await?.into_iter().collect();
                let replays = replays::running(&pool, &tenants).await?;
                Ok(Refreshed { subscriptions, with_queue, replays })
            };
            let refreshed = read.await;
            Ended::Refreshed(changed, refreshed)
        });
    }

    pub(super) fn refreshed(&mut self, changed: Vec<(TenantId, i64)>, refreshed: Result<Refreshed, sqlx::Error>) {
        self.refreshing = false;
        let refreshed = match refreshed {
            Ok(refreshed) => refreshed,
            Err(error) => {
                tracing::warn!(%error, partition = self.partition, "subscriptions cannot be read; trying again");
                self.next_round = self.next_round.min(later(now(), AGAIN));
                return;
            }
        };
        let tenants: HashSet<TenantId> = changed.iter().map(|(tenant, _)| *tenant).collect();
        let left: HashSet<Uuid> = refreshed.subscriptions.iter().map(|(subscription, _)| subscription.id).collect();
        let slots = &mut self.slots;
        let held = &mut self.held;
        slots.retain(|id, slot| {
            let stays = !tenants.contains(&slot.subscription.tenant) || left.contains(id);
            if !stays {
                *held = held.saturating_sub(slot.lane.held());
            }
            stays
        });
        for (subscription, sealed) in refreshed.subscriptions {
            let has_queue = refreshed.with_queue.contains(&subscription.id) || self.missed.remove(&subscription.id);
            self.put(subscription, &sealed, has_queue);
        }
        // One that was to be asked next may be gone, and others wait for it to have been.
        tenants.iter().for_each(|tenant| self.unpark(*tenant));
        let running: HashSet<Uuid> = refreshed.replays.iter().map(|replay| replay.id).collect();
        self.replays.retain(|id, replay| !tenants.contains(&replay.tenant) || running.contains(id));
        for replay in refreshed.replays {
            let Entry::Vacant(new) = self.replays.entry(replay.id) else { continue };
            new.insert(Running { subscription: replay.subscription, tenant: replay.tenant });
            self.turns.push_back(replay.id);
        }
        self.versions.extend(changed);
        // Something may have changed while it was read.
        self.refresh();
    }

    pub(super) fn put(&mut self, subscription: Subscription, sealed: &Sealed, has_queue: bool) {
        let (id, now) = (subscription.id, now());
        let rules = Rules {
            state: subscription.state,
            ordered: subscription.ordered,
            concurrency_max: usize::try_from(subscription.concurrency_max).unwrap_or(1).max(1),
            rate_per_second: subscription.rate_per_second.map(i64::from),
        };
        match self.slots.get_mut(&id) {
            Some(slot) => {
                let changed = slot.subscription.version != subscription.version;
                if !changed && !has_queue && slot.lane.held() == 0 {
                    return;
                }
                self.held = self.held.saturating_sub(slot.lane.held());
                slot.lane.reset(rules, now);
                if changed {
                    (slot.endpoint, slot.newest) = self.webhooks.endpoint(&subscription, sealed);
                    slot.subscription = subscription;
                }
            }
            None => {
                let endpoint = self.webhooks.endpoint(&subscription, sealed);
                let mut lane = Lane::new(Arc::clone(&self.webhooks.settings.policy), rules, now);
                if !has_queue {
                    lane.has_nothing();
                }
                self.slots.insert(id, Slot::new(subscription, endpoint, lane));
            }
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        wake(slot, id, &mut self.runnable);
        // For a reason of ours. As long as it counted as sent to, its queue would take its tenant's room.
        if let (State::Active, Err(reason)) = (slot.lane.state(), &slot.endpoint) {
            let reason = reason.clone();
            self.becomes(id, State::Active, State::Quarantined, reason, now);
            self.change(id);
        }
    }

    pub(super) fn loaded(&mut self, id: Uuid, queue: Result<Queue, sqlx::Error>) {
        self.loads -= 1;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let before = slot.lane.held();
        match queue {
            Ok(queue) => slot.lane.loaded(queue),
            Err(error) => {
                tracing::warn!(%error, subscription_id = %id, "a queue cannot be loaded; trying again");
                slot.lane.not_loaded(later(now(), AGAIN));
            }
        }
        self.held = self.held + slot.lane.held() - before;
        wake(slot, id, &mut self.runnable);
    }

    pub(super) fn load(&mut self) {
        while self.loads < LOADS_MAX {
            let Some(id) = self.to_load.pop_front() else { return };
            let Some(slot) = self.slots.get(&id) else { continue };
            let (pool, ordered) = (self.webhooks.settings.pool.clone(), slot.subscription.ordered);
            // How much there is room for is known now, not when the lane asked: many may have asked at once.
            let limit = i64::try_from(slot.lane.load_limit(slot.window(self.held))).unwrap_or(i64::MAX);
            self.loads += 1;
            self.tasks
                .spawn(async move { Ended::Loaded(id, deliveries::queue(&pool, id, ordered, limit, now()).await) });
        }
    }
}
