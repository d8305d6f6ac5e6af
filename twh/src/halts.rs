//! `twh ledger`: why partitions of `commands` and of events stand halted, and letting them go on.

use crate::config::Config;
use crate::parts::{KAFKA_TIMEOUT, cluster_id, pool};
use crate::print;
use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::process::ExitCode;
use twh_domain::id::{CommandId, TenantId};
use twh_processors::replay::Source;
use twh_processors::runtime::{Record, Watermarks};
use twh_schemas::Schemas;
use twh_schemas::catalogue::{COMMANDS, EVENTS};
use twh_sinks::kafka::{Producer, Reached};
use twh_sinks::postgres::ledger::halts::{self, Accepted, OpenHalt};
use twh_sinks::postgres::{PgPool, noted};

/// Records that are read at once, from the end of what the ledger has passed backwards.
const RECORDS_AT_ONCE: i64 = 1_000;
/// Records that are named when they would be left out.
const SHOWN_MAX: usize = 10;
/// The exit code that says that partitions are halted.
const HALTED: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Shows which partitions are halted, of the ledger and of what reads events, why, and what the log holds there. Ends with 2
    /// where there is one.
    Halts,
    /// Lets a halted partition go on at an offset; without one, shows what was found.
    ClearHalt(ClearHalt),
}

#[derive(Debug, Args)]
pub(crate) struct ClearHalt {
    /// Which partition.
    #[arg(long)]
    partition: i32,
    /// Whose partition: `ledger`, or a consumer group as `twh ledger halts` names it.
    #[arg(long, default_value = noted::LEDGER)]
    group: String,
    /// The offset of the first record of the log that is to be worked on. Those before it are not looked at again.
    #[arg(long, requires = "halt")]
    accept_offset: Option<i64>,
    /// The number of the halt that is cleared, as it was shown.
    #[arg(long)]
    halt: Option<i64>,
    /// How many records are left out for ever: those before the offset that were not worked on.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// The cluster is another one than the partition was read from, and a copy of it with the same offsets.
    #[arg(long)]
    accept_cluster: bool,
}

impl ClearHalt {
    fn is_about(&self, halt: &OpenHalt) -> bool {
        self.partition == halt.partition && self.group == halt.group
    }
}

/// Runs the command.
pub(crate) async fn run(config: &Config, command: LedgerCommand) -> anyhow::Result<ExitCode> {
    let pool = pool(config)?;
    let open = halts::open(&pool).await.context("the halts cannot be read")?;
    let clear = match command {
        LedgerCommand::Halts => None,
        LedgerCommand::ClearHalt(clear) => Some(clear),
    };
    let is_wanted = |halt: &OpenHalt| clear.as_ref().is_none_or(|clear| clear.is_about(halt));
    let wanted: Vec<_> = open.into_iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        let none = || "no partition is halted\n".to_owned();
        let not = |clear: &ClearHalt| format!("partition {} of {} is not halted\n", clear.partition, clear.group);
        return print(&clear.as_ref().map_or_else(none, not));
    }
    if let (Some(clear), [halt]) = (&clear, wanted.as_slice())
        && let (Some(offset), Some(id)) = (clear.accept_offset, clear.halt)
    {
        return go_on(config, &pool, halt, (clear, offset, id)).await;
    }
    for halt in &wanted {
        let log = HaltedLog::open(config, halt).await?;
        let first_undecided = log.first_undecided(&pool, halt).await?;
        print(&describe(halt, log.watermarks(halt.partition)?, first_undecided))?;
    }
    Ok(ExitCode::from(HALTED))
}

async fn go_on(
    config: &Config,
    pool: &PgPool,
    halt: &OpenHalt,
    (clear, offset, id): (&ClearHalt, i64, i64),
) -> anyhow::Result<ExitCode> {
    let log = HaltedLog::open(config, halt).await?;
    let (partition, first_undecided) = (halt.partition, log.first_undecided(pool, halt).await?);
    let reached = log.reached(partition, offset).await?;
    let left_out = log.undecided(pool, partition, first_undecided, offset).await?;
    ensure!(
        left_out.len() == clear.skip,
        "to go on at offset {offset} leaves out {} records that nobody has worked on, from offset {first_undecided} on: \
         --skip {} if that is meant\n{}",
        left_out.len(),
        left_out.len(),
        left_out.iter().take(SHOWN_MAX).map(|one| format!("  {one}\n")).collect::<String>()
    );
    let kafka_cluster_id = log.cluster_id(config).await?;
    let accepted = Accepted {
        group: &halt.group,
        partition,
        halt: id,
        reached,
        kafka_cluster_id: &kafka_cluster_id,
        may_be_another: clear.accept_cluster,
    };
    halts::clear(pool, &accepted).await?;
    let mut text = format!("partition {partition} of {} goes on at offset {offset}\n", halt.group);
    for one in &left_out {
        let _ = writeln!(text, "  left out: {one}");
    }
    print(&text)
}

