//! The search engine, as far as it can be relied on: what it cannot answer now, PostgreSQL does.

use crate::reader::Read;
use prometheus::{IntCounterVec, register_int_counter_vec};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use twh_edge::access::Scope;
use twh_edge::error::ApiError;
use twh_sinks::postgres::builds::{Freshness, Projection, freshness};
use twh_sinks::search::elastic::{Elastic, ElasticError};
use twh_sinks::search::{Found, SearchQuery, postgres};

/// An engine that has failed is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// How long an answer may take, however many questions it needs.
const DEADLINE: Duration = Duration::from_secs(2);
/// An index that lacks more than so many of the tenant's events, and more than one in so many of them, is being made: PostgreSQL
/// knows more. One that is behind because there is much to do answers all the same: what else would answer makes more to do.
const EVENTS_BEHIND_MAX: i64 = 10_000;
const EVENTS_BEHIND_PART_MAX: i64 = 20;

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static SEARCHES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "twh_searches_total",
        "Searches by what the engine did: answered, failed, left_alone, behind (PostgreSQL answers all but the first).",
        &["result"]
    )
    .expect("the metric's name is unique")
});

/// The search engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    elastic: Elastic,
    begun: Instant,
    /// Until then it is left alone, in milliseconds since the beginning.
    left_alone_until: Arc<AtomicU64>,
}

impl Engine {
    /// An engine that is taken to work until it does not.
    #[must_use]
    pub fn new(elastic: Elastic) -> Self {
        Self { elastic, begun: Instant::now(), left_alone_until: Arc::new(AtomicU64::new(0)) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn millis(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or_default()
    }

    /// Once its time is over, one search tries it; the others leave it alone until that one has an answer, or a while longer.
    fn is_left_alone(&self) -> bool {
        let (now, until) = (self.now(), self.left_alone_until.load(Ordering::Relaxed));
        if until == 0 {
            return false;
        }
        let longer = now.saturating_add(Self::millis(DEADLINE + LEFT_ALONE));
        now < until
            || self.left_alone_until.compare_exchange(until, longer, Ordering::Relaxed, Ordering::Relaxed).is_err()
    }

    fn leave_alone(&self) {
        self.left_alone_until.store(self.now().saturating_add(Self::millis(LEFT_ALONE)), Ordering::Relaxed);
    }

    /// How far the index is, where it is far enough to be asked.
    async fn fresh(&self, reader: &Read) -> Result<Option<Freshness>, ApiError> {
        let fresh = freshness(&mut *reader.ledger().await?, Projection::Search, reader.tenant_id).await;
        let most = |fresh: &Freshness| EVENTS_BEHIND_MAX.max(fresh.events / EVENTS_BEHIND_PART_MAX);
        let is_made = |fresh: &Freshness| fresh.has_begun() && fresh.events_behind <= most(fresh);
        let reaches = |fresh: &Freshness| reader.at_least.is_none_or(|wanted| fresh.reaches(wanted));
        Ok(fresh.map_err(ApiError::database)?.filter(|fresh| is_made(fresh) && reaches(fresh)))
    }

    /// What it finds, and the last command that this reflects; `None` where PostgreSQL is to be asked: it is away, there is no
    /// index yet, or the index does not reflect what was asked for.
    pub(crate) async fn search(&self, reader: &Read, query: &SearchQuery) -> Result<Option<Found>, ApiError> {
        if self.is_left_alone() {
            SEARCHES.with_label_values(&["left_alone"]).inc();
            return Ok(None);
        }
        let Some(fresh) = self.fresh(reader).await? else {
            SEARCHES.with_label_values(&["behind"]).inc();
            return Ok(None);
        };
        let tenant = reader.tenant_id;
        // No connection is held meanwhile: an engine that is slow is not to hold up what needs none.
        let asked = actix_web::rt::time::timeout(DEADLINE, self.elastic.search(&fresh.build.name, tenant, query)).await;
        match asked.unwrap_or_else(|_| Err(ElasticError::Away("no answer in time".to_owned()))) {
            Ok(mut found) => {
                self.left_alone_until.store(0, Ordering::Relaxed);
                found.reflects = fresh.reflects;
                if reader.scopes.has(Scope::ReadStock) {
                    let stock = postgres::add_stock(&mut *reader.ledger().await?, tenant, &mut found).await;
                    stock.map_err(ApiError::database)?;
                }
                SEARCHES.with_label_values(&["answered"]).inc();
                Ok(Some(found))
            }
            Err(error) => {
                SEARCHES.with_label_values(&["failed"]).inc();
                match &error {
                    // One query that it will not have says nothing of the next.
                    ElasticError::Refused(_) => {
                        self.left_alone_until.store(0, Ordering::Relaxed);
                        tracing::error!(%error, tenant_id = %tenant, "the search engine does not take a query; PostgreSQL answers it");
                    }
                    _ => {
                        self.leave_alone();
                        tracing::warn!(%error, "the search engine does not answer; PostgreSQL does meanwhile");
                    }
                }
                Ok(None)
            }
        }
    }
}
