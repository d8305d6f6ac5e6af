//! The people of a tenant, who is invited, and what a caller is.

use crate::attempts::Attempted;
use crate::fields;
use crate::granting::may_grant;
use crate::keys::path_id;
use crate::shapes::{self, PageQuery, Person, SessionTokens, ShownTenant};
use crate::token::{self, Purpose};
use crate::{Accounts, secret, sessions};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{
    CreateInvitation, GetMe, GetPlan, ListInvitations, ListMembers, RemoveMember, RevokeInvitation, Role, Scope,
    UpdateMember,
};
use twh_edge::answer::{Answer, Done, Page};
use twh_edge::auth::{Caller, Client, Credential, Identity, now};
use twh_edge::body::Body;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::limits::Limiter;
use twh_edge::problems::Problems;
use twh_edge::query::Query;
use twh_edge::request::RequestId;
use twh_sinks::counters::gcra::Rate;
use twh_sinks::postgres::accounts::audit::{Change, Deed, record};
use twh_sinks::postgres::accounts::people::{self, Invitation, Member, User};
use twh_sinks::postgres::accounts::sessions::end_in;
use twh_sinks::postgres::accounts::{sign_on, tenants};
use uuid::Uuid;

/// How long an invitation can be accepted, in microseconds: a week.
const INVITATION_MICROS: i64 = 7 * 86_400 * 1_000_000;

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

fn check_role(problems: &mut Problems, role: &str) {
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
    let mut tx = accounts.pool.begin().await.map_err(ApiError::database)?;
    let found = people::role_for_change(&mut tx, deed.tenant, user).await.map_err(ApiError::database)?;
    let Some((old, other_admins)) = found else { return take_back(accounts, tx, caller, deed, user, role).await };
    may_grant(caller, &old)?;
    role.map_or(Ok(()), |role| may_grant(caller, role))?;
    let admin = Role::Admin.name();
    if old == admin && role != Some(admin) && other_admins == 0 {
        return Err(ApiError::new(
            ErrorCode::LastAdmin,
            "the tenant would have no admin; make somebody else one first",
        ));
    }
    let action = match role {
        Some(role) => {
            people::set_role(&mut tx, deed.tenant, user, role).await.map_err(ApiError::database)?;
            "member.update"
        }
        None => {
            people::remove(&mut tx, deed.tenant, user).await.map_err(ApiError::database)?;
            // Or they would be good again, were the person to join once more.
            let ended = end_in(&mut tx, deed.tenant, user, "member_removed", deed.at).await;
            ended.map_err(ApiError::database)?;
            "member.remove"
        }
    };
    let new = role.map(|role| json!({ "role": role }));
    let change = Change { action, entity_kind: "member", entity: user, old: Some(json!({ "role": old })), new };
    record(&mut tx, deed, change).await.map_err(ApiError::database)?;
    tx.commit().await.map_err(ApiError::database)?;
    accounts.authenticator.forget();
    Ok(())
}

/// Gives a role to a person whom an identity provider of the tenant vouches for and who was removed.
async fn take_back(
    accounts: &Accounts,
    mut tx: Transaction<'_, Postgres>,
    caller: &Identity,
    deed: &Deed,
    user: Uuid,
    role: Option<&str>,
) -> Result<(), ApiError> {
    let comes_by_it = sign_on::comes_by_provider(&mut tx, deed.tenant, user).await.map_err(ApiError::database)?;
    let role = role.filter(|_| comes_by_it).ok_or_else(|| ApiError::not_found("member"))?;
    may_grant(caller, role)?;
    people::join(&mut tx, user, deed.tenant, role, deed.at).await.map_err(ApiError::database)?;
    let new = Some(json!({ "user_id": user, "role": role }));
    let change = Change { action: "member.join", entity_kind: "member", entity: user, old: None, new };
    record(&mut tx, deed, change).await.map_err(ApiError::database)?;
    tx.commit().await.map_err(ApiError::database)?;
    accounts.authenticator.forget();
    Ok(())
}

/// An invitation, without its token.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Invitation")]
pub(crate) struct ShownInvitation {
    id: Uuid,
    email: String,
    #[schemars(with = "Role")]
    role: String,
    #[schemars(extend("enum" = ["open", "accepted", "revoked", "expired"]))]
    status: &'static str,
    invited_by: Uuid,
    created_at: Timestamp,
    expires_at: Timestamp,
    accepted_at: Option<Timestamp>,
}

/// An invitation that was just made: the only answer with its token.
#[derive(Serialize, JsonSchema)]
pub(crate) struct NewlyInvited {
    #[serde(flatten)]
    shown: ShownInvitation,
    /// For the one who is invited.
    token: String,
    /// Whether a mail with the token goes to the address. Where none does, hand the token over: this server sends no mails, or the
    /// address was sent too many invitations.
    mailed: bool,
}

