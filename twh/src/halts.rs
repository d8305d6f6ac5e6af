//! `twh ledger`: why partitions of `commands` stand halted, and letting them go on.

use crate::config::Config;
use crate::print;
use crate::serve;
use anyhow::{Context as _, ensure};
use clap::Subcommand;
use std::fmt::Write as _;
use std::process::ExitCode;
use twh_domain::id::{CommandId, TenantId};
use twh_processors::replay::Source;
use twh_processors::runtime::{Record, Watermarks};
use twh_schemas::Schemas;
use twh_schemas::catalogue::COMMANDS;
use twh_sinks::kafka::Reached;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::ledger::halts::{self, OpenHalt};

/// Records that are read at once, from the end of what the ledger has passed backwards.
const RECORDS_AT_ONCE: i64 = 1_000;
/// The exit code that says that partitions are halted.
const HALTED: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Shows which partitions of commands are halted, why, and what the log holds there. Ends with 2 where there is one.
    Halts,
    /// Lets a halted partition go on at an offset; without one, shows what was found.
    ClearHalt {
        /// Which partition.
        #[arg(long)]
        partition: i32,
        /// The offset of the first record of the log that the ledger is to decide. Those before it are not looked at again.
        #[arg(long)]
        accept_offset: Option<i64>,
    },
}

/// Runs the command.
pub(crate) async fn run(config: &Config, command: LedgerCommand) -> anyhow::Result<ExitCode> {
    let pool = serve::pool(config)?;
    let open = halts::open(&pool).await.context("the halts cannot be read")?;
    let (partition, accept_offset) = match command {
        LedgerCommand::Halts => (None, None),
        LedgerCommand::ClearHalt { partition, accept_offset } => (Some(partition), accept_offset),
    };
    let wanted: Vec<_> = open.into_iter().filter(|halt| partition.is_none_or(|only| only == halt.partition)).collect();
    if wanted.is_empty() {
        let none = || "no partition is halted\n".to_owned();
        return print(&partition.map_or_else(none, |partition| format!("partition {partition} is not halted\n")));
    }
    let log = CommandLog::open(config).await?;
    if let (Some(offset), [halt]) = (accept_offset, wanted.as_slice()) {
        let (partition, first_undecided) = (halt.partition, log.first_undecided(&pool, halt).await?);
        let accepted = log.reached(partition, offset).await?;
        halts::clear(&pool, partition, accepted).await?;
        return print(&format!(
            "partition {partition} goes on at offset {offset}; the first that was not decided was {first_undecided}\n"
        ));
    }
    for halt in &wanted {
        let first_undecided = log.first_undecided(&pool, halt).await?;
        print(&describe(halt, log.watermarks(halt.partition)?, first_undecided))?;
    }
    Ok(ExitCode::from(HALTED))
}

fn describe(open: &OpenHalt, log: Watermarks, first_undecided: i64) -> String {
    let OpenHalt { partition, since, halt, next_offset, outbox } = open;
    let mut text = format!("partition {partition} is halted since {since}: {}\n", halt.why);
    let rows = [
        ("expected", halt.expected.clone()),
        ("found", halt.found.clone()),
        ("the ledger has applied", format!("what is before offset {next_offset}")),
        ("the log holds", format!("offsets from {}; the next record gets {}", log.low, log.high)),
        ("first not decided", format!("offset {first_undecided}")),
        ("not published", format!("{outbox} committed batches")),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:22}  {value}");
    }
    let _ = write!(
        text,
        "Nothing was changed. Restore the topic if you can. To go on with the log as it is:\n  \
         twh ledger clear-halt --partition {partition} --accept-offset {first_undecided}\n\
         decides what is on the log from there. docs/operations.md says what to look at first.\n"
    );
    text
}

/// The topic of commands as it is now.
struct CommandLog {
    source: Source,
    schemas: Schemas,
    watermarks: Vec<Watermarks>,
}

impl CommandLog {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let source = Source { brokers: config.kafka_brokers.clone(), topic: COMMANDS.full_name(&config.topic_prefix) };
        let asked = source.clone();
        let watermarks = tokio::task::spawn_blocking(move || asked.watermarks())
            .await?
            .with_context(|| format!("{} cannot be read at {}", source.topic, source.brokers))?;
        let schemas = Schemas::connect(&config.schema_registry_url, &config.topic_prefix).await?;
        Ok(Self { source, schemas, watermarks })
    }

    fn watermarks(&self, partition: i32) -> anyhow::Result<Watermarks> {
        let marks = usize::try_from(partition).ok().and_then(|partition| self.watermarks.get(partition)).copied();
        marks.with_context(|| format!("the topic {} has no partition {partition}", self.source.topic))
    }

    /// The records from an offset to before another.
    async fn records(&self, partition: i32, from: i64, end: i64) -> anyhow::Result<Vec<Record>> {
        let (source, count) = (self.source.clone(), usize::try_from(end - from)?);
        let read = tokio::task::spawn_blocking(move || source.records(partition, from, count, end)).await?;
        let mut records = read.context("the log cannot be read")?;
        records.retain(|record| record.offset < end);
        Ok(records)
    }

    /// An offset as what the ledger has reached, with the record before it.
    async fn reached(&self, partition: i32, offset: i64) -> anyhow::Result<Reached> {
        let Watermarks { low, high } = self.watermarks(partition)?;
        ensure!(
            (low..=high).contains(&offset),
            "the log of partition {partition} holds offsets from {low} to before {high}"
        );
        if offset == low {
            return Ok(Reached::before(offset));
        }
        let last = self.records(partition, offset - 1, offset).await?.first().map(Record::mark);
        Ok(Reached { next_offset: offset, last })
    }

    /// The first offset from which on no record is decided: what the log holds before it, the ledger has.
    async fn first_undecided(&self, pool: &PgPool, halt: &OpenHalt) -> anyhow::Result<i64> {
        let Watermarks { low, high } = self.watermarks(halt.partition)?;
        let mut end = halt.next_offset.min(high);
        while end > low {
            let from = low.max(end - RECORDS_AT_ONCE);
            let mut commands: Vec<(i64, TenantId, CommandId)> = Vec::new();
            for record in self.records(halt.partition, from, end).await? {
                // What is no command was set aside, and would be again.
                if let Ok(command) = self.schemas.commands.decode(&record.payload).await {
                    commands.push((record.offset, command.tenant_id, command.command_id));
                }
            }
            let asked: Vec<_> = commands.iter().map(|(_, tenant, command)| (*tenant, *command)).collect();
            let decided = halts::decided(pool, &asked).await?;
            if let Some((offset, ..)) = commands.iter().rev().find(|(_, _, command)| decided.contains(command)) {
                return Ok(offset + 1);
            }
            end = from;
        }
        Ok(low.max(end))
    }
}
