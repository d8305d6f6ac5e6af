//! Starts the consumer groups that make read models, and makes one anew (`twh rebuild …`).

use crate::config::Config;
use crate::parts::{BATCH_BYTES_MAX, Parts, cluster_id, partitions, pool, prepare_topics};
use crate::print;
use crate::progress::Progress;
use crate::roles::Role;
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use twh_processors::projections::{Model, Projections, SearchIndex, Settings, Supply, Target};
use twh_processors::replay::Source;
use twh_processors::runtime::{self, DeadLetters, Limits};
use twh_schemas::Schemas;
use twh_schemas::catalogue::{COMMANDS, EVENTS, PROJECTIONS_DLQ};
use twh_sinks::kafka::Producer;
use twh_sinks::postgres::builds::{self, Build, Projection, State};
use twh_sinks::postgres::{self, PgPool, supply};
use twh_sinks::search::elastic::Elastic;

const CONNECTIONS: u32 = 4;
/// Events that go into a model at once, as they come, and where it is made anew.
const EVENTS_MAX: usize = 5_000;
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

/// The group of a model, once more or for the first time: it writes to the target until it is told to stop.
async fn run_group<M: Model>(
    config: &Config,
    client_id: &str,
    schemas: Arc<Schemas>,
    model: M,
    target: Target,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let name = M::PROJECTION.group();
    let producer = Producer::new(&config.kafka_brokers, &format!("{client_id}-{name}-dlq"), NEVER)?;
    let partitions = partitions(config, &producer, &EVENTS).await?;
    let topic = EVENTS.full_name(&config.topic_prefix);
    let (name, records_max) = match &target {
        Target::Serving { .. } => (name.to_owned(), EVENTS_MAX),
        Target::Building { build, .. } => (build.positions().replace('/', "-"), EVENTS_MAX_REBUILDING),
    };
    let group = format!("{}{}{name}", config.topic_prefix, config.group_prefix);
    let pool = projections_pool(config)?;
    let settings = Settings {
        pool,
        schemas,
        target,
        kafka_cluster_id: cluster_id(&producer).await?,
        owner: client_id.to_owned(),
        partitions,
    };
    let dead_letters =
        DeadLetters::new(producer, group.clone(), topic.clone(), PROJECTIONS_DLQ.full_name(&config.topic_prefix));
    let options = runtime::Options {
        role: Role::Projections.name(),
        brokers: config.kafka_brokers.clone(),
        client_id: format!("{client_id}-{name}"),
        group,
        topic,
        session: config.group_session,
        limits: Limits { records_max, bytes_max: 4 * BATCH_BYTES_MAX },
    };
    let group = Projections::new(settings, model);
    Ok(async move { Ok(runtime::run(group, options, dead_letters, stop).await?) })
}

fn projections_pool(config: &Config) -> anyhow::Result<PgPool> {
    postgres::connect(&config.database_url, CONNECTIONS, "twh-projections").context("TWH_DATABASE_URL is not usable")
}

fn search_index(config: &Config, elastic: Elastic) -> anyhow::Result<SearchIndex> {
    Ok(SearchIndex { pool: projections_pool(config)?, elastic, alias: alias(config) })
}

fn supply_model(config: &Config, client_id: &str, schemas: Arc<Schemas>) -> anyhow::Result<Supply> {
    Ok(Supply {
        pool: projections_pool(config)?,
        schemas,
        producer: Producer::new(&config.kafka_brokers, &format!("{client_id}-supply"), NEVER)?,
        commands_topic: COMMANDS.full_name(&config.topic_prefix),
    })
}

pub(crate) async fn start(
    parts: &Parts,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (config, client_id) = (&parts.config, &parts.client_id);
    let schemas = || Arc::clone(&parts.schemas);
    let model = supply_model(config, client_id, schemas())?;
    parts.uses(&model.producer);
    parts.writes_with(&model.pool);
    let target = Target::Serving { first: "supply-000001".to_owned() };
    tasks.spawn(run_group(config, client_id, schemas(), model, target, stop.clone()).await?);
    let Some(elastic) = elastic(config)? else {
        tracing::info!("TWH_SEARCH_URL is not set: PostgreSQL answers searches, and no index is made");
        return Ok(());
    };
    let target = Target::Serving { first: format!("{}-000001", alias(config)) };
    let model = search_index(config, elastic)?;
    tasks.spawn(run_group(config, client_id, schemas(), model, target, stop.clone()).await?);
    Ok(())
}

/// A read model, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The index of search.
    Search,
    /// What there is of items, what comes and what goes.
    Supply,
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArguments {
    /// What is made anew.
    what: What,
    /// Begins anew where a rebuild was begun and is not finished.
    #[arg(long)]
    anew: bool,
    /// Leaves the build that answered before, which is otherwise deleted.
    #[arg(long)]
    keep: bool,
}

/// Where a model's builds are, besides how far they are.
enum Place {
    Search(SearchIndex),
    Supply(PgPool),
}

impl Place {
    const fn projection(&self) -> Projection {
        match self {
            Self::Search(_) => Projection::Search,
            Self::Supply(_) => Projection::Supply,
        }
    }

    async fn make(&self, build: &Build) -> anyhow::Result<()> {
        match self {
            Self::Search(index) => Ok(index.elastic.create(&build.name).await?),
            Self::Supply(_) => Ok(()),
        }
    }