fn describe(open: &OpenHalt, log: Watermarks, first_undecided: i64) -> String {
    let OpenHalt { id, group, partition, since, passes, halt, next_offset, outbox, .. } = open;
    let mut text = format!("halt {id}: partition {partition} of {group} is halted since {since}: {}\n", halt.why);
    let rows = [
        ("expected", halt.expected.clone()),
        ("found", halt.found.clone()),
        ("applied", format!("what is before offset {next_offset}")),
        ("the log holds", format!("offsets from {}; the next record gets {}", log.low, log.high)),
        ("first not decided", format!("offset {first_undecided}")),
        ("not published", format!("{outbox} committed batches")),
    ];
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "  {name:22}  {value}");
    }
    let first = if *passes {
        "It goes on by itself once the cause is gone."
    } else {
        "Nothing was changed. Restore the topic if you can."
    };
    let group = if group == noted::LEDGER { String::new() } else { format!(" --group {group}") };
    let _ = write!(
        text,
        "{first} To go on with the log as it is:\n  \
         twh ledger clear-halt{group} --partition {partition} --halt {id} --accept-offset {first_undecided}\n\
         works on what is on the log from there. docs/operations.md says what to look at first.\n"
    );
    text
}

/// The topic that a halted partition is of, as it is now.
struct HaltedLog {
    /// The ledger knows of each command whether it is decided; of events it is known how far each group is.
    of_commands: bool,
    source: Source,
    schemas: Schemas,
    watermarks: Vec<Watermarks>,
}

impl HaltedLog {
    async fn open(config: &Config, halt: &OpenHalt) -> anyhow::Result<Self> {
        let of_commands = halt.group == noted::LEDGER;
        let topic = if of_commands { COMMANDS } else { EVENTS };
        let source = Source { brokers: config.kafka_brokers.clone(), topic: topic.full_name(&config.topic_prefix) };
        let asked = source.clone();
        let watermarks = tokio::task::spawn_blocking(move || asked.watermarks())
            .await?
            .with_context(|| format!("{} cannot be read at {}", source.topic, source.brokers))?;
        let schemas = Schemas::connect(&config.schema_registry_url, &config.topic_prefix).await?;
        Ok(Self { of_commands, source, schemas, watermarks })
    }

    async fn cluster_id(&self, config: &Config) -> anyhow::Result<String> {
        let asked = Producer::new(&config.kafka_brokers, "twh-halts", KAFKA_TIMEOUT)?;
        cluster_id(&asked).await
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

    /// The first offset from which on no record is decided: what the log holds before it, the group has.
    async fn first_undecided(&self, pool: &PgPool, halt: &OpenHalt) -> anyhow::Result<i64> {
        let Watermarks { low, high } = self.watermarks(halt.partition)?;
        let mut end = halt.next_offset.min(high);
        while self.of_commands && end > low {
            let from = low.max(end - RECORDS_AT_ONCE);
            let commands = self.commands(pool, halt.partition, from, end).await?;
            if let Some((offset, ..)) = commands.iter().rev().find(|(_, is_decided, _)| *is_decided) {
                return Ok(offset + 1);
            }
            end = from;
        }
        Ok(low.max(end))
    }

    /// The commands from an offset to before another, whether each is decided, and each in words.
    async fn commands(
        &self,
        pool: &PgPool,
        partition: i32,
        from: i64,
        end: i64,
    ) -> anyhow::Result<Vec<(i64, bool, String)>> {
        let mut commands: Vec<(i64, TenantId, CommandId)> = Vec::new();
        for record in self.records(partition, from, end).await? {
            // What is no command was set aside, and would be again.
            if let Ok(command) = self.schemas.commands.decode(&record.payload).await {
                commands.push((record.offset, command.tenant_id, command.command_id));
            }
        }
        let asked: Vec<_> = commands.iter().map(|(_, tenant, command)| (*tenant, *command)).collect();
        let decided = halts::decided(pool, &asked).await?;
        let words = |(offset, tenant, command): (i64, TenantId, CommandId)| {
            let text = format!("offset {offset}: command {command} of tenant {tenant}");
            (offset, decided.contains(&command), text)
        };
        Ok(commands.into_iter().map(words).collect())
    }

    /// What is left out when a partition goes on at an offset, in words.
    async fn undecided(&self, pool: &PgPool, partition: i32, from: i64, end: i64) -> anyhow::Result<Vec<String>> {
        if !self.of_commands {
            return Ok((from..end).map(|offset| format!("offset {offset}")).collect());
        }
        let mut undecided = Vec::new();
        let mut at = from;
        while at < end {
            let through = end.min(at + RECORDS_AT_ONCE);
            let commands = self.commands(pool, partition, at, through).await?;
            undecided.extend(commands.into_iter().filter(|(_, is_decided, _)| !is_decided).map(|(.., text)| text));
            at = through;
        }
        Ok(undecided)
    }
}
