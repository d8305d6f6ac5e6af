//! `twh bench`: how fast this machine is with it, beside baselines of the same run.

use crate::config::Config;
use clap::Args;
use std::process::ExitCode;

/// What `twh bench` takes.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Commands of a backlog.
    #[arg(long, default_value_t = 200_000)]
    commands: usize,
    /// Serves the baseline's HTTP instead: for the benchmark's own use.
    #[arg(long, hide = true)]
    serve_baseline: bool,
}

/// Runs the command.
pub(crate) async fn run(config: &Config, arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    if arguments.serve_baseline {
        let address = config.http_addr.to_string();
        twh_benches::serve_baseline(&address, &config.database_url, config.http_workers).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let parts = twh_benches::Parts {
        binary: std::env::current_exe()?,
        brokers: config.kafka_brokers.clone(),
        registry: config.schema_registry_url.clone(),
        database_url: config.database_url.clone(),
    };
    twh_benches::run(&parts, arguments.commands).await?;
    Ok(ExitCode::SUCCESS)
}
