//! `twh verify`: the ledger against itself, for every tenant or one.

use crate::config::Config;
use crate::print;
use crate::progress::Progress as Bar;
use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use twh_domain::id::TenantId;
use twh_sinks::postgres::connect_read_only;
use twh_sinks::postgres::verification::{self, Counts, Finding, KnownHead, KnownHeads, Progress};
use uuid::Uuid;

/// Between two writes of the file to resume from.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// The exit code that says that something was found.
const UNSOUND: u8 = 2;

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Only this tenant.
    #[arg(long)]
    tenant: Option<Uuid>,
    /// Keeps how far it is in this file, and goes on from there when the file exists.
    #[arg(long)]
    resume: Option<PathBuf>,
    /// A head that was kept outside of the ledger, as SEQUENCE:HASH; needs --tenant. History that was rewritten whole, hashes and
    /// all, is found by this alone.
    #[arg(long, requires = "tenant", value_parser = known_head)]
    known_head: Option<KnownHead>,
    /// The same of the control records (keys, members and the like), as GET /v1/audit/checkpoint signs it.
    #[arg(long, requires = "tenant", value_parser = known_head)]
    known_control_head: Option<KnownHead>,
    /// Ends with one line of JSON on stdout.
    #[arg(long)]
    json: bool,
}

fn known_head(text: &str) -> Result<KnownHead, String> {
    let (sequence, hash) = text.split_once(':').ok_or("write it as SEQUENCE:HASH")?;
    Ok(KnownHead {
        sequence: sequence.parse().map_err(|_| "SEQUENCE must be a whole number")?,
        hash: twh_domain::hex::decode_hash(hash).ok_or("HASH must be 64 hexadecimal digits")?,
    })
}

/// How far a run is; what the file to resume from holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Run {
    tenants: u64,
    counts: Counts,
    findings: Vec<Finding>,
    current: Option<Progress>,
}

/// Runs the command.
pub(crate) async fn run(config: &Config, arguments: VerifyArguments) -> anyhow::Result<ExitCode> {
    let pool = connect_read_only(&config.database_url, 2, "twh-verify").context("TWH_DATABASE_URL is not usable")?;
    let tenants = match arguments.tenant {
        Some(tenant) => vec![TenantId(tenant)],
        None => verification::tenants(&pool).await.context("the ledger cannot be read")?,
    };
    let known = KnownHeads { movements: arguments.known_head, control_records: arguments.known_control_head };
    let mut run = arguments.resume.as_deref().map(load).transpose()?.unwrap_or_default();
    let total = verification::size(&pool, arguments.tenant.map(TenantId)).await.context("the ledger cannot be read")?;
    let mut bar = Bar::new(u64::try_from(total).unwrap_or_default(), "rows");
    let mut saved = Instant::now();
    for tenant in tenants {
        if run.current.as_ref().is_some_and(|current| current.tenant() > tenant) {
            continue;
        }
        if run.current.as_ref().is_none_or(|current| current.tenant() < tenant) {
            run.current = Some(Progress::new(tenant));
        } else if run.current.as_ref().is_some_and(Progress::is_done) {
            continue;
        }
        while let Some(current) = run.current.as_mut().filter(|current| !current.is_done()) {
            current.step(&mut *pool.acquire().await?, &known).await.context("the ledger cannot be read")?;
            bar.at(rows(&run.counts) + rows(current.counts()));
            if let Some(file) = arguments.resume.as_deref().filter(|_| saved.elapsed() >= SAVE_EVERY) {
                save(file, &run)?;
                saved = Instant::now();
            }
        }
        if let Some(done) = &run.current {
            run.tenants += 1;
            run.counts.add(done.counts());
            run.findings.extend_from_slice(done.findings());
        }
        if let Some(file) = &arguments.resume {
            save(file, &run)?;
        }
    }
    report(&run, bar.finish(), arguments.json)?;
    // An empty ledger has left none.
    if let Some(file) = arguments.resume.as_deref().filter(|file| file.exists()) {
        std::fs::remove_file(file).with_context(|| format!("{} cannot be removed", file.display()))?;
    }
    pool.close().await;
    Ok(if run.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNSOUND) })
}

fn rows(counts: &Counts) -> u64 {
    u64::try_from(counts.movements + counts.audit_records + counts.control_records).unwrap_or_default()
}

fn load(file: &Path) -> anyhow::Result<Run> {
    if !file.exists() {
        return Ok(Run::default());
    }
    let text = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is no file of twh verify: remove it to begin anew", file.display()))
}

/// Writes the file whole or not at all.
fn save(file: &Path, run: &Run) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(run)?)
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("{} cannot be written", file.display()))
}

fn report(run: &Run, elapsed: Duration, as_json: bool) -> anyhow::Result<()> {
    let sound = run.findings.is_empty();
    if as_json {
        let line = json!({
            "ledger": if sound { "sound" } else { "unsound" },
            "tenants": run.tenants,
            "movements": run.counts.movements,
            "levels": run.counts.levels,
            "audit_records": run.counts.audit_records,
            "documents": run.counts.documents,
            "outcomes": run.counts.outcomes,
            "reserved_levels": run.counts.reserved_levels,
            "control_records": run.counts.control_records,
            "control_state": run.counts.control_state,
            "seconds": elapsed.as_secs_f64(),
            "findings": run.findings,
        });
        print(&format!("{line}\n"))?;
        return Ok(());
    }
    let Counts {
        movements,
        levels,
        audit_records,
        documents,
        outcomes,
        reserved_levels,
        control_records,
        control_state,
    } = run.counts;
    let mut text = format!(
        "{} tenants in {:.1} s: {movements} movements, {levels} levels, {audit_records} audit records, {documents} documents, \
         {outcomes} audit records with an outcome, {reserved_levels} levels with something reserved, \
         {control_records} control records, {control_state} keys, members and the like\n",
        run.tenants,
        elapsed.as_secs_f64()
    );
    for finding in &run.findings {
        text.push_str(&format!("tenant {}: {}: {}\n", finding.tenant_id, finding.row, finding.problem));
    }
    text.push_str(if sound { "the ledger is sound\n" } else { "the ledger is NOT sound\n" });
    print(&text)?;
    Ok(())
}
