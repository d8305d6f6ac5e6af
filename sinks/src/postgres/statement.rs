//! One SQL statement for everything that a batch changes: its parts are `with` clauses over rows that come as arguments, so
//! that a small batch is one round trip and its own transaction.
//!
//! Where a table gets many rows, they follow by `COPY … FROM STDIN (FORMAT binary)` in a transaction with the statement:
//! PostgreSQL then puts many on a page at once and logs the page, where an `INSERT` logs each row by itself. Rows are encoded
//! once, in the layout of the PostgreSQL manual, "COPY", "Binary Format"; an array's elements have the same form as its fields.

use crate::kafka::Mark;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::{Arguments, Encode, PgConnection, PgPool, Postgres, Type};
use std::fmt::Write as _;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// A table that gets more rows than this gets them by `COPY`.
const INSERTED_ROWS_MAX: usize = 100;

/// How `expect_moved` says that a partition has another writer; the detail is its number.
pub(crate) const FENCED: &str = "TWH01";

const COPY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// No flags, no header extension.
const COPY_HEADER_REST: [u8; 8] = [0; 8];
const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
const NULL: i32 = -1;
/// From 1970-01-01 to 2000-01-01, where PostgreSQL's time begins, in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const NUMERIC_BASE: u128 = 10_000;
const NUMERIC_NEGATIVE: u16 = 0x4000;
/// A row's first guess of a size.
const ROW_BYTES: usize = 256;

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sql {
    Bigint,
    Boolean,
    Bytea,
    Integer,
    Json,
    Numeric,
    Text,
    Timestamptz,
    Uuid,
}

impl Sql {
    const fn name(self) -> &'static str {
        match self {
            Self::Bigint => "bigint",
            Self::Boolean => "boolean",
            Self::Bytea => "bytea",
            Self::Integer => "integer",
            Self::Json => "json",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Timestamptz => "timestamptz",
            Self::Uuid => "uuid",
        }
    }

    /// The type's and its array's number, as every PostgreSQL has them (`pg_type.dat`).
    const fn oids(self) -> (u32, u32) {
        match self {
            Self::Bigint => (20, 1016),
            Self::Boolean => (16, 1000),
            Self::Bytea => (17, 1001),
            Self::Integer => (23, 1007),
            Self::Json => (114, 199),
            Self::Numeric => (1700, 1231),
            Self::Text => (25, 1009),
            Self::Timestamptz => (1184, 1185),
            Self::Uuid => (2950, 2951),
        }
    }
}

/// Names and types of rows' fields, in order.
pub(crate) type Columns = &'static [(&'static str, Sql)];

/// A statement being put together.
#[derive(Default)]
pub(crate) struct Statement {
    parts: Vec<String>,
    checks: Vec<String>,
    arguments: PgArguments,
    count: usize,
    copies: Vec<(String, Vec<u8>)>,
}

impl Statement {
    /// Gives rows as arguments: an expression for `from`, with the columns' names.
    pub(crate) fn given(&mut self, columns: Columns, rows: &Rows) -> Result<String, sqlx::Error> {
        let mut arrays = String::new();
        for (number, (_, sql)) in columns.iter().enumerate() {
            self.arguments.add(Column::of(rows, number, *sql)).map_err(sqlx::Error::Encode)?;
            self.count += 1;
            let comma = if arrays.is_empty() { "" } else { ", " };
            let _ = write!(arrays, "{comma}${}::{}[]", self.count, sql.name());
        }
        Ok(format!("unnest({arrays}) as given ({})", names(columns)))
    }

    /// Adds a part, which others may read by its name. All parts see the tables as they were before the statement.
    pub(crate) fn part(&mut self, name: &str, sql: &str) {
        self.parts.push(format!("{name} as ({sql})"));
    }

    /// Adds an expression that is computed before the parts that no check reads; where it fails, nothing is changed.
    pub(crate) fn check(&mut self, expression: String) {
        self.checks.push(expression);
    }

    /// Adds rows to a table.
    pub(crate) fn insert(&mut self, table: &str, columns: Columns, rows: Rows) -> Result<(), sqlx::Error> {
        if rows.count > INSERTED_ROWS_MAX {
            let copy = format!("copy {table} ({}) from stdin (format binary)", names(columns));
            self.copies.push((copy, rows.into_copy()));
        } else {
            let given = self.given(columns, &rows)?;
            self.part(
                &format!("into_{table}"),
                &format!("insert into {table} ({}) select * from {given}", names(columns)),
            );
        }
        Ok(())
    }

    /// Does it all, or nothing.
    pub(crate) async fn run(self, pool: &PgPool) -> Result<(), sqlx::Error> {
        if self.copies.is_empty() {
            return self.run_in(&mut *pool.acquire().await?).await;
        }
        let mut tx = pool.begin().await?;
        self.run_in(&mut tx).await?;
        tx.commit().await
    }

    /// Does it within a transaction.
    pub(crate) async fn run_in(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // All rows may be too many for a part.
        if !self.parts.is_empty() {
            let sql = format!("with {} select {}", self.parts.join(",\n"), self.checks.join(", "));
            sqlx::query_with(&sql, self.arguments).execute(&mut *connection).await?;
        }
        for (statement, rows) in self.copies {
            copy(connection, &statement, rows).await?;
        }
        Ok(())
    }
}

