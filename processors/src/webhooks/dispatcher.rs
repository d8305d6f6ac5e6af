//! Sends what is queued for the tenants of one partition: a lane for each subscription, so that none waits for another.
//!
//! One task knows all lanes and does nothing slow itself: attempts, loads and records are tasks of their own, whose ends it is
//! told. What it holds is bounded: attempts under way, deliveries in memory, and attempts that are not written down yet.

use super::backlog::{self, Behind};
use super::lane::{Lane, Next, Rules};
use super::shares::Shares;
use super::{Webhooks, attempts, now, recording, replaying, transition};
use prometheus::{IntGauge, register_int_gauge};
use replaying::Step;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::positions::Hold;
use twh_sinks::postgres::sqlx;
use twh_sinks::postgres::webhooks::deliveries::{self, Attempted, Fate, NewDelivery, Queue, Waiting};
use twh_sinks::postgres::webhooks::replays::{self, Replay};
use twh_sinks::postgres::webhooks::subscriptions::{self, Sealed, State, Subscription};
use twh_sinks::tasks;
use twh_sinks::webhook::{Attempt, Endpoint, SigningSecret};
use uuid::Uuid;

/// Attempts under way at once: each is a connection and a body.
const ATTEMPTS_MAX: usize = 2_048;
/// Of these one tenant has no more than a quarter: what its subscribers do delays no other tenant's.
const ATTEMPTS_OF_A_TENANT_MAX: usize = ATTEMPTS_MAX / 4;
/// With so many under way each subscription has one at a time: those that hang make way for those that are quick.
const CROWDED: usize = ATTEMPTS_MAX / 2;
/// Attempts that are not written down yet; then no more are begun.
const UNRECORDED_MAX: usize = 4_096;
/// Deliveries written down in one statement.
const RECORD_MAX: usize = 1_000;
/// Deliveries that one lane may hold, while there is room, and when there is not, or it is sent nothing but probes.
const WINDOW: usize = 512;
const WINDOW_SMALL: usize = 4;
/// Deliveries held over all lanes before there is no room: some 2 KB each.
const HELD_MAX: usize = 10_000;
/// Queues loaded at once.
const LOADS_MAX: usize = 4;
/// Batches of new deliveries that may wait to be taken.
const BATCHES_MAX: usize = 16;
/// How long what failed for want of the database is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// Steps of replays under way at once.
const STEPS_MAX: usize = 2;
/// How often what has waited too long is given up.
const ROUND: Duration = Duration::from_secs(30);
/// How long attempts under way may take to end when the partition is given up; the rest is sent again by its next owner.
const DRAIN: Duration = Duration::from_secs(4);

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static UNDER_WAY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("twh_webhook_attempts_under_way", "Attempts to deliver that are under way.")
        .expect("the metric's name is unique")
});

/// What the fan-out tells.
enum Told {
    /// Deliveries that are queued.
    Queued(Vec<NewDelivery>),
    /// A tenant that has a backlog from now on.
    Behind(TenantId),
}

