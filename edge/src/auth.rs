//! Who calls: an API key in `Authorization: Bearer`, looked up by its hash, remembered for a short while.

use crate::error::{ApiError, ErrorCode};
use crate::limits::{Plan, Subject, limit};
use crate::request::CallerTenant;
use actix_web::http::header::{AUTHORIZATION, USER_AGENT};
use actix_web::{FromRequest, HttpMessage, HttpRequest, dev, web};
use futures::future::LocalBoxFuture;
use quick_cache::sync::Cache;
use std::time::{Duration, Instant};
use twh_domain::id::TenantId;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::tenants::{KeyOwner, find_key, key_hash};
use uuid::Uuid;

/// How long an answer about a key is believed.
const REMEMBER: Duration = Duration::from_secs(30);
/// Keys remembered at once.
const KEYS_MAX: usize = 100_000;
/// Longest key that is looked up at all; ours are 73 characters long.
const KEY_LENGTH_MAX: usize = 256;
/// Longest `User-Agent` that is kept.
const USER_AGENT_LENGTH_MAX: usize = 256;

/// Looks keys up.
pub struct Authenticator {
    pool: PgPool,
    known: Cache<[u8; 32], (Instant, Option<KeyOwner>)>,
}

impl Authenticator {
    /// Looks keys up in a database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, known: Cache::new(KEYS_MAX) }
    }

    async fn owner(&self, key: &str) -> Result<Option<KeyOwner>, ApiError> {
        let hash = key_hash(key);
        if let Some((at, owner)) = self.known.get(&hash)
            && at.elapsed() < REMEMBER
        {
            return Ok(owner);
        }
        let owner = find_key(&self.pool, &hash).await.map_err(ApiError::database)?;
        self.known.insert(hash, (Instant::now(), owner));
        Ok(owner)
    }
}

/// The one who calls. A handler that takes this cannot be reached without a valid key.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose data it may see and change.
    pub tenant_id: TenantId,
    /// The key it called with.
    pub key_id: Uuid,
    /// Its address.
    pub ip: Option<String>,
    /// What it calls itself.
    pub user_agent: Option<String>,
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let authenticator = request
                .app_data::<web::Data<Authenticator>>()
                .ok_or_else(|| ApiError::internal("no authenticator is set up"))?;
            let key = bearer(&request).ok_or_else(|| {
                ApiError::new(ErrorCode::Unauthenticated, "send Authorization: Bearer with an API key")
            })?;
            let unknown = || ApiError::new(ErrorCode::Unauthenticated, "the API key is not known");
            let owner = authenticator.owner(key).await?.ok_or_else(unknown)?;
            request.extensions_mut().insert(CallerTenant(owner.tenant_id));
            // Until the plan comes with the key, everyone has the widest.
            let subject = Subject { tenant: owner.tenant_id, credential: owner.key_id, plan: Plan::Enterprise };
            limit(&request, subject).await?;
            Ok(Self {
                tenant_id: owner.tenant_id,
                key_id: owner.key_id,
                ip: request.peer_addr().map(|address| address.ip().to_string()),
                user_agent: user_agent(&request),
            })
        })
    }
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let (scheme, key) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && (1..=KEY_LENGTH_MAX).contains(&key.len())).then_some(key)
}

fn user_agent(request: &HttpRequest) -> Option<String> {
    let text = request.headers().get(USER_AGENT)?.to_str().ok()?;
    Some(text.chars().take(USER_AGENT_LENGTH_MAX).collect())
}
