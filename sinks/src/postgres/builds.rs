//! The builds of read models: which one answers, and how far each is.

use super::PgPool;
use super::positions::{Hold, PositionError};
use super::sqlx::{self, PgConnection, Row as _};
use super::standing::reflects;
use super::statement::{Columns, Rows, Sql, Statement};
use crate::kafka::Reached;
use std::collections::HashMap;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;

/// A read model that is made of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// The index of search.
    Search,
    /// What there is of items, what comes and what goes.
    Supply,
}

impl Projection {
    /// Every one.
    pub const ALL: &[Self] = &[Self::Search, Self::Supply];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Supply => "supply",
        }
    }

    /// The consumer group that makes it, without prefixes.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Search => "projections-search",
            Self::Supply => "projections-supply",
        }
    }
}

/// What a build is for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being made and answers nothing.
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

/// One build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Of what.
    pub projection: Projection,
    /// Its number, which the rows that it is made of carry.
    pub number: i64,
    /// Its name, unique among all.
    pub name: String,
}

impl Build {
    /// The name that its positions stand under.
    #[must_use]
    pub fn positions(&self) -> String {
        format!("{}/{}", self.projection.group(), self.name)
    }
}

/// The newest build in a state.
pub async fn in_state(pool: &PgPool, projection: Projection, state: State) -> Result<Option<Build>, sqlx::Error> {
    let row: Option<(i64, String)> = sqlx::query_as(
        "select number, name from projection_builds where projection = $1 and state = $2 order by number desc limit 1",
    )
    .bind(projection.name())
    .bind(state.name())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(number, name)| Build { projection, number, name }))
}

/// The build that is in a state, or a new one of this name, where none was.
pub async fn begin(pool: &PgPool, projection: Projection, name: &str, state: State) -> Result<Build, sqlx::Error> {
    if let Some(known) = in_state(pool, projection, state).await? {
        return Ok(known);
    }
    sqlx::query("insert into projection_builds (projection, name, state) values ($1, $2, $3) on conflict do nothing")
        .bind(projection.name())
        .bind(name)
        .bind(state.name())
        .execute(pool)
        .await?;
    in_state(pool, projection, state).await?.ok_or(sqlx::Error::RowNotFound)
}

/// From now on a build answers, and the ones before it no longer.
pub async fn replace(pool: &PgPool, build: &Build) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query(
        "update projection_builds set state = 'retired', changed_at = now()
         where projection = $1 and state = 'serving' and number <> $2",
    )
    .bind(build.projection.name())
    .bind(build.number)
    .execute(&mut *tx)
    .await?;
    sqlx::query("update projection_builds set state = 'serving', changed_at = now() where number = $1")
        .bind(build.number)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// The builds that answered once and do so no longer.
pub async fn retired(pool: &PgPool, projection: Projection) -> Result<Vec<Build>, sqlx::Error> {
    let rows: Vec<(i64, String)> =
        sqlx::query_as("select number, name from projection_builds where projection = $1 and state = 'retired'")
            .bind(projection.name())
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().map(|(number, name)| Build { projection, number, name }).collect())
}

/// Takes a build's positions away: from now on nobody writes to it.
pub async fn end(pool: &PgPool, build: &Build) -> Result<(), sqlx::Error> {
    let positions = build.positions();
    sqlx::query("delete from consumer_positions where consumer_group = $1").bind(&positions).execute(pool).await?;
    sqlx::query("delete from standing_halts where consumer_group = $1").bind(&positions).execute(pool).await?;
    Ok(())
}

/// Forgets a build that was ended and is gone.
pub async fn forget(pool: &PgPool, build: &Build) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    for table in ["projection_progress", "projection_left_out"] {
        sqlx::query(&format!("delete from {table} where build = $1")).bind(build.number).execute(&mut *tx).await?;
    }
    sqlx::query("delete from projection_builds where number = $1").bind(build.number).execute(&mut *tx).await?;
    tx.commit().await
}

/// How far a build is, over all partitions: what it has read is before these offsets.
pub async fn positions(pool: &PgPool, build: &Build) -> Result<HashMap<i32, i64>, sqlx::Error> {
    let rows: Vec<(i32, i64)> =
        sqlx::query_as("select partition, next_offset from consumer_positions where consumer_group = $1")
            .bind(build.positions())
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().collect())
}

/// The last event of a tenant that a build reflects, and where its command stands.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Whose.
    pub tenant: TenantId,
    /// Its place among the tenant's events.
    pub sequence: i64,
    /// Where its command stands.
    pub position: Position,
}

const PROGRESS: Columns =
    &[("tenant_id", Sql::Uuid), ("sequence", Sql::Bigint), ("partition", Sql::Integer), ("log_offset", Sql::Bigint)];

/// The last events of tenants that a build reflects.
pub(crate) async fn reflected(
    connection: &mut PgConnection,
    build: &Build,
    tenants: &[TenantId],
) -> Result<HashMap<TenantId, i64>, sqlx::Error> {
    let tenants: Vec<_> = tenants.iter().map(|tenant| tenant.0).collect();
    let rows: Vec<(uuid::Uuid, i64)> =
        sqlx::query_as("select tenant_id, sequence from projection_progress where build = $1 and tenant_id = any ($2)")
            .bind(build.number)
            .bind(tenants)
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(tenant, sequence)| (TenantId(tenant), sequence)).collect())
}

