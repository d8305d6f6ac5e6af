//! Tenants and keys made by whoever runs the platform, not over HTTP.

use crate::sessions::{record_of_person, tenants_of};
use crate::token::{self, Purpose};
use serde_json::json;
use twh_domain::actor::Actor;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::Role;
use twh_edge::api_key::{ApiKey, Environment};
use twh_edge::auth::{API_KEY_PURPOSE, now};
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::accounts::granted::Granted;
use twh_sinks::postgres::accounts::keys::{self, Key};
use twh_sinks::postgres::accounts::people;
use twh_sinks::postgres::accounts::tenants::{self, Tenant};
use twh_sinks::secrets::{SecretError, Secrets, random};
use uuid::Uuid;

/// How long a reset token is good, in microseconds: one hour.
const RESET_MICROS: i64 = 3_600 * 1_000_000;

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A secret could not be made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There is nobody with this address.
    #[error("nobody has the address {0}")]
    Nobody(String),
    /// There is no tenant with this id.
    #[error("there is no tenant {0}")]
    NoTenant(TenantId),
}

/// A new tenant and its first key, which nobody can show again.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its id.
    pub tenant_id: TenantId,
    /// A key with the role `admin`, in the clear.
    pub api_key: String,
}

/// What whoever runs the platform does.
fn operator(tenant: TenantId) -> Deed {
    system(tenant, "operator")
}

/// What a part of the platform does.
fn system(tenant: TenantId, id: &str) -> Deed {
    let actor = Actor { kind: "system".to_owned(), id: id.to_owned(), ip: None, user_agent: None };
    Deed { tenant, actor, request_id: Uuid::now_v7().to_string(), at: now() }
}

/// Who has a token made that sets a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetBy {
    /// Whoever runs the platform.
    Operator,
    /// Somebody who asked for a mail: who, is not known.
    Mail,
}

impl ResetBy {
    /// It, as the account of changes names it.
    const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Mail => "mail",
        }
    }
}

/// Makes a tenant to try things out in, of a plan, with a key.
pub async fn tenant(pool: &PgPool, secrets: &Secrets, name: &str, plan: &str) -> Result<NewTenant, ProvisionError> {
    let tenant = Tenant {
        id: TenantId(Uuid::now_v7()),
        name: name.to_owned(),
        plan: plan.to_owned(),
        environment: Environment::Sandbox.name().to_owned(),
        sandbox_of: None,
    };
    let deed = operator(tenant.id);
    let (key, text) = new_key(&deed, Environment::Sandbox, "first", Role::Admin)?;
    let hash = secrets.hash(API_KEY_PURPOSE, text.reveal())?;
    let mut tx = ControlChange::begin(pool, &[]).await?;
    tenants::insert(&mut tx, &tenant).await?;
    keys::insert(&mut tx, Granted::outright(&key), &hash).await?;
    let new = Some(json!({ "name": name, "plan": plan, "environment": tenant.environment }));
    let change = Change { action: "tenant.create", entity_kind: "tenant", entity: tenant.id.0, old: None, new };
    tx.record(&deed, change).await?;
    let new = crate::shapes::value(&crate::keys::shown(&key));
    let change = Change { action: "api_key.create", entity_kind: "api_key", entity: key.id, old: None, new };
    tx.record(&deed, change).await?;
    tx.commit().await?;
    Ok(NewTenant { tenant_id: tenant.id, api_key: text.reveal().to_owned() })
}

/// Gives a tenant another plan, which holds in running servers within seconds; says which it had.
pub async fn set_plan(pool: &PgPool, tenant: TenantId, plan: &str) -> Result<String, ProvisionError> {
    let mut tx = ControlChange::begin(pool, &[tenant]).await?;
    let old = tenants::set_plan(&mut tx, tenant, plan).await?.ok_or(ProvisionError::NoTenant(tenant))?;
    let (was, new) = (Some(json!({ "plan": old })), Some(json!({ "plan": plan })));
    let change = Change { action: "tenant.plan", entity_kind: "tenant", entity: tenant.0, old: was, new };
    tx.record(&operator(tenant), change).await?;
    tx.commit().await?;
    Ok(old)
}

/// A key that is not written down yet, with all that its role may do.
pub(crate) fn new_key(
    deed: &Deed,
    environment: Environment,
    name: &str,
    role: Role,
) -> Result<(Key, ApiKey), SecretError> {
    let text = ApiKey::new(environment, &random()?);
    let key = Key {
        id: Uuid::now_v7(),
        tenant: deed.tenant,
        name: name.to_owned(),
        hint: text.hint().to_owned(),
        role: role.name().to_owned(),
        scopes: None,
        ip_allowed: None,
        created_by: format!("{} {}", deed.actor.kind, deed.actor.id),
        created_at: deed.at,
        expires_at: None,
        last_used_at: None,
        revoked_at: None,
        rotated_to: None,
    };
    Ok((key, text))
}

/// A token with which a person sets a password anew, within an hour.
pub async fn password_reset(
    pool: &PgPool,
    secrets: &Secrets,
    email: &str,
    by: ResetBy,
) -> Result<String, ProvisionError> {
    let user = people::find_by_email(pool, email).await?.ok_or_else(|| ProvisionError::Nobody(email.to_owned()))?;
    let (token, hash) = token::new(secrets, Purpose::PasswordReset)?;
    let at = now();
    let until = Timestamp::from_micros(at.micros() + RESET_MICROS);
    let mut tx = ControlChange::begin(pool, &tenants_of(pool, user.id).await?).await?;
    people::insert_reset(&mut tx, user.id, &hash, at, until).await?;
    let deed = |tenant| system(tenant, by.name());
    record_of_person(&mut tx, deed, user.id, "user.password_reset_token").await?;
    tx.commit().await?;
    Ok(token)
}
