//! Wrong passwords: each makes the next attempt from the same place wait, on the same account and on any.
//!
//! What counts is the pair of account and address, so that nobody locks another out of an account by guessing at it from
//! elsewhere; and the address alone, far later, against one who tries many accounts.

use quick_cache::sync::Cache;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use twh_edge::error::{ApiError, ErrorCode};
use twh_sinks::postgres::accounts::people::email_key;

/// Wrong passwords on one account that cost nothing: people mistype.
const FREE_ON_ACCOUNT: u32 = 5;
/// Wrong passwords from one address that cost nothing: an office has one address.
const FREE_FROM_ADDRESS: u32 = 50;
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// After so long without an attempt, all is forgotten.
const FORGET: Duration = Duration::from_secs(60 * 60);
const REMEMBERED_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// How long to wait after the last, doubling with each beyond those that are free.
    fn wait(self, free: u32) -> Duration {
        let Some(beyond) = self.count.checked_sub(free) else { return Duration::ZERO };
        WAIT_FIRST.saturating_mul(1_u32.checked_shl(beyond).unwrap_or(u32::MAX)).min(WAIT_MAX)
    }
}

/// Remembers who failed.
pub(crate) struct Attempts {
    on_account: Cache<(String, Option<IpAddr>), Failures>,
    from_address: Cache<Option<IpAddr>, Failures>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { on_account: Cache::new(REMEMBERED_MAX), from_address: Cache::new(REMEMBERED_MAX) }
    }
}

impl Attempts {
    /// Refuses an attempt that comes too soon.
    pub(crate) fn may_try(&self, email: &str, ip: Option<IpAddr>) -> Result<(), ApiError> {
        let now = Instant::now();
        let left = |failures: Option<Failures>, free| {
            failures
                .map_or(Duration::ZERO, |failures| (failures.last + failures.wait(free)).saturating_duration_since(now))
        };
        let account = left(self.on_account.get(&(email_key(email), ip)), FREE_ON_ACCOUNT);
        let address = left(self.from_address.get(&ip), FREE_FROM_ADDRESS);
        let wait = account.max(address);
        if wait.is_zero() {
            return Ok(());
        }
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        Err(ApiError::new(ErrorCode::TooManyAttempts, format!("too many wrong passwords; try again in {seconds} s"))
            .retry_after(seconds))
    }

    /// Counts a wrong password.
    pub(crate) fn failed(&self, email: &str, ip: Option<IpAddr>) {
        let again = |failures: Option<Failures>| {
            let count =
                failures.filter(|failures| failures.last.elapsed() < FORGET).map_or(0, |failures| failures.count);
            Failures { count: count.saturating_add(1), last: Instant::now() }
        };
        let account = (email_key(email), ip);
        self.on_account.insert(account.clone(), again(self.on_account.get(&account)));
        self.from_address.insert(ip, again(self.from_address.get(&ip)));
    }

    /// Forgets what failed on an account from an address: its owner is there.
    pub(crate) fn succeeded(&self, email: &str, ip: Option<IpAddr>) {
        self.on_account.remove(&(email_key(email), ip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_waits_longer_and_longer_and_locks_out_nobody_else() {
        let attempts = Attempts::default();
        let (thief, owner) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        for _ in 0..FREE_ON_ACCOUNT {
            assert!(attempts.may_try("a@b.example", thief).is_ok());
            attempts.failed("A@b.example ", thief);
        }
        assert!(attempts.may_try("a@b.example", thief).is_err());
        assert!(attempts.may_try("a@b.example", owner).is_ok());
        attempts.succeeded("a@b.example", thief);
        assert!(attempts.may_try("a@b.example", thief).is_ok());
        // Many accounts from one address: the address waits.
        for number in 0..FREE_FROM_ADDRESS {
            attempts.failed(&format!("{number}@b.example"), thief);
        }
        assert!(attempts.may_try("new@b.example", thief).is_err());
        let far = Failures { count: 1_000, last: Instant::now() };
        assert_eq!(far.wait(FREE_ON_ACCOUNT), WAIT_MAX);
    }
}
