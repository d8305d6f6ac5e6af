//! Tells a person how far the run is, on stderr: a bar on a terminal, a line every few seconds elsewhere.
//!
//! The only module that prints, and never to stdout, which belongs to the caller.

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far the run is.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    total: u64,
    lines: AtomicU64,
    commands: AtomicU64,
    show: Show,
}

#[derive(Debug)]
enum Show {
    Nothing,
    Bar(ProgressBar),
    /// When the last line was printed.
    Lines(Mutex<Instant>),
}

impl Progress {
    /// Of a file of `total` lines; silent unless `shown`.
    pub(crate) fn new(total: u64, shown: bool) -> Self {
        let show = match shown {
            false => Show::Nothing,
            true if std::io::stderr().is_terminal() => Show::Bar(bar(total)),
            true => Show::Lines(Mutex::new(Instant::now())),
        };
        Self { started: Instant::now(), total, lines: AtomicU64::new(0), commands: AtomicU64::new(0), show }
    }

    /// A command was acknowledged.
    pub(crate) fn command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    /// So many more of the file's lines are done.
    pub(crate) fn advance(&self, lines: usize) {
        self.lines.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.tell();
    }

    /// How many commands were acknowledged.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// What is being done now, beside the lines.
    pub(crate) fn stage(&self, what: &str) {
        match &self.show {
            Show::Nothing => {}
            Show::Bar(bar) => bar.set_prefix(what.to_owned()),
            Show::Lines(_) => eprintln!("{what}"),
        }
    }

    /// The server does not answer as it should, and the request is sent again.
    pub(crate) fn waiting(&self, why: &str) {
        match &self.show {
            Show::Nothing => {}
            Show::Bar(bar) => bar.set_message(format!("sending again: {why}")),
            Show::Lines(last) => {
                if due(last) {
                    eprintln!("sending again: {why}");
                }
            }
        }
    }

    /// Clears the bar away.
    pub(crate) fn finish(&self) {
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }

    fn tell(&self) {
        let lines = self.lines.load(Ordering::Relaxed);
        match &self.show {
            Show::Nothing => {}
            Show::Bar(bar) => {
                bar.set_position(lines);
                bar.set_message(format!("{} commands/s", HumanCount(self.rate())));
            }
            Show::Lines(last) => {
                if due(last) {
                    let (total, rate) = (HumanCount(self.total), HumanCount(self.rate()));
                    eprintln!("{} of {total} lines, {rate} commands/s", HumanCount(lines));
                }
            }
        }
    }

    fn rate(&self) -> u64 {
        per_second(self.commands(), self.started.elapsed())
    }
}

/// Rounded down; as if at least a millisecond had passed.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(count) * 1_000 / elapsed.as_millis().max(1)).unwrap_or(u64::MAX)
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{prefix} [{bar:40}] {human_pos} of {human_len} lines, {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Whether the next line is due; if so, the one after it is due later.
fn due(last: &Mutex<Instant>) -> bool {
    let Ok(mut last) = last.try_lock() else { return false };
    let due = last.elapsed() >= LINE_EVERY;
    if due {
        *last = Instant::now();
    }
    due
}