fn names(columns: Columns) -> String {
    columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

async fn copy(connection: &mut PgConnection, statement: &str, rows: Vec<u8>) -> Result<(), sqlx::Error> {
    let mut stream = connection.copy_in_raw(statement).await?;
    stream.send(rows).await?;
    stream.finish().await.map(|_| ())
}

/// Rows, encoded one after another: each its number of fields, and each field led by its length.
pub(crate) struct Rows {
    count: usize,
    bytes: Vec<u8>,
}

impl Rows {
    /// Encodes rows, the fields of each in the order of the columns that they are meant for.
    pub(crate) fn of<T>(rows: impl Iterator<Item = T>, fields: impl Fn(&mut Row<'_>, T)) -> Self {
        // Room for what goes before them in a `COPY`.
        let mut bytes = Vec::with_capacity(rows.size_hint().0.saturating_mul(ROW_BYTES));
        bytes.extend_from_slice(COPY_SIGNATURE);
        bytes.extend_from_slice(&COPY_HEADER_REST);
        let mut count = 0;
        for row in rows {
            let mut writer = Row::begin(&mut bytes);
            fields(&mut writer, row);
            writer.end();
            count += 1;
        }
        Self { count, bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn into_copy(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&COPY_TRAILER);
        self.bytes
    }

    /// One field of every row, as encoded; absent where it is null.
    fn fields(&self, number: usize) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = self.bytes.get(COPY_SIGNATURE.len() + COPY_HEADER_REST.len()..).unwrap_or_default();
        std::iter::from_fn(move || {
            let count = i16::from_be_bytes(take(&mut rest)?);
            let mut wanted = None;
            for field in 0..usize::try_from(count).ok()? {
                let length = i32::from_be_bytes(take(&mut rest)?);
                let value = match usize::try_from(length) {
                    Ok(length) => Some(rest.split_off(..length)?),
                    Err(_) => None,
                };
                if field == number {
                    wanted = value;
                }
            }
            Some(wanted)
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    bytes.split_off(..N)?.try_into().ok()
}

/// A row being written.
pub(crate) struct Row<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
    fields: i16,
}

impl<'a> Row<'a> {
    fn begin(bytes: &'a mut Vec<u8>) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 2]);
        Self { bytes, start, fields: 0 }
    }

    fn end(self) {
        if let Some(count) = self.bytes.get_mut(self.start..self.start + 2) {
            count.copy_from_slice(&self.fields.to_be_bytes());
        }
    }

    fn field(&mut self, value: &[u8]) -> &mut Self {
        self.fields += 1;
        put(self.bytes, Some(value));
        self
    }

    pub(crate) fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.field(value.as_bytes())
    }

    pub(crate) fn bigint(&mut self, value: i64) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    /// A whole number. Its form is that of PostgreSQL's `numeric_recv`: how many digits there are to the base of 10,000, the
    /// power of the first of them, the sign, how many decimals are shown, and the digits.
    pub(crate) fn numeric(&mut self, value: i128) -> &mut Self {
        let mut digits = Vec::new();
        let mut rest = value.unsigned_abs();
        while rest > 0 {
            digits.push(u16::try_from(rest % NUMERIC_BASE).unwrap_or_default());
            rest /= NUMERIC_BASE;
        }
        let count = u16::try_from(digits.len()).unwrap_or_default();
        let sign = if value < 0 { NUMERIC_NEGATIVE } else { 0 };
        let header = [count, count.saturating_sub(1), sign, 0];
        let bytes: Vec<u8> = header.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect();
        self.field(&bytes)
    }

    pub(crate) fn integer(&mut self, value: i32) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.field(&[u8::from(value)])
    }

    /// Also for `json`, whose binary form is its text.
    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.field(value.as_bytes())
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.field(value)
    }

    pub(crate) fn timestamp(&mut self, value: Timestamp) -> &mut Self {
        self.bigint(value.micros().saturating_sub(EPOCH_MICROS))
    }

    /// A field that may be null.
    pub(crate) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => {
                self.fields += 1;
                put(self.bytes, None);
            }
        }
        self
    }

    /// Two fields: an offset and a digest.
    pub(crate) fn optional_mark(&mut self, mark: Option<&Mark>) -> &mut Self {
        self.optional(mark, |row, mark| {
            row.bigint(mark.offset);
        })
        .optional(mark, |row, mark| {
            row.bytes(&mark.digest);
        })
    }

    pub(crate) fn optional_text(&mut self, value: Option<&str>) -> &mut Self {
        self.optional(value, |row, value| {
            row.text(value);
        })
    }
}

fn put(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    // A value of 2 GiB would be refused long before.
    let length = value.map_or(NULL, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value.unwrap_or_default());
}

/// One field of all rows, as an array.
struct Column {
    sql: Sql,
    elements: i32,
    nulls: bool,
    bytes: Vec<u8>,
}

impl Column {
    fn of(rows: &Rows, number: usize, sql: Sql) -> Self {
        let mut column = Self { sql, elements: 0, nulls: false, bytes: Vec::new() };
        for value in rows.fields(number) {
            column.elements += 1;
            column.nulls |= value.is_none();
            put(&mut column.bytes, value);
        }
        column
    }
}

impl Type<Postgres> for Column {
    fn type_info() -> PgTypeInfo {
        // Each says its own in `produces`.
        PgTypeInfo::with_oid(Oid(Sql::Bytea.oids().1))
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let element = self.sql.oids().0;
        let dimensions = i32::from(self.elements > 0);
        for header in [dimensions, i32::from(self.nulls)] {
            buffer.extend_from_slice(&header.to_be_bytes());
        }
        buffer.extend_from_slice(&element.to_be_bytes());
        if self.elements > 0 {
            let lower_bound = 1_i32;
            for header in [self.elements, lower_bound] {
                buffer.extend_from_slice(&header.to_be_bytes());
            }
        }
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.sql.oids().1)))
    }
}
