//! A Redis of a test's own, to be killed.

use crate::free_address;
use anyhow::{Context as _, Result, bail};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const START_PATIENCE: Duration = Duration::from_secs(10);

/// A `redis-server` on a loopback port that it keeps over its restarts. It keeps nothing on disk, and ends when dropped.
pub struct Redis {
    /// Its address.
    pub url: String,
    address: String,
    process: Option<Child>,
}

impl Redis {
    /// An address at which no Redis runs yet.
    pub fn prepare() -> Result<Self> {
        let address = free_address()?;
        Ok(Self { url: format!("redis://{address}"), address, process: None })
    }

    /// Starts it, empty, and waits until it listens.
    pub async fn start(&mut self) -> Result<()> {
        let (host, port) = self.address.split_once(':').context("the address has no port")?;
        let arguments = ["--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--daemonize", "no"];
        let mut command = Command::new("redis-server");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(command.current_dir(std::env::temp_dir()).spawn().context("redis-server")?);
        let begun = Instant::now();
        while TcpStream::connect(&self.address).await.is_err() {
            if begun.elapsed() > START_PATIENCE {
                bail!("redis-server does not listen at {}", self.address);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Ends it as a power cut would (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("redis-server does not run")?;
        process.kill().await?;
        Ok(())
    }
}
