//! What whole-system tests stand on: an environment of their own (database, topics, port) on the real parts, and a client.
//!
//! The parts are those that `./dev env` names; the server is the built binary. Nothing is mocked.

pub mod mail;
pub mod proxy;
pub mod redis;

use anyhow::{Context as _, Result, bail};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgPool};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use uuid::Uuid;

const START_PATIENCE: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const REBUILD_PATIENCE: Duration = Duration::from_secs(30);
/// How long between two looks at a rebuild: it is to be met in the middle, and a test's is short.
const REBUILD_LOOKS: Duration = Duration::from_millis(2);

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Where Kafka is.
#[must_use]
pub fn brokers() -> String {
    variable("TWH_KAFKA_BROKERS", "127.0.0.1:19092")
}

/// Where the registry is.
#[must_use]
pub fn registry() -> String {
    variable("TWH_SCHEMA_REGISTRY_URL", "http://127.0.0.1:18081/apis/ccompat/v7")
}

/// Where the search engine is.
#[must_use]
pub fn search_engine() -> String {
    variable("TWH_SEARCH_URL", "http://127.0.0.1:19200")
}

/// The root of the project.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A Python with the packages of `deploy/python-requirements.txt`.
pub fn python() -> Result<PathBuf> {
    let python = std::env::var_os("TWH_TEST_PYTHON").map_or_else(|| root().join(".twh/venv/bin/python"), PathBuf::from);
    if python.exists() { Ok(python) } else { bail!("{} is missing: ./dev test makes it", python.display()) }
}

/// The folder of npm packages that the tests of sign-on run against: what `deploy/npm/package-lock.json` lists.
pub fn npm_packages() -> Result<PathBuf> {
    let own = || root().join(".twh/npm/node_modules");
    let modules = std::env::var_os("TWH_TEST_NPM_PACKAGES").map_or_else(own, PathBuf::from);
    if modules.exists() { Ok(modules) } else { bail!("{} is missing: ./dev test makes it", modules.display()) }
}

/// The built binary, beside the test that runs.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let path = test.parent().and_then(|deps| deps.parent()).context("the test has no place")?.join("twh");
    if path.exists() { Ok(path) } else { bail!("{} is not built: cargo build --release -p twh", path.display()) }
}

/// An environment of a test's own, with servers on it: the first is its own, a test that wants several adds them.
pub struct World {
    /// The first server's address.
    pub url: String,
    /// Leads its topics.
    pub prefix: String,
    /// Its database.
    pub database_url: String,
    variables: BTreeMap<String, String>,
    servers: Vec<Server>,
    databases: Vec<String>,
    admin_url: String,
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
        let id = Uuid::new_v4().simple().to_string();
        let name = format!("twh_test_{}", id.get(..12).unwrap_or(&id));
        let admin_url = variable("TWH_DATABASE_URL", "postgres://twh@127.0.0.1:15432/twh");
        let database_url = create_database(&admin_url, &name).await?;
        let mut variables = BTreeMap::from([
            ("TWH_HTTP_ADDR".to_owned(), free_address()?),
            ("TWH_KAFKA_BROKERS".to_owned(), brokers()),
            ("TWH_SCHEMA_REGISTRY_URL".to_owned(), registry()),
            ("TWH_DATABASE_URL".to_owned(), database_url.clone()),
            ("TWH_TOPIC_PREFIX".to_owned(), format!("{name}.")),
            ("TWH_TOPIC_PARTITIONS".to_owned(), "3".to_owned()),
            ("TWH_LOG_FORMAT".to_owned(), "text".to_owned()),
            // Only where it is tested: an index a test is much for one machine.
            ("TWH_SEARCH_URL".to_owned(), String::new()),
        ]);
        variables.extend(owned(settings));
        let first = Server::new(variables.clone(), log_path(&name))?;
        Ok(Self {
            url: first.url.clone(),
            prefix: format!("{name}."),
            database_url,
            variables,
            servers: vec![first],
            databases: vec![name],
            admin_url,
        })
    }

    /// An empty database beside the environment's own; it goes with the environment.
    pub async fn another_database(&mut self) -> Result<String> {
        let name = format!("twh_test_{}", Uuid::new_v4().simple());
        let url = create_database(&self.admin_url, &name).await?;
        self.databases.push(name);
        Ok(url)
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
        command(&self.variables, arguments)
    }

    /// Begins to make a projection anew and kills that once some of it is made: the number and the name of the build that it leaves.
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
        variables.extend(owned(settings));
        self.servers.push(Server::new(variables, log_path(&format!("{}{number}", self.prefix)))?);
        Ok(number)
    }

    /// A server by its number; the first is 0.
    pub fn server(&mut self, number: usize) -> Result<&mut Server> {
        self.servers.get_mut(number).with_context(|| format!("there is no server {number}"))
    }

    /// Where the first server's log is.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        log_path(self.prefix.trim_end_matches('.'))
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
    pub async fn stop_server(&mut self) -> Result<std::process::ExitStatus> {
        self.server(0)?.stop().await
    }

    /// A new tenant and a client that calls the first server as it.
    pub async fn tenant(&self) -> Result<Tenant> {
        let output = self.command(&["tenant", "create", "--name", "test"])?.output().await?;
        let made: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let text = |key: &str| {
            made.get(key).and_then(Value::as_str).map(str::to_owned).context("tenant create says something else")
        };
        Tenant { id: text("tenant_id")?, key: text("api_key")?, url: self.url.clone(), client: Client::new() }
            .with_timeout(REQUEST_TIMEOUT)
    }

    /// The environment's database.
    pub async fn pool(&self) -> Result<PgPool> {
        Ok(PgPool::connect(&self.database_url).await?)
    }
}

