//! `twh ledger-key`: makes the key that signs checkpoints.

use anyhow::Context as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

/// Makes a key in a new file; one that is there is never written over.
pub(crate) fn make(out: &Path) -> anyhow::Result<ExitCode> {
    let pem = twh_api::Signer::new_pem(&rand::random()).context("the key could not be written as PEM")?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .with_context(|| format!("{} cannot be made", out.display()))?;
    file.write_all(pem.as_bytes()).with_context(|| format!("{} cannot be written", out.display()))?;
    Ok(ExitCode::SUCCESS)
}
