//! Files of keys, made by the command line: readable by their owner only, and never written over.

use anyhow::Context as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

/// Makes the key that signs checkpoints.
pub(crate) fn ledger_key(out: &Path) -> anyhow::Result<ExitCode> {
    let pem = twh_api::Signer::new_pem(&rand::random()).context("the key could not be written as PEM")?;
    make(out, &pem)
}

/// Makes a file of one master key.
pub(crate) fn master_key(name: &str, out: &Path) -> anyhow::Result<ExitCode> {
    make(out, &twh_sinks::secrets::new_master_key(name)?)
}

fn make(out: &Path, text: &str) -> anyhow::Result<ExitCode> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .with_context(|| format!("{} cannot be made", out.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("{} cannot be written", out.display()))?;
    Ok(ExitCode::SUCCESS)
}
