use super::*;
use std::collections::BTreeMap;
use twh_domain::id::TenantId;
use twh_sinks::postgres::webhooks::events::Event;

const WINDOW: usize = 8;

fn rules(ordered: bool) -> Rules {
    Rules { state: State::Active, ordered, concurrency_max: 4, rate_per_second: None }
}

fn policy() -> Arc<Policy> {
    Arc::new(Policy::new(&[5, 30, 120, 600, 1_800], Duration::from_secs(60), Duration::from_secs(900)))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_000_000_000_000 + seconds * MICROS)
}

fn waiting(number: u128, keys: &[i64], due: Timestamp) -> Waiting {
    let event = Event {
        tenant: TenantId(Uuid::nil()),
        id: Uuid::from_u128(number),
        sequence: Some(1),
        event_type: "order.shipped".to_owned(),
        position: None,
        items: Vec::new(),
        locations: Vec::new(),
        ordering_keys: keys.to_vec(),
        recorded_at: due,
        body: "{}".into(),
    };
    Waiting { id: Uuid::from_u128(number), event: Arc::new(event), replay: None, due, created_at: due, attempts: 0 }
}

fn answered(status: u16) -> Attempt {
    Attempt { status: Some(status), ..Attempt::default() }
}

fn lane(ordered: bool) -> Lane {
    let mut lane = Lane::new(policy(), rules(ordered), at(0));
    lane.has_nothing();
    lane
}

fn sent(lane: &mut Lane, now: Timestamp) -> Option<Waiting> {
    match lane.next(now, false) {
        Next::Send(waiting) => Some(waiting),
        Next::At(_) | Next::Nothing => None,
    }
}

#[test]
fn what_fails_holds_back_its_own_key_and_no_other() {
    let mut lane = lane(true);
    for (number, keys) in [(1, [7, 1]), (2, [7, 2]), (3, [8, 3]), (4, [9, 2])] {
        assert!(lane.accept(waiting(number, &keys, at(0)), WINDOW, at(0)));
    }
    let first = sent(&mut lane, at(0)).unwrap();
    let third = sent(&mut lane, at(0)).unwrap();
    assert_eq!((first.id.as_u128(), third.id.as_u128()), (1, 3));
    // The fourth shares a level with the second, which waits for the first.
    assert!(sent(&mut lane, at(0)).is_none());
    let again = lane.attempted(first, &answered(500), at(1), 500);
    assert_eq!((again.fate, again.due), (Fate::Pending, at(6)));
    lane.recorded(Uuid::from_u128(1), Fate::Pending, at(6));
    assert!(sent(&mut lane, at(5)).is_none());
    let first = sent(&mut lane, at(6)).unwrap();
    assert_eq!((first.id.as_u128(), first.attempts), (1, 1));
    assert_eq!(lane.attempted(first, &answered(200), at(6), 0).fate, Fate::Delivered);
    assert_eq!(sent(&mut lane, at(6)).unwrap().id.as_u128(), 2);
}

#[test]
fn a_subscriber_that_fails_is_left_to_probes_and_comes_back_with_its_queue() {
    let mut lane = lane(false);
    for number in 1..=6 {
        assert!(lane.accept(waiting(number, &[], at(0)), WINDOW, at(0)));
    }
    let mut change = None;
    for second in [0, 30, 60, 90, 120] {
        let waiting = sent(&mut lane, at(second)).unwrap();
        let id = waiting.id;
        let consequence = lane.attempted(waiting, &answered(503), at(second), 500);
        lane.recorded(id, consequence.fate, consequence.due);
        change = consequence.change;
    }
    assert_eq!(change, Some((State::Quarantined, "it answers 503".to_owned())));
    lane.changed(State::Quarantined, at(120));
    assert!(sent(&mut lane, at(149)).is_none());
    let probe = sent(&mut lane, at(150)).unwrap();
    assert!(sent(&mut lane, at(150)).is_none(), "one probe at a time");
    let consequence = lane.attempted(probe, &answered(204), at(151), 0);
    assert_eq!(consequence.change.unwrap().0, State::Active);
    lane.changed(State::Active, at(151));
    assert!(lane.wants_load(WINDOW, at(1_000)), "what failed is due, and is read from the table");
    assert_eq!(lane.load_limit(WINDOW), WINDOW + 1);
}

