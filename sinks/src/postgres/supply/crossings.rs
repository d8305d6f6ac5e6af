//! Items that came down to their reorder point: noted in the statement that brings them down, and kept until the ledger has been
//! asked to tell of them.

use super::write::quantity;
use crate::postgres::PgPool;
use crate::postgres::builds::Build;
use crate::postgres::sqlx::{self, Row as _, postgres::PgRow};
use crate::postgres::statement::{Columns, Rows, Sql, Statement};
use twh_domain::decimal::Quantity;
use twh_domain::id::{ItemId, TenantId};
use uuid::Uuid;

/// Crossings asked for at a time.
const PAGE: i64 = 1_000;

/// An item that came down to its reorder point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// Whose.
    pub tenant: TenantId,
    /// Of what.
    pub item: ItemId,
    /// The event that brought it down.
    pub sequence: i64,
    /// What could be promised then.
    pub available: Quantity,
    /// The point.
    pub reorder_point: Quantity,
}

const CROSSINGS: Columns = &[
    ("partition", Sql::Integer),
    ("tenant_id", Sql::Uuid),
    ("item_id", Sql::Uuid),
    ("sequence", Sql::Bigint),
    ("available_micro", Sql::Bigint),
    ("reorder_point_micro", Sql::Bigint),
];

/// Notes crossings, as a part of a statement.
pub(super) fn insert_by(
    statement: &mut Statement,
    build: &Build,
    partition: i32,
    crossings: &[Crossing],
) -> Result<(), sqlx::Error> {
    let rows = Rows::of(crossings.iter(), |row, crossing| {
        row.integer(partition)
            .uuid(crossing.tenant.0)
            .uuid(crossing.item.0)
            .bigint(crossing.sequence)
            .bigint(crossing.available.micros())
            .bigint(crossing.reorder_point.micros());
    });
    super::write::upsert(
        statement,
        build,
        "supply_crossings",
        CROSSINGS,
        &rows,
        "(build, partition, tenant_id, item_id, sequence) do nothing",
    )
}

/// The first of a partition's crossings that the ledger is to be asked to tell of.
pub async fn crossings(pool: &PgPool, build: &Build, partition: i32) -> Result<Vec<Crossing>, sqlx::Error> {
    let rows = sqlx::query(
        "select tenant_id, item_id, sequence, available_micro, reorder_point_micro from supply_crossings
         where build = $1 and partition = $2 order by tenant_id, item_id, sequence limit $3",
    )
    .bind(build.number)
    .bind(partition)
    .bind(PAGE)
    .fetch_all(pool)
    .await?;
    let crossing = |row: &PgRow| {
        Ok(Crossing {
            tenant: TenantId(row.try_get("tenant_id")?),
            item: ItemId(row.try_get("item_id")?),
            sequence: row.try_get("sequence")?,
            available: quantity(row, "available_micro")?,
            reorder_point: quantity(row, "reorder_point_micro")?,
        })
    };
    rows.iter().map(crossing).collect()
}

/// Forgets crossings that the ledger has been asked to tell of.
pub async fn forget_crossings(
    pool: &PgPool,
    build: &Build,
    partition: i32,
    told: &[Crossing],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from supply_crossings c using unnest($3::uuid[], $4::uuid[], $5::bigint[]) as told (tenant_id, item_id, sequence)
         where c.build = $1 and c.partition = $2 and c.tenant_id = told.tenant_id and c.item_id = told.item_id
           and c.sequence = told.sequence",
    )
    .bind(build.number)
    .bind(partition)
    .bind(told.iter().map(|crossing| crossing.tenant.0).collect::<Vec<Uuid>>())
    .bind(told.iter().map(|crossing| crossing.item.0).collect::<Vec<Uuid>>())
    .bind(told.iter().map(|crossing| crossing.sequence).collect::<Vec<i64>>())
    .execute(pool)
    .await
    .map(|_| ())
}
