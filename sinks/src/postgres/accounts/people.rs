//! People, the tenants they belong to, and who is invited.

use super::granted::Granted;
use crate::postgres::page::{self, Page};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, PgPool, Row};
use time::OffsetDateTime;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// A person.
#[derive(Debug, Clone)]
pub struct User {
    /// Its id, as it stands in audit records.
    pub id: Uuid,
    /// As it was typed.
    pub email: String,
    /// What people call it.
    pub name: String,
    /// Its password as a PHC string of argon2id; absent for who signs in elsewhere.
    pub password_hash: Option<String>,
}

/// A person in a tenant.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub user_id: Uuid,
    /// Its address.
    pub email: String,
    /// Its name.
    pub name: String,
    /// What it is to the tenant.
    pub role: String,
    /// Since when.
    pub since: Timestamp,
}

/// A tenant that a person belongs to.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Which.
    pub tenant: TenantId,
    /// What the tenant is called.
    pub tenant_name: String,
    /// `live` or `sandbox`.
    pub environment: String,
    /// What the person is to it.
    pub role: String,
}

/// An invitation.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// Its id.
    pub id: Uuid,
    /// To which tenant.
    pub tenant: TenantId,
    /// Whom.
    pub email: String,
    /// As what.
    pub role: String,
    /// By whom.
    pub invited_by: Uuid,
    /// When.
    pub created_at: Timestamp,
    /// Until when it can be accepted.
    pub expires_at: Timestamp,
    /// When it was accepted.
    pub accepted_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

/// The form of an address in which two are the same person's.
#[must_use]
pub fn email_key(email: &str) -> String {
    email.trim().to_lowercase()
}

fn time(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Ok(row.try_get::<OffsetDateTime, _>(column)?.into())
}

fn user(row: &PgRow) -> Result<User, sqlx::Error> {
    Ok(User {
        id: row.try_get("user_id")?,
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
    })
}

/// Adds a person with a password; false where the address is taken by another who has one.
pub async fn insert_user(connection: &mut PgConnection, user: &User, at: Timestamp) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into users (user_id, email, email_key, name, password_hash, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $6) on conflict (email_key) where password_hash is not null do nothing",
    )
    .bind(user.id)
    .bind(&user.email)
    .bind(email_key(&user.email))
    .bind(&user.name)
    .bind(&user.password_hash)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The person with an address who signs in with a password; what a tenant's identity provider says of an address counts nowhere
/// else.
pub async fn find_by_email(pool: &PgPool, email: &str) -> Result<Option<User>, sqlx::Error> {
    let sql =
        "select user_id, email, name, password_hash from users where email_key = $1 and password_hash is not null";
    let row = sqlx::query(sql).bind(email_key(email)).fetch_optional(pool).await?;
    row.as_ref().map(user).transpose()
}

/// One person.
pub async fn find_user(pool: &PgPool, id: Uuid) -> Result<Option<User>, sqlx::Error> {
    let row = sqlx::query("select user_id, email, name, password_hash from users where user_id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(user).transpose()
}

/// Gives a person another password.
pub async fn set_password(
    connection: &mut PgConnection,
    user: Uuid,
    password_hash: &str,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("update users set password_hash = $2, updated_at = $3 where user_id = $1")
        .bind(user)
        .bind(password_hash)
        .bind(at.datetime())
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes a person a member; false where it is one.
pub async fn join(
    connection: &mut PgConnection,
    user: Uuid,
    tenant: TenantId,
    role: Granted<&str>,
    at: Timestamp,
) -> Result<bool, sqlx::Error> {
    // Nor is the person changed meanwhile: each of its tenants gets a record of that, this one too.
    sqlx::query("select from users where user_id = $1 for no key update").bind(user).execute(&mut *connection).await?;
    let done = sqlx::query(
        "insert into memberships (user_id, tenant_id, role, created_at) values ($1, $2, $3, $4) on conflict do nothing",
    )
    .bind(user)
    .bind(tenant.0)
    .bind(*role)
    .bind(at.datetime())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The tenants that a person belongs to: live ones first, in the order in which it joined them.
pub async fn memberships(executor: impl PgExecutor<'_>, user: Uuid) -> Result<Vec<Membership>, sqlx::Error> {
    let rows = sqlx::query(
        "select m.tenant_id, t.name, t.environment, m.role from memberships m join tenants t using (tenant_id)
         where m.user_id = $1 order by t.environment, m.created_at, m.tenant_id",
    )
    .bind(user)
    .fetch_all(executor)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Membership {
                tenant: TenantId(row.try_get("tenant_id")?),
                tenant_name: row.try_get("name")?,
                environment: row.try_get("environment")?,
                role: row.try_get("role")?,
            })
        })
        .collect()
}

