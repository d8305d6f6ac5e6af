//! Halts of partitions that are written down: the log is not the one that the ledger was written from. While one is open nobody
//! claims the partition, whatever the log looks like later, and the write side takes no commands for it. Only a person clears it.
//!
//! A person is shown, and may clear, those as well that hold a partition only until their cause is gone ([`super::super::noted`]).

use super::super::noted;
use super::{Claim, LedgerError};
use crate::kafka::Reached;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{PgConnection, Row};
use std::collections::HashSet;
use time::OffsetDateTime;
use twh_domain::id::{CommandId, TenantId};
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// Why, in a sentence.
    pub why: String,
    /// What the log should hold.
    pub expected: String,
    /// What it holds.
    pub found: String,
}

/// A halt that is not cleared, and where its group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenHalt {
    /// Its number, by which it is cleared.
    pub id: i64,
    /// Whose it is: the ledger's, or a consumer group's.
    pub group: String,
    /// Which partition.
    pub partition: i32,
    /// Since when.
    pub since: Timestamp,
    /// Whether it ends by itself once its cause is gone.
    pub passes: bool,
    /// What was written down.
    pub halt: Halt,
    /// The first offset that the group has not applied.
    pub next_offset: i64,
    /// The cluster whose offsets these are.
    pub kafka_cluster_id: String,
    /// Committed batches that are not published.
    pub outbox: i64,
}

/// A partition as the write side must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which partition.
    pub partition: i32,
    /// The first offset that the ledger has not applied.
    pub next_offset: i64,
    /// Past the highest offset that is known to be acknowledged.
    pub acknowledged: i64,
    /// Whether a halt is written down.
    pub halted: bool,
    /// The last halt, cleared or not; 0 where there was none.
    pub last_halt: i64,
}

/// What a person lets a partition go on with.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<'a> {
    /// Whose partition it is.
    pub group: &'a str,
    /// Which.
    pub partition: i32,
    /// The halt that the person was shown.
    pub halt: i64,
    /// Where it goes on.
    pub reached: Reached,
    /// The cluster that the person looked at.
    pub kafka_cluster_id: &'a str,
    /// It may be another one than the partition was read from.
    pub may_be_another: bool,
}

/// Why a halt was not cleared.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// There is none.
    #[error("partition {0} of {1} is not halted")]
    NotHalted(i32, String),
    /// It is not the one that was shown.
    #[error("the halt of the partition is number {0} by now: look at it first")]
    Another(i64),
    /// What was looked at is another log.
    #[error("the partition was read from Kafka cluster {kept}, and this is {connected}")]
    OtherCluster {
        /// Whose offsets the partition has.
        kept: String,
        /// The one that was looked at.
        connected: String,
    },
    /// Batches would be published after those that come next, or be taken for them.
    #[error(
        "{0} committed batches of the partition are not published: let a process of the role ledger run until the outbox is empty"
    )]
    Unpublished(i64),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Why a partition that exists was not claimed.
pub(super) async fn why_not_claimed(
    pool: &PgPool,
    partition: i32,
    kafka_cluster_id: &str,
) -> Result<LedgerError, sqlx::Error> {
    let row = sqlx::query(
        "select p.kafka_cluster_id, h.since, h.why
         from ledger_partitions p left join ledger_halts h on h.id = p.halt where p.partition = $1",
    )
    .bind(partition)
    .fetch_one(pool)
    .await?;
    let halted: Option<(OffsetDateTime, String)> =
        row.try_get::<Option<_>, _>("since")?.zip(row.try_get::<Option<_>, _>("why")?);
    Ok(match halted {
        Some((since, why)) => LedgerError::Halted { partition, since: since.into(), why },
        None => LedgerError::OtherCluster {
            ledger: row.try_get("kafka_cluster_id")?,
            connected: kafka_cluster_id.to_owned(),
        },
    })
}

/// Writes a halt down for the writer that holds the partition, which is fenced by it like every other.
pub async fn halt(pool: &PgPool, claim: &Claim, halt: &Halt) -> Result<(), LedgerError> {
    if write_down(pool, claim.partition, halt, |epoch| epoch == claim.epoch).await? {
        Ok(())
    } else {
        Err(claim.fenced())
    }
}

/// Writes a halt down for somebody who has seen that the log lost records; says whether the ledger has the partition.
pub async fn report(pool: &PgPool, partition: i32, halt: &Halt) -> Result<bool, sqlx::Error> {
    write_down(pool, partition, halt, |_| true).await
}

