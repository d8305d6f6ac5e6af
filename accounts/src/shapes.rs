//! What bodies and answers of several endpoints have in common.

use crate::password;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::Role;
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::query::{self, LIMIT_MAX};
use twh_sinks::postgres::accounts::people::{Membership, User};
use twh_sinks::postgres::accounts::tenants::Tenant;
use uuid::Uuid;

/// A page of a list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl PageQuery {
    /// Where it begins, and how long it is.
    pub(crate) fn place(&self) -> Result<(Option<Uuid>, i64), ApiError> {
        Ok((self.cursor.as_deref().map(cursor::decode::<Uuid>).transpose()?, query::limit(self.limit)?))
    }
}

/// A person.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Person {
    pub(crate) id: Uuid,
    pub(crate) email: String,
    pub(crate) name: String,
}

impl From<&User> for Person {
    fn from(user: &User) -> Self {
        Self { id: user.id, email: user.email.clone(), name: user.name.clone() }
    }
}

/// A tenant.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tenant")]
pub(crate) struct ShownTenant {
    id: TenantId,
    name: String,
    plan: String,
    #[schemars(schema_with = "environment")]
    environment: String,
}

impl From<&Tenant> for ShownTenant {
    fn from(tenant: &Tenant) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name.clone(),
            plan: tenant.plan.clone(),
            environment: tenant.environment.clone(),
        }
    }
}

/// A tenant that a person belongs to.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TenantOfPerson {
    id: TenantId,
    name: String,
    #[schemars(schema_with = "environment")]
    environment: String,
    #[schemars(with = "Role")]
    role: String,
}

impl From<&Membership> for TenantOfPerson {
    fn from(membership: &Membership) -> Self {
        Self {
            id: membership.tenant,
            name: membership.tenant_name.clone(),
            environment: membership.environment.clone(),
            role: membership.role.clone(),
        }
    }
}

/// What a person calls with.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SessionTokens {
    /// For `Authorization: Bearer`.
    pub(crate) access_token: String,
    #[schemars(extend("enum" = ["Bearer"]))]
    pub(crate) token_type: &'static str,
    /// How long the access token is good, in seconds.
    pub(crate) expires_in: i64,
    /// Gives new tokens, once.
    pub(crate) refresh_token: String,
    pub(crate) refresh_expires_at: Timestamp,
}

/// A value as it stands in the account of changes.
pub(crate) fn value<T: Serialize>(of: &T) -> Option<Value> {
    serde_json::to_value(of).ok()
}

fn environment(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["live", "sandbox"] })
}

/// What people and things are called.
pub(crate) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 200 })
}

/// An address of a person.
pub(crate) fn email(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "email", "maxLength": 254 })
}

/// A password that is set.
pub(crate) fn new_password(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "password", "minLength": password::LENGTH.start(), "maxLength": password::LENGTH.end() })
}
