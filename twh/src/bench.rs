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
}

/// Runs the command.
pub(crate) async fn run(config: &Config, arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    let parts = twh_benches::Parts {
        binary: std::env::current_exe()?,
        brokers: config.kafka_brokers.clone(),
        registry: config.schema_registry_url.clone(),
        database_url: config.database_url.clone(),
    };
    twh_benches::run(&parts, arguments.commands).await?;
    Ok(ExitCode::SUCCESS)
}
