//! The parts: those of the run, which all tests share and none stops; and a set for tests that stop them, one test at a time.

use crate::places::root;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::process::Stdio;
use tokio::process::Command;

/// What names a part, with the part's place as `./dev up` has it.
const ADDRESSES: [(&str, &str); 5] = [
    ("TWH_KAFKA_BROKERS", "127.0.0.1:19092"),
    ("TWH_SCHEMA_REGISTRY_URL", "http://127.0.0.1:18081/apis/ccompat/v7"),
    ("TWH_DATABASE_URL", "postgres://twh@127.0.0.1:15432/twh"),
    ("TWH_REDIS_URL", "redis://127.0.0.1:16379"),
    ("TWH_SEARCH_URL", "http://127.0.0.1:19200"),
];
/// Names the master keys of an instance.
const SECRETS: &str = "TWH_SECRETS_FILE";
/// The set that tests stop.
const OWN: &str = "crashes";

/// Where the search engine of the run is.
#[must_use]
pub fn search_engine() -> String {
    Parts::shared().search_engine().to_owned()
}

/// Where the parts are.
pub(crate) struct Parts {
    addresses: BTreeMap<String, String>,
    /// Held for as long as the parts are a test's own.
    own: Option<File>,
}

impl Parts {
    /// Those that the environment names: nobody stops them.
    pub(crate) fn shared() -> Self {
        let address = |(name, default): (&str, &str)| {
            (name.to_owned(), std::env::var(name).unwrap_or_else(|_| default.to_owned()))
        };
        Self { addresses: ADDRESSES.map(address).into(), own: None }
    }

    /// A set that is started for the test, to be stopped as it likes; nobody else has it meanwhile.
    pub(crate) async fn own() -> Result<Self> {
        let lock = File::options().create(true).truncate(false).write(true).open(root().join(".twh/crashes.lock"))?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
        // From here on they are stopped at the end, whatever comes.
        let mut parts = Self { addresses: BTreeMap::new(), own: Some(lock) };
        dev(&["up"]).await?;
        let variables = said(own(Command::new("bash")).args(["-c", "eval \"$(./dev env)\" && env -0"])).await?;
        let variables = variables.split('\0').filter_map(|variable| variable.split_once('='));
        let named = variables.filter(|(name, _)| *name == SECRETS || ADDRESSES.iter().any(|(of, _)| of == name));
        parts.addresses = named.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(parts)
    }

    /// Runs `./dev` with these words, on parts that are the test's own: `["kill", "kafka"]`.
    pub(crate) async fn dev(&self, words: &[&str]) -> Result<()> {
        if self.own.is_none() {
            bail!("these parts are everybody's: World::with_own_parts has some to be stopped");
        }
        dev(words).await.map(|_| ())
    }

    /// The variables that name them.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        self.addresses.clone()
    }

    fn address(&self, name: &str) -> &str {
        self.addresses.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(crate) fn brokers(&self) -> &str {
        self.address("TWH_KAFKA_BROKERS")
    }

    pub(crate) fn registry(&self) -> &str {
        self.address("TWH_SCHEMA_REGISTRY_URL")
    }

    pub(crate) fn database(&self) -> &str {
        self.address("TWH_DATABASE_URL")
    }

    pub(crate) fn search_engine(&self) -> &str {
        self.address("TWH_SEARCH_URL")
    }
}

impl Drop for Parts {
    /// What does not stop now is found running by the next test that wants it.
    fn drop(&mut self) {
        if self.own.is_some() {
            let _ = own(Command::new("./dev")).into_std().arg("down").output();
        }
    }
}

/// A command in the root of the project that means the set that tests stop, whatever the environment names.
fn own(mut command: Command) -> Command {
    for name in
        ADDRESSES.map(|(name, _)| name).iter().chain(&[SECRETS, "TWH_HTTP_ADDR", "TWH_OPS_ADDR", "TWH_DEV_PORT_SHIFT"])
    {
        command.env_remove(name);
    }
    command.env("TWH_DEV_INSTANCE", OWN).current_dir(root());
    command
}

async fn dev(words: &[&str]) -> Result<String> {
    said(own(Command::new("./dev")).args(words)).await
}

/// What a command says, which must succeed.
async fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().await.with_context(|| format!("{:?}", command.as_std()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    bail!("{:?}: {}{}", command.as_std(), text(&output.stdout), text(&output.stderr))
}
