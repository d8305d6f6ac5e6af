//! What roles stand on and share: connections, topics, schemas, keys; and how long a start waits for them.

use crate::config::Config;
use crate::durability;
use anyhow::Context as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use twh_edge::control::Control;
use twh_processors::runtime::Backoff;
use twh_schemas::Schemas;
use twh_schemas::catalogue::{self, Topic};
use twh_sinks::kafka::{Producer, client_config};
use twh_sinks::postgres::tenant::TenantPool;
use twh_sinks::postgres::{self, PgPool};
use twh_sinks::secrets::Secrets;

/// How long a starting process waits for the parts that it stands on.
const START_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the ledger writes in one transaction: some 40,000 movements. Five times as many took so long between two statements on a busy
/// machine that PostgreSQL ended the transaction, and would have again and again.
pub(crate) const LEDGER_BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A pool of connections as configured.
pub(crate) fn pool(config: &Config) -> anyhow::Result<PgPool> {
    postgres::connect(&config.database_url, config.database_connections, "twh")
        .context("TWH_DATABASE_URL is not usable")
}

/// A pool of connections that read for a tenant.
pub(crate) fn readers(config: &Config) -> anyhow::Result<TenantPool> {
    let Config { database_url, database_connections, statement_timeout, .. } = config;
    TenantPool::connect(database_url, *database_connections, "twh-reads", *statement_timeout)
        .context("TWH_DATABASE_URL is not usable")
}

/// Makes the topics and registers their schemas; says what of the topics is not as it should be.
pub(crate) async fn prepare_topics(config: &Config) -> anyhow::Result<(Schemas, Vec<String>)> {
    let client = client_config(&config.kafka_brokers, "twh-admin");
    let found =
        catalogue::create_topics(&client, &config.topic_prefix, config.topic_partitions, config.topic_replication)
            .await
            .with_context(|| format!("Kafka at {}", config.kafka_brokers))?;
    let warnings = durability::judge(&found, config.kafka_require_replication)?;
    Ok((Schemas::connect(&config.schema_registry_url, &config.topic_prefix).await?, warnings))
}

/// Everything that roles share.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) pool: PgPool,
    /// For look-ups of callers alone: whatever others do, who calls is found out.
    pub(crate) callers: PgPool,
    /// Where changes of who may call, and of subscriptions, are made.
    pub(crate) control: Control,
    /// For what reads for a tenant.
    pub(crate) readers: TenantPool,
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) client_id: String,
    /// What of the topics is not as the promise needs it.
    pub(crate) warnings: Vec<String>,
    /// What roles write to Kafka with: readiness asks these.
    pub(crate) producers: Mutex<Vec<Producer>>,
    /// What roles write to PostgreSQL with: readiness asks these, too.
    pub(crate) writers: Mutex<Vec<PgPool>>,
}

impl Parts {
    /// Has readiness ask a producer.
    pub(crate) fn uses(&self, producer: &Producer) {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner).push(producer.clone());
    }

    /// Has readiness ask whether a pool's connections write.
    pub(crate) fn writes_with(&self, pool: &PgPool) {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).push(pool.clone());
    }
}

/// Brings tables, topics and schemas up to date; parts that are still starting are waited for.
pub(crate) async fn prepare(config: &Config) -> anyhow::Result<(Schemas, Vec<String>)> {
    let begun = tokio::time::Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    loop {
        let prepared = async {
            postgres::migrate(&pool(config)?).await.context("the tables could not be brought up to date")?;
            prepare_topics(config).await
        };
        match prepared.await {
            Ok(prepared) => return Ok(prepared),
            // What the registry or the database refuses stays refused.
            Err(error) if is_final(&error) || begun.elapsed() > START_PATIENCE => return Err(error),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a part is not there yet; trying again");
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}

fn is_final(error: &anyhow::Error) -> bool {
    use twh_schemas::registry::RegistryError;
    error.is::<durability::Refused>()
        || matches!(
            error.downcast_ref::<RegistryError>(),
            Some(RegistryError::Refused { .. } | RegistryError::Unusable(_))
        )
        || error
            .downcast_ref::<sqlx::migrate::MigrateError>()
            .is_some_and(|error| !matches!(error, sqlx::migrate::MigrateError::Execute(_)))
}

/// The master keys.
pub(crate) fn secrets(config: &Config) -> anyhow::Result<Secrets> {
    let file =
        config.secrets_file.as_deref().context("TWH_SECRETS_FILE is not set; twh secrets new makes a file for it")?;
    Secrets::read(file).with_context(|| format!("TWH_SECRETS_FILE {} gives no master keys", file.display()))
}

/// Which cluster a producer is connected to.
pub(crate) async fn cluster_id(asked: &Producer) -> anyhow::Result<String> {
    let asked = asked.clone();
    let id = tokio::task::spawn_blocking(move || asked.cluster_id(KAFKA_TIMEOUT)).await?;
    id.context("Kafka does not say which cluster it is")
}

/// How many partitions a topic has.
pub(crate) async fn partitions(config: &Config, asked: &Producer, topic: &Topic) -> anyhow::Result<i32> {
    let (asked, topic) = (asked.clone(), topic.full_name(&config.topic_prefix));
    let partitions = tokio::task::spawn_blocking(move || asked.partitions(&topic, KAFKA_TIMEOUT)).await??;
    Ok(i32::try_from(partitions)?)
}
