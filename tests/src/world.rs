//! An environment of a test's own on the real parts, and the servers in it.

use crate::database::Databases;
use crate::parts::Parts;
use crate::places::{binary, free_address, test_folder};
use crate::registry::Registry;
use crate::{REQUEST_TIMEOUT, Server, TEST_NAMES, Tenant, http_client, topics};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::Command;
use uuid::Uuid;

/// How long a consumer group of a world waits for a process that was killed: shorter than in production, since tests kill many.
pub const GROUP_SESSION: Duration = Duration::from_secs(4);
const REBUILD_PATIENCE: Duration = Duration::from_secs(30);
/// How long between two looks at a rebuild: it is to be met in the middle, and a test's is short.
const REBUILD_LOOKS: Duration = Duration::from_millis(2);

/// An environment of a test's own, with servers on it: the first is its own, a test that wants several adds them.
pub struct World {
    /// The first server's address.
    pub url: String,
    /// The address of what is for those who run it.
    pub ops_url: String,
    /// Leads its topics.
    pub prefix: String,
    /// Its database.
    pub database_url: String,
    variables: BTreeMap<String, String>,
    servers: Vec<Server>,
    databases: Vec<String>,
    /// Last, so that they are there while the rest is removed.
    parts: Parts,
}

impl World {
    /// An environment with a running server of every role.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// An environment with a running server, configured further.
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Self> {
        let mut world = Self::prepare(settings).await?;
        world.start_server().await?;
        Ok(world)
    }

    /// An environment whose first server does not run yet.
    pub async fn prepare(settings: &[(&str, &str)]) -> Result<Self> {
        Self::prepare_on(Parts::shared(), settings).await
    }

    /// The same for a test that stops parts: on a set of its own, which [`World::crash`] and [`World::dev`] are for.
    pub async fn with_own_parts(settings: &[(&str, &str)]) -> Result<Self> {
        Self::prepare_on(Parts::own().await?, settings).await
    }

    async fn prepare_on(parts: Parts, settings: &[(&str, &str)]) -> Result<Self> {
        let id = Uuid::new_v4().simple().to_string();
        let name = format!("{TEST_NAMES}{}", id.get(..12).unwrap_or(&id));
        let database_url = Databases::connect(parts.database()).await?.create_migrated(&name).await?;
        let mut variables = parts.variables();
        variables.extend([
            ("TWH_HTTP_ADDR".to_owned(), free_address()?),
            ("TWH_OPS_ADDR".to_owned(), free_address()?),
            ("TWH_DATABASE_URL".to_owned(), database_url.clone()),
            ("TWH_TOPIC_PREFIX".to_owned(), format!("{name}.")),
            ("TWH_TOPIC_PARTITIONS".to_owned(), "3".to_owned()),
            ("TWH_GROUP_SESSION_MS".to_owned(), GROUP_SESSION.as_millis().to_string()),
            ("TWH_LOG_FORMAT".to_owned(), "text".to_owned()),
            // Only where it is tested: an index a test is much for one machine.
            ("TWH_SEARCH_URL".to_owned(), String::new()),
        ]);
        variables.extend(owned(settings));
        let first = Server::new(variables.clone(), log_path(&name)?)?;
        Ok(Self {
            url: first.url.clone(),
            ops_url: first.ops_url.clone(),
            prefix: format!("{name}."),
            database_url,
            variables,
            servers: vec![first],
            databases: vec![name],
            parts,
        })
    }

    /// An empty database next to the environment's own; it goes with the environment.
    pub async fn another_database(&mut self) -> Result<String> {
        let name = format!("twh_test_{}", Uuid::new_v4().simple());
        let url = Databases::connect(self.parts.database()).await?.create_empty(&name).await?;
        self.databases.push(name);
        Ok(url)
    }

    /// Where its Kafka is.
    #[must_use]
    pub fn brokers(&self) -> &str {
        self.parts.brokers()
    }

