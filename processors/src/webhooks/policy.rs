//! When a delivery is tried again, when it is given up, and when a subscriber has failed for long enough.

use std::time::Duration;

/// A delay is drawn from this much below it to this much above, in per cent, so that retries do not come in a wave.
const JITTER_PERCENT: u64 = 20;
/// The longest wait that a `Retry-After` is followed in.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Failures in a row before a subscriber is put in quarantine.
const FAILURES_MIN: u32 = 5;
/// The first pause between probes; they double.
const PROBE_FIRST: Duration = Duration::from_secs(30);

/// What is done about failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The delays between attempts.
    pub retry_after: Vec<Duration>,
    /// For how long a subscriber must have failed before it is put in quarantine.
    pub quarantine_after: Duration,
    /// The longest pause between two probes.
    pub probe_max: Duration,
}

impl Policy {
    /// With these delays between attempts, in seconds, quarantine after so long, and no longer than this between two probes.
    #[must_use]
    pub fn new(retry_seconds: &[u64], quarantine_after: Duration, probe_max: Duration) -> Self {
        let retry_after = retry_seconds.iter().copied().map(Duration::from_secs).collect();
        Self { retry_after, quarantine_after, probe_max }
    }

    /// How long to wait after so many attempts; `None` when that was the last. `drawn` is from 0 to 1,000.
    #[must_use]
    pub fn delay(&self, attempts: u32, asked: Option<Duration>, drawn: u64) -> Option<Duration> {
        let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let planned = *self.retry_after.get(index)?;
        let share = 100 - JITTER_PERCENT + drawn.min(1_000) * 2 * JITTER_PERCENT / 1_000;
        let jittered = planned * u32::try_from(share).unwrap_or(100) / 100;
        // Who asks for more time gets it, within bounds; who asks for less is not hurried.
        Some(asked.map_or(jittered, |asked| jittered.max(asked.min(RETRY_AFTER_MAX))))
    }

    /// How long the whole subscriber is left alone when it asks for time.
    #[must_use]
    pub fn pause(&self, asked: Duration) -> Duration {
        asked.min(RETRY_AFTER_MAX)
    }

    /// How long a delivery may wait before it is given up untried.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        self.retry_after.iter().sum::<Duration>().max(Duration::from_secs(3_600))
    }

    /// Whether so many failures in a row, over such a time, put a subscriber in quarantine.
    #[must_use]
    pub fn quarantines(&self, failures: u32, over: Duration) -> bool {
        failures >= FAILURES_MIN && over >= self.quarantine_after
    }

    /// How long to wait before the next probe, after so many that failed.
    #[must_use]
    pub fn probe(&self, failed: u32) -> Duration {
        PROBE_FIRST.saturating_mul(1 << failed.min(10)).min(self.probe_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let retries = [5, 30, 120, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 86_400];
        Policy::new(&retries, Duration::from_secs(60), Duration::from_secs(900))
    }

    #[test]
    fn retries_grow_and_end_and_no_two_are_at_one_time() {
        let policy = policy();
        let low: Vec<_> = (1..=12).map(|attempts| policy.delay(attempts, None, 0)).collect();
        assert_eq!(low[0], Some(Duration::from_secs(4)));
        assert_eq!(policy.delay(1, None, 1_000), Some(Duration::from_secs(6)));
        assert!(low[..11].windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(low[11], None);
    }

    #[test]
    fn who_asks_for_time_gets_it_within_bounds() {
        let policy = policy();
        let ask = |seconds| policy.delay(1, Some(Duration::from_secs(seconds)), 500).unwrap();
        assert_eq!(ask(0), Duration::from_secs(5));
        assert_eq!(ask(90), Duration::from_secs(90));
        assert_eq!(ask(1_000_000), Duration::from_secs(3_600));
        assert_eq!(policy.delay(12, Some(Duration::from_secs(90)), 0), None);
    }

    #[test]
    fn a_short_trouble_is_no_quarantine() {
        let policy = policy();
        assert!(!policy.quarantines(100, Duration::from_secs(59)));
        assert!(!policy.quarantines(4, Duration::from_secs(600)));
        assert!(policy.quarantines(5, Duration::from_secs(60)));
    }
}
