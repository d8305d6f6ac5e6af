//! One subscription's lane: what waits for it, what is under way, and what may be sent next. Pure: it is told the time, sends
//! nothing and stores nothing.
//!
//! It holds no more than a window of what waits, which its owner sets; the rest is in the table, and the lane says when to load it. A delivery that it
//! knows is never loaded twice, and one that was sent is known until it is written down that it was.

use super::policy::Policy;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::webhooks::deliveries::{Fate, Queue, Waiting};
use twh_sinks::postgres::webhooks::subscriptions::State;
use twh_sinks::webhook::Attempt;
use uuid::Uuid;

/// A quarter of a second's worth of starts may come at once.
const BURST_PER_SECOND: i64 = 4;
const MICROS: i64 = 1_000_000;

/// What a lane must know of its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) state: State,
    pub(super) ordered: bool,
    pub(super) concurrency_max: usize,
    pub(super) rate_per_second: Option<i64>,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// Send this.
    Send(Waiting),
    /// Ask again then.
    At(Timestamp),
    /// Ask again when something has happened.
    Nothing,
}

/// What an attempt led to.
#[derive(Debug)]
pub(super) struct Consequence {
    pub(super) fate: Fate,
    pub(super) due: Timestamp,
    /// The state that the subscription should have now, and why.
    pub(super) change: Option<(State, String)>,
}

/// An attempt under way.
#[derive(Debug)]
struct UnderWay {
    id: Uuid,
    /// What its order is kept by.
    keys: Arc<[i64]>,
    /// It was begun to see whether a subscriber in quarantine answers again.
    probe: bool,
}

#[derive(Debug)]
pub(super) struct Lane {
    policy: Arc<Policy>,
    rules: Rules,
    /// In the order in which it is sent; all due where order is not kept.
    waiting: VecDeque<Waiting>,
    /// Everything that waits here, is under way, or is not written down yet.
    known: HashSet<Uuid>,
    under_way: Vec<UnderWay>,
    /// What failed where order is kept, until that is written down: it holds back what comes after it.
    failed: Vec<Waiting>,
    /// How many may be under way: halved by failures, and back by one with each success.
    allowed: usize,
    /// When the table may hold something that is due and not known here.
    load_at: Option<Timestamp>,
    loading: bool,
    /// Written down while a load was under way, whose answer may still show them as waiting.
    settled: Vec<Uuid>,
    /// What is being loaded was asked for before the lane began anew.
    stale: bool,
    failures: u32,
    failing_since: Option<Timestamp>,
    probes_failed: u32,
    /// Nothing is sent before.
    paused_until: Timestamp,
    /// The moment at which the rate has caught up (the theoretical arrival time of GCRA).
    rate_at: Timestamp,
}

