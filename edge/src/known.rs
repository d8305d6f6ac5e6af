//! What is remembered of who calls: the answers of the database about keys and sessions.
//!
//! An answer is believed for some seconds; so long works what was revoked elsewhere. While the database is away, who was seen lately
//! is believed for longer: nobody can be revoked meanwhile.

use crate::error::ApiError;
use crate::strangers::{self, Asker, Strangers};
use quick_cache::sync::Cache;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use twh_sinks::postgres::failure::is_away;

/// How long an answer is believed: what is revoked elsewhere works for so long.
const BELIEVED: Duration = Duration::from_secs(5);
/// How long one is believed while the database is away.
const BELIEVED_WHILE_AWAY: Duration = Duration::from_secs(60);
/// Owners that are remembered at once.
const OWNERS_MAX: usize = 100_000;
/// Credentials of nobody that are remembered at once: apart, so that they push out no owner.
const NOBODYS_MAX: usize = 10_000;

struct Seen<V> {
    owner: Arc<V>,
    /// When the database said so.
    confirmed: Instant,
    /// When it was asked, which it may not have answered.
    asked: Instant,
    /// How often all had been forgotten by then.
    era: u64,
}

impl<V> Clone for Seen<V> {
    fn clone(&self) -> Self {
        Self { owner: Arc::clone(&self.owner), ..*self }
    }
}

/// Owners by their credentials.
pub(crate) struct Known<K, V> {
    owners: Cache<K, Seen<V>>,
    nobodys: Cache<K, Instant>,
    era: AtomicU64,
}

impl<K: Eq + Hash + Copy, V> Known<K, V> {
    pub(crate) fn new() -> Self {
        Self { owners: Cache::new(OWNERS_MAX), nobodys: Cache::new(NOBODYS_MAX), era: AtomicU64::new(0) }
    }

    /// Believes no answer of before any more. That a credential was seen stays known.
    pub(crate) fn forget(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.nobodys.clear();
    }

    /// The owner of a credential that somebody shows, from an address.
    pub(crate) async fn owner(
        &self,
        key: K,
        strangers: &Strangers,
        asker: Asker,
        find: impl AsyncFnOnce() -> Result<Option<V>, sqlx::Error>,
    ) -> Result<Option<Arc<V>>, ApiError> {
        let era = self.era.load(Ordering::Acquire);
        let seen = self.owners.get(&key);
        let believed = seen.clone().filter(|seen| seen.era == era);
        if let Some(seen) = believed.as_ref().filter(|seen| seen.asked.elapsed() < BELIEVED) {
            return Ok(Some(Arc::clone(&seen.owner)));
        }
        if self.nobodys.get(&key).is_some_and(|at| at.elapsed() < BELIEVED) {
            return Ok(None);
        }
        let stranger = if seen.is_none() { Some(strangers.look_up_by(asker)?) } else { None };
        let now = Instant::now();
        let found = find().await;
        if let Ok(found) = &found {
            strangers::count(found.is_some());
        }
        match found {
            Ok(Some(owner)) => {
                stranger.into_iter().for_each(strangers::LookUp::excuse);
                let owner = Arc::new(owner);
                self.owners.insert(key, Seen { owner: Arc::clone(&owner), confirmed: now, asked: now, era });
                Ok(Some(owner))
            }
            Ok(None) => {
                self.owners.remove(&key);
                self.nobodys.insert(key, now);
                Ok(None)
            }
            Err(error) => {
                stranger.into_iter().for_each(strangers::LookUp::excuse);
                let lately = |seen: &Seen<V>| is_away(&error) && seen.confirmed.elapsed() < BELIEVED_WHILE_AWAY;
                let Some(seen) = believed.filter(lately) else { return Err(ApiError::database(error)) };
                tracing::warn!(%error, "the database is away: who was seen lately is believed");
                // Others do not wait for the same failure.
                self.owners.insert(key, Seen { asked: Instant::now(), ..seen.clone() });
                Ok(Some(seen.owner))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    /// Who was confirmed so long ago, and asked about as long ago.
    fn seen_before(known: &Known<u8, u8>, seconds: u64) {
        let at = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        known.owners.insert(1, Seen { owner: Arc::new(7), confirmed: at, asked: at, era: 0 });
    }

    async fn ask(known: &Known<u8, u8>, answer: Result<Option<u8>, sqlx::Error>) -> Result<Option<u8>, ErrorCode> {
        let owner = known.owner(1, &Strangers::default(), Asker::keys(None), async || answer).await;
        owner.map(|owner| owner.map(|owner| *owner)).map_err(|error| error.code())
    }

    const AWAY: fn() -> Result<Option<u8>, sqlx::Error> = || Err(sqlx::Error::PoolTimedOut);

    #[actix_web::test]
    async fn who_was_seen_lately_is_believed_while_the_database_is_away_and_not_for_long() {
        let known = Known::new();
        assert_eq!(ask(&known, AWAY()).await, Err(ErrorCode::ServiceUnavailable), "a stranger");
        seen_before(&known, 50);
        assert_eq!(ask(&known, AWAY()).await, Ok(Some(7)));
        assert_eq!(ask(&known, Err(sqlx::Error::RowNotFound)).await, Ok(Some(7)), "it was asked a moment ago");
        seen_before(&known, 50);
        assert_eq!(
            ask(&known, Err(sqlx::Error::RowNotFound)).await,
            Err(ErrorCode::Internal),
            "a defect is no absence"
        );
        seen_before(&known, 61);
        assert_eq!(ask(&known, AWAY()).await, Err(ErrorCode::ServiceUnavailable));
    }

    #[actix_web::test]
    async fn a_revocation_is_seen_within_seconds_while_the_database_answers_and_at_once_in_its_own_process() {
        let known = Known::new();
        seen_before(&known, 4);
        assert_eq!(ask(&known, Ok(None)).await, Ok(Some(7)));
        seen_before(&known, 5);
        assert_eq!(ask(&known, Ok(None)).await, Ok(None));
        seen_before(&known, 1);
        known.forget();
        assert_eq!(ask(&known, AWAY()).await, Err(ErrorCode::ServiceUnavailable), "it may be what was revoked");
        assert_eq!(ask(&known, Ok(Some(8))).await, Ok(Some(8)));
    }

    #[actix_web::test]
    async fn failures_of_a_neighbour_do_not_hold_up_who_was_seen() {
        let (known, strangers) = (Known::<u32, u8>::new(), Strangers::default());
        let from = Asker::keys(Some("203.0.113.7".parse().unwrap()));
        let ask = async |key: u32, answer| known.owner(key, &strangers, from, async || Ok(answer)).await;
        assert!(ask(0, Some(1)).await.unwrap().is_some());
        let mut refused = 0;
        for key in 1..1_000 {
            refused += usize::from(ask(key, None).await.is_err());
        }
        assert!(refused > 800, "{refused}");
        known.forget();
        assert!(ask(0, Some(1)).await.unwrap().is_some());
        assert_eq!(
            ask(1_000, Some(1)).await.err().unwrap().code(),
            ErrorCode::TooManyAttempts,
            "nobody knows it here yet"
        );
    }
}