#[test]
fn gone_disables_at_once_and_once() {
    let mut lane = lane(false);
    for number in 1..=2 {
        assert!(lane.accept(waiting(number, &[], at(0)), WINDOW, at(0)));
    }
    let both = [sent(&mut lane, at(0)).unwrap(), sent(&mut lane, at(0)).unwrap()];
    let [first, second] = both.map(|waiting| {
        let change = lane.attempted(waiting, &answered(410), at(0), 0).change;
        if let Some((state, _)) = &change {
            lane.changed(*state, at(0));
        }
        change
    });
    assert_eq!((first.unwrap().0, second), (State::Disabled, None));
}

#[test]
fn what_was_under_way_when_a_subscription_was_disabled_does_not_bring_it_back() {
    let mut lane = lane(false);
    lane.reset(Rules { concurrency_max: 10, ..rules(false) }, at(0));
    lane.has_nothing();
    for number in 1..=10 {
        assert!(lane.accept(waiting(number, &[], at(0)), 10, at(0)));
    }
    let all: Vec<_> = std::iter::from_fn(|| sent(&mut lane, at(0))).collect();
    assert_eq!(all.len(), 10);
    lane.reset(Rules { state: State::Disabled, ..rules(false) }, at(1));
    for (number, waiting) in all.into_iter().enumerate() {
        let second = 100 * i64::try_from(number).unwrap();
        let status = if number == 9 { 200 } else { 500 };
        assert_eq!(lane.attempted(waiting, &answered(status), at(second), 0).change, None);
    }
    assert!(sent(&mut lane, at(10_000)).is_none());
}

#[test]
fn only_probes_put_the_next_probe_off() {
    let mut lane = lane(false);
    lane.reset(Rules { concurrency_max: 8, ..rules(false) }, at(0));
    lane.has_nothing();
    for number in 1..=9 {
        assert!(lane.accept(waiting(number, &[], at(0)), 9, at(0)));
    }
    let all: Vec<_> = std::iter::from_fn(|| sent(&mut lane, at(0))).collect();
    assert_eq!(all.len(), 8);
    lane.changed(State::Quarantined, at(0));
    for waiting in all {
        lane.attempted(waiting, &answered(500), at(10), 0);
    }
    let probe = sent(&mut lane, at(30)).expect("the first probe, when it was planned");
    lane.attempted(probe, &answered(500), at(31), 0);
    assert!(matches!(lane.next(at(31), false), Next::At(then) if then == at(91)));
}

#[test]
fn what_was_cancelled_while_it_was_under_way_is_not_tried_again() {
    for ordered in [false, true] {
        let mut lane = lane(ordered);
        assert!(lane.accept(waiting(1, &[7], at(0)), WINDOW, at(0)));
        assert!(lane.accept(waiting(2, &[7], at(0)), WINDOW, at(0)));
        let first = sent(&mut lane, at(0)).unwrap();
        let consequence = lane.attempted(first, &answered(500), at(1), 0);
        assert_eq!(consequence.fate, Fate::Pending);
        lane.recorded(Uuid::from_u128(1), Fate::Cancelled, consequence.due);
        assert_eq!(sent(&mut lane, at(1)).unwrap().id.as_u128(), 2);
        assert!(sent(&mut lane, at(1_000)).is_none() && !lane.wants_load(WINDOW, at(1_000)));
    }
}

#[test]
fn what_is_given_up_is_not_sent_and_what_is_not_is() {
    let mut lane = lane(false);
    for (number, due) in [(1, at(0)), (2, at(10)), (3, at(20))] {
        assert!(lane.accept(waiting(number, &[], due), WINDOW, at(20)));
    }
    lane.give_up(at(20));
    assert_eq!((lane.held(), sent(&mut lane, at(20)).unwrap().id.as_u128()), (1, 3));
}

#[test]
fn who_is_only_probed_holds_little_and_gets_all_of_it_once_it_answers() {
    let mut lane = lane(false);
    for number in 1..=8 {
        assert!(lane.accept(waiting(number, &[], at(0)), WINDOW, at(0)));
    }
    lane.changed(State::Quarantined, at(0));
    lane.shed(2, at(0));
    assert!(lane.held() == 2 && lane.is_behind(at(0)) && !lane.accept(waiting(9, &[], at(1)), 2, at(1)));
    let probe = sent(&mut lane, at(30)).unwrap();
    assert_eq!(lane.attempted(probe, &answered(200), at(30), 0).change.unwrap().0, State::Active);
    lane.changed(State::Active, at(30));
    assert!(lane.wants_load(WINDOW, at(30)));
    let rest = (2..=9).map(|number| waiting(number, &[], at(0))).collect();
    lane.loaded(Queue { waiting: rest, more_at: None });
    assert_eq!(lane.held(), 8, "each once");
}

