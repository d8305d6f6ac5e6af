//! Subscriptions: to whom what is sent, and how.

use super::optional_time;
use crate::postgres::accounts::granted::Granted;
use crate::postgres::page::{self, Page};
use crate::postgres::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook::EventFilter;
use uuid::Uuid;

/// Where a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Sent what it wants.
    Active,
    /// Failing: probed, and its queue kept.
    Quarantined,
    /// Sent nothing, and nothing is queued for it.
    Disabled,
    /// Gone; its deliveries are being forgotten.
    Deleted,
}

impl State {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Quarantined => "quarantined",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Quarantined, Self::Disabled, Self::Deleted].into_iter().find(|state| state.name() == name)
    }
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub tenant: TenantId,
    /// Where deliveries go.
    pub url: String,
    /// What people call it.
    pub description: Option<String>,
    /// What it wants.
    pub filter: EventFilter,
    /// Whether what concerns one document or one item at a location is sent in its order.
    pub ordered: bool,
    /// Most attempts under way at once.
    pub concurrency_max: i32,
    /// Most attempts begun in a second; no bound where absent.
    pub rate_per_second: Option<i32>,
    /// How long an attempt may take.
    pub timeout_ms: i32,
    /// Where it stands.
    pub state: State,
    /// Why.
    pub state_reason: Option<String>,
    /// Since when.
    pub state_since: Timestamp,
    /// The first characters of its secret.
    pub secret_hint: String,
    /// Until when the secret before signs too.
    pub previous_until: Option<Timestamp>,
    /// It is called with a client certificate.
    pub has_client_certificate: bool,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Rises with every change.
    pub version: i64,
}

/// What of a subscription is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The secret.
    pub secret: Vec<u8>,
    /// The one before it.
    pub previous_secret: Option<Vec<u8>>,
    /// The client's certificate and its key.
    pub client_certificate: Option<Vec<u8>>,
}

const SHOWN: &str = "tenant_id, id, url, description, event_types, item_ids, location_ids, ordering, concurrency_max,
    rate_per_second, timeout_ms, state, state_reason, state_since, secret_hint, previous_until, has_client_certificate,
    created_by, created_at, updated_at, version";
const SEALED: &str = "secret, previous_secret, client_certificate";

fn subscription(row: &PgRow) -> Result<Subscription, sqlx::Error> {
    let state: String = row.try_get("state")?;
    Ok(Subscription {
        id: row.try_get("id")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        url: row.try_get("url")?,
        description: row.try_get("description")?,
        filter: EventFilter {
            types: row.try_get("event_types")?,
            items: row.try_get("item_ids")?,
            locations: row.try_get("location_ids")?,
        },
        ordered: row.try_get::<String, _>("ordering")? == "key",
        concurrency_max: row.try_get("concurrency_max")?,
        rate_per_second: row.try_get("rate_per_second")?,
        timeout_ms: row.try_get("timeout_ms")?,
        state: State::from_name(&state).ok_or_else(|| sqlx::Error::Decode(format!("no state: {state}").into()))?,
        state_reason: row.try_get("state_reason")?,
        state_since: row.try_get::<time::OffsetDateTime, _>("state_since")?.into(),
        secret_hint: row.try_get("secret_hint")?,
        previous_until: optional_time(row.try_get("previous_until")?),
        has_client_certificate: row.try_get("has_client_certificate")?,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get::<time::OffsetDateTime, _>("created_at")?.into(),
        updated_at: row.try_get::<time::OffsetDateTime, _>("updated_at")?.into(),
        version: row.try_get("version")?,
    })
}

fn sealed(row: &PgRow) -> Result<Sealed, sqlx::Error> {
    Ok(Sealed {
        secret: row.try_get("secret")?,
        previous_secret: row.try_get("previous_secret")?,
        client_certificate: row.try_get("client_certificate")?,
    })
}

fn with_sealed(row: &PgRow) -> Result<(Subscription, Sealed), sqlx::Error> {
    Ok((subscription(row)?, sealed(row)?))
}

