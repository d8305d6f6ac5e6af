//! Pages of rows: read one by one, until there are as many as were asked for, or as many bytes as an answer may hold. What is
//! beyond that is never in memory.

use futures::{Stream, TryStreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

/// The bytes after which a page ends. One row that is larger stands alone in its page.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a column adds to an answer besides its text: its name, its quotes, and what a number or a UUID takes more as text.
const COLUMN_BYTES: usize = 32;

/// A page of rows.
#[derive(Debug)]
pub struct Page<T> {
    /// The rows, in their order.
    pub rows: Vec<T>,
    /// Whether there are more after them.
    pub has_more: bool,
}

/// What ended a page.
enum End {
    /// All rows that the statement gives were read, but for the one that tells that there are more.
    Read,
    /// The statement has more rows than were read.
    Unread,
}

/// Bytes of a row as it is answered, but for what JSON escapes.
fn bytes_of(row: &PgRow) -> usize {
    let of =
        |column: usize| row.try_get_raw(column).ok().and_then(|value| value.as_bytes().ok()).map_or(0, <[u8]>::len);
    (0..row.len()).map(|column| of(column).saturating_add(COLUMN_BYTES)).sum()
}

async fn fill<T>(
    mut found: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
    limit: i64,
    read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
) -> Result<(Page<T>, End), sqlx::Error> {
    let limit = usize::try_from(limit).unwrap_or_default();
    let (mut rows, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = found.try_next().await? {
        if rows.len() == limit {
            return Ok((Page { rows, has_more: true }, End::Read));
        }
        bytes = bytes.saturating_add(bytes_of(&row));
        if bytes > PAGE_BYTES_MAX && !rows.is_empty() {
            return Ok((Page { rows, has_more: true }, End::Unread));
        }
        rows.push(read(&row)?);
    }
    Ok((Page { rows, has_more: false }, End::Read))
}

/// A page of what a statement gives. The statement is to give one row more than `limit`, which tells that there are more.
///
/// A connection with rows left unread is closed: the next to have it would have to read them all.
pub async fn read<T>(
    connection: &mut PoolConnection<Postgres>,
    query: Query<'_, Postgres, PgArguments>,
    limit: i64,
    row: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
) -> Result<Page<T>, sqlx::Error> {
    let filled = fill(query.fetch(&mut **connection), limit, row).await;
    if !matches!(filled, Ok((_, End::Read))) {
        connection.close_on_drop();
    }
    filled.map(|(page, _)| page)
}

/// As [`read`], of small rows within a transaction, which ends by itself.
pub async fn take<T>(
    found: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
    limit: i64,
    row: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
) -> Result<Page<T>, sqlx::Error> {
    fill(found, limit, row).await.map(|(page, _)| page)
}
