//! Identity providers of tenants, the people that they vouch for, and sign-ons under way.

use super::granted::Granted;
use crate::postgres::page::{self, Page};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// An identity provider of a tenant.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its id.
    pub id: Uuid,
    /// Whose people it vouches for.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// `oidc` or `saml`.
    pub kind: String,
    /// What it calls itself: of SAML its entity id.
    pub issuer: String,
    /// What it calls us: of SAML our entity id.
    pub client_id: String,
    /// The secret that we show to it, sealed.
    pub sealed_secret: Option<Vec<u8>>,
    /// When the secret was last set.
    pub secret_changed_at: Option<Timestamp>,
    /// Of SAML: where requests go.
    pub sso_url: Option<String>,
    /// Of SAML: the certificates that its answers are signed with, in PEM.
    pub certificates: Option<Vec<String>>,
    /// The claim (of SAML the attribute) that names a person's groups.
    pub groups_claim: String,
    /// The role that each group gives.
    pub role_by_group: BTreeMap<String, String>,
    /// The role of who is in none of these groups; without one they are refused.
    pub default_role: Option<String>,
    /// False where nobody signs on with it now.
    pub enabled: bool,
    /// Since when it is there.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A sign-on that was begun.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Keyed hash of the state that the provider gives back.
    pub state_hash: [u8; 32],
    /// Keyed hash of the browser's cookie.
    pub browser_hash: [u8; 32],
    /// With which provider.
    pub provider: Uuid,
    /// What is to be proved at the end, sealed.
    pub sealed: Vec<u8>,
    /// From where: the network that an address counts by.
    pub ip: Option<String>,
    /// When.
    pub created_at: Timestamp,
    /// Until when it can end.
    pub expires_at: Timestamp,
}

/// A person that a provider vouches for.
#[derive(Debug, Clone)]
pub struct Known {
    /// Who.
    pub user: Uuid,
    /// What it is to the provider's tenant; `None` where it was removed.
    pub role: Option<String>,
}

const PROVIDER: &str =
    "provider_id, tenant_id, name, kind, issuer, client_id, sealed_secret, secret_changed_at, sso_url,
    certificates, groups_claim, role_by_group::text, default_role, enabled, created_at, updated_at";

fn time(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Ok(row.try_get::<OffsetDateTime, _>(column)?.into())
}