/// Deletes the indexes whose names are like this.
async fn delete_indexes(engine: &str, names: &str) -> Result<()> {
    let client = Client::builder().timeout(REQUEST_TIMEOUT).build()?;
    let list = client.get(format!("{engine}/_cat/indices/{names}?h=index")).send().await?.error_for_status()?;
    for index in list.text().await?.split_whitespace() {
        client.delete(format!("{engine}/{index}")).send().await?.error_for_status()?;
    }
    Ok(())
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.end();
        }
        let (url, databases) = (self.admin_url.clone(), std::mem::take(&mut self.databases));
        let engine = self.variables.get("TWH_SEARCH_URL").filter(|url| !url.is_empty()).map(|_| search_engine());
        let indexes = format!("twh-items-{}*", self.prefix.trim_end_matches('.'));
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                if let Some(engine) = engine {
                    let _ = delete_indexes(&engine, &indexes).await;
                }
                let mut admin = PgConnection::connect(&url).await.ok()?;
                for name in databases {
                    let drop = format!("drop database if exists {name} with (force)");
                    sqlx::query(&drop).execute(&mut admin).await.ok()?;
                }
                Some(())
            })
        });
        let _ = dropped.join();
    }
}

async fn create_database(admin_url: &str, name: &str) -> Result<String> {
    let mut admin = PgConnection::connect(admin_url).await.context("Postgres: is ./dev up?")?;
    sqlx::query(&format!("create database {name}")).execute(&mut admin).await?;
    let (server, _) = admin_url.rsplit_once('/').context("TWH_DATABASE_URL names no database")?;
    Ok(format!("{server}/{name}"))
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

fn log_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{name}.log"))
}

fn owned(settings: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
}

fn command(variables: &BTreeMap<String, String>, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments).envs(variables).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// An address that a server keeps over its restarts. Below the ports that the kernel gives to clients (32768 and up on
/// Linux), or a client that knocks at a killed server would sooner or later be given its port, and keep it from starting.
pub fn free_address() -> Result<String> {
    let drawn = std::iter::repeat_with(|| 21_000 + Uuid::new_v4().as_u128() % 11_000).take(100);
    drawn
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .context("no port from 21000 to 31999 is free")
}

/// One `twh serve`, and what can happen to it. Its log goes beside the test's build.
pub struct Server {
    /// Its address.
    pub url: String,
    variables: BTreeMap<String, String>,
    log: PathBuf,
    process: Option<Child>,
    started: bool,
}

impl Server {
    fn new(variables: BTreeMap<String, String>, log: PathBuf) -> Result<Self> {
        let address = variables.get("TWH_HTTP_ADDR").context("the server has no address")?;
        Ok(Self { url: format!("http://{address}"), variables, log, process: None, started: false })
    }

    /// Where its log is.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Starts it and waits until it serves and its ledger applies.
    pub async fn start(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.process = Some(command(&self.variables, &["serve"])?.stdout(log.try_clone()?).stderr(log).spawn()?);
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
        let asked = Client::new().get(format!("{}/ready", self.url)).timeout(START_PATIENCE / 6).send();
        asked.await.is_ok_and(|answer| answer.status().is_success())
    }