/// Adds one, or writes all of what it is now.
pub async fn put(
    connection: &mut PgConnection,
    subscription: Granted<&Subscription>,
    sealed: &Sealed,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into webhook_subscriptions (tenant_id, id, url, description, event_types, item_ids, location_ids, ordering,
             concurrency_max, rate_per_second, timeout_ms, state, state_reason, state_since, secret, secret_hint,
             previous_secret, previous_until, client_certificate, created_by, created_at, updated_at, version, has_client_certificate)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
         on conflict (id) do update set url = $3, description = $4, event_types = $5, item_ids = $6, location_ids = $7,
             ordering = $8, concurrency_max = $9, rate_per_second = $10, timeout_ms = $11, state = $12, state_reason = $13,
             state_since = $14, secret = $15, secret_hint = $16, previous_secret = $17, previous_until = $18,
             client_certificate = $19, updated_at = $22, version = $23, has_client_certificate = $24",
    )
    .bind(subscription.tenant.0)
    .bind(subscription.id)
    .bind(&subscription.url)
    .bind(&subscription.description)
    .bind(&subscription.filter.types)
    .bind(&subscription.filter.items)
    .bind(&subscription.filter.locations)
    .bind(if subscription.ordered { "key" } else { "none" })
    .bind(subscription.concurrency_max)
    .bind(subscription.rate_per_second)
    .bind(subscription.timeout_ms)
    .bind(subscription.state.name())
    .bind(&subscription.state_reason)
    .bind(subscription.state_since.datetime())
    .bind(&sealed.secret)
    .bind(&subscription.secret_hint)
    .bind(&sealed.previous_secret)
    .bind(subscription.previous_until.map(Timestamp::datetime))
    .bind(&sealed.client_certificate)
    .bind(&subscription.created_by)
    .bind(subscription.created_at.datetime())
    .bind(subscription.updated_at.datetime())
    .bind(subscription.version)
    .bind(sealed.client_certificate.is_some())
    .execute(connection)
    .await
    .map(|_| ())
}

/// How many a tenant has.
pub async fn count(connection: &mut PgConnection, tenant: TenantId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from webhook_subscriptions where tenant_id = $1 and state <> 'deleted'")
        .bind(tenant.0)
        .fetch_one(connection)
        .await
}

/// One of a tenant's.
pub async fn find(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<Subscription>, sqlx::Error> {
    let select =
        format!("select {SHOWN} from webhook_subscriptions where tenant_id = $1 and id = $2 and state <> 'deleted'");
    let row = sqlx::query(&select).bind(tenant.0).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(subscription).transpose()
}

/// One of a tenant's, with what is sealed, held until the transaction ends.
pub async fn find_for_change(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<(Subscription, Sealed)>, sqlx::Error> {
    let select = format!(
        "select {SHOWN}, {SEALED} from webhook_subscriptions
         where tenant_id = $1 and id = $2 and state <> 'deleted' for update"
    );
    let row = sqlx::query(&select).bind(tenant.0).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(with_sealed).transpose()
}

/// A tenant's, oldest first, after one of them.
pub async fn list(
    connection: &mut TenantConnection,
    tenant: TenantId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Page<Subscription>, sqlx::Error> {
    let select = format!(
        "select {SHOWN} from webhook_subscriptions
         where tenant_id = $1 and state <> 'deleted' and ($2::uuid is null or id > $2) order by id limit $3"
    );
    let query = sqlx::query(&select).bind(tenant.0).bind(after).bind(limit.saturating_add(1));
    page::read(connection.pooled(), query, limit, subscription).await
}

/// All of some tenants', with what is sealed: for who sends.
pub async fn of_tenants(pool: &PgPool, tenants: &[Uuid]) -> Result<Vec<(Subscription, Sealed)>, sqlx::Error> {
    let select = format!(
        "select {SHOWN}, {SEALED} from webhook_subscriptions where tenant_id = any($1) and state <> 'deleted' order by id"
    );
    let rows = sqlx::query(&select).bind(tenants).fetch_all(pool).await?;
    rows.iter().map(with_sealed).collect()
}

/// Of a subscription's tenant, the first others that are sent to now and want what one of these patterns names, whatever it is
/// about; and how many those are in all.
pub async fn to_notify(
    connection: &mut PgConnection,
    about: &Subscription,
    patterns: &[String],
    limit: i64,
) -> Result<(Vec<Uuid>, usize), sqlx::Error> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "select id, count(*) over () from webhook_subscriptions
         where tenant_id = $1 and id <> $2 and state = 'active' and event_types && $3 order by id limit $4",
    )
    .bind(about.tenant.0)
    .bind(about.id)
    .bind(patterns)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let all = rows.first().map_or(0, |(_, all)| usize::try_from(*all).unwrap_or(usize::MAX));
    Ok((rows.into_iter().map(|(id, _)| id).collect(), all))
}

/// A tenant's for which deliveries are queued, in the order of their ids.
pub async fn told(connection: &mut PgConnection, tenant: TenantId) -> Result<Vec<Subscription>, sqlx::Error> {
    let select = format!(
        "select {SHOWN} from webhook_subscriptions where tenant_id = $1 and state in ('active', 'quarantined') order by id"
    );
    let rows = sqlx::query(&select).bind(tenant.0).fetch_all(connection).await?;
    rows.iter().map(subscription).collect()
}

/// A tenant whose events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub tenant: TenantId,
    /// Rises with every change that who sends must hear of.
    pub version: i64,
    /// Someone listens until then.
    pub listening_until: Option<Timestamp>,
}

