//! A server of mails, which keeps them in a folder.

use crate::{free_address, python};
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Takes mails as any other; it has none now for an address that begins with `later-`.
const HANDLER: &str = "
from aiosmtpd.handlers import Mailbox

class Fussy(Mailbox):
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith('later-'):
            return '451 come again'
        envelope.rcpt_tos.append(address)
        return '250 OK'
";

/// How long a mail may be on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// It ends, and its mails are gone, when dropped.
pub struct MailServer {
    /// Its address, for `TWH_SMTP_URL`.
    pub url: String,
    folder: PathBuf,
    handler: PathBuf,
    _process: Child,
}

impl MailServer {
    /// Starts it on a loopback port. It refuses, for now, what goes to an address that begins with `later-`. A mail that comes before it listens is tried again by who sends it.
    pub fn start() -> Result<Self> {
        let address = free_address()?;
        let folder = std::env::temp_dir().join(format!("twh_mails_{}", uuid::Uuid::new_v4().simple()));
        let handler = std::env::temp_dir().join(format!("twh_mails_{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&handler)?;
        std::fs::write(handler.join("fussy.py"), HANDLER)?;
        let process = Command::new(python()?)
            .args(["-m", "aiosmtpd", "-n", "-l", &address, "-c", "fussy.Fussy"])
            .arg(&folder)
            .env("PYTHONPATH", &handler)
            .kill_on_drop(true)
            .spawn()
            .context("aiosmtpd")?;
        Ok(Self { url: format!("smtp://{address}"), folder, handler, _process: process })
    }

    /// All mails that came.
    #[must_use]
    pub fn mails(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.folder.join("new")) else { return Vec::new() };
        files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }

    /// Waits for the one mail to an address, and takes the token out of it.
    pub async fn token_for(&self, to: &str) -> Result<String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mails = self.mails();
            if let Some(mail) = mails.iter().find(|mail| mail.contains(&format!("To: {to}"))) {
                let text = mail.replace("=\n", "").replace("=3D", "=");
                let token = text.split_once("\"token\": \"").and_then(|(_, rest)| rest.split('"').next());
                return token.map(str::to_owned).context("a mail without a token");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("no mail to {to}")
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_dir_all(&self.handler);
    }
}