/// Notes that a build leaves an event out, which it passes over.
pub async fn leave_out(pool: &PgPool, build: &Build, event: &Progress, reason: &str) -> Result<(), sqlx::Error> {
    let Progress { tenant, sequence, position } = event;
    sqlx::query(
        "with noted as (
             insert into projection_left_out (build, tenant_id, sequence, partition, log_offset, reason)
             values ($1, $2, $3, $4, $5, $6) on conflict do nothing)
         insert into projection_progress as p (build, tenant_id, sequence, partition, log_offset)
         values ($1, $2, $3, $4, $5)
         on conflict (build, tenant_id) do update
             set sequence = excluded.sequence, partition = excluded.partition, log_offset = excluded.log_offset
             where p.sequence < excluded.sequence",
    )
    .bind(build.number)
    .bind(tenant.0)
    .bind(sequence)
    .bind(position.partition)
    .bind(position.offset)
    .bind(reason)
    .execute(pool)
    .await
    .map(|_| ())
}

/// Moves a build's partition, once it reflects what was read on the way.
pub async fn advance(
    pool: &PgPool,
    build: &Build,
    hold: &Hold,
    reached: Reached,
    progress: &[Progress],
) -> Result<(), PositionError> {
    let mut statement = Statement::default();
    advance_by(&mut statement, build, hold, reached, progress)?;
    statement.run(pool).await.map_err(|error| hold.refused(error))
}

/// Moves a build's partition, as a part of the statement that writes what was read on the way.
pub(crate) fn advance_by(
    statement: &mut Statement,
    build: &Build,
    hold: &Hold,
    reached: Reached,
    progress: &[Progress],
) -> Result<(), sqlx::Error> {
    hold.advance_by(statement, reached)?;
    let rows = Rows::of(progress.iter(), |row, one| {
        row.uuid(one.tenant.0).bigint(one.sequence).integer(one.position.partition).bigint(one.position.offset);
    });
    if !rows.is_empty() {
        let given = statement.given(PROGRESS, &rows)?;
        statement.part(
            "progressed",
            &format!(
                "insert into projection_progress as p (build, tenant_id, sequence, partition, log_offset)
                 select {}, * from {given}
                 on conflict (build, tenant_id) do update
                     set sequence = excluded.sequence, partition = excluded.partition, log_offset = excluded.log_offset
                     where p.sequence < excluded.sequence",
                build.number
            ),
        );
    }
    // The events are kept: a crash that forgets the move reads them once more.
    statement.check("set_config('synchronous_commit', 'off', true)".to_owned());
    Ok(())
}

/// The build that answers, and how far it is for a tenant.
#[derive(Debug, Clone)]
pub struct Freshness {
    /// The build.
    pub build: Build,
    /// The last command that it reflects; `None` before the first.
    pub reflects: Option<Position>,
    /// Events of the tenant.
    pub events: i64,
    /// Those of them that it does not reflect yet.
    pub events_behind: i64,
    /// Those that it leaves out, since its store refuses them: what it says of the tenant lacks them.
    pub events_left_out: i64,
}

impl Freshness {
    /// Whether it knows anything of the tenant: the first build of a ledger that was there before it has read nothing at first.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.events_behind == 0 || self.reflects.is_some()
    }

    /// Whether it reflects what was asked for.
    #[must_use]
    pub fn reaches(&self, wanted: Position) -> bool {
        self.events_behind == 0
            || self.reflects.is_some_and(|at| at.partition == wanted.partition && at.offset >= wanted.offset)
    }
}

/// The build that answers and how far it is for a tenant, seen from its ledger; `None` where none answers.
pub async fn freshness(
    connection: &mut PgConnection,
    projection: Projection,
    tenant: TenantId,
) -> Result<Option<Freshness>, sqlx::Error> {
    // Before the events are counted: what was applied until now is among them.
    let applied = reflects(connection, tenant).await?;
    let row = sqlx::query(
        "select b.number, b.name, h.event_sequence, p.sequence, p.partition, p.log_offset,
             (select count(*) from projection_left_out l where l.build = b.number and l.tenant_id = $1) as left_out
         from projection_builds b
         left join ledger_heads h on h.tenant_id = $1
         left join projection_progress p on p.build = b.number and p.tenant_id = $1
         where b.projection = $2 and b.state = 'serving'",
    )
    .bind(tenant.0)
    .bind(projection.name())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let build = Build { projection, number: row.try_get("number")?, name: row.try_get("name")? };
    let newest: Option<i64> = row.try_get("event_sequence")?;
    let sequence: Option<i64> = row.try_get("sequence")?;
    let events = newest.unwrap_or_default();
    let events_left_out = row.try_get("left_out")?;
    let events_behind = events - sequence.unwrap_or_default();
    if events_behind <= 0 {
        // Commands since the last event have changed nothing that it shows.
        return Ok(Some(Freshness { build, reflects: applied, events, events_behind: 0, events_left_out }));
    }
    let partition: Option<i32> = row.try_get("partition")?;
    let offset: Option<i64> = row.try_get("log_offset")?;
    // The rest of the last command's events may be among those that are behind.
    let before = |(partition, offset)| (offset > 0).then(|| Position { partition, offset: offset - 1 });
    let reflects = partition.zip(offset).and_then(before);
    Ok(Some(Freshness { build, reflects, events, events_behind, events_left_out }))
}
