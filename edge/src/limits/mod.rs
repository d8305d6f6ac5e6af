//! How much a tenant and each of its keys may ask for, by the tenant's plan; and who gives way first when the platform is
//! busy. [docs/limits.md](../../docs/limits.md) tells it to clients and operators.
//!
//! Buckets stand in Redis, shared by all processes. When Redis is away they stand here, smaller, until it is back: a request
//! never fails and never waits because of that.

mod plan;
mod store;

pub use plan::{Plan, Policies, Policy, SHED_ABOVE};

use crate::error::{ApiError, ErrorCode};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest, web};
use std::sync::Arc;
use std::time::Instant;
use store::{Buckets, Keeper, Source, Store};
use twh_domain::id::TenantId;
use twh_sinks::counters::gcra::{Rate, Verdict};
use twh_sinks::counters::{Asked, Counters};
use uuid::Uuid;

const MICROS_PER_SECOND: u64 = 1_000_000;
/// Commands of a batch that cost one more request.
const COMMANDS_A_REQUEST: usize = 10;
/// Bytes of an answer that cost one more request.
const BYTES_A_REQUEST: u64 = 256 * 1024;

twh_sinks::metrics! {
    DECISIONS: IntCounterVec = "twh_rate_limit_decisions_total", "Decisions of the rate limits, by plan and what came of them.", labels ["plan", "outcome"];
    SECONDS: Histogram = "twh_rate_limit_decision_seconds", "Time to decide whether to admit, in seconds.", buckets [0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
    CHARGED: IntCounterVec = "twh_rate_limit_charged_requests_total", "Requests that large answers cost in addition, by plan.", labels ["plan"];
}

/// Whose buckets a request takes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The tenant.
    pub tenant: TenantId,
    /// What it calls with, such as a key's id.
    pub credential: Uuid,
    /// The tenant's plan.
    pub plan: Plan,
}

/// What a `commands:batch` of so many commands costs, in requests: one, and one more for every ten commands.
#[must_use]
pub fn cost_of_batch(commands: usize) -> u32 {
    u32::try_from(commands / COMMANDS_A_REQUEST).unwrap_or(u32::MAX).saturating_add(1)
}

/// What an answer of so many bytes costs in addition, in requests: one for every 256 KiB.
#[must_use]
pub fn cost_of_answer(bytes: u64) -> u32 {
    u32::try_from(bytes / BYTES_A_REQUEST).unwrap_or(u32::MAX)
}

/// What the limiters of a process have in common: the plans, how busy the process is, its own buckets, and where the shared ones
/// are. Clones share everything.
#[derive(Clone)]
pub struct RateLimits(Arc<Common>);

struct Common {
    policies: Policies,
    buckets: Arc<Buckets>,
    pressure: Box<dyn Fn() -> u32 + Send + Sync>,
}

impl RateLimits {
    /// Limits over these shared buckets; without any there are only the process's own. `pressure` says, in per mille, how much of
    /// what the process can hold at once is in use. Does not connect.
    #[must_use]
    pub fn new(
        counters: Option<Counters>,
        policies: Policies,
        pressure: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Common { policies, buckets: Buckets::new(counters).into(), pressure: Box::new(pressure) }))
    }

    /// A limiter with a connection of its own. Call it inside of a Tokio runtime: a task there looks after the connection, and
    /// ends with the last clone. Where that runtime has one thread, as each worker of the HTTP server, a decision wakes no other.
    /// A Redis that is away now is no error.
    #[must_use]
    pub fn limiter(&self) -> Limiter {
        let store = Arc::new(Store::new(&self.0.buckets));
        let keeper = Keeper::start(&store);
        Limiter(Arc::new(Inner { limits: self.clone(), store, _keeper: keeper }))
    }
}

/// Decides who is admitted. Clones share everything.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

struct Inner {
    limits: RateLimits,
    store: Arc<Store>,
    _keeper: Option<Keeper>,
}

