//! The parts are everybody's: tests that need them whole share them, a test that stops one has them alone.

use crate::places::{lock_file, root};
use anyhow::{Result, bail};
use std::fs::File;
use tokio::process::Command;

/// How a test has the parts, for as long as this lives.
pub(crate) struct Parts(File);

impl Parts {
    /// Next to others: nobody stops a part meanwhile.
    pub(crate) async fn shared() -> Result<Self> {
        Self::locked(File::lock_shared).await
    }

    /// Alone: nobody else needs them meanwhile.
    pub(crate) async fn alone() -> Result<Self> {
        Self::locked(File::lock).await
    }

    async fn locked(lock: impl FnOnce(&File) -> std::io::Result<()> + Send + 'static) -> Result<Self> {
        let file = lock_file("parts")?;
        tokio::task::spawn_blocking(move || lock(&file).map(|()| Self(file))).await?.map_err(Into::into)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Runs `./dev` with these words: `["kill", "kafka"]`. Only for a test that has the parts alone ([`crate::World::alone`]).
pub async fn dev(words: &[&str]) -> Result<()> {
    let output = Command::new(root().join("dev")).args(words).output().await?;
    if output.status.success() {
        return Ok(());
    }
    bail!("./dev {words:?}: {}", String::from_utf8_lossy(&output.stderr))
}

/// Kills a part as a crash would, and starts it again.
pub async fn crash(part: &str) -> Result<()> {
    dev(&["kill", part]).await?;
    dev(&["restart", part]).await
}