    /// Whether what a build has read already is where it was written.
    async fn is_there(&self, pool: &PgPool, build: &Build) -> anyhow::Result<bool> {
        match self {
            Self::Search(index) => {
                Ok(builds::positions(pool, build).await?.is_empty() || index.elastic.exists(&build.name).await?)
            }
            Self::Supply(_) => Ok(true),
        }
    }

    async fn serve(&self, build: &Build) -> anyhow::Result<()> {
        match self {
            Self::Search(index) => {
                index.elastic.refresh(&build.name).await?;
                Ok(index.elastic.serve(&index.alias, &build.name).await?)
            }
            Self::Supply(_) => Ok(()),
        }
    }

    async fn delete(&self, build: &Build) -> anyhow::Result<()> {
        match self {
            Self::Search(index) => Ok(index.elastic.delete(&build.name).await?),
            Self::Supply(pool) => Ok(supply::delete(pool, build).await?),
        }
    }
}

/// Runs the command.
pub(crate) async fn rebuild(config: &Config, arguments: RebuildArguments) -> anyhow::Result<ExitCode> {
    let pool = pool(config)?;
    let (place, prefix) = match arguments.what {
        What::Search => {
            let elastic =
                elastic(config)?.context("TWH_SEARCH_URL is not set: there is no index of search to rebuild")?;
            (Place::Search(search_index(config, elastic)?), alias(config))
        }
        What::Supply => (Place::Supply(pool.clone()), "supply".to_owned()),
    };
    postgres::migrate(&pool).await.context("the tables could not be brought up to date")?;
    let schemas = Arc::new(prepare_topics(config).await?.0);
    let projection = place.projection();
    if let Some(build) = builds::in_state(&pool, projection, State::Building).await?
        && (arguments.anew || !place.is_there(&pool, &build).await?)
    {
        drop_build(&pool, &place, &build).await?;
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let build = builds::begin(&pool, projection, &format!("{prefix}-{now}"), State::Building).await?;
    place.make(&build).await?;
    let stop = CancellationToken::new();
    let _stop_on_return = stop.clone().drop_guard();
    let client_id = format!("twh-rebuild-{}", uuid::Uuid::new_v4().simple());
    let answers = Arc::new(AtomicBool::new(false));
    let target = Target::Building { build: build.clone(), answers: Arc::clone(&answers) };
    let mut group = match &place {
        Place::Search(index) => {
            let model = search_index(config, index.elastic.clone())?;
            tokio::spawn(run_group(config, &client_id, schemas, model, target, stop.clone()).await?)
        }
        Place::Supply(_) => {
            let model = supply_model(config, &client_id, Arc::clone(&schemas))?;
            tokio::spawn(run_group(config, &client_id, schemas, model, target, stop.clone()).await?)
        }
    };
    let source = source(config);
    let caught_up = async {
        let read = catch_up(&source, &pool, &build, End::Last).await?;
        answers.store(true, Ordering::Release);
        catch_up(&source, &pool, &build, End::First).await?;
        place.serve(&build).await?;
        builds::replace(&pool, &build).await?;
        // What was written to the build before, until its writers knew, is on the topic by now.
        catch_up(&source, &pool, &build, End::First).await?;
        anyhow::Ok(read)
    };
    let read = tokio::select! {
        ended = &mut group => { ended??; bail!("the rebuild ended before it was done; run it again to go on") }
        caught_up = caught_up => caught_up?,
    };
    stop.cancel();
    group.await??;
    print(&format!("{} answers now: {read} events were read\n", build.name))?;
    let old = if arguments.keep { Vec::new() } else { builds::retired(&pool, projection).await? };
    for old in &old {
        drop_build(&pool, &place, old).await?;
        print(&format!("{} is deleted\n", old.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn drop_build(pool: &PgPool, place: &Place, build: &Build) -> anyhow::Result<()> {
    builds::end(pool, build).await?;
    place.delete(build).await?;
    builds::forget(pool, build).await?;
    Ok(())
}

fn source(config: &Config) -> Source {
    Source { brokers: config.kafka_brokers.clone(), topic: EVENTS.full_name(&config.topic_prefix) }
}

/// Where a topic ends, which grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As it was when the wait began: who waits until what is written is found is never quite at the end while there are writes.
    First,
    /// As it was a moment ago.
    Last,
}

/// Waits until a build has read all that the topic held; says how many events that were, and while it follows the end how far it is.
async fn catch_up(source: &Source, pool: &PgPool, build: &Build, end: End) -> anyhow::Result<u64> {
    let sum = |offsets: &[i64]| u64::try_from(offsets.iter().sum::<i64>()).unwrap_or_default();
    let mut progress = None;
    let mut ends: Option<Vec<i64>> = None;
    let (mut last, mut moved) = (0, tokio::time::Instant::now());
    loop {
        let positions = builds::positions(pool, build).await?;
        let count = ends.as_ref().map_or(0, Vec::len);
        let at: Vec<i64> = (0..count)
            .map(|partition| {
                i32::try_from(partition).ok().and_then(|it| positions.get(&it).copied()).unwrap_or_default()
            })
            .collect();
        let done = sum(&at);
        if let Some(ends) = &ends {
            let progress = progress.get_or_insert_with(|| Progress::new(sum(ends), "events"));
            if end == End::Last {
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
        if ends.is_none() || end == End::Last {
            let asked = source.clone();
            let watermarks = tokio::task::spawn_blocking(move || asked.watermarks()).await??;
            ends = Some(watermarks.iter().map(|watermarks| watermarks.high).collect());
        }
        tokio::time::sleep(LOOK).await;
    }
}
