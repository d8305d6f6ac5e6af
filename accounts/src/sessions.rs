//! Sessions: signing in and out, refresh tokens that work once, passwords.

use crate::attempts::Attempted;
use crate::fields;
use crate::post::not_sent;
use crate::shapes::{self, Person, SessionTokens, TenantOfPerson};
use crate::token::{self, Purpose};
use crate::{Accounts, secret};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{ChangePassword, LogOut};
use twh_edge::answer::{Answer, Done};
use twh_edge::auth::{Caller, Client, Credential, now};
use twh_edge::body::Body;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::problems::Problems;
use twh_edge::request::RequestId;
use twh_edge::tokens::ACCESS_TOKEN_SECONDS;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::accounts::people::{self, Membership};
use twh_sinks::postgres::accounts::sessions::{self, Refreshed, Session};
use uuid::Uuid;

/// How long a refresh token is good, in seconds: two weeks without a refresh end a session.
const REFRESH_SECONDS: i64 = 14 * 86_400;
/// How long a session lasts at most, in seconds: 90 days.
const SESSION_SECONDS: i64 = 90 * 86_400;

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_micros(at.micros() + seconds * 1_000_000)
}

/// A session that was begun, and the tokens for it.
pub(crate) struct Opened {
    pub(crate) tokens: SessionTokens,
}

/// Begins a session, within a transaction.
pub(crate) async fn open(
    accounts: &Accounts,
    connection: &mut PgConnection,
    user: Uuid,
    tenant: TenantId,
    client: &Client,
) -> Result<Opened, ApiError> {
    let at = now();
    let session = Session {
        id: Uuid::now_v7(),
        user,
        tenant,
        ip: client.ip.map(|ip| ip.to_string()),
        user_agent: client.user_agent.clone(),
        created_at: at,
        expires_at: after(at, SESSION_SECONDS),
    };
    sessions::begin(connection, &session).await.map_err(ApiError::database)?;
    Ok(Opened { tokens: tokens(accounts, connection, &session, at).await? })
}

async fn tokens(
    accounts: &Accounts,
    connection: &mut PgConnection,
    session: &Session,
    at: Timestamp,
) -> Result<SessionTokens, ApiError> {
    let (refresh, hash) = token::new(&accounts.secrets, Purpose::Refresh).map_err(secret)?;
    let until = after(at, REFRESH_SECONDS).min(session.expires_at);
    sessions::insert_refresh(connection, session.id, &hash, at, until).await.map_err(ApiError::database)?;
    let access = accounts.tokens.issue(session.user, session.id, session.tenant.0).await.map_err(secret)?;
    Ok(SessionTokens {
        access_token: access,
        token_type: "Bearer",
        expires_in: ACCESS_TOKEN_SECONDS,
        refresh_token: refresh,
        refresh_expires_at: until,
    })
}

/// Who has signed in, and where it belongs.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SignedIn {
    user: Person,
    /// The tenant that the tokens are for; `X-Tenant-ID` chooses another.
    tenant_id: TenantId,
    tenants: Vec<TenantOfPerson>,
    tokens: SessionTokens,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    email: String,
    password: String,
    /// In which of the person's tenants; the first where it is left out.
    tenant_id: Option<Uuid>,
}

pub(crate) async fn log_in(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<Credentials>,
) -> Result<Answer<SignedIn>, ApiError> {
    let asked = body.read()?;
    let client = Client::of(&request);
    let attempt = accounts.attempts.begin(Attempted::Password, &asked.email, client.ip).await?;
    let wrong = || ApiError::new(ErrorCode::InvalidCredentials, "the address and the password do not belong together");
    // PostgreSQL's text holds no NUL, so nobody's address does.
    let user = if asked.email.contains('\0') {
        None
    } else {
        people::find_by_email(&accounts.pool, &asked.email).await.map_err(ApiError::database)?
    };
    let kept = user.as_ref().and_then(|user| user.password_hash.clone());
    if !accounts.passwords.is(asked.password, kept).await? {
        return Err(wrong());
    }
    let user = user.ok_or_else(wrong)?;
    attempt.succeeded().await;
    let memberships = people::memberships(&accounts.pool, user.id).await.map_err(ApiError::database)?;
    let chosen = match asked.tenant_id {
        Some(tenant) => memberships.iter().find(|membership| membership.tenant.0 == tenant),
        None => memberships.first(),
    };
    let chosen = chosen.ok_or_else(|| ApiError::new(ErrorCode::Forbidden, "you belong to no such tenant"))?;
    let actor = client.actor("user", user.id.to_string());
    let deed = Deed { tenant: chosen.tenant, actor, request_id: RequestId::of(&request), at: now() };
    let opened = accounts.control.change([deed.tenant], async |tx| {
        let opened = open(&accounts, tx, user.id, chosen.tenant, &client).await?;
        let new = Some(json!({ "user_id": user.id, "email": user.email }));
        let change = Change { action: "session.begin", entity_kind: "user", entity: user.id, old: None, new };
        tx.record(&deed, change).await.map_err(ApiError::database)?;
        Ok(opened)
    });
    let opened = opened.await?;
    Ok(Answer::of(&signed_in(Person::from(&user), chosen.tenant, &memberships, opened)))
}

