//! An environment of the benchmark's own on the real parts: a database, topics, and the processes it starts. All of it goes
//! when the benchmark ends, however it ends.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use twh_accounts::provision::{self, NewTenant};
use twh_schemas::Schemas;
use twh_sinks::kafka::Producer;
use twh_sinks::postgres::sqlx::{self, Connection as _, PgConnection};
use twh_sinks::postgres::{PgPool, connect, migrate};
use twh_sinks::secrets::Secrets;
use uuid::Uuid;

const START_PATIENCE: Duration = Duration::from_secs(60);

/// Where the parts are, and the programs that are measured.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The server's binary, `twh`.
    pub server: PathBuf,
    /// The binary that serves the baseline with `bench --serve-baseline`: `twh-tools`.
    pub tools: PathBuf,
    /// Kafka's bootstrap servers.
    pub brokers: String,
    /// The schema registry.
    pub registry: String,
    /// The master keys.
    pub secrets: Secrets,
    /// The search engine; empty where there is none.
    pub search_url: String,
    /// A database on the Postgres to use; the benchmark makes its own beside it.
    pub database_url: String,
}

/// A database, topics and a contract of the benchmark's own.
pub(crate) struct Environment {
    pub(crate) pool: PgPool,
    pub(crate) prefix: String,
    pub(crate) schemas: std::sync::Arc<Schemas>,
    parts: Parts,
    database_url: String,
    database: String,
}

impl Environment {
    pub(crate) async fn prepare(parts: &Parts) -> Result<Self> {
        let id = Uuid::new_v4().simple().to_string();
        let database = format!("twh_bench_{}", id.get(..12).unwrap_or(&id));
        let mut admin = PgConnection::connect(&parts.database_url).await.context("Postgres: is ./dev up?")?;
        sqlx::query(&format!("create database {database}")).execute(&mut admin).await?;
        let (server, _) = parts.database_url.rsplit_once('/').context("TWH_DATABASE_URL names no database")?;
        let database_url = format!("{server}/{database}");
        let pool = connect(&database_url, 40, "twh-bench")?;
        let prefix = format!("{database}.");
        migrate(&pool).await?;
        let schemas = Schemas::connect(&parts.registry, &prefix).await?.into();
        let environment = Self { pool, prefix, schemas, parts: parts.clone(), database_url, database };
        environment.succeeds(&["topics"]).await?;
        Ok(environment)
    }

    /// The search engine's address.
    pub(crate) const fn search_url(&self) -> &str {
        self.parts.search_url.as_str()
    }

    /// The master keys.
    pub(crate) const fn secrets(&self) -> &Secrets {
        &self.parts.secrets
    }