fn kept(row: &PgRow) -> Result<Kept, sqlx::Error> {
    Ok(Kept {
        tenant: TenantId(row.try_get("tenant_id")?),
        version: row.try_get("version")?,
        listening_until: optional_time(row.try_get("listening_until")?),
    })
}

/// Which of these tenants have their events kept: those with a subscription, and those that listen.
pub async fn kept_among(pool: &PgPool, tenants: &[Uuid]) -> Result<Vec<Kept>, sqlx::Error> {
    let select = "select t.tenant_id, t.version, t.listening_until from webhook_tenants t
         where t.tenant_id = any($1) and (t.listening_until > now()
             or exists (select from webhook_subscriptions s where s.tenant_id = t.tenant_id and s.state <> 'deleted'))";
    sqlx::query(select).bind(tenants).fetch_all(pool).await?.iter().map(kept).collect()
}

/// The tenants whose events are or were kept: all of them, or those that have changed in the last so many seconds.
pub async fn all_kept(pool: &PgPool, changed_within_s: Option<f64>) -> Result<Vec<Kept>, sqlx::Error> {
    let rows = match changed_within_s {
        None => sqlx::query("select tenant_id, version, listening_until from webhook_tenants").fetch_all(pool).await?,
        Some(seconds) => {
            sqlx::query(
                "select tenant_id, version, listening_until from webhook_tenants
                 where changed_at > clock_timestamp() - make_interval(secs => $1)",
            )
            .bind(seconds)
            .fetch_all(pool)
            .await?
        }
    };
    rows.iter().map(kept).collect()
}

/// From now on, and until then, a tenant's events are kept for who listens.
pub async fn listen(connection: &mut PgConnection, tenant: TenantId, until: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into webhook_tenants as t (tenant_id, version, changed_at, listening_until)
         values ($1, 1, clock_timestamp(), $2)
         on conflict (tenant_id) do update set version = t.version + 1, changed_at = excluded.changed_at,
             listening_until = greatest(t.listening_until, excluded.listening_until)",
    )
    .bind(tenant.0)
    .bind(until.datetime())
    .execute(connection)
    .await
    .map(|_| ())
}

/// Moves a subscription from one state to another, within a transaction; says nothing where it is not in the first any more.
pub async fn change_state(
    connection: &mut PgConnection,
    subscription: &Subscription,
    to: State,
    reason: &str,
    at: Timestamp,
) -> Result<Option<Subscription>, sqlx::Error> {
    let update = format!(
        "update webhook_subscriptions set state = $4, state_reason = $5, state_since = $6, updated_at = $6,
             version = version + 1
         where tenant_id = $1 and id = $2 and state = $3 returning {SHOWN}"
    );
    let row = sqlx::query(&update)
        .bind(subscription.tenant.0)
        .bind(subscription.id)
        .bind(subscription.state.name())
        .bind(to.name())
        .bind(reason)
        .bind(at.datetime())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(self::subscription).transpose()
}

/// What of every subscription is sealed.
pub async fn all_sealed(pool: &PgPool) -> Result<Vec<(Uuid, Sealed)>, sqlx::Error> {
    let rows = sqlx::query(&format!("select id, {SEALED} from webhook_subscriptions")).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, sealed(row)?))).collect()
}

/// Puts what was sealed anew in the place of what it was, unless that has changed meanwhile.
pub async fn reseal(pool: &PgPool, id: Uuid, old: &Sealed, new: &Sealed) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update webhook_subscriptions set secret = $3, previous_secret = $4, client_certificate = $5
         where id = $1 and secret = $2",
    )
    .bind(id)
    .bind(&old.secret)
    .bind(&new.secret)
    .bind(&new.previous_secret)
    .bind(&new.client_certificate)
    .execute(pool)
    .await
    .map(|_| ())
}
