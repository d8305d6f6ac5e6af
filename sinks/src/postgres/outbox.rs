//! The outbox: what was committed and is not yet known to be on Kafka, a row a batch.

use sqlx::{PgConnection, PgPool, Row};

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRecord {
    /// The topic's name without the environment's prefix.
    pub topic: &'static str,
    /// An explicit partition; by the key where absent.
    pub partition: Option<i32>,
    /// The key.
    pub key: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
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

/// Adds a batch, within the transaction that made it.
pub(super) async fn insert(
    connection: &mut PgConnection,
    partition: i32,
    next_offset: i64,
    records: &[OutboxRecord],
) -> Result<(), sqlx::Error> {
    let topics: Vec<&str> = records.iter().map(|r| r.topic).collect();
    let partitions: Vec<i32> = records.iter().map(|r| r.partition.unwrap_or(-1)).collect();
    let keys: Vec<&str> = records.iter().map(|r| r.key.as_str()).collect();
    let headers: Vec<String> = records.iter().map(|r| headers_text(&r.headers)).collect();
    let payloads: Vec<&[u8]> = records.iter().map(|r| r.payload.as_slice()).collect();
    sqlx::query("insert into outbox (partition, next_offset, topics, partitions, keys, headers, payloads) values ($1, $2, $3, $4, $5, $6, $7)")
        .bind(partition)
        .bind(next_offset)
        .bind(topics)
        .bind(partitions)
        .bind(keys)
        .bind(headers)
        .bind(payloads)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets what is published, within a transaction.
pub(super) async fn delete_through(
    connection: &mut PgConnection,
    partition: i32,
    next_offset: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from outbox where partition = $1 and next_offset <= $2")
        .bind(partition)
        .bind(next_offset)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets what is published.
pub async fn published(pool: &PgPool, partition: i32, next_offset: i64) -> Result<(), sqlx::Error> {
    delete_through(&mut *pool.acquire().await?, partition, next_offset).await
}

/// The oldest batch of a partition after `after`, if there is one.
pub async fn oldest_after(
    pool: &PgPool,
    partition: i32,
    after: i64,
    topic_of: impl Fn(&str) -> Option<&'static str>,
) -> Result<Option<OutboxBatch>, sqlx::Error> {
    let row = sqlx::query(
        "select next_offset, topics, partitions, keys, headers, payloads from outbox
         where partition = $1 and next_offset > $2 order by next_offset limit 1",
    )
    .bind(partition)
    .bind(after)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let topics: Vec<String> = row.try_get("topics")?;
    let partitions: Vec<i32> = row.try_get("partitions")?;
    let keys: Vec<String> = row.try_get("keys")?;
    let headers: Vec<String> = row.try_get("headers")?;
    let payloads: Vec<Vec<u8>> = row.try_get("payloads")?;
    let mut records = Vec::with_capacity(topics.len());
    for ((((topic, partition), key), headers), payload) in
        topics.into_iter().zip(partitions).zip(keys).zip(headers).zip(payloads)
    {
        let known = topic_of(&topic)
            .ok_or_else(|| sqlx::Error::Decode(format!("the outbox names an unknown topic: {topic}").into()))?;
        let headers = serde_json::from_str(if headers.is_empty() { "[]" } else { &headers })
            .map_err(|e| sqlx::Error::Decode(e.into()))?;
        records.push(OutboxRecord {
            topic: known,
            partition: (partition >= 0).then_some(partition),
            key,
            headers,
            payload,
        });
    }
    Ok(Some(OutboxBatch { next_offset: row.try_get("next_offset")?, records }))
}

fn headers_text(headers: &[(String, String)]) -> String {
    if headers.is_empty() { String::new() } else { serde_json::to_string(headers).unwrap_or_default() }
}
