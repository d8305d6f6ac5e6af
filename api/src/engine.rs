//! The search engine, as far as it can be relied on: what it cannot answer now, PostgreSQL does.

use prometheus::{IntCounterVec, register_int_counter_vec};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_sinks::postgres::builds::{Projection, freshness};
use twh_sinks::postgres::sqlx;
use twh_sinks::postgres::tenant::TenantConnection;
use twh_sinks::search::elastic::{Elastic, ElasticError};
use twh_sinks::search::{Found, SearchQuery, postgres};

/// An engine that has failed is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_secs(2);

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

    fn is_left_alone(&self) -> bool {
        self.now() < self.left_alone_until.load(Ordering::Relaxed)
    }

    /// What it finds, and the last command that this reflects; `None` where PostgreSQL is to be asked: it is away, there is no
    /// index yet, or the index does not reflect what was asked for.
    pub(crate) async fn search(
        &self,
        connection: &mut TenantConnection,
        tenant: TenantId,
        query: &SearchQuery,
        at_least: Option<Position>,
    ) -> Result<Option<Found>, sqlx::Error> {
        if self.is_left_alone() {
            SEARCHES.with_label_values(&["left_alone"]).inc();
            return Ok(None);
        }
        let fresh = freshness(connection, Projection::Search, tenant).await?;
        let fresh = fresh.filter(|fresh| at_least.is_none_or(|wanted| fresh.reaches(wanted)));
        let Some(fresh) = fresh else {
            SEARCHES.with_label_values(&["behind"]).inc();
            return Ok(None);
        };
        match self.elastic.search(&fresh.build.name, tenant, query).await {
            Ok(mut found) => {
                found.reflects = fresh.reflects;
                postgres::name_locations(connection, tenant, &mut found).await?;
                SEARCHES.with_label_values(&["answered"]).inc();
                Ok(Some(found))
            }
            Err(error) => {
                SEARCHES.with_label_values(&["failed"]).inc();
                match &error {
                    // One query that it will not have says nothing of the next.
                    ElasticError::Refused(_) => {
                        tracing::error!(%error, tenant_id = %tenant, "the search engine does not take a query; PostgreSQL answers it");
                    }
                    _ => {
                        let until =
                            self.now().saturating_add(u64::try_from(LEFT_ALONE.as_millis()).unwrap_or_default());
                        self.left_alone_until.store(until, Ordering::Relaxed);
                        tracing::warn!(%error, "the search engine does not answer; PostgreSQL does meanwhile");
                    }
                }
                Ok(None)
            }
        }
    }
}
