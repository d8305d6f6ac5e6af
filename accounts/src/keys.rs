//! API keys: made, narrowed, rotated with a grace, revoked.

use crate::shapes::{self, PageQuery};
use crate::{Accounts, provision, secret};
use actix_web::{HttpRequest, web};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::IpAddr;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{CreateApiKey, GetApiKey, ListApiKeys, RevokeApiKey, Role, RotateApiKey, Scope, Scopes};
use twh_edge::answer::{Answer, Done, Page};
use twh_edge::api_key::Environment;
use twh_edge::auth::{API_KEY_PURPOSE, Caller, Credential, Identity, now};
use twh_edge::body::Body;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::grant::Grant;
use twh_edge::problems::Problems;
use twh_edge::query::Query;
use twh_sinks::postgres::accounts::audit::Change;
use twh_sinks::postgres::accounts::granted::Granted;
use twh_sinks::postgres::accounts::keys::{self, Key};
use uuid::Uuid;

/// Networks on a key's list.
const NETWORKS_MAX: usize = 100;
/// Longest grace of a rotated key, in seconds: a day.
const GRACE_SECONDS_MAX: i64 = 86_400;

/// A key as it is answered, and as it stands in the account of changes: never its secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApiKey")]
pub(crate) struct ShownKey {
    id: Uuid,
    name: String,
    /// The first characters of the key, so that people can tell keys apart.
    hint: String,
    #[schemars(with = "Role")]
    role: String,
    #[schemars(with = "Vec<Scope>")]
    scopes: Vec<String>,
    /// The networks that it may be used from; `null` for everywhere.
    ip_allowed: Option<Vec<String>>,
    #[schemars(extend("enum" = ["active", "expired", "revoked"]))]
    status: &'static str,
    /// Who made it: a person or another key, by id.
    created_by: String,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    /// To half a minute.
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// The key that took its place.
    rotated_to: Option<Uuid>,
}

/// A key that was just made: the only answer with its secret.
#[derive(Serialize, JsonSchema)]
pub(crate) struct NewApiKey {
    #[serde(flatten)]
    shown: ShownKey,
    /// The secret; it is kept as a hash and cannot be shown again.
    key: String,
}

