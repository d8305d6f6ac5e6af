//! A running server.

use crate::http_client;
use crate::world::command;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const START_PATIENCE: Duration = Duration::from_secs(60);

/// One `twh serve`, and what can happen to it.
pub struct Server {
    /// Its address.
    pub url: String,
    /// The address of what is for those who run it.
    pub ops_url: String,
    variables: BTreeMap<String, String>,
    log: PathBuf,
    process: Option<Child>,
    started: bool,
    log_is_kept: bool,
    client: reqwest::Client,
}

impl Server {
    pub(crate) fn new(variables: BTreeMap<String, String>, log: PathBuf) -> Result<Self> {
        let address = variables.get("TWH_HTTP_ADDR").context("the server has no address")?;
        let ops_address = variables.get("TWH_OPS_ADDR").context("the server has no address for those who run it")?;
        let client = http_client(START_PATIENCE / 6)?;
        Ok(Self {
            url: format!("http://{address}"),
            ops_url: format!("http://{ops_address}"),
            variables,
            log,
            process: None,
            started: false,
            log_is_kept: false,
            client,
        })
    }

    /// Where its log is.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Leaves its log when it ends.
    pub(crate) fn keep_log(&mut self) {
        self.log_is_kept = true;
    }

    /// Starts it and waits until it serves and its ledger applies.
    pub async fn start(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.process = Some(command("twh", &self.variables, &["serve"])?.stdout(log.try_clone()?).stderr(log).spawn()?);
        let begun = Instant::now();
        while !self.is_ready().await {
            if let Some(status) = self.ended() {
                bail!("the server ended with {status}: see {}", self.log.display());
            }
            if begun.elapsed() > START_PATIENCE {
                bail!("the server is not ready: see {}", self.log.display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.started = true;
        Ok(())
    }

    /// True when it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let asked = self.client.get(format!("{}/ready", self.url)).send();
        asked.await.is_ok_and(|answer| answer.status().is_success())
    }

    /// How it ended, where it ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|process| process.try_wait().ok().flatten())
    }

    /// Ends it as a power cut would (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        process.kill().await?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        let mut process = self.process.take().context("the server does not run")?;
        Ok(tokio::time::timeout(START_PATIENCE, process.wait()).await??)
    }

    /// Stands it still (SIGSTOP): it neither works nor knows that time passes, and its connections stay open.
    pub async fn freeze(&self) -> Result<()> {
        self.signal("STOP").await
    }

    /// Lets it go on (SIGCONT).
    pub async fn thaw(&self) -> Result<()> {
        self.signal("CONT").await
    }

    /// How much memory it has.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    fn memory(&self, what: &str) -> Result<u64> {
        let id = self.process.as_ref().and_then(Child::id).context("the server does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).context("it does not say")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1_024)
    }

    /// The most memory that it has taken since it was started, in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    async fn signal(&self, name: &str) -> Result<()> {
        let id = self.process.as_ref().and_then(Child::id).context("the server does not run")?;
        let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status().await?;
        if status.success() { Ok(()) } else { bail!("SIG{name} did not reach the server") }
    }

    pub(crate) fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.start_kill();
        }
        // A failed test, or a server that did not start, leaves its log to be read.
        if self.started && !self.log_is_kept && !std::thread::panicking() {
            let _ = std::fs::remove_file(&self.log);
        }
    }
}
