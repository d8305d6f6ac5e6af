//! Deliveries: an event for a subscription, and every attempt at it.

use super::events::{self, Event};
use super::{backlogs, optional_time};
use crate::kafka::Reached;
use crate::postgres::page::{self, Page};
use crate::postgres::positions::{Hold, PositionError};
use crate::postgres::statement::{Columns, Rows, Sql, Statement};
use crate::postgres::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use std::collections::HashMap;
use std::sync::Arc;
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// To be sent, for the first time or again.
    Pending,
    /// The subscriber has it.
    Delivered,
    /// Given up; it can be replayed.
    DeadLettered,
    /// Given up, and queued anew since.
    Replayed,
    /// Its replay was cancelled.
    Cancelled,
}

impl Fate {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Delivered, Self::DeadLettered, Self::Replayed, Self::Cancelled];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::DeadLettered => "dead_lettered",
            Self::Replayed => "replayed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fate| fate.name() == name)
    }
}

/// A delivery to be made.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// By time (version 7): of an event that happens the event's, of one that is sent again that of being queued.
    pub id: Uuid,
    /// To which subscription.
    pub subscription: Uuid,
    /// What is sent.
    pub event: Arc<Event>,
    /// By which replay, where it is one.
    pub replay: Option<Uuid>,
    /// When.
    pub at: Timestamp,
}

const NEW: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("subscription_id", Sql::Uuid),
    ("id", Sql::Uuid),
    ("event_id", Sql::Uuid),
    ("replay_id", Sql::Uuid),
    ("state", Sql::Text),
    ("next_attempt_at", Sql::Timestamptz),
    ("created_at", Sql::Timestamptz),
];

/// Queues deliveries, due at once, as a part of a statement.
pub(super) fn insert_by(statement: &mut Statement, deliveries: &[NewDelivery]) -> Result<(), sqlx::Error> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let rows = Rows::of(deliveries.iter(), |row, new| {
        row.uuid(new.event.tenant.0)
            .uuid(new.subscription)
            .uuid(new.id)
            .uuid(new.event.id)
            .optional(new.replay, |row, replay| {
                row.uuid(replay);
            })
            .text(Fate::Pending.name())
            .timestamp(new.at)
            .timestamp(new.at);
    });
    statement.insert("webhook_deliveries", NEW, rows)
}

/// Queues deliveries, due at once.
pub async fn insert(connection: &mut PgConnection, deliveries: &[NewDelivery]) -> Result<(), sqlx::Error> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let mut statement = Statement::default();
    insert_by(&mut statement, deliveries)?;
    statement.run_in(connection).await
}

/// Keeps events, queues their deliveries, begins backlogs behind a sequence of a tenant, and moves the partition that they were
/// read from: all of it, or nothing.
pub async fn fan_out(
    pool: &PgPool,
    hold: &Hold,
    reached: Reached,
    events: &[Arc<Event>],
    deliveries: &[NewDelivery],
    behind: &[(TenantId, i64)],
) -> Result<(), PositionError> {
    let mut statement = Statement::default();
    hold.advance_by(&mut statement, reached)?;
    events::insert_by(&mut statement, events.iter().map(|event| &**event))?;
    insert_by(&mut statement, deliveries)?;
    backlogs::begin_by(&mut statement, behind)?;
    statement.run(pool).await.map_err(|error| hold.refused(error))
}

/// What an attempt made of a delivery.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// To which subscription.
    pub subscription: Uuid,
    /// Which delivery.
    pub id: Uuid,
    /// Where it stands now.
    pub fate: Fate,
    /// When it is due again, where it is pending.
    pub next_attempt_at: Timestamp,
    /// When the attempt ended.
    pub at: Timestamp,
    /// The attempt, as a JSON object.
    pub attempt: String,
}

/// Writes attempts down, and says where each delivery stands now: one that is pending no longer keeps its state, though the
/// attempt is a fact all the same, and one that is gone is not among them.
pub async fn record(pool: &PgPool, attempted: &[Attempted]) -> Result<HashMap<Uuid, Fate>, sqlx::Error> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "update webhook_deliveries d set
             state = case when d.state = 'pending' then new.state else d.state end,
             next_attempt_at = new.next_attempt_at,
             finished_at = case when d.state = 'pending' and new.state <> 'pending' then new.at else d.finished_at end,
             attempts = d.attempts || new.attempt::jsonb
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[])
             as new (subscription_id, id, state, next_attempt_at, at, attempt)
         where d.subscription_id = new.subscription_id and d.id = new.id
         returning d.id, d.state",
    )
    .bind(attempted.iter().map(|new| new.subscription).collect::<Vec<_>>())
    .bind(attempted.iter().map(|new| new.id).collect::<Vec<_>>())
    .bind(attempted.iter().map(|new| new.fate.name()).collect::<Vec<_>>())
    .bind(attempted.iter().map(|new| new.next_attempt_at.datetime()).collect::<Vec<_>>())
    .bind(attempted.iter().map(|new| new.at.datetime()).collect::<Vec<_>>())
    .bind(attempted.iter().map(|new| new.attempt.as_str()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().filter_map(|(id, state)| Some((id, Fate::from_name(&state)?))).collect())
}