/// A page of a tenant's people.
pub async fn members(
    pool: &PgPool,
    tenant: TenantId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Page<Member>, sqlx::Error> {
    let query = sqlx::query(
        "select u.user_id, u.email, u.name, m.role, m.created_at from memberships m join users u using (user_id)
         where m.tenant_id = $1 and ($2::uuid is null or u.user_id > $2) order by u.user_id limit $3",
    )
    .bind(tenant.0)
    .bind(after)
    .bind(limit.saturating_add(1));
    let member = |row: &PgRow| {
        Ok(Member {
            user_id: row.try_get("user_id")?,
            email: row.try_get("email")?,
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            since: time(row, "created_at")?,
        })
    };
    page::read(&mut pool.acquire().await?, query, limit, member).await
}

/// A member's role; `None` for who is none.
pub async fn role(connection: &mut PgConnection, tenant: TenantId, user: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select role from memberships where tenant_id = $1 and user_id = $2")
        .bind(tenant.0)
        .bind(user)
        .fetch_optional(connection)
        .await
}

/// A member's role, and how many admins the tenant has beside it that can sign in: one whose identity provider is disabled
/// cannot. Locks all of them, so that two cannot remove each other and leave none.
pub async fn role_for_change(
    connection: &mut PgConnection,
    tenant: TenantId,
    user: Uuid,
) -> Result<Option<(String, usize)>, sqlx::Error> {
    let admins: Vec<Uuid> = sqlx::query_scalar(
        "select m.user_id from memberships m where m.tenant_id = $1 and m.role = 'admin' and not exists (
             select from identities i join identity_providers p using (provider_id) where i.user_id = m.user_id and not p.enabled)
         order by m.user_id for update of m",
    )
    .bind(tenant.0)
    .fetch_all(&mut *connection)
    .await?;
    let role: Option<String> =
        sqlx::query_scalar("select role from memberships where tenant_id = $1 and user_id = $2 for update")
            .bind(tenant.0)
            .bind(user)
            .fetch_optional(connection)
            .await?;
    Ok(role.map(|role| (role, admins.iter().filter(|admin| **admin != user).count())))
}

