//! How far the log was acknowledged to clients. What the ledger has not applied is known nowhere else once the processes have ended:
//! a log that lost it would pass for whole.

use sqlx::PgPool;

/// A partition, as a process that takes commands knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Which partition.
    pub partition: i32,
    /// Past the highest offset that a client was told of.
    pub next_offset: i64,
    /// The last halt of the partition that the process has seen; 0 where there was none.
    pub last_halt: i64,
}

/// Writes down how far partitions were acknowledged. Where one is halted, or was since the process looked, nothing is: the log may be
/// another one.
pub async fn write_down(pool: &PgPool, kafka_cluster_id: &str, all: &[Acknowledged]) -> Result<(), sqlx::Error> {
    let partitions: Vec<i32> = all.iter().map(|one| one.partition).collect();
    let offsets: Vec<i64> = all.iter().map(|one| one.next_offset).collect();
    let halts: Vec<i64> = all.iter().map(|one| one.last_halt).collect();
    sqlx::query(
        "insert into ledger_acknowledged as a (kafka_cluster_id, partition, next_offset)
         select $1, given.partition, given.next_offset
         from unnest($2::integer[], $3::bigint[], $4::bigint[]) as given (partition, next_offset, last_halt)
         where given.last_halt = (select coalesce(max(h.id), 0) from ledger_halts h where h.partition = given.partition)
             and not exists (select from ledger_partitions p where p.partition = given.partition and p.halt is not null)
         order by given.partition
         on conflict (kafka_cluster_id, partition) do update set next_offset = greatest(a.next_offset, excluded.next_offset)",
    )
    .bind(kafka_cluster_id)
    .bind(partitions)
    .bind(offsets)
    .bind(halts)
    .execute(pool)
    .await?;
    Ok(())
}

/// How far a partition was acknowledged; 0 where that is not written down.
pub async fn of(pool: &PgPool, partition: i32, kafka_cluster_id: &str) -> Result<i64, sqlx::Error> {
    let found: Option<i64> = sqlx::query_scalar(
        "select next_offset from ledger_acknowledged where kafka_cluster_id = $1 and partition = $2",
    )
    .bind(kafka_cluster_id)
    .bind(partition)
    .fetch_optional(pool)
    .await?;
    Ok(found.unwrap_or_default())
}
