//! Replays and backlogs: a step at a time, between what is new.

use super::{AGAIN, Dispatch, Ended, STEPS_MAX, later, wake};
use crate::webhooks::{backlog, now, replaying};
use replaying::Step;
use std::sync::Arc;
use twh_domain::id::TenantId;
use twh_sinks::postgres::sqlx;
use uuid::Uuid;

impl Dispatch {
    /// Lets replays make a step, one after another: the connections are for what happens now in the first place.
    pub(super) fn step_replays(&mut self) {
        let now = now();
        while let Some((_, id)) = self.resting.front().copied().filter(|(until, _)| *until <= now) {
            self.resting.pop_front();
            self.turns.push_back(id);
        }
        while self.steps < STEPS_MAX {
            let Some(id) = self.turns.pop_front() else { return };
            let Some(running) = self.replays.get(&id) else { continue };
            let Some(slot) = self.slots.get(&running.subscription) else {
                // It goes with its subscription; where that is only not known yet, it is found again.
                self.replays.remove(&id);
                continue;
            };
            self.steps += 1;
            let (pool, filter) = (self.webhooks.settings.pool.clone(), slot.subscription.filter.clone());
            self.tasks.spawn(async move { Ended::Stepped(id, replaying::next(&pool, id, &filter).await) });
        }
    }

    pub(super) fn stepped(&mut self, id: Uuid, step: Result<Step, sqlx::Error>) {
        self.steps -= 1;
        let Some(running) = self.replays.get(&id) else { return };
        let subscription = running.subscription;
        match step {
            Ok(Step::Over) => drop(self.replays.remove(&id)),
            Ok(Step::Made) => self.turns.push_back(id),
            Ok(Step::Full) => self.resting.push_back((later(now(), AGAIN), id)),
            Err(error) => {
                tracing::warn!(%error, replay_id = %id, "a replay cannot go on; trying again");
                self.resting.push_back((later(now(), AGAIN), id));
            }
        }
        if let Some(slot) = self.slots.get_mut(&subscription) {
            slot.lane.look(now());
            wake(slot, subscription, &mut self.runnable);
        }
    }

    /// Lets one backlog make a step, and then the next: what happens now comes first.
    pub(super) fn catch_up(&mut self) {
        let now = now();
        while let Some((_, tenant)) = self.resting_backlogs.front().copied().filter(|(until, _)| *until <= now) {
            self.resting_backlogs.pop_front();
            self.backlogs.push_back(tenant);
        }
        if self.catching_up {
            return;
        }
        let Some(tenant) = self.backlogs.pop_front() else { return };
        self.catching_up = true;
        let (pool, hold, behind) = (self.webhooks.settings.pool.clone(), self.hold.clone(), Arc::clone(&self.behind));
        self.tasks.spawn(async move { Ended::CaughtUp(tenant, backlog::next(&pool, &hold, &behind, tenant).await) });
    }

    pub(super) fn caught_up(&mut self, tenant: TenantId, step: Result<backlog::Step, sqlx::Error>) {
        self.catching_up = false;
        match step {
            Ok(backlog::Step::Over) => {}
            Ok(backlog::Step::Made(queued)) => {
                self.accept(queued);
                self.backlogs.push_back(tenant);
            }
            Ok(backlog::Step::Full) => self.resting_backlogs.push_back((later(now(), AGAIN), tenant)),
            Err(error) => {
                tracing::warn!(%error, tenant_id = %tenant, "a backlog of deliveries cannot be queued now; trying again");
                self.resting_backlogs.push_back((later(now(), AGAIN), tenant));
            }
        }
    }
}
