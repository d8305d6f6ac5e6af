//! Who calls: an API key or an access token in `Authorization: Bearer`, what it may do, and in which tenant.
//!
//! A handler says in its type which endpoint it is ([`Caller`]), and is reached only by who may call it.

use crate::access::{EndpointInfo, Guarded, Need, Role, Scopes};
use crate::api_key::ApiKey;
use crate::error::{ApiError, ErrorCode};
use crate::guard::client_address;
use crate::known::Known;
use crate::limits::{Plan, Subject, limit};
use crate::openapi::{Describe, Operation};
use crate::request::{CallerTenant, RequestId};
use crate::room::make_room;
use crate::strangers::{Asker, Strangers};
use crate::tokens::Tokens;
use actix_web::http::header::{AUTHORIZATION, USER_AGENT};
use actix_web::{FromRequest, HttpMessage, HttpRequest, dev, web};
use futures::future::LocalBoxFuture;
use ipnet::IpNet;
use serde_json::json;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use twh_domain::actor::Actor;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::accounts::audit::Deed;
use twh_sinks::postgres::accounts::keys::{self, KeyOwner};
use twh_sinks::postgres::accounts::sessions::{self, SessionOwner};
use twh_sinks::secrets::Secrets;
use uuid::Uuid;

/// Longest credential that is looked at.
const CREDENTIAL_LENGTH_MAX: usize = 4_096;
/// Longest `User-Agent` that is kept.
const USER_AGENT_LENGTH_MAX: usize = 256;
const TENANT_HEADER: &str = "x-tenant-id";
/// What API keys are hashed for.
pub const API_KEY_PURPOSE: &str = "api_key";

/// Finds out who calls.
pub struct Authenticator {
    pool: PgPool,
    secrets: Secrets,
    tokens: Arc<Tokens>,
    keys: Known<[u8; 32], KeyOwner>,
    sessions: Known<(Uuid, TenantId), SessionOwner>,
    strangers: Strangers,
    used: Mutex<BTreeMap<Uuid, Timestamp>>,
}

impl Authenticator {
    /// Looks keys and sessions up in a database.
    #[must_use]
    pub fn new(pool: PgPool, secrets: Secrets, tokens: Arc<Tokens>) -> Self {
        let (keys, sessions, strangers) = (Known::new(), Known::new(), Strangers::default());
        Self { pool, secrets, tokens, keys, sessions, strangers, used: Mutex::default() }
    }

    /// Believes no answer of before: something was revoked in this process, and is to work no longer.
    pub fn forget(&self) {
        self.keys.forget();
        self.sessions.forget();
    }

    /// What counts look-ups of credentials that nobody has: for those that come in bodies, too.
    #[must_use]
    pub const fn strangers(&self) -> &Strangers {
        &self.strangers
    }

    /// Writes down when keys were last used; for a task that does it now and then, on connections of its own: those of the
    /// requests end with the threads that serve HTTP.
    pub async fn note_uses(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() { Ok(()) } else { keys::used(pool, &used).await }
    }

    async fn key(&self, key: &ApiKey, ip: Option<IpAddr>) -> Result<Option<Arc<KeyOwner>>, ApiError> {
        let hashes = self.secrets.hashes(API_KEY_PURPOSE, key.reveal());
        let newest = *hashes.first().ok_or_else(|| ApiError::internal("there is no master key"))?;
        let find = async || keys::find_by_hash(&self.pool, &hashes).await;
        self.keys.owner(newest, &self.strangers, Asker::keys(ip), find).await
    }

    async fn session(&self, session: Uuid, tenant: TenantId) -> Result<Option<Arc<SessionOwner>>, ApiError> {
        let find = async || sessions::owner(&self.pool, session, tenant).await;
        self.sessions.owner((session, tenant), &self.strangers, Asker::Session(session), find).await
    }

    async fn identify(&self, request: &HttpRequest) -> Result<Identity, ApiError> {
        let credential = bearer(request)
            .ok_or_else(|| unauthenticated("send Authorization: Bearer with an API key or an access token"))?;
        if credential.starts_with("twh_") {
            self.identify_key(request, credential).await
        } else {
            self.identify_person(request, credential).await
        }
    }

