//! Credentials that nobody has: each costs the database a look-up, so that a network may try only so many of them. Who tries keys
//! holds up nobody's sign-in behind the same address, and the reverse; and a session that asks for tenants it is not in, only itself.
//!
//! The buckets stand in this process. They hold up only what is not known here: a credential that was seen lately is not asked for
//! them, whatever its neighbours behind the same address do.

use crate::error::{ApiError, ErrorCode};
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use twh_sinks::counters::gcra::{Level, Rate, take_all};
use uuid::Uuid;

/// Look-ups of a network that find nothing: so many a second, and so many at once.
const RATE: Rate = Rate::new(10, 100);
/// Askers that are remembered. One that is pushed out begins with a full bucket.
const ASKERS_MAX: usize = 100_000;
const MICROS_PER_SECOND: u64 = 1_000_000;

twh_sinks::metrics! {
    LOOKUPS: IntCounterVec = "twh_credential_lookups_total", "Credentials that this process did not know: found in the database, not found there, or turned away before it was asked.", labels ["result"];
}

/// Who is held to account for a look-up that finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// A network that tries API keys.
    Keys(IpAddr),
    /// A network that tries passwords, codes and tokens that come in bodies.
    SignIn(IpAddr),
    /// A session that is known: it asks for a tenant.
    Session(Uuid),
}

impl Asker {
    /// Somebody at an address who shows an API key.
    #[must_use]
    pub fn keys(ip: Option<IpAddr>) -> Self {
        Self::Keys(network(ip))
    }
}

/// Counts look-ups that find nothing.
pub struct Strangers {
    askers: Cache<Asker, Arc<Mutex<u64>>>,
    started: Instant,
}

/// The network that an address counts by. Of IPv6 it is the /64: within it a host draws addresses as it likes (RFC 8981).
fn network(ip: Option<IpAddr>) -> IpAddr {
    match ip.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V6(ip)) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        Some(ip) => ip,
        None => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// A look-up that was begun. Left alone, it has found nothing.
#[must_use]
pub struct LookUp(Arc<Mutex<u64>>);

impl Default for Strangers {
    fn default() -> Self {
        Self { askers: Cache::new(ASKERS_MAX), started: Instant::now() }
    }
}

impl Strangers {
    /// Begins a look-up for somebody who signs in: see [`Self::look_up_by`].
    pub fn look_up(&self, ip: Option<IpAddr>) -> Result<LookUp, ApiError> {
        self.look_up_by(Asker::SignIn(network(ip)))
    }

    /// Begins a look-up, or refuses it where too many of the same asker have found nothing. It counts from its beginning: many that are
    /// begun at once are no way around.
    pub fn look_up_by(&self, asker: Asker) -> Result<LookUp, ApiError> {
        let Ok(bucket) = self.askers.get_or_insert_with(&asker, || Ok::<_, Infallible>(Arc::default()));
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX / 2);
        let verdicts = {
            let mut full_at = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let mut level = [Level { rate: RATE, cost: 1, full_at: *full_at }];
            let verdicts = take_all(&mut level, now);
            [*full_at] = level.map(|level| level.full_at);
            verdicts
        };
        let wait = verdicts.iter().map(|verdict| verdict.retry_after_micros).max().unwrap_or_default();
        if wait == 0 {
            return Ok(LookUp(bucket));
        }
        LOOKUPS.with_label_values(&["turned_away"]).inc();
        let seconds = u32::try_from(wait.div_ceil(MICROS_PER_SECOND)).unwrap_or(u32::MAX);
        let message = match asker {
            Asker::Keys(_) => "too many unknown keys came from this address",
            Asker::SignIn(_) => "too many unknown tokens and passwords came from this address",
            Asker::Session(_) => "the session asked for too many tenants that it is not in",
        };
        Err(ApiError::new(ErrorCode::TooManyAttempts, message).retry_after(seconds))
    }

    /// What a look-up for somebody finds.
    pub async fn found<T>(
        &self,
        ip: Option<IpAddr>,
        find: impl Future<Output = Result<Option<T>, sqlx::Error>>,
    ) -> Result<Option<T>, ApiError> {
        let look_up = self.look_up(ip)?;
        let found = find.await;
        if !matches!(found, Ok(None)) {
            look_up.excuse();
        }
        if let Ok(found) = &found {
            count(found.is_some());
        }
        found.map_err(ApiError::database)
    }
}

impl LookUp {
    /// It found somebody, or the database did not answer: neither counts against the network.
    pub fn excuse(self) {
        let mut full_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = full_at.saturating_sub(RATE.cost_micros(1));
    }
}

/// Counts a look-up that the database has answered.
pub(crate) fn count(found: bool) {
    LOOKUPS.with_label_values(&[if found { "found" } else { "not_found" }]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_network_is_turned_away_once_it_has_used_up_its_own_and_no_other_is() {
        let strangers = Strangers::default();
        let failures = (0..1_000).filter(|_| strangers.look_up(from("2001:db8::1")).is_ok()).count();
        assert!((100..200).contains(&failures), "{failures} of 1,000 were looked up");
        let refused = strangers.look_up(from("2001:db8::ffff")).err().unwrap();
        assert_eq!(refused.code(), ErrorCode::TooManyAttempts);
        assert_eq!(refused.response("").headers().get("retry-after").unwrap(), "1");
        assert!(strangers.look_up(from("2001:db8:0:1::1")).is_ok());
        assert!(strangers.look_up(from("203.0.113.7")).is_ok());
        assert!(strangers.look_up_by(Asker::keys(from("2001:db8::ffff"))).is_ok(), "keys are counted apart");
    }

    #[test]
    fn look_ups_that_find_somebody_are_not_counted_and_many_at_once_are_held_to_the_bucket() {
        let strangers = Strangers::default();
        for _ in 0..1_000 {
            strangers.look_up(from("203.0.113.7")).unwrap().excuse();
        }
        let at_once: Vec<_> = (0..1_000).filter_map(|_| strangers.look_up(from("203.0.113.7")).ok()).collect();
        assert!((100..200).contains(&at_once.len()), "{} at once", at_once.len());
    }
}
