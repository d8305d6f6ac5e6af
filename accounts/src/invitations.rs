//! Invitations: made, taken back, accepted.

use crate::attempts::Attempted;
use crate::fields;
use crate::keys::path_id;
use crate::members::check_role;
use crate::shapes::{self, PageQuery, Person, SessionTokens};
use crate::token::{self, Purpose};
use crate::{Accounts, secret, sessions};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{CreateInvitation, ListInvitations, RevokeInvitation, Role};
use twh_edge::answer::{Answer, Done, Page};
use twh_edge::auth::{Caller, Client, Credential, now};
use twh_edge::body::Body;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::grant::Grant;
use twh_edge::problems::Problems;
use twh_edge::query::Query;
use twh_edge::request::RequestId;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::accounts::people::{self, Invitation, User};
use twh_sinks::postgres::accounts::tenants;
use uuid::Uuid;

/// How long an invitation can be accepted, in microseconds: a week.
const INVITATION_MICROS: i64 = 7 * 86_400 * 1_000_000;

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

pub(crate) async fn list(
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
    let invited = accounts.control.change([deed.tenant], async |tx| {
        let grant = Grant::of(tx, &caller).await?;
        people::invite(tx, grant.invitation(&invitation)?, &hash).await.map_err(ApiError::database)?;
        let (entity, new) = (invitation.id, shapes::value(&shown));
        let change = Change { action: "invitation.create", entity_kind: "invitation", entity, old: None, new };
        tx.record(&deed, change).await.map_err(ApiError::database)
    });
    invited.await?;
    let mailed = may_mail && accounts.post.invite(&invitation.email, (tenant.id, &tenant.name), &token);
    Ok(Answer::of(&NewlyInvited { shown, token, mailed }))
}

pub(crate) async fn revoke(
    caller: Caller<RevokeInvitation>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Done, ApiError> {
    let id = path_id(&request, "open invitation")?;
    let deed = caller.deed(&request);
    let revoked = accounts.control.change([deed.tenant], async |tx| {
        let grant = Grant::of(tx, &caller).await?;
        let found = people::lock_invitation(tx, id).await.map_err(ApiError::database)?;
        let is_open = |found: &Invitation| {
            found.tenant == deed.tenant && found.accepted_at.is_none() && found.revoked_at.is_none()
        };
        let found = found.filter(is_open).ok_or_else(|| ApiError::not_found("open invitation"))?;
        people::revoke_invitation(tx, grant.invitation(&found)?, deed.at).await.map_err(ApiError::database)?;
        let revoked = Invitation { revoked_at: Some(deed.at), ..found };
        let new = shapes::value(&invitation_shown(&revoked));
        let change = Change { action: "invitation.revoke", entity_kind: "invitation", entity: id, old: None, new };
        tx.record(&deed, change).await.map_err(ApiError::database)
    });
    revoked.await?;
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
    let actor = client.actor("user", user.id.to_string());
    let deed = Deed { tenant: invitation.tenant, actor, request_id: RequestId::of(&request), at: now() };
    let joined = accounts.control.change([deed.tenant], async |tx| {
        // Of two who accept it at once, the second finds it used.
        let invitation = open(people::lock_invitation(tx, invitation.id).await.map_err(ApiError::database)?)?;
        if new_account && !people::insert_user(tx, &user, deed.at).await.map_err(ApiError::database)? {
            let message = "the address has an account by now: accept with its password";
            return Err(ApiError::new(ErrorCode::EmailTaken, message));
        }
        join(tx, &deed, &invitation, &user).await?;
        let opened = sessions::open(&accounts, tx, user.id, invitation.tenant, &client).await?;
        Ok(Joined {
            user: Person::from(&user),
            tenant_id: invitation.tenant,
            role: invitation.role,
            tokens: opened.tokens,
        })
    });
    Ok(Answer::of(&joined.await?))
}

/// Makes a person a member, by an invitation that is used up by it.
async fn join(tx: &mut ControlChange, deed: &Deed, invitation: &Invitation, user: &User) -> Result<(), ApiError> {
    // Who invited gives the role now, and must have it still.
    let inviter = Grant::of_member(tx, invitation.tenant, invitation.invited_by).await?;
    let role = inviter.and_then(|inviter| inviter.person(&invitation.role).ok());
    let role = role.ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidToken,
            "who invited you may not give the role any more; ask to be invited again",
        )
    })?;
    let joined = people::join(tx, user.id, invitation.tenant, role, deed.at).await;
    if !joined.map_err(ApiError::database)? {
        return Err(ApiError::new(ErrorCode::Duplicate, "you belong to the tenant already"));
    }
    people::accepted(tx, invitation.id, deed.at).await.map_err(ApiError::database)?;
    let new = Some(
        json!({ "user_id": user.id, "email": user.email, "role": invitation.role, "invitation_id": invitation.id }),
    );
    let change = Change { action: "member.join", entity_kind: "member", entity: user.id, old: None, new };
    tx.record(deed, change).await.map_err(ApiError::database)?;
    let (entity, new) = (invitation.id, Some(json!({ "user_id": user.id })));
    let change = Change { action: "invitation.accept", entity_kind: "invitation", entity, old: None, new };
    tx.record(deed, change).await.map_err(ApiError::database)
}
