//! What is broken, when and for how long. The seed decides all of it; the machine decides how long a restart takes.

use super::clients::Balancer;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use twh_schemas::partition::partition_of;
use twh_tests::proxy::Proxy;
use twh_tests::{GROUP_SESSION, Tenant, World};

pub(crate) const PARTITIONS: i32 = 6;
pub(crate) const SERVERS: usize = 3;
/// The server that reaches the database through the proxy.
pub(crate) const PROXIED: usize = SERVERS - 1;
/// How long after a member is missed, or after a network is mended, it may take until commands of every partition are decided.
const GOES_ON_WITHIN: Duration = Duration::from_secs(20);

/// How a silent network comes back.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// What was held back arrives.
    Heals,
    /// What was open is closed.
    Cuts,
}

/// One thing that breaks.
#[derive(Debug, Clone, Copy)]
enum Break {
    Server(usize),
    Kafka,
    KafkaAndServer(usize),
    Postgres,
    /// A server stands still until its partitions are taken over, and so much longer: then it goes on as if nothing was.
    Freeze(usize, Duration),
    /// The database is out of the proxied server's reach.
    Silence(Duration, Ending),
}

impl Break {
    const fn kind(self) -> &'static str {
        match self {
            Self::Server(_) => "server killed",
            Self::Kafka => "kafka killed",
            Self::KafkaAndServer(_) => "kafka and server killed",
            Self::Postgres => "postgres killed",
            Self::Freeze(..) => "server frozen",
            Self::Silence(_, Ending::Heals) => "network silent, healed",
            Self::Silence(_, Ending::Cuts) => "network silent, cut",
        }
    }
}

/// What was broken, how often.
#[derive(Debug, Default)]
pub(crate) struct Broken(BTreeMap<&'static str, u32>);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.0.iter().map(|(kind, times)| format!("{times} × {kind}")).collect();
        f.write_str(&kinds.join(", "))
    }
}

/// Breaks things, one after another, and mends each.
pub(crate) struct Breaker<'a> {
    world: &'a mut World,
    proxy: &'a Proxy,
    balancer: Arc<Balancer>,
    /// The most memory that a server took.
    memory: u64,
    /// The partitions on which there is traffic.
    partitions: Vec<i32>,
    rng: StdRng,
    begun: Instant,
    broken: Broken,
    troubles: Vec<String>,
}

impl<'a> Breaker<'a> {
    pub(crate) fn new(
        world: &'a mut World,
        proxy: &'a Proxy,
        balancer: Arc<Balancer>,
        tenants: &[Tenant],
        seed: u64,
    ) -> Self {
        let used: BTreeSet<i32> = tenants.iter().map(|tenant| partition_of(tenant.id.as_bytes(), PARTITIONS)).collect();
        Self {
            world,
            proxy,
            balancer,
            memory: 0,
            partitions: used.into_iter().collect(),
            rng: StdRng::seed_from_u64(seed),
            begun: Instant::now(),
            broken: Broken::default(),
            troubles: Vec::new(),
        }
    }

    /// Breaks everything once, in an order that the seed gives, and again until the time is up.
    pub(crate) async fn run(&mut self, time: Duration) {
        let mut round = 0;
        while round == 0 || self.begun.elapsed() < time {
            for what in self.round() {
                if round == 0 || self.begun.elapsed() < time {
                    sleep(Duration::from_millis(self.rng.random_range(500..2_500))).await;
                    println!("chaos: {:>4} s {what:?}", self.begun.elapsed().as_secs());
                    self.measure_memory();
                    self.balancer.calm.store(false, Ordering::Release);
                    self.apply(what).await;
                    self.all_go_on().await;
                    self.balancer.calm.store(true, Ordering::Release);
                    *self.broken.0.entry(what.kind()).or_default() += 1;
                }
            }
            round += 1;
        }
    }

    /// What was broken, what went wrong meanwhile, and the most memory that a server took, in bytes.
    pub(crate) fn finish(mut self) -> (Broken, Vec<String>, u64) {
        self.measure_memory();
        (self.broken, self.troubles, self.memory)
    }

