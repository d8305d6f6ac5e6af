//! Whom a provider vouches for becomes a person of its tenant, with the role that its groups give.

use crate::sessions::SignedIn;
use crate::shapes::Person;
use crate::{Accounts, sessions};
use actix_web::HttpRequest;
use serde_json::json;
use twh_edge::access::Role;
use twh_edge::auth::{Client, now};
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::request::RequestId;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_sinks::postgres::accounts::granted::Granted;
use twh_sinks::postgres::accounts::people;
use twh_sinks::postgres::accounts::sign_on::{self, Known, Provider};
use uuid::Uuid;

/// Longest name that is kept, in characters.
const NAME_LENGTH_MAX: usize = 200;
/// Longest address that is kept, in bytes.
const EMAIL_LENGTH_MAX: usize = 254;
/// Who is in several groups has the role that stands first here.
const HIGHEST_FIRST: &[Role] = &[Role::Admin, Role::Dev, Role::ReadOnly, Role::Billing];

/// What a provider says of a person, once its word is proved.
#[derive(Debug, Clone, Default)]
pub(super) struct Vouched {
    /// Its name at the provider, for good.
    pub(super) subject: String,
    pub(super) email: Option<String>,
    pub(super) name: Option<String>,
    pub(super) groups: Vec<String>,
}

impl Vouched {
    /// The address and the name as they are kept: for people to read, and nothing is decided by them.
    fn shown(&self) -> (String, String) {
        let clean = |text: &Option<String>| -> String {
            let text = text.as_deref().unwrap_or_default().trim();
            text.chars().filter(|c| !c.is_control()).take(NAME_LENGTH_MAX).collect()
        };
        let email = self.email.as_ref().filter(|email| email.len() <= EMAIL_LENGTH_MAX);
        let email = email.map(|email| email.chars().filter(|c| !c.is_control()).collect()).unwrap_or_default();
        let name = clean(&self.name);
        let name = if name.is_empty() { self.subject.chars().take(NAME_LENGTH_MAX).collect() } else { name };
        (email, name)
    }
}

/// The role that a person's groups give.
fn role_of(provider: &Provider, groups: &[String]) -> Option<Role> {
    let roles: Vec<_> = groups
        .iter()
        .filter_map(|group| provider.role_by_group.get(group))
        .filter_map(|role| Role::from_name(role))
        .collect();
    let highest = HIGHEST_FIRST.iter().copied().find(|role| roles.contains(role));
    highest.or_else(|| provider.default_role.as_deref().and_then(Role::from_name))
}

/// Begins a session for whom a provider vouches; the answer is that of a login.
pub(super) async fn sign_on(
    request: &HttpRequest,
    accounts: &Accounts,
    provider: &Provider,
    vouched: &Vouched,
) -> Result<SignedIn, ApiError> {
    let client = Client::of(request);
    let begun = accounts
        .control
        .change([provider.tenant], async |tx| begin_session(request, accounts, tx, provider, vouched, &client).await);
    let begun = begun.await?;
    // What is remembered of the person's other sessions has its old role.
    accounts.authenticator.forget();
    let begun = begun.ok_or_else(|| denied("none of your groups has a role in this tenant"))?;
    let user = begun.person.id;
    let memberships = people::memberships(&accounts.pool, user).await.map_err(ApiError::database)?;
    tracing::debug!(user_id = %user, identity_provider_id = %provider.id, role = begun.role, "signed on");
    Ok(sessions::signed_in(begun.person, provider.tenant, &memberships, begun.opened))
}

/// A session that was begun.
struct Begun {
    person: Person,
    role: String,
    opened: sessions::Opened,
}

/// `None` where the person's groups have no role, and its sessions have ended.
async fn begin_session(
    request: &HttpRequest,
    accounts: &Accounts,
    tx: &mut ControlChange,
    provider: &Provider,
    vouched: &Vouched,
    client: &Client,
) -> Result<Option<Begun>, ApiError> {
    // It is neither disabled nor changed meanwhile.
    let locked = sign_on::lock_provider(tx, provider.tenant, provider.id).await.map_err(ApiError::database)?;
    let provider =
        locked.filter(|provider| provider.enabled).ok_or_else(|| denied("the identity provider is disabled"))?;
    let known = sign_on::known(tx, &provider, &vouched.subject).await.map_err(ApiError::database)?;
    let user = known.as_ref().map_or_else(Uuid::now_v7, |known| known.user);
    let deed = Deed {
        tenant: provider.tenant,
        actor: client.actor("user", user.to_string()),
        request_id: RequestId::of(request),
        at: now(),
    };
    let Some(role) = role_of(&provider, &vouched.groups) else {
        end_sessions(tx, &deed, known).await?;
        return Ok(None);
    };
    let (email, name) = vouched.shown();
    let person = Person { id: user, email, name };
    let role = match known {
        Some(Known { role: None, .. }) => return Err(denied("you were removed from this tenant")),
        Some(Known { role: Some(old), .. }) => {
            let role = change_role(tx, &deed, user, &old, role).await?;
            update_person(tx, &deed, &person).await?;
            role
        }
        None => {
            let of = (person.email.as_str(), person.name.as_str());
            sign_on::insert_person(tx, provider.id, &vouched.subject, user, of, deed.at)
                .await
                .map_err(ApiError::database)?;
            people::join(tx, user, provider.tenant, Granted::outright(role.name()), deed.at)
                .await
                .map_err(ApiError::database)?;
            let new = json!({ "user_id": user, "email": person.email, "role": role.name(), "identity_provider_id": provider.id, "subject": vouched.subject });
            let change =
                Change { action: "member.join", entity_kind: "member", entity: user, old: None, new: Some(new) };
            tx.record(&deed, change).await.map_err(ApiError::database)?;
            role.name().to_owned()
        }
    };
    let opened = sessions::open(accounts, tx, user, provider.tenant, client).await?;
    let new = Some(json!({ "user_id": user, "email": person.email, "identity_provider_id": provider.id }));
    let change = Change { action: "session.begin", entity_kind: "user", entity: user, old: None, new };
    tx.record(&deed, change).await.map_err(ApiError::database)?;
    Ok(Some(Begun { person, role, opened }))
}

