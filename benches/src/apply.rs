//! The ledger at full speed: a backlog on Kafka, drained by `twh process ledger` with everything on.

use crate::environment::{Environment, Process};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use twh_domain::commands::Command;
use twh_sinks::kafka::Outgoing;
use twh_sinks::postgres::sqlx;

/// A drain that stands still for so long has failed.
const STANDSTILL: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The share of the work that is done before the clock starts: claims, first loads, the first growth of tables.
const WARM_UP_PERCENT: i64 = 10;

/// How a drain went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drained {
    pub(crate) per_second: f64,
    pub(crate) memory_peak_mb: u64,
    /// Commands applied and the process's memory then, as the drain went on.
    pub(crate) memory: Vec<(i64, u64)>,
}

/// Puts commands on the log.
pub(crate) async fn enqueue(environment: &Environment, commands: impl Iterator<Item = Result<Command>>) -> Result<i64> {
    let producer = environment.producer()?;
    let topic = environment.topic("commands");
    let mut count = 0;
    let mut waiting = Vec::new();
    for command in commands {
        let command = command?;
        let payload = environment.schemas.commands.encode(&command)?;
        let key = command.tenant_id.to_string();
        waiting.push((key, payload));
        count += 1;
        if waiting.len() == 2_000 {
            flush(&producer, &topic, &mut waiting).await?;
        }
    }
    flush(&producer, &topic, &mut waiting).await?;
    Ok(count)
}

async fn flush(producer: &twh_sinks::kafka::Producer, topic: &str, waiting: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let records = waiting.iter().map(|(key, payload)| Outgoing {
        topic,
        partition: None,
        key: key.as_bytes(),
        headers: &[],
        payload,
    });
    producer.produce_all(records).await?;
    waiting.clear();
    Ok(())
}

/// How many commands the ledger has applied, over all partitions of the environment's topic.
async fn applied(environment: &Environment) -> Result<i64> {
    let sum = "select coalesce(sum(next_offset), 0)::bigint from ledger_partitions where partition < 1000";
    Ok(sqlx::query_scalar(sum).fetch_one(&environment.pool).await?)
}

async fn unpublished(environment: &Environment) -> Result<i64> {
    let waiting = "select count(*) from outbox where partition < 1000";
    Ok(sqlx::query_scalar(waiting).fetch_one(&environment.pool).await?)
}

/// Enqueues a backlog, then drains it.
pub(crate) async fn backlog(
    environment: &Environment,
    commands: impl Iterator<Item = Result<Command>>,
) -> Result<Drained> {
    let from = applied(environment).await?;
    let count = enqueue(environment, commands).await?;
    let process = environment.start(&["process", "ledger"], &[]).await?;
    let drained = drain(environment, &process, from, count).await;
    process.stop().await?;
    drained
}

async fn drain(environment: &Environment, process: &Process, from: i64, count: i64) -> Result<Drained> {
    let mut drained = Drained::default();
    let mut clock = None;
    let (mut last, mut moved) = (from, Instant::now());
    loop {
        let now = applied(environment).await?;
        let memory = process.memory_mb();
        drained.memory.push((now - from, memory));
        drained.memory_peak_mb = drained.memory_peak_mb.max(memory);
        if clock.is_none() && now - from >= count * WARM_UP_PERCENT / 100 {
            clock = Some((Instant::now(), now));
        }
        if now >= from + count && unpublished(environment).await? <= 0 {
            let (begun, at) = clock.unwrap_or((moved, from));
            drained.per_second = crate::per_second((now - at).unsigned_abs(), begun.elapsed());
            return Ok(drained);
        }
        if now > last {
            (last, moved) = (now, Instant::now());
        } else if moved.elapsed() > STANDSTILL {
            bail!("the ledger stands at {} of {count} commands", now - from);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