fn provider(row: &PgRow) -> Result<Provider, sqlx::Error> {
    Ok(Provider {
        id: row.try_get("provider_id")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        name: row.try_get("name")?,
        kind: row.try_get("kind")?,
        issuer: row.try_get("issuer")?,
        client_id: row.try_get("client_id")?,
        sealed_secret: row.try_get("sealed_secret")?,
        secret_changed_at: row.try_get::<Option<OffsetDateTime>, _>("secret_changed_at")?.map(Timestamp::from),
        sso_url: row.try_get("sso_url")?,
        certificates: row.try_get("certificates")?,
        groups_claim: row.try_get("groups_claim")?,
        role_by_group: serde_json::from_str(row.try_get("role_by_group")?)
            .map_err(|error| sqlx::Error::Decode(error.into()))?,
        default_role: row.try_get("default_role")?,
        enabled: row.try_get("enabled")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}

/// Adds a provider, or writes one that is there anew; its tenant, kind and issuer stay what they are.
pub async fn put_provider(connection: &mut PgConnection, provider: Granted<&Provider>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into identity_providers (provider_id, tenant_id, name, kind, issuer, client_id, sealed_secret, secret_changed_at,
             sso_url, certificates, groups_claim, role_by_group, default_role, enabled, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::json, $13, $14, $15, $16)
         on conflict (provider_id) do update set name = $3, client_id = $6, sealed_secret = $7, secret_changed_at = $8,
             sso_url = $9, certificates = $10, groups_claim = $11, role_by_group = $12::json, default_role = $13, enabled = $14,
             updated_at = $16",
    )
    .bind(provider.id)
    .bind(provider.tenant.0)
    .bind(&provider.name)
    .bind(&provider.kind)
    .bind(&provider.issuer)
    .bind(&provider.client_id)
    .bind(&provider.sealed_secret)
    .bind(provider.secret_changed_at.map(Timestamp::datetime))
    .bind(&provider.sso_url)
    .bind(&provider.certificates)
    .bind(&provider.groups_claim)
    .bind(serde_json::to_string(&provider.role_by_group).map_err(|error| sqlx::Error::Encode(error.into()))?)
    .bind(&provider.default_role)
    .bind(provider.enabled)
    .bind(provider.created_at.datetime())
    .bind(provider.updated_at.datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// A page of a tenant's providers, newest first.
pub async fn providers(
    pool: &PgPool,
    tenant: TenantId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Page<Provider>, sqlx::Error> {
    let sql = format!(
        "select {PROVIDER} from identity_providers
         where tenant_id = $1 and deleted_at is null and ($2::uuid is null or provider_id < $2)
         order by provider_id desc limit $3"
    );
    let query = sqlx::query(&sql).bind(tenant.0).bind(after).bind(limit.saturating_add(1));
    page::read(&mut pool.acquire().await?, query, limit, provider).await
}

/// How many providers a tenant has.
pub async fn provider_count(connection: &mut PgConnection, tenant: TenantId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from identity_providers where tenant_id = $1 and deleted_at is null")
        .bind(tenant.0)
        .fetch_one(connection)
        .await
}

/// A provider that people can sign on with now, whoever asks.
pub async fn usable_provider(pool: &PgPool, id: Uuid) -> Result<Option<Provider>, sqlx::Error> {
    let sql =
        format!("select {PROVIDER} from identity_providers where provider_id = $1 and enabled and deleted_at is null");
    let row = sqlx::query(&sql).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(provider).transpose()
}

/// A tenant's provider.
pub async fn find_provider(pool: &PgPool, tenant: TenantId, id: Uuid) -> Result<Option<Provider>, sqlx::Error> {
    let sql = format!(
        "select {PROVIDER} from identity_providers where provider_id = $2 and tenant_id = $1 and deleted_at is null"
    );
    let row = sqlx::query(&sql).bind(tenant.0).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(provider).transpose()
}

/// A tenant's provider, locked until the transaction ends: neither is it changed meanwhile, nor does anybody sign on with it.
pub async fn lock_provider(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<Provider>, sqlx::Error> {
    let sql = format!(
        "select {PROVIDER} from identity_providers where provider_id = $2 and tenant_id = $1 and deleted_at is null
         for update"
    );
    let row = sqlx::query(&sql).bind(tenant.0).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(provider).transpose()
}

/// Removes a provider, its secret, and the sign-ons under way with it.
pub async fn delete_provider(
    connection: &mut PgConnection,
    provider: Granted<&Provider>,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update identity_providers set deleted_at = $2, enabled = false, sealed_secret = null where provider_id = $1",
    )
    .bind(provider.id)
    .bind(at.datetime())
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from sign_on_attempts where provider_id = $1").bind(provider.id).execute(connection).await?;
    Ok(())
}

/// Ends the sessions of all the people of a provider.
pub async fn end_sessions(
    connection: &mut PgConnection,
    provider: Uuid,
    why: &str,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sessions s set ended_at = $3, ended_why = $2 from identities i
         where i.provider_id = $1 and s.user_id = i.user_id and s.ended_at is null",
    )
    .bind(provider)
    .bind(why)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// The members of a tenant that come by a provider, with their roles.
pub async fn members_by(
    connection: &mut PgConnection,
    tenant: TenantId,
    provider: Uuid,
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    sqlx::query_as(
        "select m.user_id, m.role from memberships m join identities i using (user_id)
         where m.tenant_id = $1 and i.provider_id = $2 order by m.user_id for update of m",
    )
    .bind(tenant.0)
    .bind(provider)
    .fetch_all(connection)
    .await
}

/// True where a tenant has an admin who can sign in although this provider is not there. Locks all of the tenant's admins.
pub async fn has_admin_without(
    connection: &mut PgConnection,
    tenant: TenantId,
    provider: Uuid,
) -> Result<bool, sqlx::Error> {
    let admins = sqlx::query(
        "select p.provider_id is null or (p.enabled and p.provider_id <> $2) as stays
         from memberships m left join identities i using (user_id) left join identity_providers p using (provider_id)
         where m.tenant_id = $1 and m.role = 'admin' order by m.user_id for update of m",
    )
    .bind(tenant.0)
    .bind(provider)
    .fetch_all(connection)
    .await?;
    for row in &admins {
        if row.try_get("stays")? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True for a person who comes by a provider that a tenant has.
pub async fn comes_by_provider(
    connection: &mut PgConnection,
    tenant: TenantId,
    user: Uuid,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from identities i join identity_providers p using (provider_id)
             where i.user_id = $2 and p.tenant_id = $1 and p.deleted_at is null)",
    )
    .bind(tenant.0)
    .bind(user)
    .fetch_one(connection)
    .await
}

/// Begins a sign-on, and forgets those whose time is over; false where too many are under way from the same address.
pub async fn begin(pool: &PgPool, attempt: &Attempt, from_address_max: i64) -> Result<bool, sqlx::Error> {
    sqlx::query("delete from sign_on_attempts where expires_at <= $1")
        .bind(attempt.created_at.datetime())
        .execute(pool)
        .await?;
    let done = sqlx::query(
        "insert into sign_on_attempts (state_hash, browser_hash, provider_id, sealed, ip, created_at, expires_at)
         select $1, $2, $3, $4, $5, $6, $7
         where (select count(*) from sign_on_attempts where ip is not distinct from $5) < $8",
    )
    .bind(attempt.state_hash.as_slice())
    .bind(attempt.browser_hash.as_slice())
    .bind(attempt.provider)
    .bind(&attempt.sealed)
    .bind(&attempt.ip)
    .bind(attempt.created_at.datetime())
    .bind(attempt.expires_at.datetime())
    .bind(from_address_max)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a sign-on: whoever shows its state, it works no second time.
pub async fn end(pool: &PgPool, state_hashes: &[[u8; 32]]) -> Result<Option<Attempt>, sqlx::Error> {
    let hashes: Vec<&[u8]> = state_hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let row = sqlx::query(
        "delete from sign_on_attempts where state_hash = any($1)
         returning state_hash, browser_hash, provider_id, sealed, ip, created_at, expires_at",
    )
    .bind(hashes)
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        Ok(Attempt {
            state_hash: hash(&row, "state_hash")?,
            browser_hash: hash(&row, "browser_hash")?,
            provider: row.try_get("provider_id")?,
            sealed: row.try_get("sealed")?,
            ip: row.try_get("ip")?,
            created_at: time(&row, "created_at")?,
            expires_at: time(&row, "expires_at")?,
        })
    })
    .transpose()
}

fn hash(row: &PgRow, column: &str) -> Result<[u8; 32], sqlx::Error> {
    let bytes: Vec<u8> = row.try_get(column)?;
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash is not 32 bytes long".into()))
}

/// The person with a subject at a provider.
pub async fn known(
    connection: &mut PgConnection,
    provider: &Provider,
    subject: &str,
) -> Result<Option<Known>, sqlx::Error> {
    let row = sqlx::query(
        "select i.user_id, m.role from identities i left join memberships m on m.user_id = i.user_id and m.tenant_id = $3
         where i.provider_id = $1 and i.subject = $2",
    )
    .bind(provider.id)
    .bind(subject)
    .bind(provider.tenant.0)
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(Known { user: row.try_get("user_id")?, role: row.try_get("role")? })).transpose()
}

/// Adds a person without a password, whom a provider vouches for.
pub async fn insert_person(
    connection: &mut PgConnection,
    provider: Uuid,
    subject: &str,
    user: Uuid,
    (email, name): (&str, &str),
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with person as (insert into users (user_id, email, email_key, name, created_at, updated_at)
             values ($3, $4, $5, $6, $7, $7) returning user_id)
         insert into identities (provider_id, subject, user_id, created_at, last_used_at)
         select $1, $2, user_id, $7, $7 from person",
    )
    .bind(provider)
    .bind(subject)
    .bind(user)
    .bind(email)
    .bind(super::people::email_key(email))
    .bind(name)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that a person signed on, and what the provider calls it now; true where that is something else than before.
pub async fn update_person(
    connection: &mut PgConnection,
    user: Uuid,
    (email, name): (&str, &str),
    at: Timestamp,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "with identity as (update identities set last_used_at = $5 where user_id = $1)
         update users set email = $2, email_key = $3, name = $4, updated_at = $5
         where user_id = $1 and password_hash is null and (email, name) is distinct from ($2, $4)",
    )
    .bind(user)
    .bind(email)
    .bind(super::people::email_key(email))
    .bind(name)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes an assertion; false where it was taken before.
pub async fn use_assertion(
    pool: &PgPool,
    provider: Uuid,
    assertion: &str,
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<bool, sqlx::Error> {
    sqlx::query("delete from used_assertions where expires_at <= $1").bind(at.datetime()).execute(pool).await?;
    let done = sqlx::query(
        "insert into used_assertions (provider_id, assertion_id, expires_at) values ($1, $2, $3) on conflict do nothing",
    )
    .bind(provider)
    .bind(assertion)
    .bind(expires_at.datetime())
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The sealed secrets of all providers.
pub async fn secrets(pool: &PgPool) -> Result<Vec<(Uuid, Vec<u8>)>, sqlx::Error> {
    sqlx::query_as("select provider_id, sealed_secret from identity_providers where sealed_secret is not null")
        .fetch_all(pool)
        .await
}

/// Keeps a provider's secret as sealed anew; not where another was set meanwhile.
pub async fn reseal(pool: &PgPool, provider: Uuid, old: &[u8], new: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query("update identity_providers set sealed_secret = $3 where provider_id = $1 and sealed_secret = $2")
        .bind(provider)
        .bind(old)
        .bind(new)
        .execute(pool)
        .await?;
    Ok(())
}
