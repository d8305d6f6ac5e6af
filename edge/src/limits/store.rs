//! Where buckets stand: in Redis, and while it is away in this process.
//!
//! A call that is late is decided here. A failure, or nothing but late calls for a while, opens a circuit: from then on no
//! request asks Redis, and one task tries until it answers again.

use super::Subject;
use super::plan::Policy;
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use twh_domain::id::TenantId;
use twh_sinks::counters::gcra::{Level, Rate, Verdict, charge_all, take_all};
use twh_sinks::counters::{Asked, Bucket, Counters, CountersError};
use twh_sinks::tasks;
use uuid::Uuid;

/// What a process lets through alone, of a plan's rate and burst: one part in so many. A platform of up to so many processes
/// stays within the plan while Redis is away.
const LOCAL_PART: u32 = 4;
/// Buckets that a process keeps at most. One that is pushed out is full when it comes back.
const LOCAL_BUCKETS_MAX: usize = 100_000;
/// How long calls may be late, all of them, before Redis counts as away. A process that is short of the processor is late
/// now and then, whatever Redis does.
const LATE_MICROS_MAX: u64 = 100_000;
/// Between two attempts to reach Redis: from the first to the second.
const PAUSE_MS: (u64, u64) = (200, 300);

twh_sinks::metrics! {
    STORE_UP: IntGauge = "twh_rate_limit_store_up", "1 while rate limits are shared through Redis, 0 while they are not.";
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Redis, for all processes.
    Shared,
    /// This process, for itself.
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LocalKey {
    Tenant(TenantId),
    Credential(TenantId, Uuid),
}

/// What the stores of a process share: its own buckets, and where the shared ones are.
pub(super) struct Buckets {
    /// Without a connection: each store makes its own.
    shared: Option<Counters>,
    local: Cache<LocalKey, Arc<Mutex<u64>>>,
    started: Instant,
    /// Stores that do not reach Redis now.
    down: Mutex<usize>,
}

impl Buckets {
    pub(super) fn new(shared: Option<Counters>) -> Self {
        let local = Cache::new(LOCAL_BUCKETS_MAX);
        Self { shared, local, started: Instant::now(), down: Mutex::default() }
    }

    /// Notes that a store does not reach Redis; says whether it is the first.
    fn lost(&self) -> bool {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        *down += 1;
        STORE_UP.set(0);
        *down == 1
    }

    /// Notes that one does again, or is gone; says whether it was the last.
    fn found(&self) -> bool {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        *down = down.saturating_sub(1);
        STORE_UP.set(i64::from(*down == 0));
        *down == 0
    }
}

/// The buckets, over a connection of its own.
pub(super) struct Store {
    counters: Option<Counters>,
    up: AtomicBool,
    failed: Notify,
    /// When Redis last answered, in microseconds since the start.
    answered_at: AtomicU64,
    buckets: Arc<Buckets>,
}

impl Store {
    pub(super) fn new(buckets: &Arc<Buckets>) -> Self {
        let (up, failed, answered_at) = (AtomicBool::new(false), Notify::new(), AtomicU64::new(0));
        buckets.lost();
        let counters = buckets.shared.as_ref().map(Counters::apart);
        Self { counters, up, failed, answered_at, buckets: Arc::clone(buckets) }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Takes what a request of this cost has not paid yet, from the tenant's bucket and the credential's, or charges them with it;
    /// says who decided, and by which policy.
    pub(super) async fn ask(
        &self,
        subject: &Subject,
        policy: Policy,
        asked: Asked,
        paid: u32,
        cost: u32,
    ) -> (Source, Policy, Vec<Verdict>) {
        if let Some(counters) = self.counters.as_ref().filter(|_| self.is_up()) {
            let Subject { tenant, credential, .. } = subject;
            // The tag in braces keeps both on one node of a cluster.
            let bucket = |key: String, rate: Rate| Bucket { key, rate, cost: unpaid(rate, paid, cost) };
            let buckets = [
                bucket(format!("twh:limit:{{{tenant}}}"), policy.tenant),
                bucket(format!("twh:limit:{{{tenant}}}:{credential}"), policy.key),
            ];
            match counters.ask(&buckets, asked).await {
                Ok(verdicts) => {
                    self.answered_at.fetch_max(self.micros(), Ordering::AcqRel);
                    return (Source::Shared, policy, verdicts);
                }
                Err(CountersError::Late(_)) if self.has_answered_lately() => {}
                Err(error) => self.open(counters, &error),
            }
        }
        let policy = policy.divided(LOCAL_PART);
        (Source::Local, policy, self.ask_locally(subject, policy, asked, paid, cost))
    }

    fn ask_locally(&self, subject: &Subject, policy: Policy, asked: Asked, paid: u32, cost: u32) -> Vec<Verdict> {
        let tenant = self.bucket(LocalKey::Tenant(subject.tenant));
        let credential = self.bucket(LocalKey::Credential(subject.tenant, subject.credential));
        // Always the tenant's first: no two requests wait for each other.
        let mut tenant = tenant.lock().unwrap_or_else(PoisonError::into_inner);
        let mut credential = credential.lock().unwrap_or_else(PoisonError::into_inner);
        let level = |rate: Rate, full_at: u64| Level { rate, cost: unpaid(rate, paid, cost), full_at };
        let mut levels = [level(policy.tenant, *tenant), level(policy.key, *credential)];
        let verdicts = match asked {
            Asked::Take => take_all(&mut levels, self.micros()),
            Asked::Charge => charge_all(&mut levels, self.micros()),
        };
        [*tenant, *credential] = levels.map(|level| level.full_at);
        verdicts
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.buckets.started.elapsed().as_micros()).unwrap_or(u64::MAX / 2)
    }

    fn has_answered_lately(&self) -> bool {
        self.micros().saturating_sub(self.answered_at.load(Ordering::Acquire)) < LATE_MICROS_MAX
    }

    fn bucket(&self, key: LocalKey) -> Arc<Mutex<u64>> {
        let Ok(bucket) = self.buckets.local.get_or_insert_with(&key, || Ok::<_, Infallible>(Arc::default()));
        bucket
    }

    /// Opens the circuit. Requests that fail together find it open.
    fn open(&self, counters: &Counters, error: &CountersError) {
        if self.up.swap(false, Ordering::AcqRel) {
            counters.disconnect();
            if self.buckets.lost() {
                tracing::warn!(%error, kind = error.kind(), "Redis is away: rate limits are of each process, a quarter of the plan's");
            }
            self.failed.notify_one();
        }
    }

    fn close(&self) {
        self.answered_at.fetch_max(self.micros(), Ordering::AcqRel);
        self.up.store(true, Ordering::Release);
        if self.buckets.found() {
            tracing::info!("Redis answers: rate limits are shared");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.is_up() {
            self.buckets.found();
        }
    }
}

/// What is still to be taken, where a bucket was full when the first part was paid: never more than it holds in all.
fn unpaid(rate: Rate, paid: u32, cost: u32) -> u32 {
    cost.min(rate.burst()).saturating_sub(paid)
}

/// The task that tries Redis; it ends with this.
pub(super) struct Keeper(JoinHandle<()>);

impl Keeper {
    /// Connects at once, and again after each failure. None where there is nothing to connect to.
    pub(super) fn start(store: &Arc<Store>) -> Option<Self> {
        store.counters.as_ref()?;
        let store = Arc::clone(store);
        Some(Self(tasks::keep("limits", "limits_redis", move || keep(Arc::clone(&store)))))
    }
}

async fn keep(store: Arc<Store>) {
    let Some(counters) = &store.counters else { return };
    let mut told = false;
    loop {
        match counters.connect().await {
            Ok(()) => {
                store.close();
                store.failed.notified().await;
                told = true;
            }
            Err(error) if !told => {
                tracing::warn!(%error, kind = error.kind(), "Redis is not there: rate limits are of each process, a quarter of the plan's");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(PAUSE_MS.0..=PAUSE_MS.1))).await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}
