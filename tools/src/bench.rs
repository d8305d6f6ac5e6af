//! `twh-tools bench`: how fast this machine is with the server, and with baselines of the same run.

use crate::print;
use crate::server::{self, variable};
use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use twh_benches::{Options, Parts, Scenario};
use twh_sinks::secrets::Secrets;

/// What `twh-tools bench` takes.
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
    Hostile,
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
            ScenarioName::Hostile => Self::Hostile,
            ScenarioName::Growth => Self::Growth,
            ScenarioName::Webhooks => Self::Webhooks,
            ScenarioName::Search => Self::Search,
            ScenarioName::Limits => Self::Limits,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_new(variable("TWH_LOG", "info")?).context("TWH_LOG is not a usable filter")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let database_url = variable("TWH_DATABASE_URL", "postgres://twh@127.0.0.1:15432/twh")?;
    if arguments.serve_baseline {
        let workers = variable("TWH_HTTP_WORKERS", "2")?.parse::<usize>().context("TWH_HTTP_WORKERS is no number")?;
        twh_benches::serve_baseline(&server::http_addr()?, &database_url, secrets()?, workers).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let parts = Parts {
        server: server::binary()?,
        tools: std::env::current_exe()?,
        brokers: variable("TWH_KAFKA_BROKERS", "127.0.0.1:19092")?,
        registry: variable("TWH_SCHEMA_REGISTRY_URL", "http://127.0.0.1:18081/apis/ccompat/v7")?,
        secrets: secrets()?,
        search_url: variable("TWH_SEARCH_URL", "")?,
        database_url,
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

/// The master keys: those of the servers that are measured.
fn secrets() -> anyhow::Result<Secrets> {
    let file = variable("TWH_SECRETS_FILE", "")?;
    ensure!(!file.is_empty(), "TWH_SECRETS_FILE is not set; twh secrets new makes a file for it");
    Secrets::read(Path::new(&file)).with_context(|| format!("TWH_SECRETS_FILE {file} gives no master keys"))
}
