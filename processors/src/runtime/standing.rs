//! Whether a partition goes on: `/ready` tells of one that stands for long.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use twh_sinks::tasks::health::Part;

/// What is away for less than this comes back by itself, and a batch may take so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Panics without any progress before the partition counts as standing.
const PANICS_MAX: u32 = 3;
/// Between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// What `/ready` says of a partition. Cheap to clone; forgotten with the last clone.
#[derive(Debug, Clone)]
pub struct Standing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    part: Part,
    state: Mutex<State>,
    /// Why it stands and at which offset, as it is written down.
    noted: Mutex<Option<(String, i64)>>,
}

#[derive(Debug, Default)]
struct State {
    applied: i64,
    taken: i64,
    /// Since when what was taken on is not applied.
    busy: Option<Instant>,
    halted: Option<String>,
    /// Since when something is away, and what is away now.
    away: Option<(Instant, String)>,
    panics: u32,
    panicked_at: Option<Instant>,
}

impl Standing {
    /// A partition of a group, which serves a role.
    #[must_use]
    pub fn new(role: &'static str, group: &str, partition: i32) -> Self {
        let part = Part::share(role, format!("partition {partition} of {group}"));
        Self(Arc::new(Shared { part, state: Mutex::default(), noted: Mutex::default() }))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        match state.reason() {
            Some(reason) if state.waits() => self.0.part.waits(reason),
            Some(reason) => self.0.part.stands(reason),
            None => self.0.part.works(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written down of it.
    pub(super) fn noted(&self) -> MutexGuard<'_, Option<(String, i64)>> {
        self.0.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition is held up.
    pub(super) fn failed(&self, kind: &str, reason: &str) {
        let now = Instant::now();
        self.change(|state| match kind {
            "halted" => state.halted = Some(reason.to_owned()),
            "panicked" => {
                state.panics += 1;
                state.panicked_at = Some(now);
            }
            "unavailable" => state.away = Some((state.away.take().map_or(now, |(since, _)| since), reason.to_owned())),
            _ => {}
        });
    }

    /// A batch is taken on that ends before an offset.
    pub(super) fn taken(&self, through: i64) {
        self.change(|state| {
            state.taken = through;
            state.busy.get_or_insert_with(Instant::now);
        });
    }

    /// The partition works, and everything before an offset is applied.
    pub(super) fn applied(&self, next_offset: i64) {
        self.change(|state| {
            let moved = next_offset > state.applied;
            // After a panic the partition works for a moment, up to the record that makes it panic again.
            if moved || state.panicked_at.is_none_or(|at| at.elapsed() > PATIENCE) {
                *state = State { applied: next_offset, taken: state.taken, busy: state.busy, ..State::default() };
            }
            match (state.taken > next_offset, moved) {
                (false, _) => state.busy = None,
                (true, true) => state.busy = Some(Instant::now()),
                (true, false) => {}
            }
        });
    }

    /// Looks at the clock, for as long as it is asked to: a task that waits for ever says nothing itself.
    pub(super) async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.change(|_| {});
        }
    }
}

impl State {
    /// Whether what it stands for, where it does, may come back by itself.
    const fn waits(&self) -> bool {
        self.halted.is_none() && self.panics < PANICS_MAX
    }

    fn reason(&self) -> Option<String> {
        if let Some(reason) = &self.halted {
            return Some(format!("halted: {reason}"));
        }
        let mut text = String::new();
        let long = |since: &Instant| since.elapsed() >= PATIENCE;
        if self.panics >= PANICS_MAX {
            // What it said may name what is nobody else's business.
            let _ = write!(text, "it panicked {} times without going on; the log says why", self.panics);
        } else if let Some((since, reason)) = self.away.as_ref().filter(|(since, _)| long(since)) {
            let _ = write!(text, "it has waited for {} s: {reason}", since.elapsed().as_secs());
        } else if let Some(since) = self.busy.filter(long) {
            let _ = write!(text, "a batch is not applied since {} s", since.elapsed().as_secs());
        }
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twh_sinks::tasks::health::standing;

    fn reason(role: &'static str) -> Option<String> {
        standing(role).into_iter().next().map(|one| one.reason)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_away_stands_after_a_minute_and_what_is_halted_at_once() {
        let partition = Standing::new("away", "prefix.ledger", 4);
        partition.failed("unavailable", "no database");
        tokio::time::advance(PATIENCE / 2).await;
        partition.failed("unavailable", "no connection");
        assert_eq!(reason("away"), None);
        tokio::time::advance(PATIENCE / 2).await;
        partition.failed("unavailable", "no connection");
        assert_eq!(standing("away")[0].part, "partition 4 of prefix.ledger");
        assert_eq!(reason("away").unwrap(), "it has waited for 60 s: no connection");
        partition.applied(0);
        assert_eq!(reason("away"), None);
        partition.failed("halted", "the log is another one");
        assert_eq!(reason("away").unwrap(), "halted: the log is another one");
        drop(partition);
        assert_eq!(reason("away"), None, "a partition that was given up is its next owner's");
    }

    #[tokio::test(start_paused = true)]
    async fn panics_count_until_the_partition_moves() {
        let partition = Standing::new("panics", "ledger", 0);
        for _ in 0..PANICS_MAX {
            assert_eq!(reason("panics"), None);
            partition.failed("panicked", "a secret");
            // Between two panics it is claimed, and works as far as before.
            partition.applied(0);
        }
        assert!(reason("panics").is_some_and(|reason| !reason.contains("secret")));
        partition.applied(1);
        assert_eq!(reason("panics"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_never_ends_is_seen_though_nobody_says_so() {
        let partition = Standing::new("stuck", "ledger", 0);
        partition.applied(5);
        partition.taken(9);
        let watched = partition.clone();
        assert!(tokio::time::timeout(PATIENCE + 2 * LOOK, watched.watch()).await.is_err());
        assert!(reason("stuck").is_some(), "it stands");
        partition.applied(9);
        assert!(tokio::time::timeout(2 * PATIENCE, watched.watch()).await.is_err());
        assert_eq!(reason("stuck"), None, "a partition that has nothing to do does not stand");
    }
}
