//! Tools around a server: the demo, the generator of its months, the benchmark. They start the `twh` that lies in their folder.
//!
//! The demo is a client: what it needs must never depend on the server's own crates.

#[cfg(feature = "bench")]
mod bench;
#[cfg(feature = "demo")]
mod demo;
mod server;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[cfg(not(any(feature = "bench", feature = "demo")))]
compile_error!("twh-tools is built with the feature bench, the feature demo, or both");

/// That of the server: what serves the benchmark's baseline is not to be slower for want of it.
#[cfg(feature = "bench")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tools around a server of The Warehouse Hub.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends a month of trade through the API of a running server and checks every closing quantity.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArguments),
    /// Writes a month of trade of our own making, in the columns of the Online Retail dataset.
    #[cfg(feature = "demo")]
    Generate(demo::GenerateArguments),
    /// Measures throughput and latency, with baselines of the same run, in an environment of its own.
    #[cfg(feature = "bench")]
    Bench(bench::BenchArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("twh-tools: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => runtime()?.block_on(demo::run(arguments)),
        #[cfg(feature = "demo")]
        Command::Generate(arguments) => demo::generate(&arguments),
        #[cfg(feature = "bench")]
        Command::Bench(arguments) => runtime()?.block_on(bench::run(arguments)),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime could not be started")
}

/// Writes to standard output: what a command was asked for. Everything else goes to standard error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes()).context("standard output cannot be written")
}