    fn measure_memory(&mut self) {
        let peaks = (0..SERVERS).filter_map(|server| self.world.server(server).ok()?.peak_bytes().ok());
        self.memory = peaks.max().unwrap_or_default().max(self.memory);
    }

    /// Everything that breaks, once; only some kinds of it where `TWH_TEST_CHAOS_ONLY` names a part of theirs.
    fn round(&mut self) -> Vec<Break> {
        let ending = if self.rng.random_bool(0.5) { Ending::Heals } else { Ending::Cuts };
        let mut server = || self.rng.random_range(0..SERVERS);
        let mut all = vec![
            Break::Server(server()),
            Break::Kafka,
            Break::KafkaAndServer(server()),
            Break::Postgres,
            Break::Freeze(server(), Duration::from_millis(500)),
            Break::Silence(Duration::from_secs(8), ending),
        ];
        if let Ok(only) = std::env::var("TWH_TEST_CHAOS_ONLY") {
            all.retain(|b| b.kind().contains(&only));
        }
        all.shuffle(&mut self.rng);
        all
    }

    async fn apply(&mut self, what: Break) {
        match what {
            Break::Server(server) => {
                self.world.server(server).unwrap().kill().await.unwrap();
                self.restart(server).await;
            }
            Break::Kafka => self.world.crash("kafka").await.unwrap(),
            Break::KafkaAndServer(server) => {
                self.world.dev(&["kill", "kafka"]).await.unwrap();
                self.world.server(server).unwrap().kill().await.unwrap();
                self.world.dev(&["restart", "kafka"]).await.unwrap();
                self.restart(server).await;
            }
            Break::Postgres => self.world.crash("postgres").await.unwrap(),
            Break::Freeze(server, longer) => self.freeze(server, longer).await,
            Break::Silence(time, ending) => self.silence(time, ending).await,
        }
    }

    async fn restart(&mut self, server: usize) {
        self.world.server(server).unwrap().start().await.unwrap();
    }

    async fn freeze(&mut self, server: usize, longer: Duration) {
        self.world.server(server).unwrap().freeze().await.unwrap();
        // The group notices that a member is silent; then its partitions are somebody else's.
        sleep(GROUP_SESSION).await;
        self.goes_on(&format!("server {server} is frozen, its partitions are not taken over")).await;
        sleep(longer).await;
        self.world.server(server).unwrap().thaw().await.unwrap();
    }

    async fn silence(&mut self, time: Duration, ending: Ending) {
        self.proxy.go_silent();
        sleep(time).await;
        match ending {
            Ending::Heals => {}
            Ending::Cuts => self.proxy.cut(),
        }
        self.proxy.heal();
        self.goes_on(&format!("the network is back ({ending:?}), but not all partitions go on")).await;
    }

    /// It is a trouble when not every partition on which there is traffic goes on in time.
    async fn goes_on(&mut self, otherwise: &str) {
        let standing = self.all_go_on().await;
        if !standing.is_empty() {
            self.troubles.push(format!("at {} s: {otherwise}: {standing:?}", self.begun.elapsed().as_secs()));
            println!("chaos: {:?}", self.troubles.last());
        }
    }

    /// Waits until every partition on which there is traffic goes on; those that do not in time.
    async fn all_go_on(&mut self) -> Vec<i32> {
        let pool = self.world.pool().await.unwrap();
        let offsets = async || -> BTreeMap<i32, i64> {
            let rows: Vec<(i32, i64)> =
                sqlx::query_as("select partition, next_offset from ledger_partitions").fetch_all(&pool).await.unwrap();
            rows.into_iter().collect()
        };
        let before = offsets().await;
        let begun = Instant::now();
        while begun.elapsed() < GOES_ON_WITHIN {
            let now = offsets().await;
            if self.partitions.iter().all(|partition| now.get(partition) > before.get(partition)) {
                return Vec::new();
            }
            sleep(Duration::from_millis(200)).await;
        }
        let now = offsets().await;
        let mut standing = self.partitions.clone();
        standing.retain(|partition| now.get(partition) <= before.get(partition));
        standing
    }
}