fn invitation_shown(invitation: &Invitation) -> ShownInvitation {
    let status = match invitation {
        Invitation { accepted_at: Some(_), .. } => "accepted",
        Invitation { revoked_at: Some(_), .. } => "revoked",
        Invitation { expires_at, .. } if *expires_at <= now() => "expired",
        _ => "open",
    };
    ShownInvitation {
        id: invitation.id,
        email: invitation.email.clone(),
        role: invitation.role.clone(),
        status,
        invited_by: invitation.invited_by,
        created_at: invitation.created_at,
        expires_at: invitation.expires_at,
        accepted_at: invitation.accepted_at,
    }
}

pub(crate) async fn invitations(
    caller: Caller<ListInvitations>,
    accounts: web::Data<Accounts>,
    query: Query<PageQuery>,
) -> Result<Answer<Page<ShownInvitation>>, ApiError> {
    let (after, limit) = query.read()?.place()?;
    let found =
        people::invitations(&accounts.pool, caller.tenant_id, after, limit).await.map_err(ApiError::database)?;
    Ok(Answer::of(&Page::of(&found, |invitation| cursor::encode(&invitation.id), invitation_shown)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewInvitation {
    #[schemars(schema_with = "shapes::email")]
    email: String,
    #[schemars(with = "Role")]
    role: String,
}

pub(crate) async fn invite(
    caller: Caller<CreateInvitation>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<NewInvitation>,
) -> Result<Answer<NewlyInvited, 201>, ApiError> {
    let asked = body.read()?;
    let mut problems = Problems::default();
    fields::email(&mut problems, "email", &asked.email);
    check_role(&mut problems, &asked.role);
    problems.none()?;
    let Credential::Session { user_id, .. } = caller.credential else {
        return Err(ApiError::new(ErrorCode::Forbidden, "people invite people: sign in"));
    };
    may_grant(&caller, &asked.role)?;
    let may_mail = accounts.post.sends();
    if may_mail {
        // Every invitation counts: nobody's box is flooded, and no tenant sends mails to the whole world.
        let what = Attempted::Invitation(caller.tenant_id);
        let _counted = accounts.attempts.begin(what, &asked.email, caller.client.ip).await?;
    }
    // What others have sent there keeps the mail back, not the invitation.
    let may_mail = may_mail && accounts.attempts.may_mail_invitation(&asked.email).await?;
    let deed = caller.deed(&request);
    let (token, hash) = token::new(&accounts.secrets, Purpose::Invitation).map_err(secret)?;
    let invitation = Invitation {
        id: Uuid::now_v7(),
        tenant: caller.tenant_id,
        email: asked.email.trim().to_owned(),
        role: asked.role,
        invited_by: user_id,
        created_at: deed.at,
        expires_at: Timestamp::from_micros(deed.at.micros() + INVITATION_MICROS),
        accepted_at: None,
        revoked_at: None,
    };
    let shown = invitation_shown(&invitation);
    let tenant = tenants::find(&accounts.pool, caller.tenant_id).await.map_err(ApiError::database)?;
    let tenant = tenant.ok_or_else(|| ApiError::internal("a caller's tenant is not there"))?;
    let mut tx = accounts.pool.begin().await.map_err(ApiError::database)?;
    people::invite(&mut tx, &invitation, &hash).await.map_err(ApiError::database)?;
    let new = shapes::value(&shown);
    let change =
        Change { action: "invitation.create", entity_kind: "invitation", entity: invitation.id, old: None, new };
    record(&mut tx, &deed, change).await.map_err(ApiError::database)?;
    tx.commit().await.map_err(ApiError::database)?;
    let mailed = may_mail && accounts.post.invite(&invitation.email, &tenant.name, &token);
    Ok(Answer::of(&NewlyInvited { shown, token, mailed }))
}

pub(crate) async fn revoke_invitation(
    caller: Caller<RevokeInvitation>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Done, ApiError> {
    let id = path_id(&request, "open invitation")?;
    let deed = caller.deed(&request);
    let mut tx = accounts.pool.begin().await.map_err(ApiError::database)?;
    let revoked =
        people::revoke_invitation(&mut tx, caller.tenant_id, id, deed.at).await.map_err(ApiError::database)?;
    let revoked = revoked.ok_or_else(|| ApiError::not_found("open invitation"))?;
    let new = shapes::value(&invitation_shown(&revoked));
    let change = Change { action: "invitation.revoke", entity_kind: "invitation", entity: id, old: None, new };
    record(&mut tx, &deed, change).await.map_err(ApiError::database)?;
    tx.commit().await.map_err(ApiError::database)?;
    Ok(Done)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acceptance {
    token: String,
    /// For who has no account yet.
    name: Option<String>,
    /// Of the account that the address has, or of the one that is made.
    password: String,
}

/// Who has joined a tenant.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Joined {
    user: Person,
    tenant_id: TenantId,
    #[schemars(with = "Role")]
    role: String,
    tokens: SessionTokens,
}

/// An invitation that can be accepted now.
fn open(invitation: Option<Invitation>) -> Result<Invitation, ApiError> {
    let at = now();
    let open = invitation.filter(|i| i.accepted_at.is_none() && i.revoked_at.is_none() && i.expires_at > at);
    open.ok_or_else(|| {
        ApiError::new(ErrorCode::InvalidToken, "the invitation is not known, was used or taken back, or has expired")
    })
}

/// Who has the invitation's address, once the password is proved; `None` where nobody has it.
async fn proved(
    accounts: &Accounts,
    client: &Client,
    invitation: &Invitation,
    password: &str,
) -> Result<Option<User>, ApiError> {
    let known = people::find_by_email(&accounts.pool, &invitation.email).await.map_err(ApiError::database)?;
    let Some(user) = known else { return Ok(None) };
    let attempt = accounts.attempts.begin(Attempted::Password, &user.email, client.ip).await?;
    if !accounts.passwords.is(password.to_owned(), user.password_hash.clone()).await? {
        let message = "the address has an account: give its password to join with it";
        return Err(ApiError::new(ErrorCode::InvalidCredentials, message));
    }
    attempt.succeeded().await;
    Ok(Some(user))
}

/// A person with the invitation's address, who is not written down yet.
async fn newcomer(accounts: &Accounts, invitation: &Invitation, asked: Acceptance) -> Result<User, ApiError> {
    let name = asked.name.unwrap_or_default();
    let mut problems = Problems::default();
    problems.name("name", &name);
    fields::password(&mut problems, "password", &asked.password);
    problems.none()?;
    let password_hash = Some(accounts.passwords.hash(asked.password).await?);
    Ok(User { id: Uuid::now_v7(), email: invitation.email.clone(), name: name.trim().to_owned(), password_hash })
}

/// Who holds the token joins: with a new account, or with the one that the address has, whose password must be given.
pub(crate) async fn accept(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<Acceptance>,
) -> Result<Answer<Joined, 201>, ApiError> {
    let asked = body.read()?;
    let client = Client::of(&request);
    let hashes = token::hashes(&accounts.secrets, Purpose::Invitation, &asked.token);
    // A password takes its time: who waits for it holds neither a lock nor a connection that others need.
    let find = people::find_invitation(&accounts.pool, &hashes);
    let invitation = open(accounts.authenticator.strangers().found(client.ip, find).await?)?;
    let known = proved(&accounts, &client, &invitation, &asked.password).await?;
    let new_account = known.is_none();
    let user = match known {
        Some(user) => user,
        None => newcomer(&accounts, &invitation, asked).await?,
    };
    let at = now();
    let mut tx = accounts.pool.begin().await.map_err(ApiError::database)?;
    // Of two who accept it at once, the second finds it used.
    let invitation = open(people::lock_invitation(&mut tx, invitation.id).await.map_err(ApiError::database)?)?;
    if new_account && !people::insert_user(&mut tx, &user, at).await.map_err(ApiError::database)? {
        return Err(ApiError::new(
            ErrorCode::EmailTaken,
            "the address has an account by now: accept with its password",
        ));
    }
    let joined = people::join(&mut tx, user.id, invitation.tenant, &invitation.role, at).await;
    if !joined.map_err(ApiError::database)? {
        return Err(ApiError::new(ErrorCode::Duplicate, "you belong to the tenant already"));
    }
    people::accepted(&mut tx, invitation.id, at).await.map_err(ApiError::database)?;
    let actor = client.actor("user", user.id.to_string());
    let deed = Deed { tenant: invitation.tenant, actor, request_id: RequestId::of(&request), at };
    let new = Some(
        json!({ "user_id": user.id, "email": user.email, "role": invitation.role, "invitation_id": invitation.id }),
    );
    let change = Change { action: "member.join", entity_kind: "member", entity: user.id, old: None, new };
    record(&mut tx, &deed, change).await.map_err(ApiError::database)?;
    let new = Some(json!({ "user_id": user.id }));
    let change =
        Change { action: "invitation.accept", entity_kind: "invitation", entity: invitation.id, old: None, new };
    record(&mut tx, &deed, change).await.map_err(ApiError::database)?;
    let opened = sessions::open(&accounts, &mut tx, user.id, invitation.tenant, &client).await?;
    tx.commit().await.map_err(ApiError::database)?;
    Ok(Answer::of(&Joined {
        user: Person::from(&user),
        tenant_id: invitation.tenant,
        role: invitation.role,
        tokens: opened.tokens,
    }))
}
