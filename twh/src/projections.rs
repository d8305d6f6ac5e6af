//! Starts the consumer group that makes the index of search, and builds such an index anew (`twh rebuild search`).

use crate::config::Config;
use crate::print;
use crate::progress::Progress;
use crate::serve::{BATCH_BYTES_MAX, KAFKA_TIMEOUT, Parts, pool, prepare_topics};
use anyhow::{Context as _, bail};
use clap::Args;
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use twh_processors::projections::{self, Projections, Settings, Target, positions_of};
use twh_processors::replay::Source;
use twh_processors::runtime::{self, DeadLetters, Limits};
use twh_schemas::Schemas;
use twh_schemas::catalogue::{EVENTS, PROJECTIONS_DLQ};
use twh_sinks::kafka::Producer;
use twh_sinks::postgres::{self, PgPool};
use twh_sinks::search::elastic::Elastic;
use twh_sinks::search::indexes::{self, State};

const CONNECTIONS: u32 = 4;
/// Events that go into the index at once, as they come, and where it is built anew.
const EVENTS_MAX: usize = 2_000;
const EVENTS_MAX_REBUILDING: usize = 20_000;
/// Dead letters are never given up.
const NEVER: Duration = Duration::ZERO;
/// Between two looks at how far a rebuild is.
const LOOK: Duration = Duration::from_millis(500);
/// A rebuild that does not move for so long has failed.
const STANDSTILL: Duration = Duration::from_secs(120);

/// The search engine, where there is one.
pub(crate) fn elastic(config: &Config) -> anyhow::Result<Option<Elastic>> {
    if config.search_url.is_empty() {
        return Ok(None);
    }
    Ok(Some(Elastic::new(&config.search_url).context("TWH_SEARCH_URL is not usable")?))
}

/// What searches call the index that answers.
pub(crate) fn alias(config: &Config) -> String {
    let prefix = config.topic_prefix.trim_end_matches(['.', '-', '_']).to_lowercase();
    if prefix.is_empty() { "twh-items".to_owned() } else { format!("twh-items-{prefix}") }
}

/// The group, once more or for the first time: it writes to the target until it is told to stop.
async fn run_group(
    config: &Config,
    client_id: &str,
    schemas: Arc<Schemas>,
    elastic: Elastic,
    target: Target,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let producer = Producer::new(&config.kafka_brokers, &format!("{client_id}-projections-dlq"), NEVER)?;
    let asked = producer.clone();
    let cluster_id = tokio::task::spawn_blocking(move || asked.cluster_id(KAFKA_TIMEOUT)).await?;
    let topic = EVENTS.full_name(&config.topic_prefix);
    let (name, records_max) = match &target {
        Target::Serving { .. } => (projections::GROUP.to_owned(), EVENTS_MAX),
        Target::Building(index) => (positions_of(index).replace('/', "-"), EVENTS_MAX_REBUILDING),
    };
    let group = format!("{}{}{name}", config.topic_prefix, config.group_prefix);
    let pool = postgres::connect(&config.database_url, CONNECTIONS, "twh-projections")
        .context("TWH_DATABASE_URL is not usable")?;
    let settings = Settings {
        pool,
        schemas,
        elastic,
        alias: alias(config),
        target,
        kafka_cluster_id: cluster_id.context("Kafka does not say which cluster it is")?,
        owner: client_id.to_owned(),
    };
    let dead_letters =
        DeadLetters::new(producer, group.clone(), topic.clone(), PROJECTIONS_DLQ.full_name(&config.topic_prefix));
    let options = runtime::Options {
        brokers: config.kafka_brokers.clone(),
        client_id: format!("{client_id}-projections"),
        group,
        topic,
        limits: Limits { records_max, bytes_max: 4 * BATCH_BYTES_MAX },
    };
    let group = Projections::new(settings);
    Ok(async move { Ok(runtime::run(group, options, dead_letters, stop).await?) })
}