    async fn identify_key(&self, request: &HttpRequest, text: &str) -> Result<Identity, ApiError> {
        let key = ApiKey::parse(text).ok_or_else(|| {
            unauthenticated("that is no API key: a character is wrong or missing; copy it again, whole")
        })?;
        let client = Client::of(request);
        let owner = self.key(&key, client.ip).await?.ok_or_else(|| unauthenticated("the API key is not known"))?;
        let now = now();
        if owner.key.revoked_at.is_some() {
            return Err(unauthenticated("the API key was revoked"));
        }
        if let Some(end) = owner.key.expires_at.filter(|end| *end <= now) {
            return Err(unauthenticated(format!("the API key expired at {end}")));
        }
        if let Some(networks) = &owner.key.ip_allowed {
            let inside = |network: &String| network.parse::<IpNet>().is_ok_and(|n| client.is_in(&n));
            if !networks.iter().any(inside) {
                return Err(ApiError::new(ErrorCode::IpNotAllowed, "the API key may not be used from this address"));
            }
        }
        if tenant_header(request)?.is_some_and(|asked| asked != owner.key.tenant) {
            return Err(not_your_tenant());
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(owner.key.id, now);
        let role = role(&owner.key.role)?;
        Ok(Identity {
            tenant_id: owner.key.tenant,
            credential: Credential::ApiKey { key_id: owner.key.id },
            role,
            scopes: Scopes::of_key(role, owner.key.scopes.as_deref()),
            plan: plan(&owner.plan)?,
            environment: owner.environment.clone(),
            client,
        })
    }

    async fn identify_person(&self, request: &HttpRequest, token: &str) -> Result<Identity, ApiError> {
        let claims = self.tokens.verify(token).await.map_err(ApiError::unavailable)?.ok_or_else(|| {
            unauthenticated("the access token is not one of ours or has expired; refresh it, or sign in again")
        })?;
        let own = TenantId(claims.tid);
        let tenant = tenant_header(request)?.unwrap_or(own);
        let client = Client::of(request);
        let owner = self.session(claims.sid, tenant).await?.ok_or_else(|| {
            if tenant == own { unauthenticated("the session has ended; sign in again") } else { not_your_tenant() }
        })?;
        let role = role(&owner.role)?;
        Ok(Identity {
            tenant_id: tenant,
            credential: Credential::Session { session_id: claims.sid, user_id: owner.user },
            role,
            scopes: Scopes::of_role(role),
            plan: plan(&owner.plan)?,
            environment: owner.environment.clone(),
            client,
        })
    }
}

fn unauthenticated(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, message)
}

/// The same for a tenant that does not exist.
fn not_your_tenant() -> ApiError {
    ApiError::new(ErrorCode::Forbidden, "X-Tenant-ID names no tenant that you belong to")
}

fn role(name: &str) -> Result<Role, ApiError> {
    Role::from_name(name).ok_or_else(|| ApiError::internal(format!("the stored role {name:?} is not known")))
}

fn plan(name: &str) -> Result<Plan, ApiError> {
    Plan::from_name(name).ok_or_else(|| ApiError::internal(format!("the stored plan {name:?} is not known")))
}

fn tenant_header(request: &HttpRequest) -> Result<Option<TenantId>, ApiError> {
    let Some(value) = request.headers().get(TENANT_HEADER) else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| Uuid::parse_str(text).ok());
    id.map(|id| Some(TenantId(id)))
        .ok_or_else(|| ApiError::new(ErrorCode::InvalidTenantId, "X-Tenant-ID is a tenant's id, a UUID"))
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let (scheme, credential) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let credential = credential.trim();
    let sound = scheme.eq_ignore_ascii_case("bearer") && (1..=CREDENTIAL_LENGTH_MAX).contains(&credential.len());
    sound.then_some(credential)
}

/// The time, as it is written down.
#[must_use]
pub fn now() -> Timestamp {
    OffsetDateTime::now_utc().into()
}

/// From where and with what somebody calls.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address.
    pub ip: Option<IpAddr>,
    /// What it calls itself.
    pub user_agent: Option<String>,
}

impl Client {
    /// The client of a request.
    #[must_use]
    pub fn of(request: &HttpRequest) -> Self {
        let agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
        Self {
            ip: client_address(request),
            user_agent: agent.map(|text| text.chars().take(USER_AGENT_LENGTH_MAX).collect()),
        }
    }

    fn is_in(&self, network: &IpNet) -> bool {
        self.ip.is_some_and(|ip| network.contains(&ip))
    }

    /// Somebody, calling from there.
    #[must_use]
    pub fn actor(&self, kind: &str, id: String) -> Actor {
        Actor { kind: kind.to_owned(), id, ip: self.ip.map(|ip| ip.to_string()), user_agent: self.user_agent.clone() }
    }
}

