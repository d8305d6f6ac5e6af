//! The people of a tenant, and what a caller is.

use crate::Accounts;
use crate::keys::path_id;
use crate::shapes::{PageQuery, ShownTenant};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{GetMe, GetPlan, ListMembers, RemoveMember, Role, Scope, UpdateMember};
use twh_edge::answer::{Answer, Done, Page};
use twh_edge::auth::{Caller, Credential, Identity};
use twh_edge::body::Body;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::grant::Grant;
use twh_edge::limits::Limiter;
use twh_edge::problems::Problems;
use twh_edge::query::Query;
use twh_sinks::counters::gcra::Rate;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::accounts::people::{self, Member};
use twh_sinks::postgres::accounts::sessions::end_in;
use twh_sinks::postgres::accounts::{sign_on, tenants};
use uuid::Uuid;

/// Who calls, and what it may do.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Me {
    caller: MeCaller,
    tenant: Option<ShownTenant>,
    #[schemars(with = "Role")]
    role: &'static str,
    #[schemars(with = "Vec<Scope>")]
    scopes: Vec<&'static str>,
}

/// A key or a person.
#[derive(Serialize, JsonSchema)]
struct MeCaller {
    #[schemars(extend("enum" = ["api_key", "user"]))]
    r#type: &'static str,
    id: Uuid,
}

pub(crate) async fn me(caller: Caller<GetMe>, accounts: web::Data<Accounts>) -> Result<Answer<Me>, ApiError> {
    let tenant = tenants::find(&accounts.pool, caller.tenant_id).await.map_err(ApiError::database)?;
    let (r#type, id) = match caller.credential {
        Credential::ApiKey { key_id } => ("api_key", key_id),
        Credential::Session { user_id, .. } => ("user", user_id),
    };
    Ok(Answer::of(&Me {
        caller: MeCaller { r#type, id },
        tenant: tenant.as_ref().map(ShownTenant::from),
        role: caller.role.name(),
        scopes: caller.scopes.names(),
    }))
}

/// A tenant's plan.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TenantPlan {
    tenant_id: TenantId,
    plan: &'static str,
    environment: String,
    /// `null` where this server holds nobody to limits.
    limits: Option<PlanLimits>,
}

/// What a plan allows.
#[derive(Serialize, JsonSchema)]
struct PlanLimits {
    /// All requests of the tenant together.
    tenant: RequestLimit,
    /// The requests of one of its keys, or of one of its people.
    key: RequestLimit,
}

/// A bucket that a request takes one from.
#[derive(Serialize, JsonSchema)]
struct RequestLimit {
    /// How many come back in a second.
    per_second: u32,
    /// How many it holds.
    burst: u32,
}

impl From<Rate> for RequestLimit {
    fn from(rate: Rate) -> Self {
        Self { per_second: rate.per_second(), burst: rate.burst() }
    }
}

pub(crate) async fn plan(caller: Caller<GetPlan>, request: HttpRequest) -> Answer<TenantPlan> {
    let policy = request.app_data::<web::Data<Limiter>>().map(|limiter| limiter.policy(caller.plan));
    Answer::of(&TenantPlan {
        tenant_id: caller.tenant_id,
        plan: caller.plan.name(),
        environment: caller.environment.clone(),
        limits: policy.map(|policy| PlanLimits { tenant: policy.tenant.into(), key: policy.key.into() }),
    })
}

/// A person of the tenant.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Member")]
pub(crate) struct ShownMember {
    id: Uuid,
    email: String,
    name: String,
    #[schemars(with = "Role")]
    role: String,
    since: Timestamp,
}

fn shown(member: &Member) -> ShownMember {
    let Member { user_id, email, name, role, since } = member.clone();
    ShownMember { id: user_id, email, name, role, since }
}