pub(crate) async fn start(
    parts: &Parts,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(elastic) = elastic(&parts.config)? else {
        tracing::info!("TWH_SEARCH_URL is not set: PostgreSQL answers searches, and no index is made");
        return Ok(());
    };
    let target = Target::Serving { first: format!("{}-000001", alias(&parts.config)) };
    let schemas = Arc::clone(&parts.schemas);
    tasks.spawn(run_group(&parts.config, &parts.client_id, schemas, elastic, target, stop.clone()).await?);
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArguments {
    /// What is built anew.
    #[arg(value_parser = ["search"])]
    what: String,
    /// Begins anew where a rebuild was begun and is not finished.
    #[arg(long)]
    anew: bool,
    /// Leaves the index that answered before, which is otherwise deleted.
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub(crate) async fn rebuild(config: &Config, arguments: RebuildArguments) -> anyhow::Result<ExitCode> {
    let elastic = elastic(config)?
        .with_context(|| format!("TWH_SEARCH_URL is not set: there is nothing to rebuild of {}", arguments.what))?;
    let pool = pool(config)?;
    postgres::migrate(&pool).await.context("the tables could not be brought up to date")?;
    let schemas = Arc::new(prepare_topics(config).await?);
    if arguments.anew
        && let Some(index) = indexes::in_state(&pool, State::Building).await?
    {
        drop_index(&pool, &elastic, &index).await?;
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let index = indexes::begin(&pool, &format!("{}-{now}", alias(config)), State::Building).await?;
    elastic.create(&index).await?;
    let stop = CancellationToken::new();
    let _stop_on_return = stop.clone().drop_guard();
    let client_id = format!("twh-rebuild-{}", uuid::Uuid::new_v4().simple());
    let target = Target::Building(index.clone());
    let group = run_group(config, &client_id, schemas, elastic.clone(), target, stop.clone()).await?;
    let mut group = tokio::spawn(group);
    let (source, group_of_index) = (source(config), positions_of(&index));
    let caught_up = async {
        let read = catch_up(&source, &pool, &group_of_index, true).await?;
        elastic.refresh(&index).await?;
        elastic.serve(&alias(config), &index).await?;
        let before = indexes::replace(&pool, &index).await?;
        // What was written to the index before, until its writers knew, is on the topic by now.
        catch_up(&source, &pool, &group_of_index, false).await?;
        anyhow::Ok((read, before))
    };
    let (read, before) = tokio::select! {
        ended = &mut group => { ended??; bail!("the rebuild ended before it was done; run it again to go on") }
        caught_up = caught_up => caught_up?,
    };
    stop.cancel();
    group.await??;
    print(&format!("{index} answers searches now: {read} events were read\n"))?;
    for old in before.iter().filter(|_| !arguments.keep) {
        drop_index(&pool, &elastic, old).await?;
        print(&format!("{old} is deleted\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn drop_index(pool: &PgPool, elastic: &Elastic, index: &str) -> anyhow::Result<()> {
    elastic.delete(index).await?;
    indexes::forget(pool, index, &positions_of(index)).await?;
    Ok(())
}

fn source(config: &Config) -> Source {
    Source { brokers: config.kafka_brokers.clone(), topic: EVENTS.full_name(&config.topic_prefix) }
}

/// Waits until a group has read all that the topic held a moment ago; says how many events that were.
async fn catch_up(source: &Source, pool: &PgPool, group: &str, says_so: bool) -> anyhow::Result<u64> {
    let sum = |offsets: &[i64]| u64::try_from(offsets.iter().sum::<i64>()).unwrap_or_default();
    let mut progress = None;
    let mut ends: Option<Vec<i64>> = None;
    let (mut last, mut moved) = (0, tokio::time::Instant::now());
    loop {
        let positions: HashMap<i32, i64> = indexes::positions(pool, group).await?.into_iter().collect();
        let count = ends.as_ref().map_or(0, Vec::len);
        let at: Vec<i64> = (0..count)
            .map(|partition| {
                i32::try_from(partition).ok().and_then(|it| positions.get(&it).copied()).unwrap_or_default()
            })
            .collect();
        let done = sum(&at);
        if let Some(ends) = &ends {
            let progress = progress.get_or_insert_with(|| Progress::new(sum(ends), "events"));
            if says_so {
                progress.at(done);
            }
            if at.iter().zip(ends).all(|(at, end)| at >= end) {
                return Ok(done);
            }
        }
        if done > last {
            (last, moved) = (done, tokio::time::Instant::now());
        } else if moved.elapsed() > STANDSTILL {
            bail!("it stands still at {done} events; the log above says why. Run it again to go on");
        }
        let asked = source.clone();
        let watermarks = tokio::task::spawn_blocking(move || asked.watermarks()).await??;
        ends = Some(watermarks.iter().map(|watermarks| watermarks.high).collect());
        tokio::time::sleep(LOOK).await;
    }
}
