//! Columns as values of ours.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use twh_domain::decimal::Quantity;
use twh_domain::timestamp::Timestamp;

pub(crate) fn micros(row: &PgRow, column: &str) -> Result<Quantity, sqlx::Error> {
    let micros: i64 = row.try_get(column)?;
    Quantity::from_micros(micros)
        .ok_or_else(|| sqlx::Error::Decode(format!("{column} is out of range: {micros}").into()))
}

pub(super) fn time(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Ok(row.try_get::<OffsetDateTime, _>(column)?.into())
}
