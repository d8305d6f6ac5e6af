//! The roles of the ledger: its group, and who asks for lapsed reservations.

use crate::parts::{LEDGER_BATCH_BYTES_MAX, Parts, cluster_id, partitions};
use crate::roles::Role;
use anyhow::Context as _;
use futures::FutureExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use twh_ingest::Waker;
use twh_processors::expiry::Expiry;
use twh_processors::ledger::{self, Awaited, Ledger};
use twh_processors::outbox::Publishing;
use twh_processors::runtime::{self, DeadLetters, Limits};
use twh_processors::seams::LedgerStore;
use twh_schemas::catalogue::{COMMANDS, LEDGER_DLQ};
use twh_sinks::kafka::Producer;
use twh_sinks::postgres;
use twh_sinks::tasks::kept;

/// For the ledger's loads and commits, and its outboxes.
const LEDGER_CONNECTIONS: u32 = 12;

/// Committed records are never given up: one that was, with the ones behind it on the log already, would come after them.
const OUTBOX_TIMEOUT: Duration = Duration::ZERO;

/// Partitions that commit within it share a request to Kafka. Clients of this process have their answers before that.
const OUTBOX_LINGER: Duration = Duration::from_millis(2);

pub(crate) async fn start_ledger(
    parts: &Parts,
    waker: Option<Waker>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let config = &parts.config;
    let prefix = config.topic_prefix.clone();
    let client_id = format!("{}-outbox", parts.client_id);
    let producer = Producer::lingering(&config.kafka_brokers, &client_id, OUTBOX_TIMEOUT, OUTBOX_LINGER)?;
    parts.uses(&producer);
    let kafka_cluster_id = cluster_id(&producer).await?;
    let partitions = partitions(config, &producer, &COMMANDS).await?;
    let group = format!("{}{}{}", config.topic_prefix, config.group_prefix, ledger::GROUP);
    let source = COMMANDS.full_name(&prefix);
    let dead_letters = DeadLetters::new(producer.clone(), group.clone(), source.clone(), LEDGER_DLQ.full_name(&prefix));
    let pool = postgres::connect_persistent(&config.database_url, LEDGER_CONNECTIONS, "twh-ledger")
        .context("TWH_DATABASE_URL is not usable")?;
    parts.writes_with(&pool);
    let store = LedgerStore::new(pool, config.ledger_transactions);
    let ledger = Ledger {
        store: store.clone(),
        schemas: Arc::clone(&parts.schemas),
        publishing: Some(Publishing {
            store,
            log: producer,
            full_name: Arc::new(move |name| format!("{prefix}{name}")),
        }),
        kafka_cluster_id,
        owner: parts.client_id.clone(),
        partitions,
        awaited: waker.map(|waker| Awaited {
            process: parts.client_id.clone(),
            tell: Arc::new(move |outcome| waker.tell(outcome)),
        }),
    };
    let options = runtime::Options {
        role: Role::Ledger.name(),
        brokers: config.kafka_brokers.clone(),
        client_id: format!("{}-ledger", parts.client_id),
        group,
        topic: source,
        session: config.group_session,
        limits: Limits { records_max: config.batch_commands, bytes_max: LEDGER_BATCH_BYTES_MAX },
    };
    let stop = stop.clone();
    tasks.spawn(async move { Ok(runtime::run(ledger, options, dead_letters, stop).await?) });
    Ok(())
}

pub(crate) fn start_expiry(
    parts: &Parts,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let expiry = Expiry {
        pool: parts.pool.clone(),
        producer: Producer::new(
            &parts.config.kafka_brokers,
            &format!("{}-expiry", parts.client_id),
            parts.config.produce_timeout,
        )?,
        schemas: Arc::clone(&parts.schemas),
        commands_topic: COMMANDS.full_name(&parts.config.topic_prefix),
    };
    parts.uses(&expiry.producer);
    let (expiry, stop) = (Arc::new(expiry), stop.clone());
    let run = move || {
        let (expiry, stop) = (Arc::clone(&expiry), stop.clone());
        async move { expiry.run(stop).await }
    };
    tasks.spawn(kept(Role::Expiry.name(), "expiry", run).map(Ok));
    Ok(())
}