/// What somebody calls with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// An API key.
    ApiKey {
        /// Which.
        key_id: Uuid,
    },
    /// An access token.
    Session {
        /// Of which session.
        session_id: Uuid,
        /// Of whom.
        user_id: Uuid,
    },
}

/// Somebody who calls, in a tenant.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose data it may see and change.
    pub tenant_id: TenantId,
    /// What it calls with.
    pub credential: Credential,
    /// What it is to the tenant.
    pub role: Role,
    /// What it may do.
    pub scopes: Scopes,
    /// The tenant's plan.
    pub plan: Plan,
    /// The tenant's environment.
    pub environment: String,
    /// From where it calls.
    pub client: Client,
}

impl Identity {
    /// It, as the account of changes names it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self.credential {
            Credential::ApiKey { key_id } => self.client.actor("api_key", key_id.to_string()),
            Credential::Session { user_id, .. } => self.client.actor("user", user_id.to_string()),
        }
    }

    /// What it does now, by a request.
    #[must_use]
    pub fn deed(&self, request: &HttpRequest) -> Deed {
        Deed { tenant: self.tenant_id, actor: self.actor(), request_id: RequestId::of(request), at: now() }
    }

    /// Refuses it where it may not.
    pub fn must(&self, need: Need) -> Result<(), ApiError> {
        if matches!(need, Need::Person) && matches!(self.credential, Credential::ApiKey { .. }) {
            return Err(ApiError::new(ErrorCode::Forbidden, "this is for people who signed in, not for API keys"));
        }
        if need.is_met_by(self.scopes) {
            return Ok(());
        }
        let Need::OneOf(any) = need else { return Ok(()) };
        let names: Vec<_> = any.iter().map(|scope| scope.name()).collect();
        let details = json!([{ "needs_one_of": names, "role": self.role.name(), "scopes": self.scopes.names() }]);
        Err(ApiError::new(ErrorCode::Forbidden, format!("this needs {}", names.join(" or "))).details(details))
    }
}

/// The one who calls an endpoint, and may.
#[derive(Debug, Clone)]
pub struct Caller<E> {
    identity: Identity,
    endpoint: PhantomData<E>,
}

impl<E> Caller<E> {
    /// Who it is.
    #[must_use]
    pub fn identity(self) -> Identity {
        self.identity
    }
}

impl<E> Deref for Caller<E> {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl<E: Guarded> Describe for Caller<E> {
    fn describe(operation: &mut Operation<'_>) {
        operation.is_guarded();
    }
}

impl<E: Guarded> FromRequest for Caller<E> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let identity = admitted(&request, &E::INFO).await?;
            Ok(Self { identity, endpoint: PhantomData })
        })
    }
}

async fn admitted(request: &HttpRequest, endpoint: &EndpointInfo) -> Result<Identity, ApiError> {
    let authenticator = request.app_data::<web::Data<Authenticator>>();
    let authenticator = authenticator.ok_or_else(|| ApiError::internal("no authenticator is set up"))?;
    let identity = authenticator.identify(request).await?;
    request.extensions_mut().insert(CallerTenant(identity.tenant_id));
    let credential = match identity.credential {
        Credential::ApiKey { key_id } => key_id,
        // However often it signs in.
        Credential::Session { user_id, .. } => user_id,
    };
    limit(request, Subject { tenant: identity.tenant_id, credential, plan: identity.plan }).await?;
    identity.must(endpoint.need)?;
    make_room(request, identity.tenant_id, endpoint.gives).await?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_header_breaks_the_reading(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(?i)bearer ?.{0,60}") {
            for value in [HeaderValue::from_bytes(&bytes), HeaderValue::from_bytes(text.as_bytes())].into_iter().flatten() {
                let request = TestRequest::default()
                    .insert_header((AUTHORIZATION, value.clone()))
                    .insert_header((TENANT_HEADER, value.clone()))
                    .to_http_request();
                let _ = tenant_header(&request);
                if let Some(credential) = bearer(&request) {
                    prop_assert!((1..=CREDENTIAL_LENGTH_MAX).contains(&credential.len()));
                    prop_assert!(value.to_str().unwrap().get(..7).unwrap().eq_ignore_ascii_case("bearer "));
                    prop_assert_eq!(credential.trim(), credential);
                }
            }
        }
    }
}
