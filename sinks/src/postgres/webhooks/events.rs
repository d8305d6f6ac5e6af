//! Events as they are sent, kept for retries, replays and those who listen.

use crate::postgres::page::{self, Page};
use crate::postgres::statement::{Columns, Rows, Sql, Statement};
use crate::postgres::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use std::collections::HashSet;
use std::sync::Arc;
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// An event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub tenant: TenantId,
    /// The same over all deliveries.
    pub id: Uuid,
    /// Its place among the tenant's events; absent for one about webhooks themselves.
    pub sequence: Option<i64>,
    /// Such as `order.shipped`.
    pub event_type: String,
    /// The command behind it.
    pub position: Option<Position>,
    /// Items that it is about.
    pub items: Vec<Uuid>,
    /// Locations that it is about.
    pub locations: Vec<Uuid>,
    /// What its order is kept by.
    pub ordering_keys: Vec<i64>,
    /// When the ledger took it.
    pub recorded_at: Timestamp,
    /// The JSON that is sent.
    pub body: Arc<str>,
}

pub(super) const COLUMNS: &str = "e.tenant_id, e.id as event_id, e.sequence, e.event_type, e.partition, e.\"offset\",
    e.item_ids, e.location_ids, e.ordering_keys, e.recorded_at, e.body";

pub(super) fn event(row: &PgRow) -> Result<Event, sqlx::Error> {
    let (partition, offset): (Option<i32>, Option<i64>) = (row.try_get("partition")?, row.try_get("offset")?);
    Ok(Event {
        tenant: TenantId(row.try_get("tenant_id")?),
        id: row.try_get("event_id")?,
        sequence: row.try_get("sequence")?,
        event_type: row.try_get("event_type")?,
        position: partition.zip(offset).map(|(partition, offset)| Position { partition, offset }),
        items: row.try_get("item_ids")?,
        locations: row.try_get("location_ids")?,
        ordering_keys: row.try_get("ordering_keys")?,
        recorded_at: row.try_get::<OffsetDateTime, _>("recorded_at")?.into(),
        body: row.try_get::<String, _>("body")?.into(),
    })
}

const GIVEN: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("id", Sql::Uuid),
    ("sequence", Sql::Bigint),
    ("event_type", Sql::Text),
    ("partition", Sql::Integer),
    ("\"offset\"", Sql::Bigint),
    // Arrays of arrays have one length throughout: these go as text.
    ("item_ids", Sql::Text),
    ("location_ids", Sql::Text),
    ("ordering_keys", Sql::Text),
    ("recorded_at", Sql::Timestamptz),
    ("body", Sql::Text),
];

/// Keeps events, as a part of a statement. One that is kept already stays as it is: a repeat carries the same id.
pub(super) fn insert_by<'a>(
    statement: &mut Statement,
    events: impl Iterator<Item = &'a Event>,
) -> Result<(), sqlx::Error> {
    fn list<T: ToString>(elements: &[T]) -> String {
        format!("{{{}}}", elements.iter().map(T::to_string).collect::<Vec<_>>().join(","))
    }
    let rows = Rows::of(events, |row, event| {
        row.uuid(event.tenant.0)
            .uuid(event.id)
            .optional(event.sequence, |row, sequence| {
                row.bigint(sequence);
            })
            .text(&event.event_type)
            .optional(event.position, |row, position| {
                row.integer(position.partition);
            })
            .optional(event.position, |row, position| {
                row.bigint(position.offset);
            })
            .text(&list(&event.items))
            .text(&list(&event.locations))
            .text(&list(&event.ordering_keys))
            .timestamp(event.recorded_at)
            .text(&event.body);
    });
    if rows.is_empty() {
        return Ok(());
    }
    let given = statement.given(GIVEN, &rows)?;
    statement.part(
        "into_webhook_events",
        &format!(
            "insert into webhook_events (tenant_id, id, sequence, event_type, partition, \"offset\", item_ids, location_ids,
                 ordering_keys, recorded_at, body)
             select tenant_id, id, sequence, event_type, partition, \"offset\", item_ids::uuid[], location_ids::uuid[],
                 ordering_keys::bigint[], recorded_at, body
             from {given} on conflict do nothing"
        ),
    );
    Ok(())
}

/// Keeps an event.
pub async fn insert(connection: &mut PgConnection, event: &Event) -> Result<(), sqlx::Error> {
    let mut statement = Statement::default();
    insert_by(&mut statement, std::iter::once(event))?;
    statement.run_in(connection).await
}

/// Of these events, given by tenant and id, those that are kept.
pub async fn kept_of(pool: &PgPool, tenants: &[Uuid], ids: &[Uuid]) -> Result<HashSet<(TenantId, Uuid)>, sqlx::Error> {
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "select e.tenant_id, e.id from unnest($1::uuid[], $2::uuid[]) as asked (tenant_id, id)
         join webhook_events e on e.tenant_id = asked.tenant_id and e.id = asked.id",
    )
    .bind(tenants)
    .bind(ids)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(tenant, id)| (TenantId(tenant), id)).collect())
}

