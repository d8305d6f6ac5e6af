//! What is written down: attempts, and deliveries that are given up.

use super::{AGAIN, Dispatch, Ended, RECORD_MAX, ROUND, later, wake};
use crate::webhooks::{now, recording};
use std::collections::HashMap;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::sqlx;
use twh_sinks::postgres::webhooks::deliveries::{self, Attempted, Fate};
use uuid::Uuid;

impl Dispatch {
    pub(super) fn recorded(&mut self, batch: Vec<Attempted>, written: Result<HashMap<Uuid, Fate>, sqlx::Error>) {
        self.recording = false;
        let fates = match written {
            Ok(fates) => fates,
            Err(error) => {
                tracing::warn!(%error, attempts = batch.len(), "attempts cannot be written down; trying again");
                self.record_after = Some(later(now(), AGAIN));
                self.unrecorded.splice(0..0, batch);
                return;
            }
        };
        for attempted in batch {
            // What was cancelled or given up while it was under way, or is gone, is not tried again.
            let fate = fates.get(&attempted.id).copied().unwrap_or(Fate::Cancelled);
            if let Some(slot) = self.slots.get_mut(&attempted.subscription) {
                let before = slot.lane.held();
                slot.lane.recorded(attempted.id, fate, attempted.next_attempt_at);
                self.held = self.held + slot.lane.held() - before;
                wake(slot, attempted.subscription, &mut self.runnable);
            }
        }
    }

    // --- what goes out -------------------------------------------------------------------------------------------------

    /// Writes attempts down: whatever came while the last were being written.
    pub(super) fn record(&mut self) {
        let now = now();
        if self.recording || self.unrecorded.is_empty() || self.record_after.is_some_and(|at| at > now) {
            return;
        }
        self.record_after = None;
        self.recording = true;
        let batch: Vec<_> = self.unrecorded.drain(..self.unrecorded.len().min(RECORD_MAX)).collect();
        let pool = self.webhooks.settings.pool.clone();
        self.tasks.spawn(async move {
            let written = recording::record(&pool, &batch).await;
            Ended::Recorded(batch, written)
        });
    }

    // --- what comes with time ------------------------------------------------------------------------------------------

    /// Gives up what has waited too long for those who are sent nothing, and looks after what was left alone.
    pub(super) fn round(&mut self) {
        let now = now();
        if now < self.next_round {
            return;
        }
        self.next_round = later(now, ROUND);
        self.refresh();
        // What found no room in memory may find some now.
        for (id, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.lane.is_behind(now)) {
            wake(slot, *id, &mut self.runnable);
        }
        let horizon = i64::try_from(self.webhooks.settings.policy.horizon().as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_micros(now.micros().saturating_sub(horizon));
        let waits = self.slots.values().filter(|slot| !slot.is_sent_to());
        let idle: Vec<Uuid> = waits.map(|slot| slot.subscription.id).collect();
        if !idle.is_empty() {
            let pool = self.webhooks.settings.pool.clone();
            self.tasks.spawn(async move {
                let count = deliveries::give_up(&pool, &idle, before, now).await;
                Ended::GivenUp(idle, before, count)
            });
        }
    }

    pub(super) fn given_up(&mut self, ids: &[Uuid], before: Timestamp, count: Result<u64, sqlx::Error>) {
        match count {
            Ok(0) => {}
            Ok(count) => {
                tracing::warn!(
                    partition = self.partition,
                    count,
                    "deliveries have waited too long and were given up; they can be replayed"
                );
                for id in ids {
                    let Some(slot) = self.slots.get_mut(id) else { continue };
                    self.held = self.held.saturating_sub(slot.lane.held());
                    slot.lane.give_up(before);
                    self.held += slot.lane.held();
                }
            }
            Err(error) => tracing::warn!(%error, "what has waited too long cannot be given up; trying again"),
        }
    }
}