pub(crate) fn shown(key: &Key) -> ShownKey {
    let role = Role::from_name(&key.role);
    let scopes = key.scopes.clone().unwrap_or_else(|| {
        role.map(|role| Scopes::of_role(role).names().into_iter().map(str::to_owned).collect()).unwrap_or_default()
    });
    let over = key.expires_at.is_some_and(|end| end <= now());
    ShownKey {
        id: key.id,
        name: key.name.clone(),
        hint: key.hint.clone(),
        role: key.role.clone(),
        scopes,
        ip_allowed: key.ip_allowed.clone(),
        status: if key.revoked_at.is_some() {
            "revoked"
        } else if over {
            "expired"
        } else {
            "active"
        },
        created_by: key.created_by.clone(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        last_used_at: key.last_used_at,
        revoked_at: key.revoked_at,
        rotated_to: key.rotated_to,
    }
}

/// The answer to who made a key.
fn made(key: &Key, secret: &str) -> Answer<NewApiKey, 201> {
    Answer::of(&NewApiKey { shown: shown(key), key: secret.to_owned() })
        .header(("location", format!("/v1/api-keys/{}", key.id)))
}

/// The id in a path; what is no id names nothing.
pub(crate) fn path_id(request: &HttpRequest, noun: &str) -> Result<Uuid, ApiError> {
    let text = request.match_info().get("id").unwrap_or_default();
    Uuid::parse_str(text).map_err(|_| ApiError::not_found(noun))
}

pub(crate) async fn list(
    caller: Caller<ListApiKeys>,
    accounts: web::Data<Accounts>,
    query: Query<PageQuery>,
) -> Result<Answer<Page<ShownKey>>, ApiError> {
    let (after, limit) = query.read()?.place()?;
    let found = keys::list(&accounts.pool, caller.tenant_id, after, limit).await.map_err(ApiError::database)?;
    Ok(Answer::of(&Page::of(&found, |key| cursor::encode(&key.id), shown)))
}

pub(crate) async fn one(
    caller: Caller<GetApiKey>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Answer<ShownKey>, ApiError> {
    let id = path_id(&request, "API key")?;
    let found = keys::find(&accounts.pool, caller.tenant_id, id).await.map_err(ApiError::database)?;
    Ok(Answer::of(&shown(&found.ok_or_else(|| ApiError::not_found("API key"))?)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ApiKeyToMake")]
pub(crate) struct NewKey {
    /// What people call it.
    #[schemars(schema_with = "shapes::name")]
    name: String,
    #[schemars(with = "Role")]
    role: String,
    /// Fewer than the role has; all of them where it is left out.
    #[schemars(with = "Option<Vec<Scope>>", length(min = 1))]
    scopes: Option<Vec<String>>,
    /// Addresses and networks that it may be used from; where it is left out, those of the key that makes it, or everywhere.
    #[schemars(length(min = 1, max = NETWORKS_MAX))]
    ip_allowed: Option<Vec<String>>,
    /// When it ends; where it is left out, with the key that makes it, or never.
    #[schemars(with = "Option<Timestamp>")]
    expires_at: Option<String>,
}

/// What a new key is to be, checked.
struct Wanted {
    name: String,
    role: Role,
    scopes: Option<Vec<String>>,
    ip_allowed: Option<Vec<String>>,
    expires_at: Option<Timestamp>,
}

impl NewKey {
    fn checked(self) -> Result<Wanted, ApiError> {
        let mut problems = Problems::default();
        problems.name("name", &self.name);
        let role = Role::from_name(&self.role);
        if role.is_none() {
            problems.add("role", format!("must be one of {}", names(Role::ALL.iter().map(|role| role.name()))));
        }
        let of_role = role.map(Scopes::of_role).unwrap_or_default();
        if let Some(asked) = &self.scopes {
            for (index, name) in asked.iter().enumerate() {
                match Scope::from_name(name) {
                    None => problems.add(&format!("scopes[{index}]"), "is no scope"),
                    Some(scope) if role.is_some() && !of_role.has(scope) => {
                        problems.add(&format!("scopes[{index}]"), "is not among the role's scopes");
                    }
                    Some(_) => {}
                }
            }
            if asked.is_empty() {
                problems.add("scopes", "must name one at least; leave it out for all that the role has");
            }
        }
        let networks = self.ip_allowed.as_ref().map(|list| networks(list, &mut problems));
        let expires_at = self.expires_at.as_deref().map(str::parse::<Timestamp>);
        match expires_at {
            Some(Err(_)) => problems.add("expires_at", "must be an RFC 3339 time such as 2026-03-01T09:30:00Z"),
            Some(Ok(at)) if at <= now() => problems.add("expires_at", "must be in the future"),
            _ => {}
        }
        problems.none()?;
        Ok(Wanted {
            name: self.name.trim().to_owned(),
            role: role.unwrap_or(Role::ReadOnly),
            scopes: self.scopes,
            ip_allowed: networks,
            expires_at: expires_at.and_then(Result::ok),
        })
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Networks as they are kept; an address alone is a network of one.
fn networks(asked: &[String], problems: &mut Problems) -> Vec<String> {
    if asked.is_empty() || asked.len() > NETWORKS_MAX {
        problems.add("ip_allowed", format!("must name 1 to {NETWORKS_MAX} networks; leave it out for everywhere"));
    }
    let mut kept = Vec::new();
    for (index, text) in asked.iter().enumerate() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => kept.push(network.trunc().to_string()),
            Err(_) => {
                problems.add(&format!("ip_allowed[{index}]"), "must be an address or a network such as 203.0.113.0/24")
            }
        }
    }
    kept
}

pub(crate) async fn create(
    caller: Caller<CreateApiKey>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<NewKey>,
) -> Result<Answer<NewApiKey, 201>, ApiError> {
    let wanted = body.read()?.checked()?;
    let deed = caller.deed(&request);
    let (key, text) = provision::new_key(&deed, environment(&caller)?, &wanted.name, wanted.role).map_err(secret)?;
    let hash = accounts.secrets.hash(API_KEY_PURPOSE, text.reveal()).map_err(secret)?;
    let inserted = accounts.control.change([deed.tenant], async |tx| {
        let grant = Grant::of(tx, &caller).await?;
        let key = Key {
            scopes: wanted.scopes.clone(),
            ip_allowed: wanted.ip_allowed.clone().or_else(|| grant.ip_allowed.clone()),
            expires_at: wanted.expires_at.or(grant.expires_at),
            ..key.clone()
        };
        keys::insert(tx, grant.key(&key)?, &hash).await.map_err(ApiError::database)?;
        let new = shapes::value(&shown(&key));
        let change = Change { action: "api_key.create", entity_kind: "api_key", entity: key.id, old: None, new };
        tx.record(&deed, change).await.map_err(ApiError::database)?;
        Ok(key)
    });
    let key = inserted.await?;
    Ok(made(&key, text.reveal()))
}

fn environment(caller: &Identity) -> Result<Environment, ApiError> {
    Environment::from_name(&caller.environment)
        .ok_or_else(|| ApiError::internal("the tenant's environment is not known"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How long the old key stays good, in seconds; not at all by default.
    #[schemars(range(min = 0, max = GRACE_SECONDS_MAX))]
    grace_seconds: Option<i64>,
}

fn not_active() -> ApiError {
    ApiError::new(ErrorCode::KeyNotActive, "the API key was revoked, rotated or has expired")
}

pub(crate) async fn rotate(
    caller: Caller<RotateApiKey>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<Rotation>,
) -> Result<Answer<NewApiKey, 201>, ApiError> {
    let id = path_id(&request, "API key")?;
    let grace = body.read()?.grace_seconds.unwrap_or(0);
    if !(0..=GRACE_SECONDS_MAX).contains(&grace) {
        let mut problems = Problems::default();
        problems.add("grace_seconds", format!("must be 0 to {GRACE_SECONDS_MAX}: how long the old key stays good"));
        problems.none()?;
    }
    let deed = caller.deed(&request);
    let rotated = accounts.control.change([deed.tenant], async |tx| {
        let old = keys::find_for_change(tx, caller.tenant_id, id).await.map_err(ApiError::database)?;
        let old = old.ok_or_else(|| ApiError::not_found("API key"))?;
        let over = old.expires_at.is_some_and(|end| end <= deed.at);
        if old.revoked_at.is_some() || old.rotated_to.is_some() || over {
            return Err(not_active());
        }
        let grant = Grant::of(tx, &caller).await?;
        let touched = grant.key(&old)?;
        let role = Role::from_name(&old.role).ok_or_else(|| ApiError::internal("a stored role is not known"))?;
        let (mut key, text) = provision::new_key(&deed, environment(&caller)?, &old.name, role).map_err(secret)?;
        key.scopes = old.scopes.clone();
        key.ip_allowed = old.ip_allowed.clone();
        key.expires_at = old.expires_at;
        let hash = accounts.secrets.hash(API_KEY_PURPOSE, text.reveal()).map_err(secret)?;
        keys::insert(tx, grant.key(&key)?, &hash).await.map_err(ApiError::database)?;
        let until = Timestamp::from_micros(deed.at.micros() + grace * 1_000_000);
        keys::rotate(tx, touched, until, key.id).await.map_err(ApiError::database)?;
        let new = shapes::value(&shown(&key));
        let change = Change { action: "api_key.create", entity_kind: "api_key", entity: key.id, old: None, new };
        tx.record(&deed, change).await.map_err(ApiError::database)?;
        let (was, new) = (shapes::value(&shown(&old)), Some(json!({ "successor": shown(&key), "good_until": until })));
        let change = Change { action: "api_key.rotate", entity_kind: "api_key", entity: id, old: was, new };
        tx.record(&deed, change).await.map_err(ApiError::database)?;
        Ok((key, text))
    });
    let (key, text) = rotated.await?;
    accounts.authenticator.forget();
    Ok(made(&key, text.reveal()))
}

pub(crate) async fn revoke(
    caller: Caller<RevokeApiKey>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Done, ApiError> {
    let id = path_id(&request, "API key")?;
    let deed = caller.deed(&request);
    let revoked = accounts.control.change([deed.tenant], async |tx| {
        let old = keys::find_for_change(tx, caller.tenant_id, id).await.map_err(ApiError::database)?;
        let old = old.ok_or_else(|| ApiError::not_found("API key"))?;
        // A key may always end itself.
        let is_own = matches!(caller.credential, Credential::ApiKey { key_id } if key_id == id);
        // What is revoked already is as it should be: a retry is no mistake.
        if old.revoked_at.is_some() {
            return Ok(());
        }
        let touched = if is_own { Granted::outright(&old) } else { Grant::of(tx, &caller).await?.key(&old)? };
        keys::revoke(tx, touched, deed.at).await.map_err(ApiError::database)?;
        let new = shapes::value(&shown(&Key { revoked_at: Some(deed.at), ..old.clone() }));
        let old = shapes::value(&shown(&old));
        let change = Change { action: "api_key.revoke", entity_kind: "api_key", entity: id, old, new };
        tx.record(&deed, change).await.map_err(ApiError::database)
    });
    revoked.await?;
    accounts.authenticator.forget();
    Ok(Done)
}
