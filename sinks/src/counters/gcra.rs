//! The generic cell rate algorithm (ITU-T I.371, annex A): a token bucket as virtual scheduling. A bucket is one number, the
//! time at which it will be full again; it needs no tick, and is as exact as the clock.
//!
//! This is the whole rule, and it is pure: `take.lua` says the same in Redis, and a test holds the two together.

const MICROS_PER_SECOND: u64 = 1_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval_micros: u64,
    burst: u32,
    per_second: u32,
}

impl Rate {
    /// The fastest rate, a second: above it an interval of whole microseconds is too coarse.
    pub const PER_SECOND_MAX: u32 = 100_000;
    /// The largest burst.
    pub const BURST_MAX: u32 = 10_000_000;

    /// A bucket that gains `per_second` units a second and holds `burst`; values outside of 1 to the largest are cut to it.
    /// The interval between two units is rounded up to whole microseconds: never more than the rate is let through.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = clamped(per_second, Self::PER_SECOND_MAX);
        let burst = clamped(burst, Self::BURST_MAX);
        Self { interval_micros: MICROS_PER_SECOND.div_ceil(per_second as u64), burst, per_second }
    }

    /// Units a second.
    #[must_use]
    pub const fn per_second(self) -> u32 {
        self.per_second
    }

    /// Units that a full bucket holds.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// Microseconds in which one unit comes back.
    #[must_use]
    pub const fn interval_micros(self) -> u64 {
        self.interval_micros
    }

    /// Microseconds in which an empty bucket becomes full.
    #[must_use]
    pub const fn capacity_micros(self) -> u64 {
        self.interval_micros * self.burst as u64
    }

    /// Microseconds that a cost stands for. More than the bucket holds counts as all that it holds, so that what is larger
    /// than the burst is still let through when the bucket is full.
    #[must_use]
    pub const fn cost_micros(self, cost: u32) -> u64 {
        let cost = if cost > self.burst { self.burst } else { cost };
        self.interval_micros * cost as u64
    }

    /// A share of this rate, for a process that cannot ask the others: at least 1 a second, and a burst of at least 1.
    #[must_use]
    pub const fn divided(self, by: u32) -> Self {
        let by = if by == 0 { 1 } else { by };
        Self::new(self.per_second / by, self.burst / by)
    }
}

const fn clamped(value: u32, max: u32) -> u32 {
    if value == 0 {
        1
    } else if value > max {
        max
    } else {
        value
    }
}

/// What one bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It has enough. Nothing is taken from it unless all the others of the call have enough, too.
    pub allowed: bool,
    /// Units that are left, after the call.
    pub remaining: u32,
    /// Microseconds until it is full again, after the call.
    pub reset_micros: u64,
    /// Microseconds until it will have enough; 0 where it is allowed.
    pub retry_after_micros: u64,
}

/// A bucket of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Its rate.
    pub rate: Rate,
    /// What is to be taken.
    pub cost: u32,
    /// When it is full again, in microseconds of the clock that `now` is read from; 0 for one that was never used.
    pub full_at: u64,
}

/// Takes from all buckets or from none: `full_at` of each is advanced only when every one of them has enough.
pub fn take_all(levels: &mut [Level], now: u64) -> Vec<Verdict> {
    let all = levels.iter().all(|level| wait(level, now) == 0);
    let taken = |level: &Level| if all { level.rate.cost_micros(level.cost) } else { 0 };
    levels.iter_mut().map(|level| advance(level, taken(level), now)).collect()
}

/// Takes from each bucket what was used already, whether it has enough or not. A bucket owes as much as it holds at most.
pub fn charge_all(levels: &mut [Level], now: u64) -> Vec<Verdict> {
    levels.iter_mut().map(|level| advance(level, level.rate.cost_micros(level.cost), now)).collect()
}

fn advance(level: &mut Level, micros: u64, now: u64) -> Verdict {
    let retry_after_micros = wait(level, now);
    level.full_at = (start(level, now) + micros).min(latest(level, now));
    let reset_micros = level.full_at - now;
    let left = level.rate.capacity_micros().saturating_sub(reset_micros) / level.rate.interval_micros;
    Verdict {
        allowed: retry_after_micros == 0,
        remaining: u32::try_from(left).unwrap_or(u32::MAX),
        reset_micros,
        retry_after_micros,
    }
}

/// When a bucket is full again that owes all that it may.
const fn latest(level: &Level, now: u64) -> u64 {
    now + 2 * level.rate.capacity_micros()
}

/// Where the bucket stands now. None owes more than it may: one that says so was written under another rate, or by a clock that has
/// been set back since, and would keep its owner out for as long.
fn start(level: &Level, now: u64) -> u64 {
    level.full_at.clamp(now, latest(level, now))
}

fn wait(level: &Level, now: u64) -> u64 {
    let after = start(level, now) + level.rate.cost_micros(level.cost);
    after.saturating_sub(now + level.rate.capacity_micros())
}
