//! Replays: deliveries that are made again, some at a time, from where the last step left off.

use super::deliveries::NewDelivery;
use super::events::{self, Event};
use super::optional_time;
use crate::postgres::page::{self, Page};
use crate::postgres::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use std::sync::Arc;
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// What is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// The kept events with these sequences, the first and the last too.
    Events {
        /// The first.
        first: i64,
        /// The last.
        last: i64,
    },
    /// What was given up, through this delivery.
    DeadLetters {
        /// The newest.
        last: Uuid,
    },
}

/// A replay.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub tenant: TenantId,
    /// To which subscription.
    pub subscription: Uuid,
    /// What is sent again.
    pub selection: Selection,
    /// Through which sequence it is.
    pub at_sequence: i64,
    /// Through which dead letter it is.
    pub at_delivery: Option<Uuid>,
    /// `running`, `finished` or `cancelled`.
    pub state: String,
    /// How many events the subscription wanted when it was asked for.
    pub events: i64,
    /// How many were queued so far.
    pub made: i64,
    /// Who asked for it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// When all was queued, or it was cancelled.
    pub finished_at: Option<Timestamp>,
}

const COLUMNS: &str =
    "id, tenant_id, subscription_id, source, first_sequence, last_sequence, last_delivery, at_sequence,
    at_delivery, state, events, made, created_by, created_at, finished_at";

fn replay(row: &PgRow) -> Result<Replay, sqlx::Error> {
    let selection = match row.try_get::<Option<Uuid>, _>("last_delivery")? {
        Some(last) => Selection::DeadLetters { last },
        None => Selection::Events { first: row.try_get("first_sequence")?, last: row.try_get("last_sequence")? },
    };
    Ok(Replay {
        id: row.try_get("id")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        subscription: row.try_get("subscription_id")?,
        selection,
        at_sequence: row.try_get("at_sequence")?,
        at_delivery: row.try_get("at_delivery")?,
        state: row.try_get("state")?,
        events: row.try_get("events")?,
        made: row.try_get("made")?,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
        finished_at: optional_time(row.try_get("finished_at")?),
    })
}

/// Adds one.
pub async fn insert(connection: &mut PgConnection, replay: &Replay) -> Result<(), sqlx::Error> {
    let (source, first, last, last_delivery) = match replay.selection {
        Selection::Events { first, last } => ("events", first, last, None),
        Selection::DeadLetters { last } => ("dead_letters", 0, 0, Some(last)),
    };
    sqlx::query(
        "insert into webhook_replays (id, tenant_id, subscription_id, source, first_sequence, last_sequence, last_delivery,
             at_sequence, state, events, made, created_by, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $5 - 1, 'running', $8, 0, $9, $10)",
    )
    .bind(replay.id)
    .bind(replay.tenant.0)
    .bind(replay.subscription)
    .bind(source)
    .bind(first)
    .bind(last)
    .bind(last_delivery)
    .bind(replay.events)
    .bind(&replay.created_by)
    .bind(replay.created_at.datetime())
    .execute(connection)
    .await
    .map(|_| ())
}

/// One of a subscription's.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    subscription: Uuid,
    id: Uuid,
) -> Result<Option<Replay>, sqlx::Error> {
    let select =
        format!("select {COLUMNS} from webhook_replays where tenant_id = $1 and subscription_id = $2 and id = $3");
    let row = sqlx::query(&select).bind(tenant.0).bind(subscription).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(replay).transpose()
}

/// A subscription's, newest first, before one of them.
pub async fn list(
    connection: &mut TenantConnection,
    tenant: TenantId,
    subscription: Uuid,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Page<Replay>, sqlx::Error> {
    let select = format!(
        "select {COLUMNS} from webhook_replays where tenant_id = $1 and subscription_id = $2
             and ($3::uuid is null or id < $3) order by id desc limit $4"
    );
    let query = sqlx::query(&select).bind(tenant.0).bind(subscription).bind(before).bind(limit.saturating_add(1));
    page::read(connection.pooled(), query, limit, replay).await
}

/// The running ones of some tenants, oldest first.
pub async fn running(pool: &PgPool, tenants: &[Uuid]) -> Result<Vec<Replay>, sqlx::Error> {
    let select =
        format!("select {COLUMNS} from webhook_replays where tenant_id = any($1) and state = 'running' order by id");
    let rows = sqlx::query(&select).bind(tenants).fetch_all(pool).await?;
    rows.iter().map(replay).collect()
}

/// How many of a subscription's run.
pub async fn count_running(
    connection: &mut PgConnection,
    tenant: TenantId,
    subscription: Uuid,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from webhook_replays where tenant_id = $1 and subscription_id = $2 and state = 'running'",
    )
    .bind(tenant.0)
    .bind(subscription)
    .fetch_one(connection)
    .await
}

