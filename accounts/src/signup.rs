//! Sign-up: a tenant, a sandbox beside it, its first admin, and a key to the sandbox, all or nothing.

use crate::attempts::Attempted;
use crate::fields;
use crate::sessions;
use crate::shapes::{self, Person, SessionTokens, ShownTenant};
use crate::{Accounts, provision, secret};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use twh_domain::id::TenantId;
use twh_edge::access::Role;
use twh_edge::answer::Answer;
use twh_edge::api_key::Environment;
use twh_edge::auth::{API_KEY_PURPOSE, Client, now};
use twh_edge::body::Body;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::problems::Problems;
use twh_edge::request::RequestId;
use twh_sinks::postgres::accounts::audit::{Change, Deed};
use twh_sinks::postgres::accounts::granted::Granted;
use twh_sinks::postgres::accounts::keys;
use twh_sinks::postgres::accounts::people::{self, User};
use twh_sinks::postgres::accounts::tenants::{self, Tenant};
use uuid::Uuid;

/// The plan of a tenant that signs itself up.
const FIRST_PLAN: &str = "free";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAccount {
    /// What the tenant is called.
    #[schemars(schema_with = "shapes::name")]
    organization: String,
    /// What its first admin is called.
    #[schemars(schema_with = "shapes::name")]
    name: String,
    #[schemars(schema_with = "shapes::email")]
    email: String,
    #[schemars(schema_with = "shapes::new_password")]
    password: String,
}

/// A new tenant, its sandbox, and its first admin, who is signed in.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SignedUp {
    user: Person,
    tenant: ShownTenant,
    sandbox: Sandbox,
    tokens: SessionTokens,
}

/// The tenant to try things out in.
#[derive(Serialize, JsonSchema)]
struct Sandbox {
    #[serde(flatten)]
    tenant: ShownTenant,
    /// Its first API key, shown this once.
    api_key: String,
}

pub(crate) async fn sign_up(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<NewAccount>,
) -> Result<Answer<SignedUp, 201>, ApiError> {
    let asked = body.read()?;
    let mut problems = Problems::default();
    problems.name("organization", &asked.organization);
    problems.name("name", &asked.name);
    fields::email(&mut problems, "email", &asked.email);
    fields::password(&mut problems, "password", &asked.password);
    problems.none()?;
    let client = Client::of(&request);
    // Each costs a password's hash, and tells whether an address is known: who asks often waits.
    let attempt = accounts.attempts.begin(Attempted::Password, &asked.email, client.ip).await?;
    let user = User {
        id: Uuid::now_v7(),
        email: asked.email.trim().to_owned(),
        name: asked.name.trim().to_owned(),
        password_hash: Some(accounts.passwords.hash(asked.password).await?),
    };
    let live = Tenant {
        id: TenantId(Uuid::now_v7()),
        name: asked.organization.trim().to_owned(),
        plan: FIRST_PLAN.to_owned(),
        environment: Environment::Live.name().to_owned(),
        sandbox_of: None,
    };
    let sandbox = Tenant {
        id: TenantId(Uuid::now_v7()),
        name: format!("{} (sandbox)", live.name),
        environment: Environment::Sandbox.name().to_owned(),
        sandbox_of: Some(live.id),
        ..live.clone()
    };
    let actor = client.actor("user", user.id.to_string());
    let deed = |tenant| Deed { tenant, actor: actor.clone(), request_id: RequestId::of(&request), at: now() };
    let (key, text) =
        provision::new_key(&deed(sandbox.id), Environment::Sandbox, "first", Role::Admin).map_err(secret)?;
    let hash = accounts.secrets.hash(API_KEY_PURPOSE, text.reveal()).map_err(secret)?;
    let at = now();
    // That it works is no reason to forget it.
    let counted = accounts.attempts.begin(Attempted::SignUp, &user.email, client.ip).await?;
    let made = accounts.control.change([], async |tx| {
        if !people::insert_user(tx, &user, at).await.map_err(ApiError::database)? {
            return Err(ApiError::new(ErrorCode::EmailTaken, "the address has an account: sign in with it"));
        }
        for tenant in [&live, &sandbox] {
            tenants::insert(tx, tenant).await.map_err(ApiError::database)?;
            let admin = Granted::outright(Role::Admin.name());
            people::join(tx, user.id, tenant.id, admin, at).await.map_err(ApiError::database)?;
            let new = json!({ "name": tenant.name, "plan": tenant.plan, "environment": tenant.environment });
            let member = json!({ "user_id": user.id, "email": user.email, "role": Role::Admin.name() });
            for (action, entity_kind, entity, new) in
                [("tenant.create", "tenant", tenant.id.0, new), ("member.join", "member", user.id, member)]
            {
                let change = Change { action, entity_kind, entity, old: None, new: Some(new) };
                tx.record(&deed(tenant.id), change).await.map_err(ApiError::database)?;
            }
        }
        keys::insert(tx, Granted::outright(&key), &hash).await.map_err(ApiError::database)?;
        let new = shapes::value(&crate::keys::shown(&key));
        let change = Change { action: "api_key.create", entity_kind: "api_key", entity: key.id, old: None, new };
        tx.record(&deed(sandbox.id), change).await.map_err(ApiError::database)?;
        sessions::open(&accounts, tx, user.id, live.id, &client).await
    });
    let opened = match made.await {
        Ok(opened) => opened,
        Err(error) => {
            counted.take_back().await;
            return Err(error);
        }
    };
    attempt.succeeded().await;
    Ok(Answer::of(&SignedUp {
        user: Person::from(&user),
        tenant: ShownTenant::from(&live),
        sandbox: Sandbox { tenant: ShownTenant::from(&sandbox), api_key: text.reveal().to_owned() },
        tokens: opened.tokens,
    }))
}