#[test]
fn where_it_is_crowded_each_has_one_attempt_at_a_time() {
    let mut lane = lane(false);
    for number in 1..=3 {
        assert!(lane.accept(waiting(number, &[], at(0)), WINDOW, at(0)));
    }
    let Next::Send(first) = lane.next(at(0), true) else { panic!("the first is sent") };
    assert!(matches!(lane.next(at(0), true), Next::Nothing));
    lane.attempted(first, &answered(200), at(1), 0);
    assert!(matches!(lane.next(at(1), true), Next::Send(_)));
}

#[test]
fn who_asks_for_time_is_left_alone_as_a_whole() {
    let mut lane = lane(false);
    for number in 1..=2 {
        assert!(lane.accept(waiting(number, &[], at(0)), WINDOW, at(0)));
    }
    let first = sent(&mut lane, at(0)).unwrap();
    let busy = Attempt { retry_after: Some(Duration::from_secs(40)), ..answered(429) };
    lane.attempted(first, &busy, at(0), 500);
    assert!(matches!(lane.next(at(39), false), Next::At(then) if then == at(40)));
    assert!(sent(&mut lane, at(40)).is_some());
}

#[test]
fn no_more_begin_in_a_second_than_are_allowed() {
    let mut lane = lane(false);
    lane.reset(Rules { rate_per_second: Some(4), concurrency_max: 1_000, ..rules(false) }, at(0));
    lane.has_nothing();
    for number in 1..=40 {
        assert!(lane.accept(waiting(number, &[], at(0)), 100, at(0)));
    }
    let mut begun = 0;
    for millis in 0..5_000 {
        begun += i32::from(sent(&mut lane, Timestamp::from_micros(at(0).micros() + millis * 1_000)).is_some());
    }
    assert!((20..=21).contains(&begun), "{begun} in 5 s at 4 a second");
}

/// A load under way: two questions to the table, which changes between them.
struct Load {
    limit: usize,
    /// By when what is loaded is due.
    at: Timestamp,
    rows: Option<Vec<Waiting>>,
}

/// The table, and what is under way between it and a lane: everything takes time, and ends in any order.
struct World {
    ordered: bool,
    random: fastrand::Rng,
    lane: Lane,
    /// Pending deliveries: keys, due, attempts.
    table: BTreeMap<Uuid, (Vec<i64>, Timestamp, u32)>,
    loading: Option<Load>,
    flying: Vec<Waiting>,
    unrecorded: Vec<(Uuid, Fate, Timestamp)>,
    delivered: BTreeMap<Uuid, u32>,
    order: Vec<(Uuid, Vec<i64>)>,
    now: i64,
    next: u128,
    resets: bool,
}

impl World {
    fn now(&self) -> Timestamp {
        at(self.now)
    }

    /// The first question: what is due, or, where order is kept, all.
    fn rows(&self, load: &Load) -> Vec<Waiting> {
        let mut rows: Vec<_> = self.table.iter().filter(|(_, row)| self.ordered || row.1 <= load.at).collect();
        if !self.ordered {
            rows.sort_by_key(|(_, row)| row.1);
        }
        rows.truncate(load.limit);
        let of = |id: &Uuid, keys: &[i64], due, attempts| Waiting { attempts, ..waiting(id.as_u128(), keys, due) };
        rows.into_iter().map(|(id, (keys, due, attempts))| of(id, keys, *due, *attempts)).collect()
    }

    /// The second: when there is more.
    fn queue(&self, load: &Load, waiting: Vec<Waiting>) -> Queue {
        let later = self.table.values().map(|row| row.1).filter(|due| *due > load.at).min();
        let full = waiting.len() >= load.limit;
        Queue { more_at: if full { Some(at(0)) } else { later.filter(|_| !self.ordered) }, waiting }
    }