/// A delivery that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Which.
    pub id: Uuid,
    /// What is sent.
    pub event: Arc<Event>,
    /// By which replay, where it is one.
    pub replay: Option<Uuid>,
    /// When it is due.
    pub due: Timestamp,
    /// When it was queued.
    pub created_at: Timestamp,
    /// Attempts so far.
    pub attempts: u32,
}

/// What waits for a subscription.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// The first of it.
    pub waiting: Vec<Waiting>,
    /// When there may be more to load: `None` where this is all.
    pub more_at: Option<Timestamp>,
}

/// The first `limit` that wait for a subscription: of those due at a time, or, where order is kept, of all in their order.
///
/// The time is the caller's, by whose clock what is due was written, and the same for both questions: what comes due between
/// them is in one of the answers.
pub async fn queue(
    pool: &PgPool,
    subscription: Uuid,
    ordered: bool,
    limit: i64,
    at: Timestamp,
) -> Result<Queue, sqlx::Error> {
    let (which, order) = if ordered {
        ("$3::timestamptz is not null", "d.id")
    } else {
        ("d.next_attempt_at <= $3", "d.next_attempt_at")
    };
    // The event is looked up row by row, so that one that is kept no longer takes nobody's place.
    let select = format!(
        "select d.id, d.replay_id, d.next_attempt_at, d.created_at, jsonb_array_length(d.attempts) as attempts, {}
         from webhook_deliveries d
         cross join lateral (
             select * from webhook_events e where e.tenant_id = d.tenant_id and e.id = d.event_id offset 0) e
         where d.subscription_id = $1 and d.state = 'pending' and {which}
         order by {order} limit $2",
        events::COLUMNS,
    );
    let rows = sqlx::query(&select).bind(subscription).bind(limit).bind(at.datetime()).fetch_all(pool).await?;
    let waiting = rows.iter().map(waiting).collect::<Result<Vec<_>, _>>()?;
    let full = i64::try_from(waiting.len()).is_ok_and(|found| found >= limit);
    let more_at = match (full, ordered) {
        // At once: it was queued in the past.
        (true, _) => waiting.last().map(|last| last.created_at),
        (false, true) => None,
        (false, false) => {
            let next: Option<OffsetDateTime> = sqlx::query_scalar(
                "select min(next_attempt_at) from webhook_deliveries
                 where subscription_id = $1 and state = 'pending' and next_attempt_at > $2",
            )
            .bind(subscription)
            .bind(at.datetime())
            .fetch_one(pool)
            .await?;
            optional_time(next)
        }
    };
    Ok(Queue { waiting, more_at })
}

fn waiting(row: &PgRow) -> Result<Waiting, sqlx::Error> {
    Ok(Waiting {
        id: row.try_get("id")?,
        event: Arc::new(events::event(row)?),
        replay: row.try_get("replay_id")?,
        due: row.try_get::<OffsetDateTime, _>("next_attempt_at")?.into(),
        created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
        attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).unwrap_or_default(),
    })
}

/// Of these subscriptions, those for which something waits.
pub async fn with_queue(pool: &PgPool, subscriptions: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "select asked.subscription_id from unnest($1::uuid[]) as asked (subscription_id)
         where exists (select from webhook_deliveries d
             where d.subscription_id = asked.subscription_id and d.state = 'pending')",
    )
    .bind(subscriptions)
    .fetch_all(pool)
    .await
}

/// Gives up what was due for subscriptions before a time and was not sent; says how many that were.
pub async fn give_up(
    pool: &PgPool,
    subscriptions: &[Uuid],
    due_before: Timestamp,
    at: Timestamp,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "update webhook_deliveries set state = 'dead_lettered', finished_at = $3
         where subscription_id = any($1) and state = 'pending' and next_attempt_at < $2",
    )
    .bind(subscriptions)
    .bind(due_before.datetime())
    .bind(at.datetime())
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Says of dead letters that they are queued anew.
pub async fn replayed(connection: &mut PgConnection, subscription: Uuid, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update webhook_deliveries set state = 'replayed'
         where subscription_id = $1 and id = any($2) and state = 'dead_lettered'",
    )
    .bind(subscription)
    .bind(ids)
    .execute(connection)
    .await
    .map(|_| ())
}

/// A delivery as it is shown.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Which.
    pub id: Uuid,
    /// To which subscription.
    pub subscription: Uuid,
    /// What was sent.
    pub event: Uuid,
    /// The event's type; absent where the event is kept no longer.
    pub event_type: Option<String>,
    /// The event's sequence.
    pub sequence: Option<i64>,
    /// By which replay, where it is one.
    pub replay: Option<Uuid>,
    /// Where it stands.
    pub state: String,
    /// When it is due next.
    pub next_attempt_at: Timestamp,
    /// When it was queued.
    pub created_at: Timestamp,
    /// When it was done with.
    pub finished_at: Option<Timestamp>,
    /// Its attempts, as a JSON array.
    pub attempts: String,
}