/// Writes down what the provider calls a person now, where that is something else than before.
async fn update_person(tx: &mut ControlChange, deed: &Deed, person: &Person) -> Result<(), ApiError> {
    let (email, name) = (&person.email, &person.name);
    let updated = sign_on::update_person(tx, person.id, (email, name), deed.at).await;
    if !updated.map_err(ApiError::database)? {
        return Ok(());
    }
    let new = Some(json!({ "email": email, "name": name }));
    let change = Change { action: "user.update", entity_kind: "user", entity: person.id, old: None, new };
    tx.record(deed, change).await.map_err(ApiError::database)
}

fn denied(message: &str) -> ApiError {
    ApiError::new(ErrorCode::SignOnDenied, message)
}

/// Who has no role at the provider any more is not let in with what it was given before.
async fn end_sessions(tx: &mut ControlChange, deed: &Deed, known: Option<Known>) -> Result<(), ApiError> {
    let Some(known) = known else { return Ok(()) };
    twh_sinks::postgres::accounts::sessions::end_all(tx, known.user, None, "sign_on_denied", deed.at)
        .await
        .map_err(ApiError::database)?;
    let new = Some(json!({ "user_id": known.user, "why": "sign_on_denied" }));
    let change = Change { action: "session.end", entity_kind: "user", entity: known.user, old: None, new };
    tx.record(deed, change).await.map_err(ApiError::database)
}

/// Gives a member the role that its groups give now; says which it has. The last admin stays one: the rule of every change of a
/// role.
async fn change_role(
    tx: &mut ControlChange,
    deed: &Deed,
    user: Uuid,
    old: &str,
    role: Role,
) -> Result<String, ApiError> {
    if old == role.name() {
        return Ok(role.name().to_owned());
    }
    let found = people::role_for_change(tx, deed.tenant, user).await.map_err(ApiError::database)?;
    let (old, other_admins) = found.ok_or_else(|| denied("you were removed from this tenant"))?;
    if old == Role::Admin.name() && role != Role::Admin && other_admins == 0 {
        tracing::warn!(user_id = %user, tenant_id = %deed.tenant, "the last admin stays one, although the groups give another role");
        return Ok(old);
    }
    people::set_role(tx, deed.tenant, user, Granted::outright(role.name())).await.map_err(ApiError::database)?;
    let (old, new) = (Some(json!({ "role": old })), Some(json!({ "role": role.name(), "why": "sign_on" })));
    let change = Change { action: "member.update", entity_kind: "member", entity: user, old, new };
    tx.record(deed, change).await.map_err(ApiError::database)?;
    Ok(role.name().to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use twh_domain::id::TenantId;

    pub(in crate::sso) fn provider() -> Provider {
        Provider {
            id: Uuid::now_v7(),
            tenant: TenantId(Uuid::now_v7()),
            name: "P".to_owned(),
            kind: "oidc".to_owned(),
            issuer: "https://idp.example".to_owned(),
            client_id: "twh".to_owned(),
            sealed_secret: None,
            secret_changed_at: None,
            sso_url: None,
            certificates: None,
            groups_claim: "groups".to_owned(),
            role_by_group: BTreeMap::new(),
            default_role: None,
            enabled: true,
            created_at: now(),
            updated_at: now(),
        }
    }

    #[test]
    fn of_several_groups_the_highest_role_counts_and_without_any_nobody_comes_in() {
        let groups = [("staff", "read_only"), ("money", "billing"), ("builders", "dev"), ("owners", "admin")];
        let mut provider = provider();
        provider.role_by_group = groups.iter().map(|(group, role)| ((*group).to_owned(), (*role).to_owned())).collect();
        let of = |provider: &Provider, groups: &[&str]| {
            role_of(provider, &groups.iter().map(|group| (*group).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&provider, &["money", "staff"]), Some(Role::ReadOnly));
        assert_eq!(of(&provider, &["staff", "builders", "money"]), Some(Role::Dev));
        assert_eq!(of(&provider, &["x", "owners", "builders"]), Some(Role::Admin));
        assert_eq!(of(&provider, &["x", "Owners"]), None);
        provider.default_role = Some("billing".to_owned());
        assert_eq!(of(&provider, &[]), Some(Role::Billing));
        assert_eq!(of(&provider, &["staff"]), Some(Role::ReadOnly));
    }

    #[test]
    fn what_a_provider_calls_a_person_is_cleaned_before_it_is_kept() {
        let vouched = Vouched {
            subject: "s1".to_owned(),
            email: Some("a\0@b.example".to_owned()),
            name: Some("A\0da\n".repeat(100)),
            groups: vec![],
        };
        let (email, name) = vouched.shown();
        assert_eq!((email.as_str(), name.chars().count()), ("a@b.example", 200));
        assert_eq!(Vouched { name: None, ..vouched }.shown().1, "s1");
    }
}
