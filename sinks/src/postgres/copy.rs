//! New rows by `COPY … FROM STDIN (FORMAT binary)`: PostgreSQL puts many on a page at once and logs the page, where an
//! `INSERT … SELECT FROM unnest` plans, and inserts and logs each row by itself.
//!
//! Only for tables that are added to. The layout is that of the PostgreSQL manual, "COPY", "Binary Format".

use sqlx::PgConnection;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// No flags, no header extension.
const HEADER_REST: [u8; 8] = [0; 8];
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
/// From 1970-01-01 to 2000-01-01, where PostgreSQL's time begins, in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// A row's first guess of a size.
const ROW_BYTES: usize = 256;

/// The rows in the layout of `COPY`, each field in the order of the statement's columns; empty where there are none.
pub(super) fn rows<T>(rows: impl Iterator<Item = T>, fields: impl Fn(&mut CopyRow<'_>, T)) -> Vec<u8> {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Vec::new();
    }
    let mut bytes = Vec::with_capacity(rows.size_hint().0 * ROW_BYTES);
    bytes.extend_from_slice(SIGNATURE);
    bytes.extend_from_slice(&HEADER_REST);
    for row in rows {
        let mut writer = CopyRow::begin(&mut bytes);
        fields(&mut writer, row);
        writer.end();
    }
    bytes.extend_from_slice(&TRAILER);
    bytes
}

/// Adds rows by `statement`.
pub(super) async fn copy(connection: &mut PgConnection, statement: &str, rows: Vec<u8>) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut stream = connection.copy_in_raw(statement).await?;
    stream.send(rows).await?;
    stream.finish().await.map(|_| ())
}

/// A row being written.
pub(super) struct CopyRow<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
    fields: i16,
}

impl<'a> CopyRow<'a> {
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
        // A value of 2 GiB would be refused long before.
        self.bytes.extend_from_slice(&i32::try_from(value.len()).unwrap_or(i32::MAX).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    fn null(&mut self) -> &mut Self {
        self.fields += 1;
        self.bytes.extend_from_slice(&NULL);
        self
    }

    pub(super) fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.field(value.as_bytes())
    }

    pub(super) fn bigint(&mut self, value: i64) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    pub(super) fn integer(&mut self, value: i32) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    pub(super) fn boolean(&mut self, value: bool) -> &mut Self {
        self.field(&[u8::from(value)])
    }

    /// Also for `json`, whose binary form is its text.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.field(value.as_bytes())
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.field(value)
    }

    pub(super) fn timestamp(&mut self, value: Timestamp) -> &mut Self {
        self.bigint(value.micros() - EPOCH_MICROS)
    }

    /// A field that may be null.
    pub(super) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => {
                write(self, value);
                self
            }
            None => self.null(),
        }
    }

    pub(super) fn optional_text(&mut self, value: Option<&str>) -> &mut Self {
        self.optional(value, |row, value| {
            row.text(value);
        })
    }
}