const SHOWN: &str = "select d.id, d.subscription_id, d.event_id, e.event_type, e.sequence, d.replay_id, d.state,
        d.next_attempt_at, d.created_at, d.finished_at, d.attempts::text as attempts
    from webhook_deliveries d left join webhook_events e on e.tenant_id = d.tenant_id and e.id = d.event_id";

fn delivery(row: &PgRow) -> Result<Delivery, sqlx::Error> {
    Ok(Delivery {
        id: row.try_get("id")?,
        subscription: row.try_get("subscription_id")?,
        event: row.try_get("event_id")?,
        event_type: row.try_get("event_type")?,
        sequence: row.try_get("sequence")?,
        replay: row.try_get("replay_id")?,
        state: row.try_get("state")?,
        next_attempt_at: row.try_get::<OffsetDateTime, _>("next_attempt_at")?.into(),
        created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
        finished_at: optional_time(row.try_get("finished_at")?),
        attempts: row.try_get("attempts")?,
    })
}

/// A subscription's deliveries, newest first, before one of them.
pub async fn list(
    connection: &mut TenantConnection,
    tenant: TenantId,
    subscription: Uuid,
    fate: Option<Fate>,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Page<Delivery>, sqlx::Error> {
    // Each state that has an index of its own is named where the planner sees it.
    let state = match fate {
        None => "",
        Some(Fate::Pending) => "and d.state = 'pending'",
        Some(Fate::Delivered) => "and d.state = 'delivered'",
        Some(Fate::DeadLettered) => "and d.state = 'dead_lettered'",
        Some(Fate::Replayed) => "and d.state = 'replayed'",
        Some(Fate::Cancelled) => "and d.state = 'cancelled'",
    };
    let select = format!(
        "{SHOWN} where d.tenant_id = $1 and d.subscription_id = $2 {state} and ($3::uuid is null or d.id < $3)
         order by d.id desc limit $4"
    );
    let query = sqlx::query(&select).bind(tenant.0).bind(subscription).bind(before).bind(limit.saturating_add(1));
    page::read(connection.pooled(), query, limit, delivery).await
}

/// One of a subscription's deliveries.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    subscription: Uuid,
    id: Uuid,
) -> Result<Option<Delivery>, sqlx::Error> {
    let select = format!("{SHOWN} where d.tenant_id = $1 and d.subscription_id = $2 and d.id = $3");
    let row = sqlx::query(&select).bind(tenant.0).bind(subscription).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(delivery).transpose()
}

/// How many wait for a subscription and how many were given up, each counted no further than `limit`; and since when the
/// oldest waits.
pub async fn backlog(
    connection: &mut PgConnection,
    tenant: TenantId,
    subscription: Uuid,
    limit: i64,
) -> Result<(i64, i64, Option<Timestamp>), sqlx::Error> {
    let row = sqlx::query(
        "select (select count(*) from (select from webhook_deliveries where tenant_id = $1 and subscription_id = $2
                     and state = 'pending' limit $3) few) as pending,
                (select count(*) from (select from webhook_deliveries where tenant_id = $1 and subscription_id = $2
                     and state = 'dead_lettered' limit $3) few) as dead_lettered,
                (select created_at from webhook_deliveries where tenant_id = $1 and subscription_id = $2
                     and state = 'pending' order by next_attempt_at limit 1) as oldest",
    )
    .bind(tenant.0)
    .bind(subscription)
    .bind(limit)
    .fetch_one(connection)
    .await?;
    Ok((row.try_get("pending")?, row.try_get("dead_lettered")?, optional_time(row.try_get("oldest")?)))
}

/// Gives up what waits and was queued before a time, or is of a replay and its event is kept no longer; a bounded number at
/// once. Says how many.
pub async fn give_up_old(
    connection: &mut PgConnection,
    before: Timestamp,
    at: Timestamp,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "update webhook_deliveries set state = 'dead_lettered', finished_at = $2 where state = 'pending' and ctid in (
             (select ctid from webhook_deliveries where created_at < $1 and state = 'pending' limit $3)
             union all
             (select d.ctid from webhook_deliveries d where d.state = 'pending' and d.replay_id is not null
                  and not exists (select from webhook_events e where e.tenant_id = d.tenant_id and e.id = d.event_id)
              limit $3))",
    )
    .bind(before.datetime())
    .bind(at.datetime())
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets deliveries that were queued before a time and done with before it, a bounded number at once; says how many.
pub async fn forget(connection: &mut PgConnection, before: Timestamp, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from webhook_deliveries where state <> 'pending' and ctid in (
             select ctid from webhook_deliveries where created_at < $1 and finished_at < $1 limit $2)",
    )
    .bind(before.datetime())
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets deliveries of deleted subscriptions, a bounded number at once; says how many.
pub async fn forget_deleted(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from webhook_deliveries where ctid in (
             select d.ctid from webhook_subscriptions s
             cross join lateral (select ctid from webhook_deliveries where subscription_id = s.id limit $1) d
             where s.state = 'deleted' limit $1)",
    )
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