/// The dispatcher of a partition, as its owner sees it.
pub(super) struct Dispatcher {
    told: mpsc::Sender<Told>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Dispatcher {
    pub(super) fn start(webhooks: Webhooks, hold: Hold, behind: Behind) -> Self {
        let (told, receiver) = mpsc::channel(BATCHES_MAX);
        let stop = CancellationToken::new();
        let (receiver, stopped) = (Arc::new(Mutex::new(receiver)), stop.clone());
        // What is queued is in the database: one that begins again goes on there, and sends again what was not written down.
        let task = tasks::keep("webhooks", "webhook_dispatcher", move || {
            let (dispatch, receiver) =
                (Dispatch::new(webhooks.clone(), hold.clone(), Arc::clone(&behind)), Arc::clone(&receiver));
            let stop = stopped.clone();
            async move { dispatch.run(&mut *receiver.lock().await, stop).await }
        });
        Self { told, stop, task }
    }

    /// Hands over deliveries that were queued.
    pub(super) async fn queued(&self, deliveries: Vec<NewDelivery>) {
        if !deliveries.is_empty() {
            // One that has ended leaves them to its successor.
            let _ = self.told.send(Told::Queued(deliveries)).await;
        }
    }

    /// Hands over a tenant whose backlog begins.
    pub(super) async fn behind(&self, tenant: TenantId) {
        let _ = self.told.send(Told::Behind(tenant)).await;
    }

    /// Ends it, once what is under way is written down.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

/// Who is let go of without being stopped sends nothing more either: a partition has one sender.
impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A subscription and its lane.
struct Slot {
    subscription: Subscription,
    /// Where to send; what keeps it from being sent to, where something does.
    endpoint: Result<Endpoint, String>,
    /// What signs once the secret before does no longer.
    newest: Vec<SigningSecret>,
    lane: Lane,
    /// It is among those to be asked next.
    runnable: bool,
    /// It is asked again then.
    timer: Option<Timestamp>,
    /// A change of its state is being written, and the next waits for that.
    changing: bool,
    change: Option<Change>,
}

/// A change of a subscription's state that the lane has made and the table does not show yet.
struct Change {
    from: State,
    to: State,
    reason: String,
}

/// Something that has ended.
enum Ended {
    Sent(Uuid, Waiting, Attempt),
    Loaded(Uuid, Result<Queue, sqlx::Error>),
    Recorded(Vec<Attempted>, Result<HashMap<Uuid, Fate>, sqlx::Error>),
    Refreshed(Vec<(TenantId, i64)>, Result<Refreshed, sqlx::Error>),
    Stepped(Uuid, Result<Step, sqlx::Error>),
    CaughtUp(TenantId, Result<backlog::Step, sqlx::Error>),
    GivenUp(Vec<Uuid>, Timestamp, Result<u64, sqlx::Error>),
    Changed(Uuid),
}

/// What some tenants have now.
struct Refreshed {
    subscriptions: Vec<(Subscription, Sealed)>,
    with_queue: HashSet<Uuid>,
    replays: Vec<Replay>,
}

/// A replay that runs. It is in `turns`, or a step of it is under way, or it rests.
struct Running {
    subscription: Uuid,
    tenant: TenantId,
}

struct Dispatch {
    webhooks: Webhooks,
    hold: Hold,
    partition: i32,
    slots: HashMap<Uuid, Slot>,
    /// The tenants' versions that the slots are of.
    versions: HashMap<TenantId, i64>,
    refreshing: bool,
    /// Subscriptions that something was queued for before they were known here.
    missed: HashSet<Uuid>,
    runnable: VecDeque<Uuid>,
    timers: BinaryHeap<Reverse<(Timestamp, Uuid)>>,
    to_load: VecDeque<Uuid>,
    loads: usize,
    attempts: usize,
    shares: Shares,
    held: usize,
    unrecorded: Vec<Attempted>,
    recording: bool,
    record_after: Option<Timestamp>,
    replays: HashMap<Uuid, Running>,
    /// Replays that are to make a step, in turn; how many do; and those that rest, until when.
    turns: VecDeque<Uuid>,
    steps: usize,
    resting: VecDeque<(Timestamp, Uuid)>,
    behind: Behind,
    /// Tenants with a backlog that is to make a step, in turn; whether one does; and those whose backlog rests, until when.
    backlogs: VecDeque<TenantId>,
    catching_up: bool,
    resting_backlogs: VecDeque<(Timestamp, TenantId)>,
    next_round: Timestamp,
    tasks: JoinSet<Ended>,
}

impl Dispatch {
    fn new(webhooks: Webhooks, hold: Hold, behind: Behind) -> Self {
        Self {
            webhooks,
            partition: hold.partition,
            hold,
            slots: HashMap::new(),
            versions: HashMap::new(),
            refreshing: false,
            missed: HashSet::new(),
            runnable: VecDeque::new(),
            timers: BinaryHeap::new(),
            to_load: VecDeque::new(),
            loads: 0,
            attempts: 0,
            shares: Shares::new(ATTEMPTS_OF_A_TENANT_MAX),
            held: 0,
            unrecorded: Vec::new(),
            recording: false,
            record_after: None,
            replays: HashMap::new(),
            turns: VecDeque::new(),
            steps: 0,
            resting: VecDeque::new(),
            behind,
            backlogs: VecDeque::new(),
            catching_up: false,
            resting_backlogs: VecDeque::new(),
            next_round: later(now(), ROUND),
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self, told: &mut mpsc::Receiver<Told>, stop: CancellationToken) {
        let mut versions = self.webhooks.versions.clone();
        self.refresh();
        self.backlogs.extend(self.behind.lock().await.iter());
        // No branch comes first by rule: under load something has always ended, and a change of a subscription is to be seen.
        while !stop.is_cancelled() {
            self.fire_timers();
            self.send();
            self.load();
            self.step_replays();
            self.catch_up();
            self.record();
            let wake = self.wake_at();
            let has_tasks = !self.tasks.is_empty();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next(), if has_tasks => {
                    self.take(ended);
                    while let Some(ended) = self.tasks.try_join_next() {
                        self.take(ended);
                    }
                }
                told = told.recv() => match told {
                    Some(Told::Queued(batch)) => self.accept(batch),
                    Some(Told::Behind(tenant)) => self.backlogs.push_back(tenant),
                    None => break,
                },
                Ok(()) = versions.changed() => self.refresh(),
                () = tokio::time::sleep(wake) => self.round(),
            }
        }
        self.drain().await;
    }

    // --- what comes in -------------------------------------------------------------------------------------------------

    fn accept(&mut self, batch: Vec<NewDelivery>) {
        let now = now();
        let mut unknown = false;
        for new in batch {
            let Some(slot) = self.slots.get_mut(&new.subscription) else {
                self.missed.insert(new.subscription);
                unknown = true;
                continue;
            };
            let waiting = Waiting {
                id: new.id,
                event: new.event,
                replay: new.replay,
                due: new.at,
                created_at: new.at,
                attempts: 0,
            };
            if slot.lane.accept(waiting, slot.window(self.held), now) {
                self.held += 1;
            }
            wake(slot, new.subscription, &mut self.runnable);
        }
        if unknown {
            self.refresh();
        }
    }

    /// Reads anew what tenants of this partition have, where it has changed.
    fn refresh(&mut self) {
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

    fn refreshed(&mut self, changed: Vec<(TenantId, i64)>, refreshed: Result<Refreshed, sqlx::Error>) {
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

    fn put(&mut self, subscription: Subscription, sealed: &Sealed, has_queue: bool) {
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

    fn take(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        match ended {
            Ok(Ended::Sent(id, waiting, attempt)) => self.sent(id, waiting, &attempt),
            Ok(Ended::Loaded(id, queue)) => self.loaded(id, queue),
            Ok(Ended::Recorded(batch, written)) => self.recorded(batch, written),
            Ok(Ended::Refreshed(changed, refreshed)) => self.refreshed(changed, refreshed),
            Ok(Ended::Stepped(id, step)) => self.stepped(id, step),
            Ok(Ended::CaughtUp(tenant, step)) => self.caught_up(tenant, step),
            Ok(Ended::GivenUp(ids, before, count)) => self.given_up(&ids, before, count),
            Ok(Ended::Changed(id)) => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.changing = false;
                }
                self.change(id);
            }
            // What it was about to tell is not known any more: all is read again.
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    fn sent(&mut self, id: Uuid, waiting: Waiting, attempt: &Attempt) {
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
    fn becomes(&mut self, id: Uuid, was: State, to: State, reason: String, now: Timestamp) {
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
    fn change(&mut self, id: Uuid) {
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

    fn loaded(&mut self, id: Uuid, queue: Result<Queue, sqlx::Error>) {
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

    fn recorded(&mut self, batch: Vec<Attempted>, written: Result<HashMap<Uuid, Fate>, sqlx::Error>) {
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

    /// Begins attempts, one lane after another, while there is room.
    fn send(&mut self) {
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
    fn ask(&mut self, id: Uuid) {
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
    fn unpark(&mut self, tenant: TenantId) {
        while let Some(id) = self.shares.next(tenant) {
            if self.slots.contains_key(&id) {
                // It has counted as runnable all the while.
                self.runnable.push_back(id);
                return;
            }
        }
    }

    fn load(&mut self) {
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

    /// Writes attempts down: whatever came while the last were being written.
    fn record(&mut self) {
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

    fn fire_timers(&mut self) {
        let now = now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.timers.pop();
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.timer == Some(at)) {
                slot.timer = None;
                wake(slot, id, &mut self.runnable);
            }
        }
    }

    fn wake_at(&self) -> Duration {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let rested = self.resting.front().map(|(until, _)| *until);
        let caught_up = self.resting_backlogs.front().map(|(until, _)| *until);
        let next = [timer, rested, caught_up, self.record_after, Some(self.next_round)].into_iter().flatten().min();
        let micros = next.map_or(0, |at| at.micros().saturating_sub(now().micros()));
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    }

    /// Gives up what has waited too long for those who are sent nothing, and looks after what was left alone.
    fn round(&mut self) {
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

    fn given_up(&mut self, ids: &[Uuid], before: Timestamp, count: Result<u64, sqlx::Error>) {
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

    /// Lets replays make a step, one after another: the connections are for what happens now in the first place.
    fn step_replays(&mut self) {
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

    fn stepped(&mut self, id: Uuid, step: Result<Step, sqlx::Error>) {
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
    fn catch_up(&mut self) {
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

    fn caught_up(&mut self, tenant: TenantId, step: Result<backlog::Step, sqlx::Error>) {
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

    /// Waits for what is under way, and writes it down.
    async fn drain(mut self) {
        let deadline = tokio::time::Instant::now() + DRAIN;
        while self.attempts > 0 || self.recording || !self.unrecorded.is_empty() {
            self.record();
            match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(ended)) => self.take(ended),
                Ok(None) => tokio::time::sleep(AGAIN / 10).await,
                Err(_) => break,
            }
            if tokio::time::Instant::now() >= deadline {
                break;
            }
        }
        if self.attempts > 0 {
            tracing::info!(
                partition = self.partition,
                attempts = self.attempts,
                "attempts were given up with the partition; they are made again by its next owner"
            );
        }
    }
}

/// Attempts in flight end with it.
impl Drop for Dispatch {
    fn drop(&mut self) {
        UNDER_WAY.sub(i64::try_from(self.attempts).unwrap_or_default());
    }
}

impl Slot {
    fn new(
        subscription: Subscription,
        (endpoint, newest): (Result<Endpoint, String>, Vec<SigningSecret>),
        lane: Lane,
    ) -> Self {
        Self { subscription, endpoint, newest, lane, runnable: false, timer: None, changing: false, change: None }
    }

    /// It is sent what waits, and not only probes.
    fn is_sent_to(&self) -> bool {
        self.lane.state() == State::Active && self.endpoint.is_ok()
    }

    /// How many deliveries it may hold, while so many are held over all of them.
    fn window(&self, held: usize) -> usize {
        if held < HELD_MAX && self.is_sent_to() { WINDOW } else { WINDOW_SMALL }
    }

    /// Where to send now.
    fn endpoint(&mut self, now: Timestamp) -> Result<Endpoint, String> {
        if self.subscription.previous_until.is_some_and(|until| until <= now) {
            self.subscription.previous_until = None;
            if let Ok(endpoint) = &mut self.endpoint {
                *endpoint = endpoint.signed_by(std::mem::take(&mut self.newest));
            }
        }
        self.endpoint.clone()
    }
}

fn wake(slot: &mut Slot, id: Uuid, runnable: &mut VecDeque<Uuid>) {
    if !slot.runnable {
        slot.runnable = true;
        runnable.push_back(id);
    }
}

fn later(at: Timestamp, wait: Duration) -> Timestamp {
    Timestamp::from_micros(at.micros().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
}