/// Writes a halt down where the partition's epoch is such that it holds, and none is open already.
async fn write_down(
    pool: &PgPool,
    partition: i32,
    halt: &Halt,
    holds: impl FnOnce(i64) -> bool,
) -> Result<bool, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let Some(row) = locked(&mut tx, partition).await? else { return Ok(false) };
    if !holds(row.try_get("epoch")?) {
        return Ok(false);
    }
    if row.try_get::<Option<i64>, _>("halt")?.is_some() {
        return Ok(true);
    }
    sqlx::query(
        "with written as (insert into ledger_halts (partition, why, expected, found) values ($1, $2, $3, $4) returning id)
         update ledger_partitions set halt = (select id from written), epoch = epoch + 1 where partition = $1",
    )
    .bind(partition)
    .bind(&halt.why)
    .bind(&halt.expected)
    .bind(&halt.found)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}

/// A partition's row, which stays as it is until the transaction ends.
async fn locked(tx: &mut PgConnection, partition: i32) -> Result<Option<PgRow>, sqlx::Error> {
    sqlx::query("select epoch, halt, kafka_cluster_id from ledger_partitions where partition = $1 for update")
        .bind(partition)
        .fetch_optional(tx)
        .await
}

/// Where every partition stands, also one that no ledger has claimed yet.
pub async fn standings(pool: &PgPool, kafka_cluster_id: &str) -> Result<Vec<Standing>, sqlx::Error> {
    let rows: Vec<(i32, i64, i64, bool, i64)> = sqlx::query_as(
        "select partition, coalesce(p.next_offset, 0), coalesce(a.next_offset, 0), p.halt is not null,
             (select coalesce(max(h.id), 0) from ledger_halts h where h.partition = coalesce(p.partition, a.partition))
         from ledger_partitions p
         full join (select * from ledger_acknowledged where kafka_cluster_id = $1) a using (partition)",
    )
    .bind(kafka_cluster_id)
    .fetch_all(pool)
    .await?;
    let of = |(partition, next_offset, acknowledged, halted, last_halt)| Standing {
        partition,
        next_offset,
        acknowledged,
        halted,
        last_halt,
    };
    Ok(rows.into_iter().map(of).collect())
}

/// The halts that are not cleared, by group and partition.
pub async fn open(pool: &PgPool) -> Result<Vec<OpenHalt>, sqlx::Error> {
    let rows = sqlx::query(
        "select h.id, $1 as consumer_group, p.partition, h.since, false as passes, h.why, h.expected, h.found, p.next_offset,
             p.kafka_cluster_id, (select count(*) from outbox o where o.partition = p.partition) as outbox
         from ledger_partitions p join ledger_halts h on h.id = p.halt
         union all
         select s.id, s.consumer_group, s.partition, s.since, true, s.why, '', '', coalesce(p.next_offset, c.next_offset, 0),
             coalesce(p.kafka_cluster_id, c.kafka_cluster_id, ''),
             (select count(*) from outbox o where o.partition = p.partition)
         from standing_halts s
         left join ledger_partitions p on s.consumer_group = $1 and p.partition = s.partition
         left join consumer_positions c on c.consumer_group = s.consumer_group and c.partition = s.partition
         where p.halt is null and not exists (select from projection_builds b
             where b.state = 'retired' and b.name = split_part(s.consumer_group, '/', 2))
         order by 2, 3",
    )
    .bind(noted::LEDGER)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(OpenHalt {
                id: row.try_get("id")?,
                group: row.try_get("consumer_group")?,
                passes: row.try_get("passes")?,
                kafka_cluster_id: row.try_get("kafka_cluster_id")?,
                partition: row.try_get("partition")?,
                since: row.try_get::<OffsetDateTime, _>("since")?.into(),
                halt: Halt {
                    why: row.try_get("why")?,
                    expected: row.try_get("expected")?,
                    found: row.try_get("found")?,
                },
                next_offset: row.try_get("next_offset")?,
                outbox: row.try_get("outbox")?,
            })
        })
        .collect()
}

/// Of some commands, those that are decided.
pub async fn decided(pool: &PgPool, commands: &[(TenantId, CommandId)]) -> Result<HashSet<CommandId>, sqlx::Error> {
    let (tenants, commands): (Vec<Uuid>, Vec<Uuid>) =
        commands.iter().map(|(tenant, command)| (tenant.0, command.0)).unzip();
    let found: Vec<Uuid> = sqlx::query_scalar(
        "select o.command_id from command_outcomes o
         join unnest($1::uuid[], $2::uuid[]) as asked (tenant_id, command_id) using (tenant_id, command_id)",
    )
    .bind(tenants)
    .bind(commands)
    .fetch_all(pool)
    .await?;
    Ok(found.into_iter().map(CommandId).collect())
}