    pub(crate) fn producer(&self) -> Result<Producer> {
        Ok(Producer::new(&self.parts.brokers, "twh-bench", Duration::from_secs(60))?)
    }

    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) async fn tenants(&self, count: usize) -> Result<Vec<NewTenant>> {
        let mut tenants = Vec::with_capacity(count);
        for _ in 0..count {
            tenants.push(self.tenant("enterprise").await?);
        }
        Ok(tenants)
    }

    pub(crate) async fn tenant(&self, plan: &str) -> Result<NewTenant> {
        Ok(provision::tenant(&self.pool, &self.parts.secrets, "bench", plan).await?)
    }

    fn command(&self, program: &Path, arguments: &[&str], settings: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("TWH_KAFKA_BROKERS", &self.parts.brokers)
            .env("TWH_SCHEMA_REGISTRY_URL", &self.parts.registry)
            .env("TWH_DATABASE_URL", &self.database_url)
            .env("TWH_TOPIC_PREFIX", &self.prefix)
            .env("TWH_LOG", "warn")
            // Only the scenario of search has an engine: what else is measured is not to feed one.
            .env_remove("TWH_SEARCH_URL")
            // Limits cost what they cost, and hold nobody back: a benchmark's tenant is busier than any plan allows.
            .env("TWH_PLAN_LIMITS", "enterprise=100000/1000000,100000/1000000")
            .envs(settings)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn succeeds(&self, arguments: &[&str]) -> Result<()> {
        self.succeeds_with(arguments, &[]).await
    }

    /// Runs `twh` with some arguments until it has done what they say.
    pub(crate) async fn succeeds_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Result<()> {
        let output = self.command(&self.parts.server, arguments, &variables(settings)).output().await?;
        if output.status.success() {
            return Ok(());
        }
        bail!("twh {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr))
    }

    /// Starts `twh` with some arguments, and waits until it says that it is ready.
    pub(crate) async fn start(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Result<Process> {
        self.start_program(&self.parts.server, arguments, settings).await
    }

    /// Starts the baseline behind HTTP.
    pub(crate) async fn start_baseline(&self) -> Result<Process> {
        self.start_program(&self.parts.tools, &["bench", "--serve-baseline"], &[]).await
    }

    async fn start_program(&self, program: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Result<Process> {
        let (address, ops_address) = free_addresses()?;
        let mut variables = variables(settings);
        variables.insert("TWH_HTTP_ADDR".to_owned(), address.clone());
        variables.insert("TWH_OPS_ADDR".to_owned(), ops_address.clone());
        let mut process =
            Process { child: self.command(program, arguments, &variables).spawn()?, address, ops_address };
        let begun = Instant::now();
        while !process.is_ready().await {
            if let Some(status) = process.child.try_wait()? {
                bail!("{} {} ended with {status}", program.display(), arguments.join(" "));
            }
            if begun.elapsed() > START_PATIENCE {
                bail!("{} {} is not ready", program.display(), arguments.join(" "));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(process)
    }

    /// Ends the environment: its database. Its topics hold what they hold until their retention ends it.
    pub(crate) async fn end(self) -> Result<()> {
        self.pool.close().await;
        let mut admin = PgConnection::connect(&self.parts.database_url).await?;
        // Whoever is still in it, such as a killed process's connection, is put out. A vacuum is the server's own: we may not put it out
        // by force (seen with PostgreSQL 15), while the server stops it for a drop without force.
        let gently = format!("drop database if exists {}", self.database);
        let forced = format!("{gently} with (force)");
        let mut dropped = sqlx::query(&forced).execute(&mut admin).await;
        for again in [&gently, &forced] {
            if dropped.is_err() {
                dropped = sqlx::query(again).execute(&mut admin).await;
            }
        }
        dropped?;
        Ok(())
    }
}

/// Two addresses that were free a moment ago.
fn free_addresses() -> Result<(String, String)> {
    let free = || std::net::TcpListener::bind("127.0.0.1:0");
    let (one, other) = (free()?, free()?);
    Ok((one.local_addr()?.to_string(), other.local_addr()?.to_string()))
}

fn variables(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A server or a baseline that is being measured; it ends with its handle.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
    pub(crate) ops_address: String,
}

impl Process {
    async fn is_ready(&self) -> bool {
        crate::http::get(&self.address, "/ready", None).await.is_ok_and(|(status, _)| status == 200)
    }

    /// Resident memory now, in megabytes.
    pub(crate) fn memory_mb(&self) -> u64 {
        self.status_mb("VmRSS:")
    }

    /// The most resident memory that it ever had, in megabytes.
    pub(crate) fn memory_peak_mb(&self) -> u64 {
        self.status_mb("VmHWM:")
    }

    fn status_mb(&self, name: &str) -> u64 {
        let id = self.child.id().unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default() / 1024
    }

    /// Asks it to stop (SIGTERM), so that its partitions are free at once, and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let id = self.child.id().context("the process has ended by itself")?;
        Command::new("kill").arg(id.to_string()).status().await?;
        tokio::time::timeout(START_PATIENCE, self.child.wait()).await??;
        Ok(())
    }
}