    fn load(&mut self, faults: bool) {
        let Some(mut load) = self.loading.take() else { return };
        if faults && self.random.u8(0..10) == 0 {
            self.lane.not_loaded(at(self.now + 1));
            return;
        }
        match load.rows.take() {
            None => self.loading = Some(Load { rows: Some(self.rows(&load)), ..load }),
            Some(rows) => self.lane.loaded(self.queue(&load, rows)),
        }
    }

    fn step(&mut self, faults: bool) {
        self.now += i64::from(self.random.u8(0..3));
        let now = self.now();
        if self.lane.wants_load(WINDOW, now) {
            assert!(self.loading.is_none(), "one load at a time");
            self.loading = Some(Load { limit: self.lane.load_limit(WINDOW), at: now, rows: None });
        }
        match self.random.u8(0..6) {
            0 if faults => {
                self.next += 1;
                let keys = vec![self.random.i64(0..4), 10 + self.random.i64(0..4)];
                let new = waiting(self.next, &keys, now);
                self.table.insert(new.id, (keys, now, 0));
                self.lane.accept(new, WINDOW, now);
            }
            1 => self.load(faults),
            2 if !self.flying.is_empty() => self.answer(faults),
            3 if !self.unrecorded.is_empty() => self.write_down(),
            4 if faults && self.resets && self.random.u8(0..40) == 0 => self.lane.reset(rules(self.ordered), now),
            4 if faults && self.random.u8(0..10) == 0 => self.lane.shed(self.random.usize(0..WINDOW), now),
            _ => {
                let crowded = faults && self.random.bool();
                while let Next::Send(waiting) = self.lane.next(now, crowded) {
                    assert!(!self.flying.iter().any(|other| other.id == waiting.id), "sent twice at once");
                    let shares = |other: &Waiting| {
                        other.event.ordering_keys.iter().any(|key| waiting.event.ordering_keys.contains(key))
                    };
                    assert!(!self.ordered || !self.flying.iter().any(shares), "two of one key under way");
                    self.flying.push(waiting);
                }
            }
        }
    }

    fn answer(&mut self, faults: bool) {
        let index = self.random.usize(0..self.flying.len());
        let waiting = self.flying.swap_remove(index);
        let fails = faults && waiting.attempts < 3 && self.random.u8(0..4) == 0;
        if !fails {
            *self.delivered.entry(waiting.id).or_default() += 1;
            self.order.push((waiting.id, waiting.event.ordering_keys.clone()));
        }
        let id = waiting.id;
        let drawn = self.random.u64(0..=1_000);
        let attempt = answered(if fails { 500 } else { 200 });
        let consequence = self.lane.attempted(waiting, &attempt, self.now(), drawn);
        // What it does about quarantine is another test's.
        self.unrecorded.push((id, consequence.fate, consequence.due));
    }

    fn write_down(&mut self) {
        for (id, fate, due) in std::mem::take(&mut self.unrecorded) {
            match fate {
                Fate::Pending => {
                    if let Some(row) = self.table.get_mut(&id) {
                        (row.1, row.2) = (due, row.2 + 1);
                    }
                }
                _ => drop(self.table.remove(&id)),
            }
            self.lane.recorded(id, fate, due);
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_sent_twice_whatever_comes_between_a_lane_and_its_table() {
    for seed in 0..3_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (ordered, resets) = (random.bool(), random.bool());
        let mut world = World {
            ordered,
            resets,
            random,
            lane: Lane::new(policy(), rules(ordered), at(0)),
            table: BTreeMap::new(),
            loading: None,
            flying: Vec::new(),
            unrecorded: Vec::new(),
            delivered: BTreeMap::new(),
            order: Vec::new(),
            now: 0,
            next: 0,
        };
        for _ in 0..600 {
            world.step(true);
        }
        for _ in 0..20_000 {
            if world.table.is_empty() {
                break;
            }
            world.step(false);
        }
        assert!(world.table.is_empty(), "seed {seed}: {} are never sent", world.table.len());
        assert_eq!(world.delivered.len(), usize::try_from(world.next).unwrap(), "seed {seed}");
        assert!(world.delivered.values().all(|times| *times == 1), "seed {seed}: sent twice");
        if ordered {
            for (index, (id, keys)) in world.order.iter().enumerate() {
                let overtaken = world.order[index..]
                    .iter()
                    .any(|(later, of)| later < id && of.iter().any(|key| keys.contains(key)));
                assert!(!overtaken, "seed {seed}: {id} came before an older one of its key");
            }
        }
    }
}