/// Clears a halt: the partition goes on where it is told to.
pub async fn clear(pool: &PgPool, accepted: &Accepted<'_>) -> Result<(), ClearError> {
    let mut tx = pool.begin().await?;
    if accepted.group == noted::LEDGER {
        clear_ledger(&mut tx, accepted).await?;
    } else {
        clear_group(&mut tx, accepted).await?;
    }
    sqlx::query("delete from standing_halts where consumer_group = $1 and partition = $2")
        .bind(accepted.group)
        .bind(accepted.partition)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

impl Accepted<'_> {
    fn not_halted(&self) -> ClearError {
        ClearError::NotHalted(self.partition, self.group.to_owned())
    }

    /// Refuses what is not what the person was shown. `written` is the halt that only a person ends.
    async fn is_what_stands(
        &self,
        tx: &mut PgConnection,
        written: Option<i64>,
        kafka_cluster_id: String,
    ) -> Result<(), ClearError> {
        let noted: Option<i64> =
            sqlx::query_scalar("select id from standing_halts where consumer_group = $1 and partition = $2 for update")
                .bind(self.group)
                .bind(self.partition)
                .fetch_optional(tx)
                .await?;
        let halt = written.or(noted).ok_or_else(|| self.not_halted())?;
        if halt != self.halt {
            return Err(ClearError::Another(halt));
        }
        if kafka_cluster_id != self.kafka_cluster_id && !self.may_be_another {
            return Err(ClearError::OtherCluster {
                kept: kafka_cluster_id,
                connected: self.kafka_cluster_id.to_owned(),
            });
        }
        Ok(())
    }
}

async fn clear_ledger(tx: &mut PgConnection, accepted: &Accepted<'_>) -> Result<(), ClearError> {
    let Accepted { partition, halt, reached, kafka_cluster_id, .. } = *accepted;
    let row = locked(tx, partition).await?.ok_or_else(|| accepted.not_halted())?;
    let written: Option<i64> = row.try_get("halt")?;
    accepted.is_what_stands(tx, written, row.try_get("kafka_cluster_id")?).await?;
    let unpublished: i64 = sqlx::query_scalar("select count(*) from outbox where partition = $1")
        .bind(partition)
        .fetch_one(&mut *tx)
        .await?;
    if unpublished > 0 {
        return Err(ClearError::Unpublished(unpublished));
    }
    // What stood by itself is kept among the others once a person has decided on it.
    sqlx::query(
        "insert into ledger_halts (id, partition, since, why, expected, found) overriding system value
         select id, partition, since, why, '', '' from standing_halts where id = $1",
    )
    .bind(halt)
    .execute(&mut *tx)
    .await?;
    if written.is_some() {
        // What was acknowledged of the log that is gone says nothing of this one.
        sqlx::query("delete from ledger_acknowledged where partition = $1").bind(partition).execute(&mut *tx).await?;
    }
    sqlx::query("update ledger_halts set cleared_at = now(), accepted_offset = $2 where id = $1")
        .bind(halt)
        .bind(reached.next_offset)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "update ledger_partitions set halt = null, epoch = epoch + 1, next_offset = $2, last_offset = $3, last_digest = $4,
             kafka_cluster_id = $5
         where partition = $1",
    )
    .bind(partition)
    .bind(reached.next_offset)
    .bind(reached.last.map(|last| last.offset))
    .bind(reached.last.map(|last| last.digest.to_vec()))
    .bind(kafka_cluster_id)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

async fn clear_group(tx: &mut PgConnection, accepted: &Accepted<'_>) -> Result<(), ClearError> {
    let Accepted { group, partition, reached, kafka_cluster_id, .. } = *accepted;
    let kept: Option<String> = sqlx::query_scalar(
        "select kafka_cluster_id from consumer_positions where consumer_group = $1 and partition = $2 for update",
    )
    .bind(group)
    .bind(partition)
    .fetch_optional(&mut *tx)
    .await?;
    accepted.is_what_stands(tx, None, kept.ok_or_else(|| accepted.not_halted())?).await?;
    sqlx::query(
        "update consumer_positions set epoch = epoch + 1, next_offset = $3, last_offset = $4, last_digest = $5,
             kafka_cluster_id = $6
         where consumer_group = $1 and partition = $2",
    )
    .bind(group)
    .bind(partition)
    .bind(reached.next_offset)
    .bind(reached.last.map(|last| last.offset))
    .bind(reached.last.map(|last| last.digest.to_vec()))
    .bind(kafka_cluster_id)
    .execute(&mut *tx)
    .await?;
    Ok(())
}
