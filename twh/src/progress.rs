//! How far a long command is, on stderr: a bar on a terminal, a line every few seconds elsewhere.

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of something that is counted.
pub(crate) struct Progress {
    begun: Instant,
    said: Instant,
    total: u64,
    noun: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of about `total` things called `noun`.
    pub(crate) fn new(total: u64, noun: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let template = "[{bar:40}] {human_pos} of {human_len} {prefix}, {per_sec}, {eta} to go {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style).with_prefix(noun)
        });
        Self { begun: Instant::now(), said: Instant::now(), total, noun, bar }
    }

    /// So many are done.
    pub(crate) fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done.min(self.total)),
            None if self.said.elapsed() >= LINE_EVERY => {
                self.said = Instant::now();
                let (done, total) = (HumanCount(done), HumanCount(self.total));
                eprintln!("{done} of {total} {} in {}", self.noun, HumanDuration(self.begun.elapsed()));
            }
            None => {}
        }
    }

    /// How long it took; the bar is gone.
    pub(crate) fn finish(self) -> Duration {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.begun.elapsed()
    }
}
