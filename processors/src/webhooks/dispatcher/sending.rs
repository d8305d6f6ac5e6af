//! What is sent, and what becomes of a subscription by that.

use super::{ATTEMPTS_MAX, CROWDED, Change, Dispatch, Ended, UNDER_WAY, UNRECORDED_MAX, WINDOW_SMALL, wake};
use crate::webhooks::lane::Next;
use crate::webhooks::{attempts, now, transition};
use std::cmp::Reverse;
use std::sync::Arc;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::webhooks::deliveries::{Attempted, Waiting};
use twh_sinks::postgres::webhooks::subscriptions::{State, Subscription};
use twh_sinks::webhook::Attempt;
use uuid::Uuid;

impl Dispatch {
    pub(super) fn sent(&mut self, id: Uuid, waiting: Waiting, attempt: &Attempt) {
        self.attempts -= 1;
        UNDER_WAY.dec();
        let tenant = waiting.event.tenant;
        self.shares.ended(tenant);
        self.unpark(tenant);
        let now = now();
        let delivery = waiting.id;
        let Some(slot) = self.slots.get_mut(&id) else {
            // The subscription is gone, and its deliveries with it.
            return;
        };
        let was = slot.lane.state();
        let consequence = slot.lane.attempted(waiting, attempt, now, fastrand::u64(0..=1_000));
        wake(slot, id, &mut self.runnable);
        if let Some((to, reason)) = consequence.change {
            self.becomes(id, was, to, reason, now);
        }
        self.unrecorded.push(Attempted {
            subscription: id,
            id: delivery,
            fate: consequence.fate,
            next_attempt_at: consequence.due,
            at: now,
            attempt: attempts::kept(attempt, now),
        });
        self.change(id);
    }

    /// The state of a subscription becomes another here; the table is to show it.
    pub(super) fn becomes(&mut self, id: Uuid, was: State, to: State, reason: String, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.lane.changed(to, now);
        if to != State::Active {
            self.held = self.held.saturating_sub(slot.lane.held());
            slot.lane.shed(WINDOW_SMALL, now);
            self.held += slot.lane.held();
        }
        // What has not begun to be written is told as one change, or not at all.
        let from = slot.change.take().map_or(was, |before| before.from);
        slot.change = (from != to).then_some(Change { from, to, reason });
    }

    /// Begins to write what has changed of a subscription's state: one change after another, as each says what was before it.
    pub(super) fn change(&mut self, id: Uuid) {
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.changing) else { return };
        let Some(Change { from, to, reason }) = slot.change.take() else { return };
        slot.changing = true;
        let from = Subscription { state: from, ..slot.subscription.clone() };
        let (pool, turns) = (self.webhooks.settings.pool.clone(), Arc::clone(&self.webhooks.turns));
        self.tasks.spawn(async move {
            transition::make(pool, turns, from, to, reason).await;
            Ended::Changed(id)
        });
    }

    /// Begins attempts, one lane after another, while there is room.
    pub(super) fn send(&mut self) {
        while self.attempts < ATTEMPTS_MAX && self.unrecorded.len() < UNRECORDED_MAX {
            let Some(id) = self.runnable.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let tenant = slot.subscription.tenant;
            if self.shares.is_full(tenant) {
                self.shares.park(tenant, id);
                continue;
            }
            slot.runnable = false;
            self.ask(id);
            self.unpark(tenant);
        }
    }

    /// Asks a lane what it does now, and does it.
    pub(super) fn ask(&mut self, id: Uuid) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let now = now();
        if slot.lane.wants_load(slot.window(self.held), now) {
            self.to_load.push_back(id);
        }
        // What cannot be sent to now waits for a change of the subscription.
        let Ok(endpoint) = slot.endpoint(now) else { return };
        match slot.lane.next(now, self.attempts >= CROWDED) {
            Next::Send(waiting) => {
                self.held = self.held.saturating_sub(1);
                self.attempts += 1;
                self.shares.begun(waiting.event.tenant);
                UNDER_WAY.inc();
                self.tasks.spawn(async move {
                    let attempt = attempts::send(&endpoint, &waiting).await;
                    Ended::Sent(id, waiting, attempt)
                });
                wake(slot, id, &mut self.runnable);
            }
            Next::At(at) if slot.timer.is_none_or(|timer| at < timer) => {
                slot.timer = Some(at);
                self.timers.push(Reverse((at, id)));
            }
            Next::At(_) | Next::Nothing => {}
        }
    }

    /// Lets a lane of the tenant's be asked that has waited for room, where there is some.
    pub(super) fn unpark(&mut self, tenant: TenantId) {
        while let Some(id) = self.shares.next(tenant) {
            if self.slots.contains_key(&id) {
                // It has counted as runnable all the while.
                self.runnable.push_back(id);
                return;
            }
        }
    }
}
