//! Runs seed after seed until one finds something.

use anyhow::bail;
use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use twh_simulator::{Sabotage, Settings, Stats, run};

/// Between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Simulates the ledger under every fault, from seeds, and checks what must always hold.
#[derive(Debug, Parser)]
#[command(name = "simulate", version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this one, and what happened at its end.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Things that each client asks for.
    #[arg(long, default_value_t = 25)]
    wishes: u64,
    /// Takes a protection away, to see it noticed.
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
}

fn main() -> ExitCode {
    match simulate(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(arguments: &Arguments) -> anyhow::Result<()> {
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    let (begun, mut said) = (Instant::now(), Instant::now());
    let mut total = Stats::default();
    for seed in from..from.saturating_add(seeds) {
        let (finding, stats, _) = run(Settings { seed, wishes: arguments.wishes, sabotage: arguments.sabotage })?;
        total.add(&stats);
        if let Some(finding) = finding {
            for line in &finding.trace {
                eprintln!("{line}");
            }
            let sabotage = arguments.sabotage.map_or_else(String::new, |sabotage| {
                use clap::ValueEnum as _;
                sabotage.to_possible_value().map_or_else(String::new, |name| format!(" --sabotage {}", name.get_name()))
            });
            bail!(
                "seed {seed}, the {}. of this run: {}\nrun it again: ./dev simulate --seed {seed} --wishes {}{sabotage}",
                seed - from + 1,
                finding.what,
                arguments.wishes
            );
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            eprintln!("{} of {seeds} seeds, {} commands", seed - from + 1, total.commands);
        }
    }
    let line = format!(
        "{seeds} seeds, nothing found: {} commands, {} commits, {} answers; {} crashes, {} rebalances, {} fenced writers, {} lost \
         acknowledgements, {} failed calls; {} virtual seconds in {:.1} s\n",
        total.commands,
        total.commits,
        total.answers,
        total.crashes,
        total.rebalances,
        total.fenced,
        total.lost_acknowledgements,
        total.failures,
        total.virtual_millis / 1_000,
        begun.elapsed().as_secs_f64()
    );
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}
