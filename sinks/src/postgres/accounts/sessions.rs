//! Sign-ins, and the refresh tokens that keep them alive.

use sqlx::{PgConnection, PgPool, Row};
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// A sign-in.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id; access tokens carry it.
    pub id: Uuid,
    /// Whose.
    pub user: Uuid,
    /// The tenant that is meant where a request names none.
    pub tenant: TenantId,
    /// From where.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    /// When.
    pub created_at: Timestamp,
    /// When it ends, however often it is refreshed.
    pub expires_at: Timestamp,
}

/// A person who is signed in, in a tenant.
#[derive(Debug, Clone)]
pub struct SessionOwner {
    /// Who.
    pub user: Uuid,
    /// What it is to the tenant.
    pub role: String,
    /// The tenant's plan.
    pub plan: String,
    /// The tenant's environment.
    pub environment: String,
}

/// What became of a refresh token that was shown.
#[derive(Debug)]
pub enum Refreshed {
    /// It was good, and is used up.
    Good(Session),
    /// It was used before: its session must end.
    Reused(Session),
}

/// Begins a session.
pub async fn begin(connection: &mut PgConnection, session: &Session) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into sessions (session_id, user_id, tenant_id, ip, user_agent, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(session.id)
    .bind(session.user)
    .bind(session.tenant.0)
    .bind(&session.ip)
    .bind(&session.user_agent)
    .bind(session.created_at.datetime())
    .bind(session.expires_at.datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a refresh token, kept as a hash.
pub async fn insert_refresh(
    connection: &mut PgConnection,
    session: Uuid,
    token_hash: &[u8; 32],
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into refresh_tokens (token_hash, session_id, issued_at, expires_at) values ($1, $2, $3, $4)")
        .bind(token_hash.as_slice())
        .bind(session)
        .bind(at.datetime())
        .bind(expires_at.datetime())
        .execute(connection)
        .await?;
    Ok(())
}

/// Uses a refresh token; `None` where there is none like it, or its time or its session is over. Of two who show the same one at once,
/// one is the second.
pub async fn refresh(
    connection: &mut PgConnection,
    hashes: &[[u8; 32]],
    at: Timestamp,
) -> Result<Option<Refreshed>, sqlx::Error> {
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let row = sqlx::query(
        "select r.token_hash, r.used_at is not null as used, r.expires_at > $2 and s.expires_at > $2 and s.ended_at is null as alive,
                s.session_id, s.user_id, s.tenant_id, s.ip, s.user_agent, s.created_at, s.expires_at
         from refresh_tokens r join sessions s using (session_id) where r.token_hash = any($1) for update of r, s",
    )
    .bind(hashes)
    .bind(at.datetime())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let session = Session {
        id: row.try_get("session_id")?,
        user: row.try_get("user_id")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        ip: row.try_get("ip")?,
        user_agent: row.try_get("user_agent")?,
        created_at: row.try_get::<time::OffsetDateTime, _>("created_at")?.into(),
        expires_at: row.try_get::<time::OffsetDateTime, _>("expires_at")?.into(),
    };
    if !row.try_get::<bool, _>("alive")? {
        return Ok(None);
    }
    if row.try_get("used")? {
        return Ok(Some(Refreshed::Reused(session)));
    }
    sqlx::query("update refresh_tokens set used_at = $2 where token_hash = $1")
        .bind(row.try_get::<Vec<u8>, _>("token_hash")?)
        .bind(at.datetime())
        .execute(connection)
        .await?;
    Ok(Some(Refreshed::Good(session)))
}

/// Ends a session; false where it had ended.
pub async fn end(connection: &mut PgConnection, session: Uuid, why: &str, at: Timestamp) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query("update sessions set ended_at = $3, ended_why = $2 where session_id = $1 and ended_at is null")
            .bind(session)
            .bind(why)
            .bind(at.datetime())
            .execute(connection)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends the sessions of a person, all but one.
pub async fn end_all(
    connection: &mut PgConnection,
    user: Uuid,
    but: Option<Uuid>,
    why: &str,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sessions set ended_at = $4, ended_why = $3
         where user_id = $1 and ended_at is null and session_id is distinct from $2",
    )
    .bind(user)
    .bind(but)
    .bind(why)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends the sessions of a person that are for a tenant.
pub async fn end_in(
    connection: &mut PgConnection,
    tenant: TenantId,
    user: Uuid,
    why: &str,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sessions set ended_at = $4, ended_why = $3 where user_id = $1 and tenant_id = $2 and ended_at is null",
    )
    .bind(user)
    .bind(tenant.0)
    .bind(why)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// Who is signed in by a session, in a tenant; `None` where the session is over or the person does not belong to the tenant.
pub async fn owner(pool: &PgPool, session: Uuid, tenant: TenantId) -> Result<Option<SessionOwner>, sqlx::Error> {
    let row = sqlx::query(
        "select s.user_id, m.role, t.plan, t.environment
         from sessions s join memberships m on m.user_id = s.user_id and m.tenant_id = $2 join tenants t on t.tenant_id = $2
         where s.session_id = $1 and s.ended_at is null and s.expires_at > now()",
    )
    .bind(session)
    .bind(tenant.0)
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        Ok(SessionOwner {
            user: row.try_get("user_id")?,
            role: row.try_get("role")?,
            plan: row.try_get("plan")?,
            environment: row.try_get("environment")?,
        })
    })
    .transpose()
}
