//! One run: a world from a seed, traded in under faults, then left to come to rest, and looked at.

use crate::clients::Client;
use crate::group::Group;
use crate::model::{nothing_is_skipped, same_when_decided_again};
use crate::world::{Sabotage, Stats, World};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use twh_domain::id::TenantId;
use twh_schemas::Schemas;
use twh_schemas::catalogue::COMMANDS;
use uuid::Uuid;

/// Virtual time that clients may take.
const TRADE_WITHIN: Duration = Duration::from_secs(4 * 3_600);
/// Virtual time after which everything must have come to rest once nothing fails any more.
const REST_WITHIN: Duration = Duration::from_secs(600);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// All chance comes from it.
    pub seed: u64,
    /// Things that each client asks for.
    pub wishes: u64,
    /// A protection taken away.
    pub sabotage: Option<Sabotage>,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What happened before.
    pub trace: Vec<String>,
}

/// Runs a seed; gives what was found, what happened, and a hash over all of it.
pub fn run(settings: Settings) -> anyhow::Result<(Option<Finding>, Stats, [u8; 32])> {
    // The processors' backoff draws its jitter from this thread's generator.
    fastrand::seed(settings.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(simulate(settings))
}

async fn simulate(settings: Settings) -> anyhow::Result<(Option<Finding>, Stats, [u8; 32])> {
    let mut shape = fastrand::Rng::with_seed(settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let partitions = shape.i32(1..=3);
    let world = World::new(settings.seed, partitions, Arc::new(Schemas::unregistered()?), settings.sabotage);
    let quiet = CancellationToken::new();
    let group = tokio::spawn(Group::new(world.clone(), shape.usize(2..=4)).run(quiet.clone()));
    let mut clients = Vec::new();
    for number in 0..shape.i32(1..=3) {
        let tenant = TenantId(Uuid::from_u128(shape.u128(..)));
        let first = Client::new(&world, number, tenant);
        first.set_up().await;
        for _ in 0..shape.i32(1..=3) {
            clients.push(tokio::spawn(first.clone().trade(settings.wishes)));
        }
    }
    let trading = futures::future::join_all(clients);
    if tokio::time::timeout(TRADE_WITHIN, trading).await.is_err() {
        world.found("clients wait for ever".to_owned());
    }
    world.lock().faults = false;
    world.trace(|| "nothing fails any more".to_owned());
    if !world.over.is_cancelled() {
        rest(&world).await;
    }
    quiet.cancel();
    let _ = group.await;
    let mut stats = world.lock().stats;
    stats.virtual_millis = world.elapsed_millis();
    let finding = world.finding().map(|(what, trace)| Finding { what, trace });
    Ok((finding, stats, world.trace_hash()))
}

/// Waits until all is decided and published, then checks the whole.
async fn rest(world: &World) {
    let settled = || {
        let inner = world.lock();
        let decided = (0..world.partitions).all(|partition| {
            inner.tables.is_halted(partition) || inner.tables.applied(partition) == inner.topics.end(partition)
        });
        decided && inner.tables.outbox.is_empty()
    };
    let waiting = async {
        while !settled() && !world.over.is_cancelled() {
            world.pause(50, 50).await;
        }
    };
    if tokio::time::timeout(REST_WITHIN, waiting).await.is_err() {
        world.found("the log is not decided and published, although nothing fails".to_owned());
        return;
    }
    let checked = {
        let inner = world.lock();
        inner.model.at_rest(&inner.tables).and_then(|()| {
            (0..world.partitions).filter(|partition| !inner.tables.is_halted(*partition)).try_for_each(|partition| {
                let records = inner.topics.of(COMMANDS.name, partition);
                nothing_is_skipped(records, &inner.tables, &world.schemas)?;
                // A log that lost its end does not tell the whole any more.
                if inner.topics.is_cut(partition) {
                    return Ok(());
                }
                same_when_decided_again(records, &inner.tables, &world.schemas)
            })
        })
    };
    world.check(checked);
}