/// The answer to who has signed in.
pub(crate) fn signed_in(user: Person, tenant: TenantId, memberships: &[Membership], opened: Opened) -> SignedIn {
    SignedIn {
        user,
        tenant_id: tenant,
        tenants: memberships.iter().map(TenantOfPerson::from).collect(),
        tokens: opened.tokens,
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshToken {
    refresh_token: String,
}

/// New tokens.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Refreshed")]
pub(crate) struct NewTokens {
    tokens: SessionTokens,
}

pub(crate) async fn refresh(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<RefreshToken>,
) -> Result<Answer<NewTokens>, ApiError> {
    let asked = body.read()?;
    let hashes = token::hashes(&accounts.secrets, Purpose::Refresh, &asked.refresh_token);
    let at = now();
    let client = Client::of(&request);
    let begun = async {
        let mut tx = accounts.pool.begin().await?;
        let refreshed = sessions::refresh(&mut tx, &hashes, at).await?;
        Ok(refreshed.map(|refreshed| (tx, refreshed)))
    };
    let begun = accounts.authenticator.strangers().found(client.ip, begun).await?;
    let invalid = |message: &str| ApiError::new(ErrorCode::InvalidToken, message);
    match begun {
        Some((mut tx, Refreshed::Good(session))) => {
            let tokens = tokens(&accounts, &mut tx, &session, at).await?;
            tx.commit().await.map_err(ApiError::database)?;
            Ok(Answer::of(&NewTokens { tokens }))
        }
        Some((tx, Refreshed::Reused(session))) => {
            // Whoever changes the tenant's things holds its account before a session.
            drop(tx);
            let actor = client.actor("user", session.user.to_string());
            let deed = Deed { tenant: session.tenant, actor, request_id: RequestId::of(&request), at };
            end(&accounts, &deed, session.id, session.user, "refresh_token_reused").await?;
            accounts.authenticator.forget();
            tracing::warn!(user_id = %session.user, session_id = %session.id, "a refresh token came twice: its session has ended");
            Err(invalid("the refresh token was used before, so the session has ended; sign in again"))
        }
        None => Err(invalid("the refresh token is not known, or its session is over; sign in again")),
    }
}

/// Ends a session, unless it has ended.
async fn end(accounts: &Accounts, deed: &Deed, session: Uuid, user: Uuid, why: &str) -> Result<(), ApiError> {
    let ended = accounts.control.change([deed.tenant], async |tx| {
        if !sessions::end(tx, session, why, deed.at).await.map_err(ApiError::database)? {
            return Ok(());
        }
        let new = Some(json!({ "session_id": session, "why": why }));
        let change = Change { action: "session.end", entity_kind: "user", entity: user, old: None, new };
        tx.record(deed, change).await.map_err(ApiError::database)
    });
    ended.await
}

pub(crate) async fn log_out(
    caller: Caller<LogOut>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Done, ApiError> {
    // The endpoint is a person's.
    if let Credential::Session { session_id, user_id } = caller.credential {
        end(&accounts, &caller.deed(&request), session_id, user_id, "logout").await?;
        accounts.authenticator.forget();
    }
    Ok(Done)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordChange {
    current_password: String,
    #[schemars(schema_with = "shapes::new_password")]
    new_password: String,
}

pub(crate) async fn change_password(
    caller: Caller<ChangePassword>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<PasswordChange>,
) -> Result<Done, ApiError> {
    let asked = body.read()?;
    let mut problems = Problems::default();
    fields::password(&mut problems, "new_password", &asked.new_password);
    problems.none()?;
    let Credential::Session { session_id, user_id } = caller.credential else {
        return Err(ApiError::internal("an API key came to where only people come"));
    };
    let user = people::find_user(&accounts.pool, user_id).await.map_err(ApiError::database)?;
    let user = user.ok_or_else(|| ApiError::internal("a session is nobody's"))?;
    let attempt = accounts.attempts.begin(Attempted::Password, &user.email, caller.client.ip).await?;
    if !accounts.passwords.is(asked.current_password, user.password_hash.clone()).await? {
        return Err(ApiError::new(ErrorCode::InvalidCredentials, "the current password is another"));
    }
    attempt.succeeded().await;
    set_password(&accounts, caller.deed(&request), user_id, Some(session_id), asked.new_password).await
}

/// Gives a person another password, and ends the sessions that the old one opened.
async fn set_password(
    accounts: &Accounts,
    deed: Deed,
    user: Uuid,
    but: Option<Uuid>,
    password: String,
) -> Result<Done, ApiError> {
    let hash = accounts.passwords.hash(password).await?;
    let tenants = tenants_of(&accounts.pool, user).await.map_err(ApiError::database)?;
    let stored = accounts
        .control
        .change(tenants, async |tx| store_password(tx, &deed, user, but, &hash).await.map_err(ApiError::database));
    stored.await?;
    accounts.authenticator.forget();
    Ok(Done)
}

/// The tenants in whose accounts a change of a person stands.
pub(crate) async fn tenants_of(pool: &PgPool, user: Uuid) -> Result<Vec<TenantId>, sqlx::Error> {
    Ok(people::memberships(pool, user).await?.iter().map(|membership| membership.tenant).collect())
}

async fn store_password(
    tx: &mut ControlChange,
    deed: &Deed,
    user: Uuid,
    but: Option<Uuid>,
    hash: &str,
) -> Result<(), sqlx::Error> {
    people::set_password(tx, user, hash, deed.at).await?;
    sessions::end_all(tx, user, but, "password_changed", deed.at).await?;
    let deed_in = |tenant| Deed { tenant, ..deed.clone() };
    record_of_person(tx, deed_in, user, "user.password").await
}

/// Records a change of a person in the account of each of its tenants: also of one that it has joined since the change began, which
/// is held from here on.
pub(crate) async fn record_of_person(
    tx: &mut ControlChange,
    deed: impl Fn(TenantId) -> Deed,
    user: Uuid,
    action: &str,
) -> Result<(), sqlx::Error> {
    let mut memberships = people::memberships(&mut **tx, user).await?;
    memberships.sort_by_key(|membership| membership.tenant);
    for membership in memberships {
        let change = Change { action, entity_kind: "user", entity: user, old: None, new: None };
        tx.record(&deed(membership.tenant), change).await?;
    }
    Ok(())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forgotten {
    #[schemars(schema_with = "shapes::email")]
    email: String,
}

pub(crate) async fn forget_password(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<Forgotten>,
) -> Result<Done, ApiError> {
    let asked = body.read()?;
    let mut problems = Problems::default();
    fields::email(&mut problems, "email", &asked.email);
    problems.none()?;
    // What cannot be sent does not count.
    if !accounts.post.sends() {
        return Err(not_sent());
    }
    // Every mail counts: nobody's box is flooded.
    let _counted = accounts.attempts.begin(Attempted::Mail, &asked.email, Client::of(&request).ip).await?;
    accounts.post.password_reset(&asked.email)?;
    Ok(Done)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reset {
    token: String,
    #[schemars(schema_with = "shapes::new_password")]
    password: String,
}

pub(crate) async fn reset_password(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<Reset>,
) -> Result<Done, ApiError> {
    let asked = body.read()?;
    let mut problems = Problems::default();
    fields::password(&mut problems, "password", &asked.password);
    problems.none()?;
    let hashes = token::hashes(&accounts.secrets, Purpose::PasswordReset, &asked.token);
    let invalid =
        || ApiError::new(ErrorCode::InvalidToken, "the token is not known, was used, or has expired; ask for another");
    // A password takes its time: who waits for it holds neither a lock nor a connection that others need.
    let find = people::find_reset(&accounts.pool, &hashes, now());
    let user = accounts.authenticator.strangers().found(Client::of(&request).ip, find).await?;
    let user = user.ok_or_else(invalid)?;
    let hash = accounts.passwords.hash(asked.password).await?;
    let at = now();
    let actor = Client::of(&request).actor("user", user.to_string());
    let deed = |tenant| Deed { tenant, actor: actor.clone(), request_id: RequestId::of(&request), at };
    let tenants = tenants_of(&accounts.pool, user).await.map_err(ApiError::database)?;
    let reset = accounts.control.change(tenants, async |tx| {
        // Of two who show it at once, the second finds it used.
        if people::use_reset(tx, &hashes, at).await.map_err(ApiError::database)? != Some(user) {
            return Err(invalid());
        }
        people::set_password(tx, user, &hash, at).await.map_err(ApiError::database)?;
        sessions::end_all(tx, user, None, "password_reset", at).await.map_err(ApiError::database)?;
        record_of_person(tx, deed, user, "user.password_reset").await.map_err(ApiError::database)
    });
    reset.await?;
    accounts.authenticator.forget();
    Ok(Done)
}

/// The public keys of access tokens, as a JSON Web Key Set (RFC 7517).
#[derive(Serialize, JsonSchema)]
pub(crate) struct Jwks {
    keys: Vec<serde_json::Map<String, Value>>,
}

pub(crate) async fn jwks(accounts: web::Data<Accounts>) -> Result<Answer<Jwks>, ApiError> {
    let keys = accounts.tokens.jwks().await.map_err(ApiError::unavailable)?;
    Ok(Answer::written(keys.to_string()).header(("cache-control", "public, max-age=300")))
}
