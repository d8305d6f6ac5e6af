//! What of this process does not work now, by the role that it serves: `/ready` tells it.
//!
//! There is one for the process, as there is one for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

crate::metrics! {
    STANDING: IntGaugeVec = "twh_parts_standing", "What of a role does not work now, as /ready tells it.", labels ["role"];
}

static PARTS: Mutex<BTreeMap<(&'static str, u64), State>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

fn parts() -> MutexGuard<'static, BTreeMap<(&'static str, u64), State>> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    /// A part of the role's work, as a partition is.
    is_share: bool,
    /// It waits for what is away.
    waits: bool,
    standing: Option<Standing>,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What.
    pub part: String,
    /// Why.
    pub reason: String,
}

/// What a role stands on: it works until it says otherwise, and is forgotten when it is dropped.
#[derive(Debug)]
pub struct Part {
    role: &'static str,
    name: String,
    id: u64,
}

impl Part {
    /// A part that works.
    pub fn new(role: &'static str, name: impl Into<String>) -> Self {
        Self::begin(role, name.into(), false)
    }

    /// A part of the role's work, that works: where each of them waits for what is away, nothing of the role is done.
    pub fn share(role: &'static str, name: impl Into<String>) -> Self {
        Self::begin(role, name.into(), true)
    }

    fn begin(role: &'static str, name: String, is_share: bool) -> Self {
        // There is a number for each role from the beginning.
        STANDING.with_label_values(&[role]).add(0);
        let part = Self { role, name, id: NEXT.fetch_add(1, Ordering::Relaxed) };
        parts().insert((role, part.id), State { is_share, ..State::default() });
        part
    }

    /// It does not work.
    pub fn stands(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()), false);
    }

    /// It does not work, for what it needs is away.
    pub fn waits(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()), true);
    }

    /// It works, again or still.
    pub fn works(&self) {
        self.set(None, false);
    }

    fn set(&self, reason: Option<String>, waits: bool) {
        let standing = reason.map(|reason| Standing { part: self.name.clone(), reason });
        let mut parts = parts();
        let Some(state) = parts.get_mut(&(self.role, self.id)) else { return };
        match (state.standing.is_some(), standing.is_some()) {
            (false, true) => STANDING.with_label_values(&[self.role]).inc(),
            (true, false) => STANDING.with_label_values(&[self.role]).dec(),
            _ => {}
        }
        (state.standing, state.waits) = (standing, waits);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.works();
        parts().remove(&(self.role, self.id));
    }
}

/// What of a role does not work now.
#[must_use]
pub fn standing(role: &'static str) -> Vec<Standing> {
    parts().range((role, 0)..=(role, u64::MAX)).filter_map(|(_, state)| state.standing.clone()).collect()
}

/// Whether all shares of a role wait for what is away: nothing of it is done. Not where there is none.
#[must_use]
pub fn all_wait(role: &'static str) -> bool {
    let parts = parts();
    let mut shares = parts.range((role, 0)..=(role, u64::MAX)).map(|(_, state)| state).filter(|state| state.is_share);
    shares.next().is_some_and(|state| state.waits) && shares.all(|state| state.waits)
}
