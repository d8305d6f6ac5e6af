//! A server that tests share: those that need no more of it than a tenant of their own. It is there when they begin, which
//! takes from each the time that a server of its own would need to start.

use crate::places::test_folder;
use crate::registry::Registry;
use crate::world::{command, new_tenant};
use crate::{TEST_NAMES, Tenant, World};
use anyhow::{Context as _, Result};
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use tokio::process::Command;

/// Tells the processes of tests what the server is configured with.
const CONFIGURED: &str = "TWH_TEST_SERVER";
/// And where its log is.
const LOG: &str = "TWH_TEST_SERVER_LOG";

/// No rate limits; subscribers on loopback are allowed; retries come after seconds.
pub const SETTINGS: &[(&str, &str)] = &[
    ("TWH_RATE_LIMITS", "off"),
    ("TWH_OUTBOUND_ALLOWED", "127.0.0.1/32"),
    ("TWH_WEBHOOK_RETRY_SECONDS", "1,1,1,1,1,1,1,1"),
    ("TWH_WEBHOOK_QUARANTINE_SECONDS", "3"),
    ("TWH_WEBHOOK_PROBE_SECONDS", "1"),
];

/// The shared server, as one test has it.
pub struct Shared {
    /// Its address.
    pub url: String,
    /// The address of what is for those who run it.
    pub ops_url: String,
    variables: BTreeMap<String, String>,
    log: PathBuf,
    /// Where its log stood when the test began.
    log_began: u64,
    /// Of the test's own, where the run has none.
    _own: Option<World>,
}

impl Shared {
    /// The server of the run; without one, a server of the test's own.
    pub async fn server() -> Result<Self> {
        let (variables, log, own) = match (std::env::var(CONFIGURED), std::env::var_os(LOG)) {
            (Ok(variables), Some(log)) => (serde_json::from_str(&variables).context(CONFIGURED)?, log.into(), None),
            _ => {
                let world = World::start_with(SETTINGS).await?;
                (world.variables().clone(), world.log_path(), Some(world))
            }
        };
        let address = |name| {
            let address: Option<&String> = BTreeMap::get(&variables, name);
            anyhow::Ok(format!("http://{}", address.with_context(|| format!("the shared server has no {name}"))?))
        };
        let (url, ops_url) = (address("TWH_HTTP_ADDR")?, address("TWH_OPS_ADDR")?);
        let log_began = std::fs::metadata(&log)?.len();
        let shared = Self { url, ops_url, variables, log, log_began, _own: own };
        // A test that is ended by force leaves this; a run before may have left one.
        let part = shared.part_of_log()?;
        let _ = std::fs::remove_file(&part);
        std::os::unix::fs::symlink(&shared.log, part)?;
        Ok(shared)
    }

    /// A new tenant and a client that calls as it.
    pub async fn tenant(&self) -> Result<Tenant> {
        new_tenant(self.command(&["tenant", "create", "--name", "test"])?, &self.url).await
    }

    /// The binary with some arguments, in the server's environment.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        command("twh", &self.variables, arguments)
    }

    /// The server's database: what other tenants have in it is other tests'.
    pub async fn pool(&self) -> Result<PgPool> {
        let url = self.variables.get("TWH_DATABASE_URL").context("the shared server has no database")?;
        Ok(PgPool::connect(url).await?)
    }

    fn part_of_log(&self) -> Result<PathBuf> {
        Ok(test_folder()?.join(format!("server-{}.log", self.log_began)))
    }

    /// What it has logged since the test began.
    fn logged(&self) -> Result<Vec<u8>> {
        let mut log = std::fs::File::open(&self.log)?;
        log.seek(SeekFrom::Start(self.log_began))?;
        let mut logged = Vec::new();
        log.read_to_end(&mut logged)?;
        Ok(logged)
    }
}

impl Drop for Shared {
    /// A failed test leaves the part of the log that is of its time.
    fn drop(&mut self) {
        let Ok(part) = self.part_of_log() else { return };
        let _ = std::fs::remove_file(&part);
        if std::thread::panicking()
            && let Ok(logged) = self.logged()
        {
            let _ = std::fs::write(part, logged);
        }
    }
}

/// Starts the server of a run, which is there for as long as the world is, and tells the command where it is. What runs
/// before it could not remove goes first.
pub async fn start(command: &mut Command) -> Result<World> {
    Registry::shared().purge(TEST_NAMES).await?;
    let mut world = World::start_with(SETTINGS).await?;
    world.server(0)?.keep_log();
    command.env(CONFIGURED, serde_json::to_string(world.variables())?).env(LOG, world.log_path());
    Ok(world)
}
