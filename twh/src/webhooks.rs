//! Starts the consumer group that sends webhooks.

use crate::parts::{BATCH_BYTES_MAX, Parts, cluster_id, partitions, secrets};
use crate::roles::Role;
use anyhow::Context as _;
use futures::FutureExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use twh_processors::runtime::{self, DeadLetters, Limits};
use twh_processors::webhooks::{self, Policy, Settings, Webhooks};
use twh_schemas::catalogue::{EVENTS, WEBHOOKS_DLQ};
use twh_sinks::kafka::Producer;
use twh_sinks::outbound::Outbound;
use twh_sinks::postgres;
use twh_sinks::tasks::kept as kept_task;

/// Shared by the partitions: each writes what it queues and what it has sent, and loads queues.
const CONNECTIONS: u32 = 8;
/// Events turned into deliveries in one transaction.
const EVENTS_MAX: usize = 500;
/// Dead letters are never given up.
const NEVER: Duration = Duration::ZERO;

pub(crate) async fn start(
    parts: &Parts,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let config = &parts.config;
    let producer = Producer::new(&config.kafka_brokers, &format!("{}-webhooks-dlq", parts.client_id), NEVER)?;
    parts.uses(&producer);
    let topic = EVENTS.full_name(&config.topic_prefix);
    let group = format!("{}{}{}", config.topic_prefix, config.group_prefix, webhooks::GROUP);
    let pool = postgres::connect_persistent(&config.database_url, CONNECTIONS, "twh-webhooks")
        .context("TWH_DATABASE_URL is not usable")?;
    parts.writes_with(&pool);
    let policy = Policy::new(&config.webhook_retry_seconds, config.webhook_quarantine, config.webhook_probe_max);
    let settings = Settings {
        pool,
        schemas: Arc::clone(&parts.schemas),
        secrets: secrets(config)?,
        outbound: Outbound::new(config.outbound_allowed.clone())?,
        policy: Arc::new(policy),
        kafka_cluster_id: cluster_id(&producer).await?,
        owner: parts.client_id.clone(),
        group: group.clone(),
        partitions: partitions(config, &producer, &EVENTS).await?,
    };
    let dead_letters =
        DeadLetters::new(producer, group.clone(), topic.clone(), WEBHOOKS_DLQ.full_name(&config.topic_prefix));
    let options = runtime::Options {
        role: Role::Webhooks.name(),
        brokers: config.kafka_brokers.clone(),
        client_id: format!("{}-webhooks", parts.client_id),
        group,
        topic,
        session: config.group_session,
        limits: Limits { records_max: EVENTS_MAX, bytes_max: BATCH_BYTES_MAX },
    };
    let group = Webhooks::new(settings, stop.clone());
    let stopped = stop.clone();
    tasks.spawn(async move { Ok(runtime::run(group, options, dead_letters, stopped).await?) });
    // Where what is old begins differs from time to time, and the plan with it: not for a pool that plans once.
    let (pool, kept, stop) = (parts.pool.clone(), config.webhook_keep, stop.clone());
    let forgets = move || webhooks::keep(pool.clone(), kept, stop.clone());
    tasks.spawn(kept_task(Role::Webhooks.name(), "webhook_forgetting", forgets).map(Ok));
    Ok(())
}
