//! Fetches the published dataset.
//!
//! By `curl`, which nearly every system has: the one request to the outside in the whole product is no reason to build
//! TLS into it.

use anyhow::{Context, Result, bail, ensure};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where UCI publishes *Online Retail* (Chen, 2015, doi:10.24432/C5BW33, licence CC BY 4.0): a zip of one workbook.
pub const DATASET_URL: &str = "https://archive.ics.uci.edu/static/public/352/online+retail.zip";

/// Downloads the published dataset to `dest`, showing its progress on stderr. What is there is replaced only once the
/// whole of the new file has arrived. Blocks until done.
///
/// # Errors
/// When there is no `curl` or no network, when the server refuses, or when what arrives is not the dataset.
pub fn download(dest: &Path) -> Result<()> {
    let mut part = dest.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let finished = Command::new("curl")
        .args(["--fail", "--location", "--proto", "=https", "--connect-timeout", "20", "--retry", "2"])
        .args(["--show-error", "--progress-bar", "--output"])
        .arg(&part)
        .arg(DATASET_URL)
        .status();
    let checked = match finished {
        Ok(status) if status.success() => check(&part),
        Ok(status) => Err(anyhow::anyhow!(
            "cannot download {DATASET_URL} (curl: {status}). Without a network, fetch it elsewhere and name the file, \
             or make a file like it with `twh-tools generate`"
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("the download needs `curl`, which is not installed; fetch {DATASET_URL} by hand and name the file")
        }
        Err(error) => Err(error).context("cannot start curl"),
    };
    if checked.is_err() {
        // Best effort: half a file is of no use, and the next download overwrites it.
        let _ = std::fs::remove_file(&part);
    }
    checked?;
    std::fs::rename(&part, dest).with_context(|| format!("cannot write {}", dest.display()))
}

fn check(file: &Path) -> Result<()> {
    let lines = crate::dataset::read(file).context("what arrived is not the dataset")?;
    ensure!(!lines.is_empty(), "the dataset that arrived is empty");
    Ok(())
}