impl Limiter {
    /// True while the shared buckets are used, not the process's own.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.store.is_up()
    }

    /// What a plan may ask for while the buckets are shared.
    #[must_use]
    pub fn policy(&self, plan: Plan) -> Policy {
        self.0.limits.0.policies.of(plan)
    }

    /// Takes a request's cost from the tenant's bucket and the credential's, or from neither. A cost above what a bucket
    /// holds takes all that it holds.
    pub async fn admit(&self, subject: &Subject, cost: u32) -> Result<Admission, Refused> {
        let pressure = (self.0.limits.0.pressure)();
        if SHED_ABOVE.iter().any(|(plan, above)| *plan == subject.plan && pressure > *above) {
            DECISIONS.with_label_values(&[subject.plan.name(), "shed"]).inc();
            let message = "the platform is busy and keeps what is left for other plans";
            return Err(Refused {
                error: ApiError::new(ErrorCode::Overloaded, message).retry_after(1),
                admission: None,
            });
        }
        self.take(subject, 0, cost).await
    }

    /// Raises what an admitted request has cost, once it is known to be larger; refused where that is too much.
    pub async fn raise(&self, subject: &Subject, paid: u32, cost: u32) -> Result<Admission, Refused> {
        self.take(subject, paid, cost).await
    }

    /// Charges the buckets with what an admitted request has used beyond what it has paid. What they do not hold they owe.
    pub async fn charge(&self, subject: &Subject, cost: u32) -> Admission {
        CHARGED.with_label_values(&[subject.plan.name()]).inc_by(cost.into());
        self.ask(subject, Asked::Charge, 0, cost).await.1
    }

    async fn ask(&self, subject: &Subject, asked: Asked, paid: u32, cost: u32) -> (Source, Admission) {
        let begun = Instant::now();
        let policy = self.0.limits.0.policies.of(subject.plan);
        let (source, policy, verdicts) = self.0.store.ask(subject, policy, asked, paid, cost).await;
        SECONDS.observe(begun.elapsed().as_secs_f64());
        let states = [("tenant", policy.tenant), ("key", policy.key)].into_iter().zip(verdicts);
        let buckets = states.map(|((name, rate), verdict)| BucketState { name, rate, verdict, cost }).collect();
        (source, Admission { buckets })
    }

    async fn take(&self, subject: &Subject, paid: u32, cost: u32) -> Result<Admission, Refused> {
        let (source, admission) = self.ask(subject, Asked::Take, paid, cost).await;
        let admitted = admission.is_admitted();
        let outcome = match (source, admitted) {
            (Source::Shared, true) => "admitted",
            (Source::Shared, false) => "limited",
            (Source::Local, true) => "admitted_locally",
            (Source::Local, false) => "limited_locally",
        };
        DECISIONS.with_label_values(&[subject.plan.name(), outcome]).inc();
        if admitted { Ok(admission) } else { Err(refused(admission)) }
    }
}

fn refused(admission: Admission) -> Refused {
    let seconds = admission.retry_after_seconds();
    let name = admission.tightest().map_or("", |bucket| bucket.name);
    let error = ApiError::new(ErrorCode::RateLimited, format!("the limit of the {name} is reached"));
    Refused { error: error.retry_after(seconds), admission: Some(admission) }
}

/// Why a request is not let in, and where its buckets stand.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What the client is told.
    pub error: ApiError,
    /// The buckets; none where they were not asked.
    pub admission: Option<Admission>,
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

/// Where the buckets of a request stand, for the headers of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    buckets: Vec<BucketState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BucketState {
    name: &'static str,
    rate: Rate,
    verdict: Verdict,
    /// All that the request costs, also what it has paid before.
    cost: u32,
}

impl BucketState {
    /// When a request of this cost would be let through that begins anew.
    fn retry_after_micros(&self) -> u64 {
        (self.verdict.reset_micros + self.rate.cost_micros(self.cost)).saturating_sub(self.rate.capacity_micros())
    }

    fn reset_seconds(&self) -> u64 {
        self.verdict.reset_micros.div_ceil(MICROS_PER_SECOND)
    }
}

