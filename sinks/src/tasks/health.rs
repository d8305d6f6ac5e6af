//! What of this process does not work now, by the role that it serves: `/ready` tells it.
//!
//! There is one for the process, as there is one for metrics.

use prometheus::{IntGaugeVec, register_int_gauge_vec};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static STANDING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!("twh_parts_standing", "What of a role does not work now, as /ready tells it.", &["role"])
        .expect("the metric's name is unique")
});

static PARTS: Mutex<BTreeMap<(&'static str, u64), Standing>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

fn parts() -> MutexGuard<'static, BTreeMap<(&'static str, u64), Standing>> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
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
        // There is a number for each role from the beginning.
        STANDING.with_label_values(&[role]).add(0);
        Self { role, name: name.into(), id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// It does not work.
    pub fn stands(&self, reason: impl Into<String>) {
        let standing = Standing { part: self.name.clone(), reason: reason.into() };
        if parts().insert((self.role, self.id), standing).is_none() {
            STANDING.with_label_values(&[self.role]).inc();
        }
    }

    /// It works, again or still.
    pub fn works(&self) {
        if parts().remove(&(self.role, self.id)).is_some() {
            STANDING.with_label_values(&[self.role]).dec();
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.works();
    }
}

/// What of a role does not work now.
#[must_use]
pub fn standing(role: &'static str) -> Vec<Standing> {
    parts().range((role, 0)..=(role, u64::MAX)).map(|(_, standing)| standing.clone()).collect()
}
