//! Sums as the database gives them: `numeric`, read as text, since the driver has no type of that size.

use sqlx::postgres::PgRow;
use sqlx::{Error, Row as _};
use twh_domain::total::Total;

/// A whole number of millionths in a column of text.
pub(crate) fn total(row: &PgRow, column: &str) -> Result<Total, Error> {
    let text: &str = row.try_get(column)?;
    let micros = text.parse().map_err(|_| Error::Decode(format!("{column} is no whole number: {text}").into()))?;
    Ok(Total::from_micros(micros))
}
