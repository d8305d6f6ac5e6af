//! `twh bench`: how fast this machine is with it, beside baselines of the same run.

use crate::config::Config;
use crate::{print, serve};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use twh_benches::{Options, Scenario};

/// What `twh bench` takes.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Which scenarios; all by default.
    #[arg(value_enum)]
    scenarios: Vec<ScenarioName>,
    /// Only the ratios that a defect would spoil, in under two minutes.
    #[arg(long)]
    quick: bool,
    /// Commands of a backlog.
    #[arg(long)]
    commands: Option<usize>,
    /// Items of the scenario search.
    #[arg(long)]
    items: Option<usize>,
    /// Writes the figures there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws throughput and latency there, as SVG; needs the scenario http.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Fails when a figure does not reach its bar.
    #[arg(long)]
    check: bool,
    /// Serves the baseline's HTTP instead: for the benchmark's own use.
    #[arg(long, hide = true)]
    serve_baseline: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScenarioName {
    Apply,
    Http,
    Mixed,
    Overload,
    Growth,
    Webhooks,
    Search,
    Limits,
}

impl From<ScenarioName> for Scenario {
    fn from(name: ScenarioName) -> Self {
        match name {
            ScenarioName::Apply => Self::Apply,
            ScenarioName::Http => Self::Http,
            ScenarioName::Mixed => Self::Mixed,
            ScenarioName::Overload => Self::Overload,
            ScenarioName::Growth => Self::Growth,
            ScenarioName::Webhooks => Self::Webhooks,
            ScenarioName::Search => Self::Search,
            ScenarioName::Limits => Self::Limits,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(config: &Config, arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    if arguments.serve_baseline {
        let address = config.http_addr.to_string();
        twh_benches::serve_baseline(&address, &config.database_url, serve::secrets(config)?, config.http_workers)
            .await?;
        return Ok(ExitCode::SUCCESS);
    }
    let parts = twh_benches::Parts {
        binary: std::env::current_exe()?,
        brokers: config.kafka_brokers.clone(),
        registry: config.schema_registry_url.clone(),
        secrets: serve::secrets(config)?,
        search_url: config.search_url.clone(),
        database_url: config.database_url.clone(),
    };
    let mut options = if arguments.quick { Options::quick() } else { Options::full() };
    if !arguments.scenarios.is_empty() {
        options.scenarios = arguments.scenarios.into_iter().map(Into::into).collect();
    }
    options.commands = arguments.commands.unwrap_or(options.commands);
    options.items = arguments.items.unwrap_or(options.items);
    let report = twh_benches::run(&parts, &options).await?;
    print(&report.to_string())?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()? + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some(path) = &arguments.plot {
        report.plot(path)?;
    }
    let missed = report.missed();
    Ok(if arguments.check && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
