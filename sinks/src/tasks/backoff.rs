//! Pauses between tries: doubling up to a cap, with jitter, so that many do not come back at once.

use std::time::Duration;

/// A series of pauses.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Begins with `first` and never exceeds `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, first, max }
    }

    /// The next pause: between half and all of the current step.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        let half = step / 2;
        half + half.mul_f64(fastrand::f64())
    }

    /// After a success, the next series begins anew.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}
