//! What a rate limit costs a request: the time of `Limiter::admit`, beside that of one call to Redis.
//!
//! `cargo run --release -p twh-edge --example admit` against the Redis of `TWH_REDIS_URL`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a measurement for people")]

use std::time::{Duration, Instant};
use twh_domain::id::TenantId;
use twh_edge::limits::{Limiter, Plan, Policies, RateLimits, Subject};
use twh_sinks::counters::gcra::Rate;
use twh_sinks::counters::{Asked, Bucket, Counters, Deadlines};
use uuid::Uuid;

const CALLS: usize = 10_000;
const CLIENTS: usize = 16;

fn print(name: &str, mut taken: Vec<Duration>) {
    taken.sort();
    let at = |per_mille: usize| taken[(taken.len() - 1) * per_mille / 1_000].as_micros();
    println!(
        "{name:<44} median {:>4} µs   p90 {:>4}   p99 {:>4}   p99.9 {:>5}   of {}",
        at(500),
        at(900),
        at(990),
        at(999),
        taken.len()
    );
}

async fn admits(limiter: Limiter, calls: usize) -> Vec<Duration> {
    let subject = Subject { tenant: TenantId(Uuid::new_v4()), credential: Uuid::new_v4(), plan: Plan::Enterprise };
    let mut taken = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        limiter.admit(&subject, 1).await.unwrap();
        taken.push(begun.elapsed());
    }
    taken
}

#[tokio::main]
async fn main() {
    let url = std::env::var("TWH_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:16379".to_owned());
    let open = || Counters::new(&url, Deadlines::default()).unwrap();
    let policies = || Policies::parse("enterprise=100000/1000000,100000/1000000").unwrap();

    let counters = open();
    counters.connect().await.unwrap();
    let bucket =
        Bucket { key: format!("twh:test:{{{}}}", Uuid::new_v4()), rate: Rate::new(100_000, 1_000_000), cost: 1 };
    let mut taken = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begun = Instant::now();
        counters.ask(std::slice::from_ref(&bucket), Asked::Take).await.unwrap();
        taken.push(begun.elapsed());
    }
    print("one call of one bucket", taken);

    let limiter = RateLimits::new(Some(open()), policies(), || 0).limiter();
    while !limiter.is_shared() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    print("admit, one after another", admits(limiter.clone(), CALLS).await);

    let begun = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(admits(limiter.clone(), CALLS))).collect();
    let mut taken = Vec::new();
    for client in clients {
        taken.extend(client.await.unwrap());
    }
    let all = begun.elapsed();
    print("admit, 16 clients at once", taken);
    println!("{:<44} {} a second", "", (CALLS * CLIENTS) as u128 * 1_000 / all.as_millis());
    println!("{:<44} {}", "all of it through Redis", limiter.is_shared());

    print("admit, without Redis", admits(RateLimits::new(None, policies(), || 0).limiter(), CALLS).await);
}
