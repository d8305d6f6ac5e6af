//! The limit that the database sets: the rows that the ledger would write, decided beforehand and written by its own
//! statements, batch after batch, with nothing else going on.

use crate::workload::{Catalogue, Spread};
use anyhow::{Result, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use twh_domain::commands::Command;
use twh_domain::state::{Need, State};
use twh_processors::ledger::Ledger;
use twh_processors::outbox::Publishing;
use twh_processors::runtime::{Decoded, Group as _, Record, Worker as _};
use twh_processors::seams::{Log, Store};
use twh_schemas::Schemas;
use twh_sinks::kafka::{Outgoing, ProduceError, Reached};
use twh_sinks::postgres::ledger::halts::Halt;
use twh_sinks::postgres::ledger::{self, Batch, Claim, Commit, LedgerError};
use twh_sinks::postgres::outbox::OutboxBatch;
use twh_sinks::postgres::{PgPool, sqlx};
use uuid::Uuid;

type Written = Arc<Mutex<Vec<(Reached, Arc<Batch>)>>>;

/// A store in which nothing is yet, and that keeps what is written to it.
#[derive(Clone, Default)]
struct Capture(Written);

impl Store for Capture {
    async fn claim(&self, partition: i32, _: &str, _: &str) -> Result<Claim, LedgerError> {
        Ok(Claim { partition, epoch: 1, reached: Reached::before(0) })
    }

    async fn current(&self, partition: i32) -> Result<Option<Claim>, LedgerError> {
        Ok(Some(Claim { partition, epoch: 1, reached: Reached::before(0) }))
    }

    async fn load(&self, state: &mut State, needs: BTreeSet<Need>) -> Result<(), LedgerError> {
        for need in needs {
            state.load_absent(need);
        }
        Ok(())
    }

    async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((commit.reached, commit.batch));
        Ok(())
    }

    async fn halt(&self, _: Claim, _: Halt) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn oldest_after(&self, _: i32, _: i64) -> Result<Option<OutboxBatch>, sqlx::Error> {
        Ok(None)
    }

    async fn forget(&self, _: i32, _: i64) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

/// A log that keeps nothing.
#[derive(Clone)]
struct Nowhere;

impl Log for Nowhere {
    async fn append(&self, _: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        Ok(())
    }
}

/// What a writer writes for a partition's commands, `size` at a time.
async fn decided(schemas: &Arc<Schemas>, partition: i32, commands: Vec<Command>, size: usize) -> Result<Written> {
    let store = Capture::default();
    let ledger = Ledger {
        store: store.clone(),
        schemas: Arc::clone(schemas),
        publishing: Some(Publishing { store: store.clone(), log: Nowhere, full_name: Arc::new(str::to_owned) }),
        awaited: None,
        kafka_cluster_id: "bench".to_owned(),
        owner: "bench".to_owned(),
        partitions: 1,
    };
    let mut writer = ledger.claim(partition).await.map_err(|error| anyhow!("{error:?}"))?.worker;
    let mut offset = 0;
    let mut commands = commands.into_iter().peekable();
    while commands.peek().is_some() {
        let batch: Vec<_> = commands
            .by_ref()
            .take(size)
            .map(|item| {
                let record = record(partition, offset, &item);
                offset += 1;
                Decoded { record, item }
            })
            .collect();
        writer.apply(batch, Reached::before(offset)).await.map_err(|error| anyhow!("{error:?}"))?;
    }
    writer.finish().await.map_err(|error| anyhow!("{error:?}"))?;
    writer.drain().await;
    Ok(store.0)
}

fn record(partition: i32, offset: i64, command: &Command) -> Record {
    Record {
        partition,
        offset,
        timestamp: command.issued_at,
        key: Some(command.tenant_id.to_string().into_bytes()),
        payload: Vec::new(),
        headers: Vec::new(),
    }
}

/// Commands a second, over as many writers as there are tenants.
pub(crate) async fn drive(
    pool: &PgPool,
    schemas: &Arc<Schemas>,
    catalogue: &mut Catalogue,
    count: usize,
    size: usize,
    first_partition: i32,
) -> Result<f64> {
    let opening = crate::workload::by_tenant(catalogue.opening()?);
    let work: Vec<Command> = (0..count).map(|_| catalogue.adjustment(Spread::Uniform)).collect::<Result<_>>()?;
    let mut work = crate::workload::by_tenant(work);
    let mut partitions = BTreeMap::new();
    for (partition, (tenant, opening)) in (first_partition..).zip(opening) {
        let opened = opening.len();
        let mut commands = opening;
        commands.extend(work.remove(&tenant).unwrap_or_default());
        let written = decided(schemas, partition, commands, size).await?;
        partitions.insert(partition, (written, opened.div_ceil(size)));
    }
    let owner = Uuid::new_v4().to_string();
    // The opening is written before the clock starts.
    let mut rest = Vec::new();
    for (partition, (written, opening)) in partitions {
        let mut claim = ledger::claim(pool, partition, "bench", &owner).await?;
        let mut batches: Vec<_> = std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner));
        let later = batches.split_off(opening);
        write(pool, &mut claim, batches).await?;
        rest.push((claim, later));
    }
    let commands: usize = rest.iter().flat_map(|(_, batches)| batches).map(|(_, batch)| batch.outcomes.len()).sum();
    let begun = Instant::now();
    let writers = rest.into_iter().map(|(mut claim, batches)| {
        let pool = pool.clone();
        tokio::spawn(async move { write(&pool, &mut claim, batches).await })
    });
    for writer in futures::future::join_all(writers).await {
        writer??;
    }
    Ok(crate::per_second(commands as u64, begun.elapsed()))
}

async fn write(pool: &PgPool, claim: &mut Claim, batches: Vec<(Reached, Arc<Batch>)>) -> Result<()> {
    for (reached, batch) in batches {
        // What is before it counts as published, as it does in a ledger that keeps up.
        let commit = Commit { claim: *claim, reached, published_through: claim.reached.next_offset, batch };
        ledger::commit(pool, &[commit]).await?;
        claim.reached = reached;
    }
    Ok(())
}