pub(crate) async fn list(
    caller: Caller<ListMembers>,
    accounts: web::Data<Accounts>,
    query: Query<PageQuery>,
) -> Result<Answer<Page<ShownMember>>, ApiError> {
    let (after, limit) = query.read()?.place()?;
    let found = people::members(&accounts.pool, caller.tenant_id, after, limit).await.map_err(ApiError::database)?;
    Ok(Answer::of(&Page::of(&found, |member| cursor::encode(&member.user_id), shown)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRole {
    #[schemars(with = "Role")]
    role: String,
}

/// A person's role.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RoleOfMember")]
pub(crate) struct MemberRole {
    id: Uuid,
    #[schemars(with = "Role")]
    role: String,
}

pub(crate) fn check_role(problems: &mut Problems, role: &str) {
    if Role::from_name(role).is_none() {
        let names: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
        problems.add("role", format!("must be one of {}", names.join(", ")));
    }
}

pub(crate) async fn update(
    caller: Caller<UpdateMember>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<NewRole>,
) -> Result<Answer<MemberRole>, ApiError> {
    let user = path_id(&request, "member")?;
    let asked = body.read()?;
    let mut problems = Problems::default();
    check_role(&mut problems, &asked.role);
    problems.none()?;
    change_member(&accounts, &caller, &caller.deed(&request), user, Some(&asked.role)).await?;
    Ok(Answer::of(&MemberRole { id: user, role: asked.role }))
}

pub(crate) async fn remove(
    caller: Caller<RemoveMember>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Done, ApiError> {
    let user = path_id(&request, "member")?;
    change_member(&accounts, &caller, &caller.deed(&request), user, None).await?;
    Ok(Done)
}

/// Gives a member another role, or none; never the last admin.
async fn change_member(
    accounts: &Accounts,
    caller: &Identity,
    deed: &Deed,
    user: Uuid,
    role: Option<&str>,
) -> Result<(), ApiError> {
    let changed = accounts.control.change([deed.tenant], async |tx| {
        let grant = Grant::of(tx, caller).await?;
        let found = people::role_for_change(tx, deed.tenant, user).await.map_err(ApiError::database)?;
        let Some((old, other_admins)) = found else { return take_back(tx, &grant, deed, user, role).await };
        let had = grant.person(&old)?;
        let role = role.map(|role| grant.person(role)).transpose()?;
        let admin = Role::Admin.name();
        if old == admin && role.is_none_or(|role| *role != admin) && other_admins == 0 {
            let message = "the tenant would have no admin; make somebody else one first";
            return Err(ApiError::new(ErrorCode::LastAdmin, message));
        }
        let action = if role.is_some() { "member.update" } else { "member.remove" };
        match role {
            Some(role) => people::set_role(tx, deed.tenant, user, role).await.map_err(ApiError::database)?,
            None => {
                people::remove(tx, deed.tenant, user, had).await.map_err(ApiError::database)?;
                // Or they would be good again, were the person to join once more.
                end_in(tx, deed.tenant, user, "member_removed", deed.at).await.map_err(ApiError::database)?;
            }
        }
        let new = role.map(|role| json!({ "role": *role }));
        let change = Change { action, entity_kind: "member", entity: user, old: Some(json!({ "role": old })), new };
        tx.record(deed, change).await.map_err(ApiError::database)
    });
    changed.await?;
    accounts.authenticator.forget();
    Ok(())
}

/// Gives a role to a person whom an identity provider of the tenant vouches for and who was removed.
async fn take_back(
    tx: &mut ControlChange,
    grant: &Grant,
    deed: &Deed,
    user: Uuid,
    role: Option<&str>,
) -> Result<(), ApiError> {
    let comes_by_it = sign_on::comes_by_provider(tx, deed.tenant, user).await.map_err(ApiError::database)?;
    let role = role.filter(|_| comes_by_it).ok_or_else(|| ApiError::not_found("member"))?;
    people::join(tx, user, deed.tenant, grant.person(role)?, deed.at).await.map_err(ApiError::database)?;
    let new = Some(json!({ "user_id": user, "role": role }));
    let change = Change { action: "member.join", entity_kind: "member", entity: user, old: None, new };
    tx.record(deed, change).await.map_err(ApiError::database)
}