/// Gives a member another role.
pub async fn set_role(
    connection: &mut PgConnection,
    tenant: TenantId,
    user: Uuid,
    role: Granted<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update memberships set role = $3 where tenant_id = $1 and user_id = $2")
        .bind(tenant.0)
        .bind(user)
        .bind(*role)
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes a member, and with it the role that it had.
pub async fn remove(
    connection: &mut PgConnection,
    tenant: TenantId,
    user: Uuid,
    _had: Granted<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from memberships where tenant_id = $1 and user_id = $2")
        .bind(tenant.0)
        .bind(user)
        .execute(connection)
        .await?;
    Ok(())
}

const INVITATION: &str =
    "invitation_id, tenant_id, email, role, invited_by, created_at, expires_at, accepted_at, revoked_at";

fn invitation(row: &PgRow) -> Result<Invitation, sqlx::Error> {
    let moment = |column| Ok::<_, sqlx::Error>(row.try_get::<Option<OffsetDateTime>, _>(column)?.map(Timestamp::from));
    Ok(Invitation {
        id: row.try_get("invitation_id")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        email: row.try_get("email")?,
        role: row.try_get("role")?,
        invited_by: row.try_get("invited_by")?,
        created_at: time(row, "created_at")?,
        expires_at: time(row, "expires_at")?,
        accepted_at: moment("accepted_at")?,
        revoked_at: moment("revoked_at")?,
    })
}

/// Adds an invitation, its token kept as a hash.
pub async fn invite(
    connection: &mut PgConnection,
    invitation: Granted<&Invitation>,
    token_hash: &[u8; 32],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into invitations (invitation_id, tenant_id, email, email_key, role, token_hash, invited_by, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(invitation.id)
    .bind(invitation.tenant.0)
    .bind(&invitation.email)
    .bind(email_key(&invitation.email))
    .bind(&invitation.role)
    .bind(token_hash.as_slice())
    .bind(invitation.invited_by)
    .bind(invitation.created_at.datetime())
    .bind(invitation.expires_at.datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// A page of a tenant's invitations, newest first.
pub async fn invitations(
    pool: &PgPool,
    tenant: TenantId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Page<Invitation>, sqlx::Error> {
    let sql = format!(
        "select {INVITATION} from invitations where tenant_id = $1 and ($2::uuid is null or invitation_id < $2)
         order by invitation_id desc limit $3"
    );
    let query = sqlx::query(&sql).bind(tenant.0).bind(after).bind(limit.saturating_add(1));
    page::read(&mut pool.acquire().await?, query, limit, invitation).await
}

/// The invitation with one of these hashes.
pub async fn find_invitation(pool: &PgPool, hashes: &[[u8; 32]]) -> Result<Option<Invitation>, sqlx::Error> {
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let sql = format!("select {INVITATION} from invitations where token_hash = any($1)");
    let row = sqlx::query(&sql).bind(hashes).fetch_optional(pool).await?;
    row.as_ref().map(invitation).transpose()
}

/// One invitation, locked until the transaction ends.
pub async fn lock_invitation(connection: &mut PgConnection, id: Uuid) -> Result<Option<Invitation>, sqlx::Error> {
    let sql = format!("select {INVITATION} from invitations where invitation_id = $1 for update");
    let row = sqlx::query(&sql).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(invitation).transpose()
}

/// Marks an invitation accepted.
pub async fn accepted(connection: &mut PgConnection, id: Uuid, at: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query("update invitations set accepted_at = $2 where invitation_id = $1")
        .bind(id)
        .bind(at.datetime())
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes an invitation back.
pub async fn revoke_invitation(
    connection: &mut PgConnection,
    invitation: Granted<&Invitation>,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("update invitations set revoked_at = $2 where invitation_id = $1")
        .bind(invitation.id)
        .bind(at.datetime())
        .execute(connection)
        .await?;
    Ok(())
}

/// Adds a token that sets a password once.
pub async fn insert_reset(
    connection: &mut PgConnection,
    user: Uuid,
    token_hash: &[u8; 32],
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into password_resets (token_hash, user_id, created_at, expires_at) values ($1, $2, $3, $4)")
        .bind(token_hash.as_slice())
        .bind(user)
        .bind(at.datetime())
        .bind(expires_at.datetime())
        .execute(connection)
        .await?;
    Ok(())
}

/// Whose the token is that sets a password; `None` where there is no such token any more. It is not used by that.
pub async fn find_reset(pool: &PgPool, hashes: &[[u8; 32]], at: Timestamp) -> Result<Option<Uuid>, sqlx::Error> {
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    sqlx::query_scalar(
        "select user_id from password_resets where token_hash = any($1) and used_at is null and expires_at > $2",
    )
    .bind(hashes)
    .bind(at.datetime())
    .fetch_optional(pool)
    .await
}

/// Uses a token that sets a password, and every other of the same person; `None` where there is no such token any more.
pub async fn use_reset(
    connection: &mut PgConnection,
    hashes: &[[u8; 32]],
    at: Timestamp,
) -> Result<Option<Uuid>, sqlx::Error> {
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let user: Option<Uuid> = sqlx::query_scalar(
        "update password_resets set used_at = $2 where token_hash = any($1) and used_at is null and expires_at > $2
         returning user_id",
    )
    .bind(hashes)
    .bind(at.datetime())
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(user) = user {
        sqlx::query("update password_resets set used_at = $2 where user_id = $1 and used_at is null")
            .bind(user)
            .bind(at.datetime())
            .execute(connection)
            .await?;
    }
    Ok(user)
}
