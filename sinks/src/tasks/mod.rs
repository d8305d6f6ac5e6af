//! Tasks that do not end unseen. Every task of the server is started by one of these functions, or its handle is awaited and
//! its panic becomes an error of who waits.
//!
//! A panic is counted and logged by the task's name. What is long-lived is begun again after a pause, and `/ready` tells of it
//! meanwhile ([`health`]).

mod backoff;
pub mod health;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;

use futures::FutureExt as _;
use health::Part;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Between a panic and the next beginning: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A task that ran so long without a panic is begun again as quickly as at first.
const QUIET: Duration = Duration::from_secs(60);

crate::metrics! {
    PANICS: IntCounterVec = "twh_task_panics_total", "Panics of tasks, by the task's name.", labels ["task"];
}

/// A task panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the task {task} panicked: {said}")]
pub struct Panicked {
    /// Which.
    pub task: &'static str,
    /// What it said.
    pub said: String,
}

/// What a panic said.
#[must_use]
pub fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

fn note(task: &'static str, panic: &(dyn Any + Send)) -> Panicked {
    let panicked = Panicked { task, said: said(panic) };
    PANICS.with_label_values(&[task]).inc();
    tracing::error!(task, said = panicked.said, "a task panicked");
    panicked
}

/// Does something that ends; its panic is an error like any other.
pub async fn guarded<T>(task: &'static str, work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| note(task, panic.as_ref()))
}

/// As [`guarded`], for what blocks.
pub fn guarded_blocking<T>(task: &'static str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| note(task, panic.as_ref()))
}

/// Does something that goes on until it ends by itself. After a panic it is begun again; until then the role that it serves is
/// not ready.
pub async fn kept<T, F: Future<Output = T>>(role: &'static str, task: &'static str, mut begin: impl FnMut() -> F) -> T {
    let mut down = Down::new(role, task);
    loop {
        // What `begin` does before there is a future may panic as well.
        if let Ok(ended) = guarded(task, async { begin().await }).await {
            return ended;
        }
        tokio::time::sleep(down.pause()).await;
        down.begins();
    }
}

/// As [`kept`], for a thread of its own.
pub fn kept_blocking<T>(role: &'static str, task: &'static str, mut begin: impl FnMut() -> T) -> T {
    let mut down = Down::new(role, task);
    loop {
        if let Ok(ended) = guarded_blocking(task, &mut begin) {
            return ended;
        }
        std::thread::sleep(down.pause());
        down.begins();
    }
}

/// Starts [`kept`] as a task.
pub fn keep<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    role: &'static str,
    task: &'static str,
    begin: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(kept(role, task, begin))
}

/// The pauses of a task that panics, and what `/ready` says meanwhile.
struct Down {
    part: Part,
    backoff: Backoff,
    begun: Instant,
}

impl Down {
    fn new(role: &'static str, task: &'static str) -> Self {
        Self { part: Part::new(role, task), backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX), begun: Instant::now() }
    }

    /// It has panicked: says how long to wait.
    fn pause(&mut self) -> Duration {
        if self.begun.elapsed() > QUIET {
            self.backoff.reset();
        }
        // What the panic said is in the log: it may name what is nobody else's business.
        self.part.stands("it panicked and is about to begin again; the log says why");
        self.backoff.pause()
    }

    fn begins(&mut self) {
        self.begun = Instant::now();
        self.part.works();
    }
}
