//! Which index answers, and how far each is: kept in the database, beside the positions of those who write them.

use super::postgres::reflects;
use crate::postgres::positions::{Hold, PositionError};
use crate::postgres::statement::{Columns, Rows, Sql, Statement};
use sqlx::{PgConnection, PgPool, Row as _};
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;

/// What an index is for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being built and answers nothing.
    Building,
    /// It answers.
    Serving,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Serving => "serving",
        }
    }
}

/// The newest index in a state.
pub async fn in_state(pool: &PgPool, state: State) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select name from search_indexes where state = $1 order by created_at desc limit 1")
        .bind(state.name())
        .fetch_optional(pool)
        .await
}

/// The index that is in a state, or this one, where none was.
pub async fn begin(pool: &PgPool, name: &str, state: State) -> Result<String, sqlx::Error> {
    if let Some(known) = in_state(pool, state).await? {
        return Ok(known);
    }
    sqlx::query("insert into search_indexes (name, state) values ($1, $2) on conflict do nothing")
        .bind(name)
        .bind(state.name())
        .execute(pool)
        .await?;
    Ok(in_state(pool, state).await?.unwrap_or_else(|| name.to_owned()))
}

/// From now on an index answers, and the ones before it no longer; says which those are.
pub async fn replace(pool: &PgPool, name: &str) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let before = sqlx::query_scalar(
        "update search_indexes set state = 'retired', changed_at = now() where state = 'serving' and name <> $1 returning name",
    )
    .bind(name)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query("update search_indexes set state = 'serving', changed_at = now() where name = $1")
        .bind(name)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(before)
}

/// Forgets an index that is gone, and how far it was.
pub async fn forget(pool: &PgPool, name: &str, group: &str) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("delete from search_progress where index_name = $1").bind(name).execute(&mut *tx).await?;
    sqlx::query("delete from consumer_positions where consumer_group = $1").bind(group).execute(&mut *tx).await?;
    sqlx::query("delete from search_indexes where name = $1").bind(name).execute(&mut *tx).await?;
    tx.commit().await
}

/// How far a group is, over all partitions: what it has read is before these offsets.
pub async fn positions(pool: &PgPool, group: &str) -> Result<Vec<(i32, i64)>, sqlx::Error> {
    let rows = sqlx::query("select partition, next_offset from consumer_positions where consumer_group = $1")
        .bind(group)
        .fetch_all(pool)
        .await?;
    rows.iter().map(|row| Ok((row.try_get("partition")?, row.try_get("next_offset")?))).collect()
}

/// The last event of a tenant that an index reflects, and where its command stands.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Whose.
    pub tenant: TenantId,
    /// Its place among the tenant's events.
    pub sequence: i64,
    /// Where its command stands.
    pub position: Position,
}

const PROGRESS: Columns = &[
    ("index_name", Sql::Text),
    ("tenant_id", Sql::Uuid),
    ("sequence", Sql::Bigint),
    ("partition", Sql::Integer),
    ("log_offset", Sql::Bigint),
];

/// Moves an index's partition, once it reflects what was read on the way.
pub async fn advance(
    pool: &PgPool,
    index: &str,
    hold: &Hold,
    next_offset: i64,
    progress: &[Progress],
) -> Result<(), PositionError> {
    let mut statement = Statement::default();
    hold.advance_by(&mut statement, next_offset)?;
    let rows = Rows::of(progress.iter(), |row, one| {
        row.text(index)
            .uuid(one.tenant.0)
            .bigint(one.sequence)
            .integer(one.position.partition)
            .bigint(one.position.offset);
    });
    if !rows.is_empty() {
        let given = statement.given(PROGRESS, &rows)?;
        statement.part(
            "progressed",
            &format!(
                "insert into search_progress as p (index_name, tenant_id, sequence, partition, log_offset) select * from {given}
                 on conflict (index_name, tenant_id) do update
                     set sequence = excluded.sequence, partition = excluded.partition, log_offset = excluded.log_offset
                     where p.sequence < excluded.sequence"
            ),
        );
    }
    // What is written stands in the index: a crash that forgets the move costs a second look.
    statement.check("set_config('synchronous_commit', 'off', true)".to_owned());
    statement.run(pool).await.map_err(|error| hold.refused(error))
}

/// The index that answers, and how far it is for a tenant.
#[derive(Debug, Clone)]
pub struct Freshness {
    /// The index.
    pub index: String,
    /// The last command that it reflects; `None` before the first.
    pub reflects: Option<Position>,
    /// Events of the tenant that it does not reflect yet.
    pub events_behind: i64,
}

/// The index that answers and how far it is for a tenant, seen from its ledger; `None` where no index answers.
pub async fn freshness(connection: &mut PgConnection, tenant: TenantId) -> Result<Option<Freshness>, sqlx::Error> {
    // Before the events are counted: what was applied until now is among them.
    let applied = reflects(connection, tenant).await?;
    let row = sqlx::query(
        "select i.name, h.event_sequence, p.sequence, p.partition, p.log_offset
         from search_indexes i
         left join ledger_heads h on h.tenant_id = $1
         left join search_progress p on p.index_name = i.name and p.tenant_id = $1
         where i.state = 'serving'",
    )
    .bind(tenant.0)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let index = row.try_get("name")?;
    let newest: Option<i64> = row.try_get("event_sequence")?;
    let sequence: Option<i64> = row.try_get("sequence")?;
    let events_behind = newest.unwrap_or_default() - sequence.unwrap_or_default();
    if events_behind <= 0 {
        // Commands since the last event have changed nothing that is looked for.
        return Ok(Some(Freshness { index, reflects: applied, events_behind: 0 }));
    }
    let partition: Option<i32> = row.try_get("partition")?;
    let offset: Option<i64> = row.try_get("log_offset")?;
    let reflects = partition.zip(offset).map(|(partition, offset)| Position { partition, offset });
    Ok(Some(Freshness { index, reflects, events_behind }))
}