fn after(at: Timestamp, wait: Duration) -> Timestamp {
    Timestamp::from_micros(at.micros().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
}

fn earlier(a: Option<Timestamp>, b: Timestamp) -> Option<Timestamp> {
    Some(a.map_or(b, |a| a.min(b)))
}

impl Lane {
    /// A lane whose queue is in the table.
    pub(super) fn new(policy: Arc<Policy>, rules: Rules, now: Timestamp) -> Self {
        Self {
            policy,
            allowed: rules.concurrency_max,
            rules,
            waiting: VecDeque::new(),
            known: HashSet::new(),
            under_way: Vec::new(),
            failed: Vec::new(),
            load_at: Some(now),
            loading: false,
            settled: Vec::new(),
            stale: false,
            failures: 0,
            failing_since: None,
            probes_failed: 0,
            paused_until: Timestamp::from_micros(0),
            rate_at: Timestamp::from_micros(0),
        }
    }

    pub(super) const fn state(&self) -> State {
        self.rules.state
    }

    /// Nothing waits in the table.
    pub(super) fn has_nothing(&mut self) {
        self.load_at = None;
    }

    /// Something may have come into the table.
    pub(super) fn look(&mut self, now: Timestamp) {
        self.load_at = earlier(self.load_at, now);
    }

    /// Begins anew after a change: what waits is read from the table again. What is under way goes on.
    pub(super) fn reset(&mut self, rules: Rules, now: Timestamp) {
        if rules.state == State::Active && self.rules.state != State::Active {
            self.failures = 0;
            self.failing_since = None;
            self.probes_failed = 0;
            self.paused_until = now;
        }
        self.allowed = self.allowed.clamp(1, rules.concurrency_max);
        if rules.concurrency_max > self.rules.concurrency_max {
            self.allowed = rules.concurrency_max;
        }
        self.rules = rules;
        for waiting in self.waiting.drain(..) {
            self.known.remove(&waiting.id);
        }
        self.load_at = Some(now);
        self.stale = self.loading;
    }

    /// Takes a new delivery, where it holds fewer than `window`. Says no where it has to be loaded in its turn, or was already.
    pub(super) fn accept(&mut self, waiting: Waiting, window: usize, now: Timestamp) -> bool {
        // Behind what the table holds, order keeps its place, and a full window waits.
        let behind = self.loading || self.load_at.is_some_and(|at| self.rules.ordered || at <= now);
        if behind || self.waiting.len() >= window {
            self.load_at = earlier(self.load_at, waiting.due);
            return false;
        }
        let new = self.known.insert(waiting.id);
        if new {
            let ordered = self.rules.ordered;
            let place = if ordered { self.place(waiting.id) } else { self.waiting.len() };
            self.waiting.insert(place, waiting);
        }
        new
    }

    /// Where a delivery stands among those that wait, where order is kept.
    fn place(&self, id: Uuid) -> usize {
        self.waiting.partition_point(|waiting| waiting.id < id)
    }

    /// Whether it is to be loaded, where it may hold `window`; it is not asked again until that is done.
    pub(super) fn wants_load(&mut self, window: usize, now: Timestamp) -> bool {
        let room = window / 2 >= self.waiting.len();
        let sends = !matches!(self.rules.state, State::Disabled | State::Deleted);
        if self.loading || !room || !sends || self.load_at.is_none_or(|at| at > now) {
            return false;
        }
        self.loading = true;
        self.load_at = None;
        true
    }

    /// How many to load so that it holds `window`, counting those that are known already.
    pub(super) fn load_limit(&self, window: usize) -> usize {
        window + self.known.len()
    }

    /// Takes what was loaded.
    pub(super) fn loaded(&mut self, queue: Queue) {
        self.loading = false;
        let settled = std::mem::take(&mut self.settled);
        if std::mem::take(&mut self.stale) {
            self.forget(&settled);
            return;
        }
        // What came up meanwhile may not be in the answer.
        self.load_at = [self.load_at, queue.more_at].into_iter().flatten().min();
        for waiting in queue.waiting {
            if self.known.insert(waiting.id) {
                self.waiting.push_back(waiting);
            }
        }
        self.forget(&settled);
        if self.rules.ordered {
            self.waiting.make_contiguous().sort_by_key(|waiting| waiting.id);
        }
    }

    fn forget(&mut self, ids: &[Uuid]) {
        for id in ids {
            self.known.remove(id);
        }
    }

    /// The load failed: it is tried again then.
    pub(super) fn not_loaded(&mut self, again_at: Timestamp) {
        self.loading = false;
        self.stale = false;
        let settled = std::mem::take(&mut self.settled);
        self.forget(&settled);
        self.load_at = earlier(self.load_at, again_at).map(|at| at.max(again_at));
    }

    /// Leaves all but the first `window` of what waits to the table.
    pub(super) fn shed(&mut self, window: usize, now: Timestamp) {
        if self.waiting.len() <= window {
            return;
        }
        for waiting in self.waiting.drain(window..) {
            self.known.remove(&waiting.id);
        }
        self.load_at = earlier(self.load_at, now);
    }

    /// The table may hold something that is due now, and it is not being loaded.
    pub(super) fn is_behind(&self, now: Timestamp) -> bool {
        !self.loading && self.load_at.is_some_and(|at| at <= now)
    }

    /// What is to be done now; one attempt at a time where it is `crowded`.
    pub(super) fn next(&mut self, now: Timestamp, crowded: bool) -> Next {
        let quarantined = match self.rules.state {
            State::Disabled | State::Deleted => return Next::Nothing,
            State::Quarantined => true,
            State::Active => false,
        };
        let allowed = if quarantined || crowded { 1 } else { self.allowed };
        if self.under_way.len() >= allowed {
            return Next::Nothing;
        }
        if self.paused_until > now {
            return Next::At(self.paused_until);
        }
        if let Some(at) = self.rate_limited_until(now) {
            return Next::At(at);
        }
        let found = if self.rules.ordered { self.first_in_order(now) } else { self.waiting.pop_front().ok_or(None) };
        match found {
            Ok(waiting) => {
                self.count_start(now);
                let keys = Arc::from(waiting.event.ordering_keys.as_slice());
                self.under_way.push(UnderWay { id: waiting.id, keys, probe: quarantined });
                Next::Send(waiting)
            }
            Err(due) => match [due, self.load_at.filter(|_| !self.loading)].into_iter().flatten().min() {
                Some(at) if at > now => Next::At(at),
                _ => Next::Nothing,
            },
        }
    }

    /// The first that is due and behind nothing with the same document, or the same item at the same location; otherwise when
    /// one is due.
    fn first_in_order(&mut self, now: Timestamp) -> Result<Waiting, Option<Timestamp>> {
        let mut held: HashSet<i64> = self.under_way.iter().flat_map(|one| one.keys.iter().copied()).collect();
        held.extend(self.failed.iter().flat_map(|failed| &failed.event.ordering_keys));
        let mut due = None;
        let mut found = None;
        for (index, waiting) in self.waiting.iter().enumerate() {
            let keys = &waiting.event.ordering_keys;
            let free = keys.iter().all(|key| !held.contains(key));
            if free && waiting.due <= now {
                found = Some(index);
                break;
            }
            if free {
                due = earlier(due, waiting.due);
            }
            held.extend(keys);
        }
        found.and_then(|index| self.waiting.remove(index)).ok_or(due)
    }

    fn rate_limited_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.rules.rate_per_second?;
        let at = Timestamp::from_micros(self.rate_at.micros() - MICROS / BURST_PER_SECOND);
        (at > now).then_some(at)
    }

    fn count_start(&mut self, now: Timestamp) {
        if let Some(rate) = self.rules.rate_per_second {
            let from = self.rate_at.max(now).micros();
            self.rate_at = Timestamp::from_micros(from + MICROS / rate.max(1));
        }
    }

    /// Takes what came of an attempt.
    pub(super) fn attempted(&mut self, sent: Waiting, attempt: &Attempt, now: Timestamp, drawn: u64) -> Consequence {
        let index = self.under_way.iter().position(|one| one.id == sent.id);
        let probe = index.is_some_and(|index| self.under_way.swap_remove(index).probe);
        if attempt.is_success() {
            let recovered = self.rules.state == State::Quarantined;
            (self.failures, self.failing_since, self.probes_failed) = (0, None, 0);
            self.allowed = (self.allowed + 1).min(self.rules.concurrency_max);
            let change = recovered.then(|| (State::Active, "it answers again".to_owned()));
            return Consequence { fate: Fate::Delivered, due: now, change };
        }
        let change = self.failed(attempt, probe, now);
        let attempts = sent.attempts + 1;
        let Some(delay) = self.policy.delay(attempts, attempt.retry_after, drawn) else {
            return Consequence { fate: Fate::DeadLettered, due: now, change };
        };
        let due = after(now, delay);
        if self.rules.ordered {
            self.failed.push(Waiting { due, attempts, ..sent });
        }
        Consequence { fate: Fate::Pending, due, change }
    }

    fn failed(&mut self, attempt: &Attempt, probe: bool, now: Timestamp) -> Option<(State, String)> {
        self.failures = self.failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        self.allowed = (self.allowed / 2).max(1);
        if let Some(asked) = attempt.retry_after {
            self.paused_until = self.paused_until.max(after(now, self.policy.pause(asked)));
        }
        if matches!(self.rules.state, State::Disabled | State::Deleted) {
            // It was under way when that was decided, and decides nothing more.
            return None;
        }
        let what = match (attempt.status, &attempt.error) {
            (Some(status), _) => format!("it answers {status}"),
            (None, Some(error)) => error.clone(),
            (None, None) => "it does not answer".to_owned(),
        };
        if attempt.status == Some(410) {
            return Some((State::Disabled, "it answers 410 Gone".to_owned()));
        }
        if self.rules.state == State::Quarantined {
            // What was under way before is no probe, and does not put the next one off.
            if probe {
                self.paused_until = self.paused_until.max(after(now, self.policy.probe(self.probes_failed)));
                self.probes_failed = self.probes_failed.saturating_add(1);
            }
            return None;
        }
        let over = Duration::from_micros(u64::try_from(now.micros() - since.micros()).unwrap_or_default());
        self.policy.quarantines(self.failures, over).then_some((State::Quarantined, what))
    }

    /// The change of state was made.
    pub(super) fn changed(&mut self, state: State, now: Timestamp) {
        self.rules.state = state;
        if state == State::Quarantined {
            self.probes_failed = 1;
            self.paused_until = self.paused_until.max(after(now, self.policy.probe(0)));
        } else {
            self.probes_failed = 0;
        }
    }

    /// An attempt is written down, and the table says where its delivery stands. Until then it may show it as waiting.
    pub(super) fn recorded(&mut self, id: Uuid, fate: Fate, due: Timestamp) {
        if let Some(index) = self.failed.iter().position(|failed| failed.id == id) {
            let failed = self.failed.swap_remove(index);
            if fate == Fate::Pending && self.rules.ordered {
                // It takes its place again, and what it holds back waits behind it.
                self.waiting.insert(self.place(id), failed);
                return;
            }
        }
        if fate == Fate::Pending {
            self.load_at = earlier(self.load_at, due);
        }
        if self.loading {
            self.settled.push(id);
        } else {
            self.known.remove(&id);
        }
    }

    /// Drops what was due before a time: it was given up.
    pub(super) fn give_up(&mut self, due_before: Timestamp) {
        let known = &mut self.known;
        self.waiting.retain(|waiting| {
            let keeps = waiting.due >= due_before;
            if !keeps {
                known.remove(&waiting.id);
            }
            keeps
        });
    }

    pub(super) fn held(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests;