/// A tenant's events in their order, after a sequence and through another.
pub async fn in_order(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: i64,
    through: i64,
    limit: i64,
) -> Result<Vec<Event>, sqlx::Error> {
    let select = format!("select {COLUMNS} {IN_ORDER}");
    let rows = sqlx::query(&select).bind(tenant.0).bind(after).bind(through).bind(limit).fetch_all(connection).await?;
    rows.iter().map(event).collect()
}

const IN_ORDER: &str = "from webhook_events e
    where e.tenant_id = $1 and e.sequence > $2 and e.sequence <= $3 order by e.sequence limit $4";

/// A page of a tenant's events in their order, after a sequence.
pub async fn list(
    connection: &mut TenantConnection,
    tenant: TenantId,
    after: i64,
    limit: i64,
) -> Result<Page<Event>, sqlx::Error> {
    let select = format!("select {COLUMNS} {IN_ORDER}");
    let query = sqlx::query(&select).bind(tenant.0).bind(after).bind(i64::MAX).bind(limit.saturating_add(1));
    page::read(connection.pooled(), query, limit, event).await
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its place among the tenant's events.
    pub sequence: i64,
    /// Such as `order.shipped`.
    pub event_type: String,
    /// Items that it is about.
    pub items: Vec<Uuid>,
    /// Locations that it is about.
    pub locations: Vec<Uuid>,
}

/// As [`in_order`], without what is sent: for who only counts.
pub async fn about(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: i64,
    through: i64,
    limit: i64,
) -> Result<Vec<About>, sqlx::Error> {
    let select = "select sequence, event_type, item_ids, location_ids from webhook_events
         where tenant_id = $1 and sequence > $2 and sequence <= $3 order by sequence limit $4";
    let rows = sqlx::query(select).bind(tenant.0).bind(after).bind(through).bind(limit).fetch_all(connection).await?;
    let about = |row: &PgRow| {
        Ok(About {
            sequence: row.try_get("sequence")?,
            event_type: row.try_get("event_type")?,
            items: row.try_get("item_ids")?,
            locations: row.try_get("location_ids")?,
        })
    };
    rows.iter().map(about).collect()
}

/// One of a tenant's events.
pub async fn find(connection: &mut PgConnection, tenant: TenantId, id: Uuid) -> Result<Option<Event>, sqlx::Error> {
    let select = format!("select {COLUMNS} from webhook_events e where e.tenant_id = $1 and e.id = $2");
    let row = sqlx::query(&select).bind(tenant.0).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(event).transpose()
}

/// Where a tenant's kept events begin and end; `None` where none is kept.
pub async fn span(connection: &mut PgConnection, tenant: TenantId) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let row =
        sqlx::query("select min(sequence) as first, max(sequence) as last from webhook_events where tenant_id = $1")
            .bind(tenant.0)
            .fetch_one(connection)
            .await?;
    Ok(row.try_get::<Option<i64>, _>("first")?.zip(row.try_get::<Option<i64>, _>("last")?))
}

/// The sequence of the newest event that the ledger has told of, kept or not: 0 before the first.
pub async fn newest_told(connection: &mut PgConnection, tenant: TenantId) -> Result<i64, sqlx::Error> {
    let newest: Option<i64> = sqlx::query_scalar("select event_sequence from ledger_heads where tenant_id = $1")
        .bind(tenant.0)
        .fetch_optional(connection)
        .await?;
    Ok(newest.unwrap_or_default())
}

/// The first of a tenant's kept events that was recorded not before a time; the order of events is that of their recording.
pub async fn first_since(
    connection: &mut PgConnection,
    tenant: TenantId,
    at: Timestamp,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "select sequence from webhook_events where tenant_id = $1 and sequence is not null and recorded_at >= $2
         order by sequence limit 1",
    )
    .bind(tenant.0)
    .bind(at.datetime())
    .fetch_optional(connection)
    .await
}

/// The first of a tenant's kept events whose command stands at a position of the ledger's log or after it.
pub async fn first_from(
    connection: &mut PgConnection,
    tenant: TenantId,
    position: Position,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "select sequence from webhook_events where tenant_id = $1 and partition = $2 and \"offset\" >= $3
             and sequence is not null order by sequence limit 1",
    )
    .bind(tenant.0)
    .bind(position.partition)
    .bind(position.offset)
    .fetch_optional(connection)
    .await
}

/// Forgets events older than a time, a bounded number at once; says how many. What is still to be sent of them cannot be sent.
pub async fn forget(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from webhook_events where ctid in (select ctid from webhook_events where recorded_at < $1 limit $2)",
    )
    .bind(before.datetime())
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
