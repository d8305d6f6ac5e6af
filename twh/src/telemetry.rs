//! Logs: one structured line an event, on standard error.

use crate::config::{Config, LogFormat};
use anyhow::Context as _;
use std::backtrace::Backtrace;
use tracing_subscriber::EnvFilter;

/// Starts logging as configured.
pub(crate) fn start(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("TWH_LOG is not a usable filter")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
        LogFormat::Text => builder.init(),
    }
    // A panic is a line of the log like any other, wherever it happens and whoever catches it.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, thread = std::thread::current().name(), "a panic");
    }));
    Ok(())
}