/// One that still runs, held until the transaction ends.
pub async fn running_for_step(connection: &mut PgConnection, id: Uuid) -> Result<Option<Replay>, sqlx::Error> {
    let select = format!("select {COLUMNS} from webhook_replays where id = $1 and state = 'running' for update");
    let row = sqlx::query(&select).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(replay).transpose()
}

/// Moves a replay on by a step that queued so many, within the step's transaction.
pub async fn step(
    connection: &mut PgConnection,
    replay: &Replay,
    queued: &[NewDelivery],
    finished_at: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    super::deliveries::insert(connection, queued).await?;
    sqlx::query(
        "update webhook_replays set at_sequence = $2, at_delivery = $3, made = made + $4, finished_at = $5,
             state = case when $5::timestamptz is null then state else 'finished' end
         where id = $1",
    )
    .bind(replay.id)
    .bind(replay.at_sequence)
    .bind(replay.at_delivery)
    .bind(i64::try_from(queued.len()).unwrap_or(i64::MAX))
    .bind(finished_at.map(Timestamp::datetime))
    .execute(connection)
    .await
    .map(|_| ())
}

/// Ends a replay, and takes what it has queued and is not sent yet back; says how many, or `None` where it does not run.
pub async fn cancel(connection: &mut PgConnection, id: Uuid, at: Timestamp) -> Result<Option<u64>, sqlx::Error> {
    let ended = sqlx::query(
        "update webhook_replays set state = 'cancelled', finished_at = $2 where id = $1 and state <> 'cancelled'",
    )
    .bind(id)
    .bind(at.datetime())
    .execute(&mut *connection)
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(None);
    }
    let taken_back = sqlx::query(
        "update webhook_deliveries set state = 'cancelled', finished_at = $2 where replay_id = $1 and state = 'pending'",
    )
    .bind(id)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(Some(taken_back.rows_affected()))
}

/// How many of a replay's deliveries wait, counted no further than `limit`.
pub async fn waiting(connection: &mut PgConnection, id: Uuid, limit: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from (select from webhook_deliveries where replay_id = $1 and state = 'pending' limit $2) few",
    )
    .bind(id)
    .bind(limit)
    .fetch_one(connection)
    .await
}

/// How many dead letters of a subscription can be sent again, and the newest of them.
pub async fn count_dead_letters(
    connection: &mut PgConnection,
    subscription: Uuid,
) -> Result<(i64, Option<Uuid>), sqlx::Error> {
    let row = sqlx::query(
        "with dead as (
             select d.id from webhook_deliveries d
             join webhook_events e on e.tenant_id = d.tenant_id and e.id = d.event_id
             where d.subscription_id = $1 and d.state = 'dead_lettered')
         select (select count(*) from dead) as count, (select id from dead order by id desc limit 1) as newest",
    )
    .bind(subscription)
    .fetch_one(connection)
    .await?;
    Ok((row.try_get("count")?, row.try_get("newest")?))
}

/// A dead letter and its event.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The delivery that was given up.
    pub delivery: Uuid,
    /// What it held.
    pub event: Arc<Event>,
}

/// A subscription's dead letters in their order, after one and through another. One whose event is kept no longer is passed
/// over.
pub async fn dead_letters(
    connection: &mut PgConnection,
    subscription: Uuid,
    after: Option<Uuid>,
    through: Uuid,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let select = format!(
        "select d.id, {} from webhook_deliveries d join webhook_events e on e.tenant_id = d.tenant_id and e.id = d.event_id
         where d.subscription_id = $1 and d.state = 'dead_lettered' and ($2::uuid is null or d.id > $2) and d.id <= $3
         order by d.id limit $4",
        events::COLUMNS
    );
    let rows =
        sqlx::query(&select).bind(subscription).bind(after).bind(through).bind(limit).fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok(DeadLetter { delivery: row.try_get("id")?, event: Arc::new(events::event(row)?) }))
        .collect()
}
