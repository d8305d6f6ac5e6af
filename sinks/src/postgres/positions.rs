//! How far a consumer group is, kept beside what it writes: a batch and the move of its partition are one transaction, so it is
//! applied once however often it is read.
//!
//! Being assigned a partition by Kafka is no lock. Each claim raises the partition's epoch, and a move by whoever has an older
//! one is refused.

use super::PgPool;
use super::sqlx::{self, PgConnection, Row as _};
use super::statement::{Columns, FENCED, Rows, Sql, Statement};
use crate::kafka::{Mark, Reached};

/// A hold on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The group's full name.
    pub group: String,
    /// Which partition.
    pub partition: i32,
    /// Rises with every claim; a lower one is fenced.
    pub epoch: i64,
    /// How far it is applied.
    pub reached: Reached,
}

/// Why a partition is not claimed, or not moved.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    /// Someone else has claimed the partition since.
    #[error("partition {partition} of {group} is someone else's now: epoch {epoch} at offset {next_offset} is over")]
    Fenced {
        /// The group.
        group: String,
        /// Which partition.
        partition: i32,
        /// The epoch that is over.
        epoch: i64,
        /// Where it stood.
        next_offset: i64,
    },
    /// The positions are those of another cluster: its offsets mean nothing here.
    #[error("the positions of {group} are those of Kafka cluster {kept}, and this is {connected}")]
    OtherCluster {
        /// The group.
        group: String,
        /// Whose offsets they are.
        kept: String,
        /// The one that we are connected to.
        connected: String,
    },
    /// The database is away or refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Takes a partition: raises its epoch, which fences whoever held it, and says where to go on. A group that has never been here
/// begins at offset `first`.
pub async fn claim(
    pool: &PgPool,
    group: &str,
    partition: i32,
    first: i64,
    kafka_cluster_id: &str,
    owner: &str,
) -> Result<Hold, PositionError> {
    let row = sqlx::query(
        "insert into consumer_positions as p
             (consumer_group, partition, kafka_cluster_id, next_offset, epoch, owner, claimed_at)
         values ($1, $2, $3, $4, 1, $5, now())
         on conflict (consumer_group, partition) do update
             set epoch = p.epoch + 1, owner = excluded.owner, claimed_at = excluded.claimed_at
             where p.kafka_cluster_id = excluded.kafka_cluster_id
         returning epoch, next_offset, last_offset, last_digest",
    )
    .bind(group)
    .bind(partition)
    .bind(kafka_cluster_id)
    .bind(first)
    .bind(owner)
    .fetch_optional(pool)
    .await?;
    if let Some(row) = row {
        let last = Mark::from_columns(row.try_get("last_offset")?, row.try_get("last_digest")?);
        let reached = Reached { next_offset: row.try_get("next_offset")?, last };
        return Ok(Hold { group: group.to_owned(), partition, epoch: row.try_get("epoch")?, reached });
    }
    let kept = sqlx::query_scalar(
        "select kafka_cluster_id from consumer_positions where consumer_group = $1 and partition = $2",
    )
    .bind(group)
    .bind(partition)
    .fetch_one(pool)
    .await?;
    Err(PositionError::OtherCluster { group: group.to_owned(), kept, connected: kafka_cluster_id.to_owned() })
}

/// How far a group is on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPosition {
    /// The group; of a read model, with the name of the build.
    pub group: String,
    /// Which partition.
    pub partition: i32,
    /// The first offset that is not applied yet.
    pub next_offset: i64,
}

/// How far every group is: the ledger on `commands`, the others on `domain.events`. Builds that were replaced are left out.
pub async fn all(pool: &PgPool) -> Result<Vec<GroupPosition>, sqlx::Error> {
    let rows: Vec<(String, i32, i64)> = sqlx::query_as(
        "select 'ledger', partition, next_offset from ledger_partitions
         union all
         select p.consumer_group, p.partition, p.next_offset from consumer_positions p
         where not exists (select from projection_builds b
             where b.state = 'retired' and b.name = split_part(p.consumer_group, '/', 2))
         order by 1, 2",
    )
    .fetch_all(pool)
    .await?;
    let of = |(group, partition, next_offset)| GroupPosition { group, partition, next_offset };
    Ok(rows.into_iter().map(of).collect())
}

/// Moves a held partition past what nothing is to be written for. A crash of the database may forget it: the move is then made
/// again, which takes nothing along.
pub async fn skip(pool: &PgPool, hold: &Hold, reached: Reached) -> Result<(), PositionError> {
    let mut statement = Statement::default();
    hold.advance_by(&mut statement, reached)?;
    statement.check("set_config('synchronous_commit', 'off', true)".to_owned());
    statement.run(pool).await.map_err(|error| hold.refused(error))
}

const MOVE: Columns = &[
    ("consumer_group", Sql::Text),
    ("partition", Sql::Integer),
    ("epoch", Sql::Bigint),
    ("from_offset", Sql::Bigint),
    ("to_offset", Sql::Bigint),
    ("last_offset", Sql::Bigint),
    ("last_digest", Sql::Bytea),
];

impl Hold {
    /// Moves the partition, as a part of the statement that writes what was applied on the way.
    pub(crate) fn advance_by(&self, statement: &mut Statement, reached: Reached) -> Result<(), sqlx::Error> {
        let rows = Rows::of(std::iter::once(self), |row, hold| {
            row.text(&hold.group)
                .integer(hold.partition)
                .bigint(hold.epoch)
                .bigint(hold.reached.next_offset)
                .bigint(reached.next_offset)
                .optional_mark(reached.last.as_ref());
        });
        let given = statement.given(MOVE, &rows)?;
        statement.part(
            "moved",
            &format!(
                "update consumer_positions p
                 set next_offset = given.to_offset, last_offset = given.last_offset, last_digest = given.last_digest from {given}
                 where p.consumer_group = given.consumer_group and p.partition = given.partition
                     and p.epoch = given.epoch and p.next_offset = given.from_offset
                 returning p.partition"
            ),
        );
        statement.check(format!("expect_moved(array[{}], array(select partition from moved))", self.partition));
        Ok(())
    }

    /// What a statement's refusal means.
    pub(crate) fn refused(&self, error: sqlx::Error) -> PositionError {
        match &error {
            sqlx::Error::Database(refusal) if refusal.code().as_deref() == Some(FENCED) => self.fenced(),
            _ => error.into(),
        }
    }

    /// Refuses who does not hold the partition any more.
    pub(crate) async fn check(&self, connection: &mut PgConnection) -> Result<(), PositionError> {
        let epoch: Option<i64> =
            sqlx::query_scalar("select epoch from consumer_positions where consumer_group = $1 and partition = $2")
                .bind(&self.group)
                .bind(self.partition)
                .fetch_optional(connection)
                .await?;
        if epoch == Some(self.epoch) { Ok(()) } else { Err(self.fenced()) }
    }

    fn fenced(&self) -> PositionError {
        PositionError::Fenced {
            group: self.group.clone(),
            partition: self.partition,
            epoch: self.epoch,
            next_offset: self.reached.next_offset,
        }
    }
}
