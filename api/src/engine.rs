//! The search engine, as far as it can be relied on: what it cannot answer now, PostgreSQL does.

use crate::reader::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use twh_edge::access::Scope;
use twh_edge::error::{ApiError, ErrorCode};
use twh_sinks::postgres::builds::{Freshness, Projection, freshness};
use twh_sinks::postgres::sqlx::PgConnection;
use twh_sinks::search::elastic::{Elastic, ElasticError};
use twh_sinks::search::text::words;
use twh_sinks::search::{Found, SearchQuery, postgres};

/// An engine that has failed so often in a row is left alone for so long. One failure says as much of its query as of the engine.
const FAILURES_MAX: u32 = 3;
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// How long an answer may take, however many questions it needs.
const DEADLINE: Duration = Duration::from_secs(2);
/// An index that lacks more than so many of the tenant's events, and more than one in so many of them, is being made: PostgreSQL
/// knows more. One that is behind because there is much to do answers all the same: what else would answer makes more to do.
const EVENTS_BEHIND_MAX: i64 = 10_000;
const EVENTS_BEHIND_PART_MAX: i64 = 20;
/// Searches that PostgreSQL answers in the engine's place at a time, and how long one more waits for its turn: the database and its
/// connections are the ledger's and its readers' first.
const STAND_INS_MAX: usize = 4;
const TURN_WITHIN: Duration = Duration::from_secs(1);

twh_sinks::metrics! {
    SEARCHES: IntCounterVec = "twh_searches_total", "Searches by what the engine did: answered, failed, left_alone, behind (PostgreSQL answers all but the first); turned_away: it had too many of them.", labels ["result"];
}

/// The search engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    elastic: Elastic,
    begun: Instant,
    /// Since it last answered.
    failures: Arc<AtomicU32>,
    /// Until then it is left alone, in milliseconds since the beginning.
    left_alone_until: Arc<AtomicU64>,
    /// What PostgreSQL may do in its place.
    stand_ins: Arc<Semaphore>,
}

impl Engine {
    /// An engine that is taken to work until it does not.
    #[must_use]
    pub fn new(elastic: Elastic) -> Self {
        Self {
            elastic,
            begun: Instant::now(),
            failures: Arc::default(),
            left_alone_until: Arc::default(),
            stand_ins: Arc::new(Semaphore::new(STAND_INS_MAX)),
        }
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

    fn has_answered(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.left_alone_until.store(0, Ordering::Relaxed);
    }

    fn has_failed(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
            self.left_alone_until.store(self.now().saturating_add(Self::millis(LEFT_ALONE)), Ordering::Relaxed);
        }
    }

    /// The turn of a search that PostgreSQL is to answer in the engine's place.
    pub(crate) async fn stand_in(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = Arc::clone(&self.stand_ins).acquire_owned();
        if let Ok(Ok(turn)) = actix_web::rt::time::timeout(TURN_WITHIN, turn).await {
            return Ok(turn);
        }
        SEARCHES.with_label_values(&["turned_away"]).inc();
        let message = "the search engine does not answer, and the database has as many searches in its place as it may";
        Err(ApiError::new(ErrorCode::ServiceUnavailable, message).retry_after(2))
    }

    /// How far the index is, where it is far enough to be asked.
    async fn fresh(reader: &Read, connection: &mut PgConnection) -> Result<Option<Freshness>, ApiError> {
        let fresh = freshness(connection, Projection::Search, reader.tenant_id).await;
        let most = |fresh: &Freshness| EVENTS_BEHIND_MAX.max(fresh.events / EVENTS_BEHIND_PART_MAX);
        let is_whole = |fresh: &Freshness| fresh.events_left_out == 0;
        let is_made = |fresh: &Freshness| fresh.has_begun() && fresh.events_behind <= most(fresh) && is_whole(fresh);
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
        let tenant = reader.tenant_id;
        let mut ledger = reader.ledger().await?;
        let Some(fresh) = Self::fresh(reader, &mut ledger).await? else {
            SEARCHES.with_label_values(&["behind"]).inc();
            return Ok(None);
        };
        // The ledger has every word before the index does.
        let unknown = postgres::unknown_words(&mut ledger, tenant, &words(&query.text)).await;
        let unknown = unknown.map_err(ApiError::database)?;
        // No connection is held meanwhile: an engine that is slow is not to hold up what needs none.
        drop(ledger);
        let asked = self.elastic.search(&fresh.build.name, tenant, query, &unknown);
        let asked = actix_web::rt::time::timeout(DEADLINE, asked).await;
        match asked.unwrap_or_else(|_| Err(ElasticError::Away("no answer in time".to_owned()))) {
            Ok(mut found) => {
                self.has_answered();
                found.reflects = fresh.reflects;
                if reader.scopes.has(Scope::ReadStock) {
                    let mut ledger = reader.ledger().await?;
                    let stock = postgres::add_stock(&mut ledger, tenant, &mut found.hits).await;
                    stock.map_err(ApiError::database)?;
                    let named = postgres::name_locations(&mut ledger, tenant, &mut found).await;
                    named.map_err(ApiError::database)?;
                }
                SEARCHES.with_label_values(&["answered"]).inc();
                Ok(Some(found))
            }
            Err(error) => {
                SEARCHES.with_label_values(&["failed"]).inc();
                match &error {
                    // One query that it will not have says nothing of the next.
                    ElasticError::Refused(_) | ElasticError::Document(_) => {
                        self.has_answered();
                        tracing::error!(%error, tenant_id = %tenant, "the search engine does not take a query; PostgreSQL answers it");
                    }
                    _ => {
                        self.has_failed();
                        tracing::warn!(%error, "the search engine does not answer a query; PostgreSQL does");
                    }
                }
                Ok(None)
            }
        }
    }
}
