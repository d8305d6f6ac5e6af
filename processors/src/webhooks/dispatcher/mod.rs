//! Sends what is queued for the tenants of one partition: a lane for each subscription, so that none waits for another.
//!
//! One task knows all lanes and does nothing slow itself: attempts, loads and records are tasks of their own, whose ends it is
//! told. What it holds is bounded: attempts under way, deliveries in memory, and attempts that are not written down yet.

mod loading;
mod sending;
mod stepping;
mod writing;

use super::backlog::{self, Behind};
use super::lane::Lane;
use super::shares::Shares;
use super::{Webhooks, now, replaying};
use replaying::Step;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::positions::Hold;
use twh_sinks::postgres::sqlx;
use twh_sinks::postgres::webhooks::deliveries::{Attempted, Fate, NewDelivery, Queue, Waiting};
use twh_sinks::postgres::webhooks::replays::Replay;
use twh_sinks::postgres::webhooks::subscriptions::{Sealed, State, Subscription};
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

twh_sinks::metrics! {
    UNDER_WAY: IntGauge = "twh_webhook_attempts_under_way", "Attempts to deliver that are under way.";
}

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
