use super::gcra::{Level, charge_all, take_all};
use super::*;
use proptest::prelude::*;
use std::time::Instant;

fn url() -> String {
    std::env::var("TWH_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:16379".to_owned())
}

/// Patient: these tests are of the rule, on a machine that may be busy.
fn counters() -> Counters {
    let patient = Duration::from_secs(10);
    Counters::new(&url(), Deadlines { call: patient, connect: patient }).unwrap()
}

fn key() -> String {
    format!("twh:test:{{{}}}", uuid::Uuid::new_v4())
}

async fn ask_at(counters: &Counters, buckets: &[Bucket], asked: Asked) -> (Vec<Verdict>, u64) {
    let mut connection = counters.connection.read().unwrap().clone().unwrap();
    counters.run(&mut connection, buckets, asked).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// In no window is more let through than the burst and what the rate gives in the window's time.
    #[test]
    fn no_window_holds_more_than_the_burst_and_the_rate(
        per_second in 1..2_000_u32,
        burst in 1..50_u32,
        steps in prop::collection::vec((0..400_000_u64, 1..8_u32), 1..120),
    ) {
        let rate = Rate::new(per_second, burst);
        let (mut now, mut full_at, mut admitted) = (1_000_000_000_u64, 0, Vec::new());
        // In the end, one who comes back in the very microsecond in which it is worth it.
        for (pause, cost) in steps.into_iter().chain(std::iter::repeat_n((0, 1), 2 * 50 + 100)) {
            now += pause;
            let mut levels = [Level { rate, cost, full_at }];
            let verdict = take_all(&mut levels, now)[0];
            if verdict.allowed {
                admitted.push((now, u64::from(cost.min(burst))));
            } else if pause == 0 {
                now += verdict.retry_after_micros;
            }
            full_at = levels[0].full_at;
        }
        for (first, (from, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (at, cost) in &admitted[first..] {
                sum += cost;
                // In exact numbers: sum <= burst + per_second * seconds
                prop_assert!(sum * 1_000_000 <= u64::from(burst) * 1_000_000 + u64::from(per_second) * (at - from));
            }
        }
    }

    /// Whoever is refused and waits as told is let through, whatever it asks for; refusals in between cost it nothing.
    #[test]
    fn whoever_waits_as_told_is_let_through(
        per_second in 1..200_000_u32,
        burst in 1..1_000_u32,
        steps in prop::collection::vec((0..50_000_u64, 0..3_000_u32), 1..60),
    ) {
        let rate = Rate::new(per_second, burst);
        let (mut now, mut full_at) = (7_u64, 0);
        for (pause, cost) in steps {
            now += pause;
            let mut levels = [Level { rate, cost, full_at }];
            let verdict = take_all(&mut levels, now)[0];
            if !verdict.allowed {
                let early = take_all(&mut levels, now + verdict.retry_after_micros - 1)[0];
                prop_assert!(!early.allowed, "let through before its time");
                now += verdict.retry_after_micros;
                prop_assert!(take_all(&mut levels, now)[0].allowed, "not let through at its time");
            }
            full_at = levels[0].full_at;
        }
    }

    /// What one bucket refuses, no bucket pays for.
    #[test]
    fn all_are_taken_from_or_none(
        rates in prop::collection::vec((1..1_000_u32, 1..20_u32), 1..4),
        steps in prop::collection::vec((0..200_000_u64, 1..6_u32), 1..60),
    ) {
        let mut levels: Vec<Level> =
            rates.iter().map(|(rate, burst)| Level { rate: Rate::new(*rate, *burst), cost: 0, full_at: 0 }).collect();
        let mut now = 1_000_000_000;
        for (pause, cost) in steps {
            now += pause;
            levels.iter_mut().for_each(|level| level.cost = 0);
            let before: Vec<u32> = take_all(&mut levels, now).iter().map(|verdict| verdict.remaining).collect();
            levels.iter_mut().for_each(|level| level.cost = cost);
            let verdicts = take_all(&mut levels, now);
            let all = verdicts.iter().all(|verdict| verdict.allowed);
            for ((verdict, before), level) in verdicts.iter().zip(before).zip(&levels) {
                let taken = if all { cost.min(level.rate.burst()) } else { 0 };
                prop_assert_eq!(verdict.remaining, before - taken);
            }
        }
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_nobody_out_longer_than_a_bucket_that_owes_all_that_it_may() {
    let rate = Rate::new(10, 5);
    let mut levels = [Level { rate, cost: 1, full_at: 3_600_000_000 }];
    let verdict = take_all(&mut levels, 1_000_000)[0];
    assert_eq!((verdict.allowed, verdict.retry_after_micros), (false, 600_000));
    assert!(take_all(&mut levels, 1_600_000)[0].allowed, "it is empty now, and fills");
}

#[test]
fn what_was_used_is_charged_also_to_an_empty_bucket_which_owes_no_more_than_it_holds() {
    let mut levels = [Level { rate: Rate::new(10, 5), cost: 4, full_at: 0 }];
    assert_eq!(charge_all(&mut levels, 1)[0].remaining, 1);
    assert_eq!(charge_all(&mut levels, 1)[0].reset_micros, 800_000, "it owes three");
    levels[0].cost = 1;
    let refused = take_all(&mut levels, 1)[0];
    assert_eq!((refused.allowed, refused.remaining, refused.retry_after_micros), (false, 0, 400_000));
    for _ in 0..10 {
        charge_all(&mut levels, 1);
    }
    assert_eq!(take_all(&mut levels, 1)[0].retry_after_micros, 600_000, "it owes five");
}

#[test]
fn more_than_the_burst_is_let_through_by_a_full_bucket() {
    let mut levels = [Level { rate: Rate::new(10, 5), cost: 100, full_at: 0 }];
    assert!(take_all(&mut levels, 1)[0].allowed);
    let verdict = take_all(&mut levels, 1)[0];
    assert_eq!((verdict.allowed, verdict.remaining, verdict.retry_after_micros), (false, 0, 500_000));
}

/// The script in Redis and the function here, side by side, at Redis's own times.
#[tokio::test]
async fn redis_and_this_process_have_one_rule() {
    let counters = counters();
    counters.connect().await.unwrap();
    let mut admitted = 0;
    for seed in 0..40 {
        let mut random = Random(seed * 7_919 + 1);
        let rates: Vec<Rate> = (0..random.up_to(3) + 1)
            .map(|_| Rate::new([1, 3, 7, 900, 5_000, 100_000][random.up_to(6)], [1, 2, 5, 40, 1_000][random.up_to(5)]))
            .collect();
        let keys: Vec<String> = rates.iter().map(|_| key()).collect();
        let mut levels: Vec<Level> = rates.iter().map(|rate| Level { rate: *rate, cost: 0, full_at: 0 }).collect();
        for _ in 0..50 {
            let mut buckets = Vec::new();
            for (index, key) in keys.iter().enumerate() {
                if random.up_to(40) == 0 {
                    // A tenant changes its plan: the bucket that stands is read under another rate.
                    levels[index].rate = Rate::new(2, 3);
                }
                levels[index].cost = [0, 1, 1, 1, 2, 5, 60][random.up_to(7)];
                buckets.push(Bucket { key: key.clone(), rate: levels[index].rate, cost: levels[index].cost });
            }
            let asked = if random.up_to(8) == 0 { Asked::Charge } else { Asked::Take };
            let (theirs, now) = ask_at(&counters, &buckets, asked).await;
            let ours = match asked {
                Asked::Take => take_all(&mut levels, now),
                Asked::Charge => charge_all(&mut levels, now),
            };
            assert_eq!(theirs, ours, "seed {seed}");
            admitted += usize::from(asked == Asked::Take && ours.iter().all(|verdict| verdict.allowed));
            if random.up_to(4) == 0 {
                tokio::time::sleep(Duration::from_micros(random.up_to(3_000) as u64)).await;
            }
        }
    }
    assert!((200..1_800).contains(&admitted), "{admitted} of 2,000: the schedules show only one side");
}

#[tokio::test]
async fn a_bucket_goes_by_itself_when_it_is_full_and_a_script_that_redis_does_not_know_is_sent() {
    let mut counters = counters();
    counters.connect().await.unwrap();
    // To Redis, another script: one that it has never seen.
    counters.script = Script::new(&format!("{SCRIPT}-- {}", uuid::Uuid::new_v4()));
    let bucket = Bucket { key: key(), rate: Rate::new(20, 5), cost: 2 };
    let mut connection = counters.connection.read().unwrap().clone().unwrap();
    assert!(counters.ask(std::slice::from_ref(&bucket), Asked::Take).await.unwrap()[0].allowed);
    let left: i64 = redis::cmd("PTTL").arg(&bucket.key).query_async(&mut connection).await.unwrap();
    assert!((1..=101).contains(&left), "{left} ms");
    tokio::time::sleep(Duration::from_millis(150)).await;
    let there: bool = redis::cmd("EXISTS").arg(&bucket.key).query_async(&mut connection).await.unwrap();
    assert!(!there);
}

#[tokio::test]
async fn a_redis_that_says_nothing_costs_a_call_its_deadline_and_one_that_is_away_costs_nothing() {
    let deadlines = Deadlines { call: Duration::from_millis(20), connect: Duration::from_millis(100) };
    let bucket = Bucket { key: key(), rate: Rate::new(1, 1), cost: 1 };
    // Accepts, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let counters = Counters::new(&format!("redis://{}", silent.local_addr().unwrap()), deadlines).unwrap();
    let begun = Instant::now();
    assert_eq!(counters.connect().await.unwrap_err().kind(), "late");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(counters.ask(&[bucket], Asked::Take).await.unwrap_err().kind(), "not_connected");
    drop(silent);
    assert_eq!(counters.connect().await.unwrap_err().kind(), "unreachable");
    assert_eq!(Counters::new("http://nowhere", deadlines).err().unwrap().kind(), "address");
}

/// A generator that a seed repeats (SplitMix64).
struct Random(u64);

impl Random {
    fn up_to(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}
