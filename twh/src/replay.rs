//! `twh replay`: the ledger built anew from the topic of commands, in another database.

use crate::config::Config;
use crate::parts::{LEDGER_BATCH_BYTES_MAX, cluster_id};
use crate::print;
use crate::progress::Progress;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use futures::StreamExt as _;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use twh_domain::hex;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_processors::ledger::Ledger;
use twh_processors::replay::{self, Replayed, Source, Until};
use twh_processors::runtime::{Limits, Watermarks};
use twh_processors::seams::LedgerStore;
use twh_schemas::Schemas;
use twh_schemas::catalogue::COMMANDS;
use twh_schemas::partition::partition_of;
use twh_sinks::kafka::Producer;
use twh_sinks::postgres::digest::{Digest, digest};
use twh_sinks::postgres::{self, PgPool};

/// Who a replay is, in the partitions' rows of its database.
const OWNER: &str = "twh-replay";
/// Partitions replayed at once.
const AT_ONCE: usize = 4;
/// The exit code that says that the two ledgers differ.
const DIFFERENT: u8 = 2;
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The database to build it in: an empty one, or one where a replay was begun, which goes on.
    #[arg(long)]
    into: String,
    /// The database is a restored copy of a ledger: go on from where it stands.
    #[arg(long)]
    restored: bool,
    /// Stops each partition before the first command after this time (RFC 3339).
    #[arg(long, value_parser = |text: &str| text.parse::<Timestamp>().map_err(|_| "must be a time such as 2026-03-01T09:30:00Z"))]
    until: Option<Timestamp>,
    /// Replays only this position's partition, up to and with it; may be given once for each partition.
    #[arg(long, value_name = "PARTITION-OFFSET", value_parser = |text: &str| text.parse::<Position>().map_err(|_| "must be a position such as 3-1042"))]
    position: Vec<Position>,
    /// Replays to where the live ledger stands, and compares the two to the byte.
    #[arg(long, conflicts_with_all = ["until", "position"])]
    compare: bool,
    /// Ends with one line of JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(config: &Config, arguments: ReplayArguments) -> anyhow::Result<ExitCode> {
    let live = postgres::connect_read_only(&config.database_url, 2, OWNER).context("TWH_DATABASE_URL is not usable")?;
    let target = postgres::connect(&arguments.into, 8, OWNER).context("--into is not usable")?;
    ensure!(
        !same_database(&live, &target).await?,
        "--into is the live database (TWH_DATABASE_URL): a replay never writes to the ledger that it looks at"
    );
    postgres::migrate(&target).await.context("--into could not be given its tables")?;
    refuse_foreign(&target, arguments.restored).await?;
    let source = Source { brokers: config.kafka_brokers.clone(), topic: COMMANDS.full_name(&config.topic_prefix) };
    let asked = source.clone();
    let watermarks = tokio::task::spawn_blocking(move || asked.watermarks())
        .await?
        .with_context(|| format!("{} cannot be read at {}", source.topic, source.brokers))?;
    let before =
        if arguments.compare { Some(digest(&live).await.context("the live ledger cannot be read")?) } else { None };
    let ends = ends(&arguments, &watermarks, before.as_ref())?;
    let (elapsed, replayed) = replay_all(config, &source, &target, &watermarks, &ends).await?;
    let mut differing = Vec::new();
    let mut digests = BTreeMap::new();
    if let Some(before) = before {
        let after = digest(&target).await.context("--into cannot be read")?;
        digests = by_partition(&after, watermarks.len());
        let expected = by_partition(&before, watermarks.len());
        let partitions: BTreeSet<_> = digests.keys().chain(expected.keys()).copied().collect();
        differing = partitions.into_iter().filter(|p| digests.get(p) != expected.get(p)).collect();
    }
    report(&arguments, elapsed, &replayed, &digests, &differing)?;
    Ok(if differing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

/// An advisory lock is one database's: who cannot take the one that the other holds is in the same database.
async fn same_database(live: &PgPool, target: &PgPool) -> anyhow::Result<bool> {
    let lock: i64 = rand::random();
    let mut holder = live.acquire().await.context("TWH_DATABASE_URL cannot be reached")?;
    sqlx::query("select pg_advisory_lock($1)").bind(lock).execute(&mut *holder).await?;
    let mut asker = target.acquire().await.context("--into cannot be reached")?;
    let free: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(lock).fetch_one(&mut *asker).await?;
    if free {
        sqlx::query("select pg_advisory_unlock($1)").bind(lock).execute(&mut *asker).await?;
    }
    sqlx::query("select pg_advisory_unlock($1)").bind(lock).execute(&mut *holder).await?;
    Ok(!free)
}

async fn refuse_foreign(target: &PgPool, restored: bool) -> anyhow::Result<()> {
    let owners: Vec<String> =
        sqlx::query_scalar("select distinct owner from ledger_partitions").fetch_all(target).await?;
    if !restored && owners.iter().any(|owner| owner != OWNER) {
        bail!(
            "--into holds a ledger that no replay made: name an empty database, or say --restored to go on from a backup"
        );
    }
    Ok(())
}

fn ends(
    arguments: &ReplayArguments,
    watermarks: &[Watermarks],
    live: Option<&Digest>,
) -> anyhow::Result<BTreeMap<i32, Until>> {
    let mut ends = BTreeMap::new();
    for (partition, marks) in (0..).zip(watermarks) {
        let positions: Vec<_> = arguments.position.iter().filter(|position| position.partition == partition).collect();
        let offset = match (live, positions.as_slice()) {
            (Some(live), _) => live.next_offsets.get(&partition).copied().unwrap_or(0),
            (None, []) if arguments.position.is_empty() => marks.high,
            (None, []) => continue,
            (None, [position]) => position.offset + 1,
            (None, _) => bail!("--position names partition {partition} more than once"),
        };
        ensure!(offset <= marks.high, "partition {partition} ends at offset {}, before {offset}", marks.high);
        ends.insert(partition, Until { offset, time: arguments.until });
    }
    if let Some(position) = arguments.position.iter().find(|position| !ends.contains_key(&position.partition)) {
        bail!("there is no partition {}: the topic has {}", position.partition, watermarks.len());
    }
    Ok(ends)
}

async fn replay_all(
    config: &Config,
    source: &Source,
    target: &PgPool,
    watermarks: &[Watermarks],
    ends: &BTreeMap<i32, Until>,
) -> anyhow::Result<(Duration, BTreeMap<i32, Replayed>)> {
    let asked = Producer::new(&config.kafka_brokers, OWNER, KAFKA_TIMEOUT)?;
    let kafka_cluster_id = cluster_id(&asked).await?;
    let schemas = Schemas::connect(&config.schema_registry_url, &config.topic_prefix).await?;
    let ledger = Ledger::<LedgerStore, Producer> {
        store: LedgerStore::new(target.clone(), config.ledger_transactions),
        schemas: Arc::new(schemas),
        publishing: None,
        awaited: None,
        kafka_cluster_id,
        owner: OWNER.to_owned(),
        partitions: i32::try_from(watermarks.len())?,
    };
    let limits = Limits { records_max: config.batch_commands, bytes_max: LEDGER_BATCH_BYTES_MAX };
    let total: i64 = ends.values().map(|until| until.offset).sum();
    let progress = Mutex::new(Progress::new(u64::try_from(total).unwrap_or_default(), "commands"));
    let done = AtomicU64::new(0);
    let applied = |count| {
        let done = done.fetch_add(count, Ordering::Relaxed) + count;
        progress.lock().unwrap_or_else(PoisonError::into_inner).at(done);
    };
    let (ledger, applied) = (&ledger, &applied);
    let partitions = ends.iter().filter_map(|(partition, until)| {
        let marks = *watermarks.get(usize::try_from(*partition).ok()?)?;
        Some(async move {
            let replayed = replay::partition(ledger, source, *partition, marks, *until, limits, applied).await?;
            Ok::<_, replay::ReplayError>((*partition, replayed))
        })
    });
    let results: Vec<_> = futures::stream::iter(partitions).buffer_unordered(AT_ONCE).collect().await;
    let replayed = results.into_iter().collect::<Result<BTreeMap<_, _>, _>>()?;
    let elapsed = progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    Ok((elapsed, replayed))
}

/// One digest for each partition that has a tenant.
fn by_partition(digest: &Digest, partitions: usize) -> BTreeMap<i32, String> {
    use sha2::Digest as _;
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    let mut hashes: BTreeMap<i32, sha2::Sha256> = BTreeMap::new();
    for (tenant, hash) in &digest.tenants {
        let partition = partition_of(tenant.to_string().as_bytes(), partitions);
        let of_partition = hashes.entry(partition).or_default();
        of_partition.update(tenant.0);
        of_partition.update(hash);
    }
    hashes.into_iter().map(|(partition, hash)| (partition, hex::encode(&hash.finalize()))).collect()
}

fn report(
    arguments: &ReplayArguments,
    elapsed: Duration,
    replayed: &BTreeMap<i32, Replayed>,
    digests: &BTreeMap<i32, String>,
    differing: &[i32],
) -> anyhow::Result<()> {
    let commands: u64 = replayed.values().map(|partition| partition.commands).sum();
    let poison: u64 = replayed.values().map(|partition| partition.poison).sum();
    let same = arguments.compare.then_some(differing.is_empty());
    if arguments.json {
        let partitions: Vec<_> = replayed
            .iter()
            .map(|(partition, done)| {
                json!({ "partition": partition, "commands": done.commands, "next_offset": done.next_offset, "digest": digests.get(partition) })
            })
            .collect();
        let line = json!({
            "commands": commands,
            "dead_letters": poison,
            "seconds": elapsed.as_secs_f64(),
            "partitions": partitions,
            "same": same,
            "differing_partitions": differing,
        });
        print(&format!("{line}\n"))?;
        return Ok(());
    }
    let mut text =
        format!("{commands} commands replayed in {:.1} s, {poison} dead letters passed over\n", elapsed.as_secs_f64());
    for (partition, done) in replayed {
        let digest = digests.get(partition).map_or("no tenant", String::as_str);
        text.push_str(&format!("  partition {partition}: at offset {}, {digest}\n", done.next_offset));
    }
    match same {
        Some(true) => text.push_str("the two ledgers are the same\n"),
        Some(false) => text.push_str(&format!(
            "the two ledgers DIFFER on partitions {differing:?}: twh verify tells which of them contradicts itself\n"
        )),
        None => {}
    }
    print(&text)?;
    Ok(())
}
