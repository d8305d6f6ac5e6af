//! Partitions that stand until the cause is gone: written down, so that somebody sees it wherever the process runs. Nothing is held
//! up by what is written here.

use super::PgPool;

/// The ledger, among the consumer groups.
pub const LEDGER: &str = "ledger";

/// Writes down that a partition of a group stands, at an offset or before it is claimed. What is there already keeps its number.
pub async fn stands(
    pool: &PgPool,
    group: &str,
    partition: i32,
    why: &str,
    at_offset: Option<i64>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into standing_halts as s (consumer_group, partition, why, at_offset)
         select $1, $2, $3, $4 where not exists (
             select from ledger_partitions p where $1 = $5 and p.partition = $2 and p.halt is not null)
         on conflict (consumer_group, partition) do update
             set id = default, since = now(), why = excluded.why, at_offset = excluded.at_offset
             where (s.why, s.at_offset) is distinct from (excluded.why, excluded.at_offset)",
    )
    .bind(group)
    .bind(partition)
    .bind(why)
    .bind(at_offset)
    .bind(LEDGER)
    .execute(pool)
    .await?;
    Ok(())
}

/// Forgets that a partition stood before an offset that it has reached; says where it stands otherwise.
pub async fn goes_on(pool: &PgPool, group: &str, partition: i32, reached: i64) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query(
        "delete from standing_halts where consumer_group = $1 and partition = $2 and (at_offset is null or at_offset < $3)",
    )
    .bind(group)
    .bind(partition)
    .bind(reached)
    .execute(pool)
    .await?;
    sqlx::query_scalar("select at_offset from standing_halts where consumer_group = $1 and partition = $2")
        .bind(group)
        .bind(partition)
        .fetch_optional(pool)
        .await
}
