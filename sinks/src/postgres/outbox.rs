//! The outbox: what was committed and is not yet known to be on Kafka, a row a batch.
//!
//! A batch is kept as one compressed value: it is written by every commit, deleted soon after, and read only after trouble.

use super::statement::{Columns, Rows, Sql, Statement};
use crate::kafka::RecordHeader;
use sqlx::{PgPool, Row};
use std::borrow::Cow;

/// The first byte of a kept batch: how it is written.
const FORMAT: u8 = 1;

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRecord {
    /// The topic's name without the environment's prefix.
    pub topic: &'static str,
    /// An explicit partition; by the key where absent.
    pub partition: Option<i32>,
    /// The key.
    pub key: Vec<u8>,
    /// Headers.
    pub headers: Vec<RecordHeader>,
    /// The value, in wire format.
    pub payload: Vec<u8>,
}

/// A batch as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxBatch {
    /// Its place: where the ledger stood after it.
    pub next_offset: i64,
    /// Its records, in order.
    pub records: Vec<OutboxRecord>,
}

const BATCH: Columns = &[("partition", Sql::Integer), ("next_offset", Sql::Bigint), ("records", Sql::Bytea)];

/// Adds batches (partition, place, records), within the statement that makes them.
pub(super) fn insert<'a>(
    statement: &mut Statement,
    batches: impl Iterator<Item = (i32, i64, &'a [OutboxRecord])>,
) -> Result<(), sqlx::Error> {
    let rows = Rows::of(batches, |row, (partition, next_offset, records)| {
        row.integer(partition).bigint(next_offset).bytes(&packed(records));
    });
    statement.insert("outbox", BATCH, rows)
}

/// Forgets what is published.
pub async fn published(pool: &PgPool, partition: i32, next_offset: i64) -> Result<(), sqlx::Error> {
    sqlx::query("delete from outbox where partition = $1 and next_offset <= $2")
        .bind(partition)
        .bind(next_offset)
        .execute(pool)
        .await?;
    Ok(())
}

/// The oldest batch of a partition after `after`, if there is one.
pub async fn oldest_after(
    pool: &PgPool,
    partition: i32,
    after: i64,
    topic_of: impl Fn(&str) -> Option<&'static str>,
) -> Result<Option<OutboxBatch>, sqlx::Error> {
    let row = sqlx::query(
        "select next_offset, records from outbox where partition = $1 and next_offset > $2 order by next_offset limit 1",
    )
    .bind(partition)
    .bind(after)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let records = unpacked(row.try_get("records")?, topic_of).map_err(|reason| sqlx::Error::Decode(reason.into()))?;
    Ok(Some(OutboxBatch { next_offset: row.try_get("next_offset")?, records }))
}

/// The records one after another, each text and value led by its length, as one LZ4 block.
fn packed(records: &[OutboxRecord]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.iter().map(|record| record.payload.len() + 256).sum());
    for record in records {
        put(&mut bytes, record.topic.as_bytes());
        bytes.extend_from_slice(&record.partition.unwrap_or(-1).to_be_bytes());
        put(&mut bytes, &record.key);
        bytes.extend_from_slice(&length(record.headers.len()));
        for (name, value) in &record.headers {
            put(&mut bytes, name.as_bytes());
            put(&mut bytes, value.as_bytes());
        }
        put(&mut bytes, &record.payload);
    }
    let mut packed = vec![FORMAT];
    packed.extend_from_slice(&lz4_flex::block::compress_prepend_size(&bytes));
    packed
}

fn put(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(&length(value.len()));
    bytes.extend_from_slice(value);
}

/// No part of a record comes near 4 GiB: Kafka refuses far smaller ones.
fn length(of: usize) -> [u8; 4] {
    u32::try_from(of).unwrap_or(u32::MAX).to_be_bytes()
}

fn unpacked(packed: &[u8], topic_of: impl Fn(&str) -> Option<&'static str>) -> Result<Vec<OutboxRecord>, String> {
    let (FORMAT, packed) = packed.split_first().map(|(format, rest)| (*format, rest)).ok_or("it is empty")? else {
        return Err("the outbox holds a batch in a format of a later version".to_owned());
    };
    let bytes = lz4_flex::block::decompress_size_prepended(packed).map_err(|error| error.to_string())?;
    let mut rest = Reader(&bytes);
    let mut records = Vec::new();
    while !rest.0.is_empty() {
        let name = rest.text()?;
        let topic = topic_of(&name).ok_or_else(|| format!("the outbox names an unknown topic: {name}"))?;
        let partition = i32::from_be_bytes(rest.array()?);
        let key = rest.value()?.to_vec();
        let headers = (0..rest.length()?).map(|_| Ok((rest.text()?, rest.text()?))).collect::<Result<_, String>>()?;
        let payload = rest.value()?.to_vec();
        records.push(OutboxRecord { topic, partition: (partition >= 0).then_some(partition), key, headers, payload });
    }
    Ok(records)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a batch of the outbox ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array(&mut self) -> Result<[u8; 4], String> {
        self.take(4)?.try_into().map_err(|_| "four bytes are not four".to_owned())
    }

    fn length(&mut self) -> Result<usize, String> {
        usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|error| error.to_string())
    }

    fn value(&mut self) -> Result<&'a [u8], String> {
        let length = self.length()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<Cow<'static, str>, String> {
        String::from_utf8(self.value()?.to_vec()).map(Cow::Owned).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<OutboxRecord> {
        let headers = vec![("ce_type".into(), "order.shipped".into()), ("empty".into(), "".into())];
        vec![
            OutboxRecord { topic: "a", partition: None, key: b"k".to_vec(), headers, payload: vec![0, 255, 7] },
            OutboxRecord { topic: "b", partition: Some(3), key: Vec::new(), headers: Vec::new(), payload: Vec::new() },
        ]
    }

    fn known(name: &str) -> Option<&'static str> {
        ["a", "b"].into_iter().find(|known| *known == name)
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        assert_eq!(unpacked(&packed(&records()), known), Ok(records()));
        assert_eq!(unpacked(&packed(&[]), known), Ok(Vec::new()));
    }

    #[test]
    fn what_is_not_a_batch_is_refused() {
        let whole = packed(&records());
        assert!(unpacked(&[], known).is_err());
        assert!(unpacked(&[2], known).unwrap_err().contains("later version"));
        assert!(unpacked(&whole[..whole.len() - 1], known).is_err());
        assert!(unpacked(&whole, |_| None).unwrap_err().contains("unknown topic"));
    }
}
