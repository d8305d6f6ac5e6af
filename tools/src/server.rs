//! The server that is started or talked to: its binary, and what the environment says of it.

use anyhow::{Context as _, ensure};
use std::env::{self, VarError};
use std::path::PathBuf;

/// The `twh` that lies in the folder of this program.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    let path = env::current_exe()?.with_file_name("twh").with_extension(env::consts::EXE_EXTENSION);
    ensure!(path.is_file(), "{} is missing: cargo build --release -p twh -p twh-tools builds both", path.display());
    Ok(path)
}

/// A variable that the server reads too, or its default: that of docs/configuration.md.
pub(crate) fn variable(name: &str, default: &str) -> anyhow::Result<String> {
    match env::var(name) {
        Err(VarError::NotPresent) => Ok(default.to_owned()),
        found => found.with_context(|| format!("{name} is not usable")),
    }
}

/// Where it serves HTTP.
pub(crate) fn http_addr() -> anyhow::Result<String> {
    variable("TWH_HTTP_ADDR", "127.0.0.1:8080")
}