    /// How it ended, where it ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.as_mut().and_then(|process| process.try_wait().ok().flatten())
    }

    /// Ends it as a power cut would (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        process.kill().await?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> Result<std::process::ExitStatus> {
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

    async fn signal(&self, name: &str) -> Result<()> {
        let id = self.process.as_ref().and_then(Child::id).context("the server does not run")?;
        let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status().await?;
        if status.success() { Ok(()) } else { bail!("SIG{name} did not reach the server") }
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.start_kill();
        }
        // A failed test, or a server that did not start, leaves its log to be read.
        if self.started && !std::thread::panicking() {
            let _ = std::fs::remove_file(&self.log);
        }
    }
}

/// A tenant's client at one server.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The tenant's id.
    pub id: String,
    /// Its API key.
    pub key: String,
    url: String,
    client: Client,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null where it is not JSON.
    pub body: Value,
}

impl Answer {
    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The error's code; empty where it is none.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body.get("code").and_then(Value::as_str).unwrap_or_default()
    }

    /// The resource's id; empty where it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.body.get("id").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Tenant {
    /// The same tenant's client at another server; they share connections and settings.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    /// The same client, which calls with another API key or access token.
    #[must_use]
    pub fn with(&self, credential: &str) -> Self {
        Self { key: credential.to_owned(), ..self.clone() }
    }

    /// Runs another program as the tenant: `TWH_URL` and `TWH_API_KEY` say where and as whom.
    pub fn lend_to(&self, program: &mut Command) {
        program.env("TWH_URL", &self.url).env("TWH_API_KEY", &self.key);
    }

    /// The same client, which waits so long for an answer.
    pub fn with_timeout(self, timeout: Duration) -> Result<Self> {
        Ok(Self { client: Client::builder().timeout(timeout).build()?, ..self })
    }

    /// Sends a request with exactly these headers beside the key.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_str(value)?);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        Ok(Answer { status, headers, body })
    }

    /// `POST` with a key of its own.
    pub async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.post_as(path, &Uuid::new_v4().to_string(), body).await
    }

    /// `POST` with this key.
    pub async fn post_as(&self, path: &str, key: &str, body: Value) -> Result<Answer> {
        let headers = [("idempotency-key", key), ("content-type", "application/json")];
        self.send(Method::POST, path, &headers, Some(body.to_string().into_bytes())).await
    }

    /// `POST` that must succeed.
    pub async fn done(&self, path: &str, body: Value) -> Result<Answer> {
        let answer = self.post(path, body).await?;
        if answer.status.is_success() { Ok(answer) } else { bail!("POST {path}: {} {}", answer.status, answer.body) }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[], None).await
    }

    /// `GET`, its answer as it comes.
    pub async fn raw(&self, path: &str) -> Result<reqwest::Response> {
        Ok(self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.key).send().await?)
    }

    /// A stock item, a location `MAIN` and this much of the item there.
    pub async fn stock(&self, sku: &str, quantity: i64) -> Result<()> {
        self.done("/v1/items", serde_json::json!({ "sku": sku })).await?;
        self.post("/v1/locations", serde_json::json!({ "code": "MAIN" })).await?;
        let lines = serde_json::json!([{ "sku": sku, "quantity": quantity }]);
        self.done(
            "/v1/adjustments",
            serde_json::json!({ "location_code": "MAIN", "reason": "opening", "lines": lines }),
        )
        .await?;
        Ok(())
    }

    /// (on hand, reserved) of an item over all locations.
    pub async fn level(&self, sku: &str) -> Result<(String, String)> {
        let answer = self.get(&format!("/v1/stock?sku={sku}")).await?;
        let text = |key: &str| {
            answer.body.pointer(&format!("/data/0/{key}")).and_then(Value::as_str).unwrap_or("0").to_owned()
        };
        Ok((text("qty_on_hand"), text("qty_reserved")))
    }

    /// How many movements the tenant's ledger holds.
    pub async fn movements(&self) -> Result<i64> {
        let answer = self.get("/v1/movements?limit=1").await?;
        Ok(answer.body.pointer("/data/0/id").and_then(Value::as_i64).unwrap_or_default())
    }
}
