//! `twh-tools demo` and `twh-tools generate`: a month of trade, the published one or one of our own making.

use crate::{print, server};
use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use twh_demo::{GenerateOptions, RunOptions, dataset};

/// What `twh-tools demo` takes.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// A file with the columns of the Online Retail dataset, plain, gzip or xlsx; without one, a generated month.
    #[arg(long, env = "TWH_DEMO_FILE")]
    file: Option<PathBuf>,
    /// Fetches the published dataset (UCI, CC BY 4.0) and uses it.
    #[arg(long, conflicts_with = "file")]
    download: bool,
    /// Uses only the first lines of the file.
    #[arg(long)]
    limit: Option<usize>,
    /// Documents in flight at once.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Ends with one line of JSON on standard output.
    #[arg(long)]
    json: bool,
    /// The server to talk to; the one at TWH_HTTP_ADDR by default.
    #[arg(long)]
    url: Option<String>,
}

/// What `twh-tools generate` takes.
#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    /// The same seed makes the same month.
    #[arg(long)]
    seed: Option<u64>,
    /// How many lines, about.
    #[arg(long)]
    lines: Option<usize>,
    /// Where to write it; standard output by default.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What `twh tenant create` prints.
#[derive(Deserialize)]
struct Tenant {
    tenant_id: String,
    api_key: String,
}

/// Runs the month through the API, as a new tenant.
pub(crate) async fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    let url = match arguments.url {
        Some(url) => url,
        None => format!("http://{}", server::http_addr()?),
    };
    let (lines, tenant) = {
        let (binary, file, download) = (server::binary()?, arguments.file, arguments.download);
        tokio::task::spawn_blocking(move || anyhow::Ok((lines(file, download)?, tenant(&binary)?))).await??
    };
    let mut options = RunOptions::new(url, tenant.api_key, lines);
    options.limit = arguments.limit;
    options.concurrency = arguments.concurrency;
    options.progress = true;
    let summary = twh_demo::run(options).await?;
    eprintln!("{summary}\nTenant {} holds it.", tenant.tenant_id);
    if json {
        print(&format!("{}\n", summary.json_line()))?;
    }
    Ok(if summary.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Has the server's binary make the demo's tenant; what it has to say goes to standard error.
fn tenant(binary: &Path) -> anyhow::Result<Tenant> {
    let output = Command::new(binary)
        .args(["tenant", "create", "--name", "Demo", "--plan", "enterprise"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} cannot be run", binary.display()))?;
    ensure!(
        output.status.success(),
        "the demo's tenant could not be made: twh tenant create ended with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("twh tenant create printed no tenant")
}

fn lines(file: Option<PathBuf>, download: bool) -> anyhow::Result<Vec<dataset::Line>> {
    if download {
        let path = std::env::temp_dir().join("online-retail.zip");
        twh_demo::download(&path)?;
        return dataset::read(&path);
    }
    match file {
        Some(path) => {
            eprintln!("Reading {}.", path.display());
            dataset::read(&path)
        }
        None => {
            eprintln!("No file named (--file or TWH_DEMO_FILE): using a generated month.");
            Ok(twh_demo::generate(GenerateOptions::default()))
        }
    }
}

/// Writes a generated month.
pub(crate) fn generate(arguments: &GenerateArguments) -> anyhow::Result<ExitCode> {
    let defaults = GenerateOptions::default();
    let options = GenerateOptions {
        seed: arguments.seed.unwrap_or(defaults.seed),
        lines: arguments.lines.unwrap_or(defaults.lines),
        ..defaults
    };
    let lines = twh_demo::generate(options);
    match &arguments.out {
        Some(path) => twh_demo::write_csv(
            &lines,
            std::fs::File::create(path).with_context(|| format!("{} cannot be written", path.display()))?,
        )?,
        None => twh_demo::write_csv(&lines, std::io::stdout().lock())?,
    }
    Ok(ExitCode::SUCCESS)
}