    /// Where its registry is.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.parts.registry()
    }

    /// Runs `./dev` with these words, on parts of its own: `["kill", "kafka"]`.
    pub async fn dev(&self, words: &[&str]) -> Result<()> {
        self.parts.dev(words).await
    }

    /// Kills one of its own parts as a power cut would, and starts it again.
    pub async fn crash(&self, part: &str) -> Result<()> {
        self.dev(&["kill", part]).await?;
        self.dev(&["restart", part]).await
    }

    /// `twh verify` finds nothing.
    pub async fn is_sound(&self) -> Result<()> {
        succeeds(self.command(&["verify"])?).await
    }

    /// `twh replay` builds the same ledger in an empty database.
    pub async fn replays(&mut self) -> Result<()> {
        let into = self.another_database().await?;
        succeeds(self.command(&["replay", "--into", &into, "--compare"])?).await
    }

    /// The binary with some arguments, in this environment.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        command("twh", &self.variables, arguments)
    }

    /// `twh-tools` with some arguments, in this environment.
    pub fn tool(&self, arguments: &[&str]) -> Result<Command> {
        command("twh-tools", &self.variables, arguments)
    }

    /// Begins to rebuild a projection and kills that once some of it is there: the number and the name of the build that it leaves.
    pub async fn kill_rebuild(&self, projection: &str) -> Result<(i64, String)> {
        let mut rebuild = self.command(&["rebuild", projection])?.kill_on_drop(true).spawn()?;
        let pool = self.pool().await?;
        let sql = "select number, name from projection_builds b where projection = $1 and state = 'building' and exists
            (select from consumer_positions p where p.consumer_group = 'projections-' || $1 || '/' || b.name and p.next_offset > 0)";
        let begun = Instant::now();
        while begun.elapsed() < REBUILD_PATIENCE {
            if let Some(build) = sqlx::query_as(sql).bind(projection).fetch_optional(&pool).await? {
                rebuild.kill().await?;
                return Ok(build);
            }
            if let Some(status) = rebuild.try_wait()? {
                bail!("the rebuild of {projection} was done before it was seen ({status})");
            }
            tokio::time::sleep(REBUILD_LOOKS).await;
        }
        bail!("the rebuild of {projection} did not begin within {REBUILD_PATIENCE:?}")
    }

    /// One more server in this environment, configured further; it does not run yet. Says its number.
    pub fn add_server(&mut self, settings: &[(&str, &str)]) -> Result<usize> {
        let number = self.servers.len();
        let mut variables = self.variables.clone();
        variables.insert("TWH_HTTP_ADDR".to_owned(), free_address()?);
        variables.insert("TWH_OPS_ADDR".to_owned(), free_address()?);
        variables.extend(owned(settings));
        self.servers.push(Server::new(variables, log_path(&format!("{}{number}", self.prefix))?)?);
        Ok(number)
    }

    /// A server by its number; the first is 0.
    pub fn server(&mut self, number: usize) -> Result<&mut Server> {
        self.servers.get_mut(number).with_context(|| format!("there is no server {number}"))
    }

    /// Where the first server's log is.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.servers.first().map(|server| server.log_path().to_owned()).unwrap_or_default()
    }

    /// Starts the first server and waits until it serves and its ledger applies.
    pub async fn start_server(&mut self) -> Result<()> {
        self.server(0)?.start().await
    }

    /// Ends the first server as a power cut would (SIGKILL).
    pub async fn kill_server(&mut self) -> Result<()> {
        self.server(0)?.kill().await
    }

    /// Asks the first server to stop (SIGTERM) and waits until it has.
    pub async fn stop_server(&mut self) -> Result<ExitStatus> {
        self.server(0)?.stop().await
    }

    /// A new tenant and a client that calls the first server as it.
    pub async fn tenant(&self) -> Result<Tenant> {
        new_tenant(self.command(&["tenant", "create", "--name", "test"])?, &self.url).await
    }

    /// What its servers are configured with.
    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The environment's database.
    pub async fn pool(&self) -> Result<PgPool> {
        Ok(PgPool::connect(&self.database_url).await?)
    }
}

/// The tenant that a command creates, as the client of a server.
pub(crate) async fn new_tenant(mut create: Command, url: &str) -> Result<Tenant> {
    let output = create.output().await?;
    let made: Value =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let text = |key: &str| {
        made.get(key).and_then(Value::as_str).map(str::to_owned).context("tenant create says something else")
    };
    Tenant::new(text("tenant_id")?, text("api_key")?, url.to_owned())
}

/// Deletes the indexes whose names are like this.
async fn delete_indexes(engine: &str, names: &str) -> Result<()> {
    let client = http_client(REQUEST_TIMEOUT)?;
    let list = client.get(format!("{engine}/_cat/indices/{names}?h=index")).send().await?.error_for_status()?;
    for index in list.text().await?.split_whitespace() {
        client.delete(format!("{engine}/{index}")).send().await?.error_for_status()?;
    }
    Ok(())
}

impl Drop for World {
    /// What cannot be removed is left: a part may be down, and a test that failed says more than its remains.
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.end();
        }
        let engine = self.variables.get("TWH_SEARCH_URL").filter(|url| !url.is_empty());
        let engine = engine.map(|_| self.parts.search_engine());
        let (prefix, databases, parts) = (&self.prefix, &self.databases, &self.parts);
        // Its own runtime needs a thread of its own: this may be one of a runtime's.
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
                runtime.block_on(async {
                    if let Some(engine) = engine {
                        let _ = delete_indexes(engine, &format!("twh-items-{}*", prefix.trim_end_matches('.'))).await;
                    }
                    let _ = topics::delete(parts.brokers(), prefix).await;
                    let _ = Registry(parts.registry().to_owned()).delete(prefix).await;
                    Databases::connect(parts.database()).await.ok()?.remove(databases).await.ok()
                })
            });
        });
    }
}

/// Fails with what the command said unless it succeeds.
async fn succeeds(mut command: Command) -> Result<()> {
    let output = command.output().await?;
    if output.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    bail!("{:?}: {}{}", command.as_std(), text(&output.stdout), text(&output.stderr))
}

fn owned(settings: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
}

pub(crate) fn command(program: &str, variables: &BTreeMap<String, String>, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary(program)?);
    command.args(arguments).envs(variables).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

fn log_path(name: &str) -> Result<PathBuf> {
    Ok(test_folder()?.join(format!("{name}.log")))
}