impl Admission {
    fn is_admitted(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.verdict.allowed)
    }

    /// Of refusals the one that lasts longest; otherwise the bucket with the least left.
    fn tightest(&self) -> Option<&BucketState> {
        self.buckets
            .iter()
            .min_by_key(|bucket| (u64::MAX - bucket.verdict.retry_after_micros, bucket.verdict.remaining))
    }

    /// Whole seconds after which the request is let through, unless others of the same tenant take what comes back.
    fn retry_after_seconds(&self) -> u32 {
        let micros = self.buckets.iter().map(BucketState::retry_after_micros).max().unwrap_or_default();
        u32::try_from(micros.div_ceil(MICROS_PER_SECOND)).unwrap_or(u32::MAX).max(1)
    }

    /// Adds the headers: `X-RateLimit-*` of the tightest bucket, and the fields of draft-ietf-httpapi-ratelimit-headers
    /// of each. All times are seconds from now until a bucket is full again.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if let Some(bucket) = self.tightest() {
            set("x-ratelimit-limit", bucket.rate.burst().to_string());
            set("x-ratelimit-remaining", bucket.verdict.remaining.to_string());
            set("x-ratelimit-reset", bucket.reset_seconds().to_string());
        }
        set(
            "ratelimit-policy",
            self.list(|bucket| {
                let window = bucket.rate.capacity_micros().div_ceil(MICROS_PER_SECOND);
                format!("q={};w={window}", bucket.rate.burst())
            }),
        );
        set("ratelimit", self.list(|bucket| format!("r={};t={}", bucket.verdict.remaining, bucket.reset_seconds())));
    }

    /// A list of structured fields (RFC 9651): an item for each bucket.
    fn list(&self, parameters: impl Fn(&BucketState) -> String) -> String {
        let items = self.buckets.iter().map(|bucket| format!("\"{}\";{}", bucket.name, parameters(bucket)));
        items.collect::<Vec<_>>().join(", ")
    }
}

/// Admits a request whose caller is known, where limits are set up; its answer will have the headers either way.
pub async fn limit(request: &HttpRequest, subject: Subject) -> Result<(), ApiError> {
    let Some(limiter) = request.app_data::<web::Data<Limiter>>() else { return Ok(()) };
    request.extensions_mut().insert(subject);
    let decided = limiter.admit(&subject, 1).await;
    remember(request, decided)
}

/// Raises the cost of a request that [`limit`] has admitted, once it is known to be larger than what it has `paid`.
pub async fn raise(request: &HttpRequest, paid: u32, cost: u32) -> Result<(), ApiError> {
    let subject = request.extensions().get::<Subject>().copied();
    let (Some(limiter), Some(subject)) = (request.app_data::<web::Data<Limiter>>(), subject) else { return Ok(()) };
    if cost <= paid {
        return Ok(());
    }
    let decided = limiter.raise(&subject, paid, cost).await;
    remember(request, decided)
}

/// Who pays for an answer, where limits are set up and the caller is known.
pub struct Payer(Option<(web::Data<Limiter>, Subject)>);

impl Payer {
    /// Who pays for the answer to a request that [`limit`] has admitted.
    #[must_use]
    pub fn of(request: &HttpRequest) -> Self {
        let subject = request.extensions().get::<Subject>().copied();
        Self(request.app_data::<web::Data<Limiter>>().cloned().zip(subject))
    }

    /// Pays for so many bytes that were answered; says where the buckets stand then, where they were asked.
    pub async fn pay(&self, bytes: u64) -> Option<Admission> {
        let (limiter, subject) = self.0.as_ref()?;
        match cost_of_answer(bytes) {
            0 => None,
            cost => Some(limiter.charge(subject, cost).await),
        }
    }
}

fn remember(request: &HttpRequest, decided: Result<Admission, Refused>) -> Result<(), ApiError> {
    let (admission, answer) = match decided {
        Ok(admission) => (Some(admission), Ok(())),
        Err(refused) => (refused.admission, Err(refused.error)),
    };
    if let Some(admission) = admission {
        request.extensions_mut().insert(admission);
    }
    answer
}

#[cfg(test)]
mod tests;
