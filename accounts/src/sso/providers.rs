//! The identity providers of a tenant: set up, changed, disabled, removed by its admins.

use super::{OIDC, SAML, SignOn, secret_purpose};
use crate::keys::path_id;
use crate::shapes::{self, PageQuery};
use crate::{Accounts, secret};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{
    CreateIdentityProvider, DeleteIdentityProvider, GetIdentityProvider, ListIdentityProviders, Role,
    UpdateIdentityProvider,
};
use twh_edge::answer::{Answer, Done, Page};
use twh_edge::auth::Caller;
use twh_edge::body::Body;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::grant::Grant;
use twh_edge::problems::Problems;
use twh_edge::query::Query;
use twh_sinks::postgres::accounts::audit::{Change, Deed};
use twh_sinks::postgres::accounts::people;
use twh_sinks::postgres::accounts::sign_on::{self, Provider};
use uuid::Uuid;

/// Providers of a tenant.
const PROVIDERS_MAX: i64 = 20;
const CLIENT_ID_LENGTH_MAX: usize = 255;
const ISSUER_LENGTH_MAX: usize = 1_024;
const SECRET_LENGTH_MAX: usize = 1_024;
const CLAIM_LENGTH_MAX: usize = 100;
const GROUP_LENGTH_MAX: usize = 255;
/// Groups with a role.
const GROUPS_MAX: usize = 500;
const GROUPS_CLAIM: &str = "groups";
const CERTIFICATES_MAX: usize = 5;
const CERTIFICATE_LENGTH_MAX: usize = 16_384;
const KINDS: &[&str] = if cfg!(feature = "saml") { &[OIDC, SAML] } else { &[OIDC] };

/// A provider as it stands in the account of changes: never its secret.
#[derive(Serialize, JsonSchema)]
struct Kept {
    id: Uuid,
    name: String,
    #[schemars(extend("enum" = [OIDC, SAML]))]
    kind: String,
    issuer: String,
    /// What the provider knows us by.
    client_id: String,
    secret_changed_at: Option<Timestamp>,
    /// Of SAML: where browsers are sent.
    sso_url: Option<String>,
    /// Of SAML: what the provider signs with, in PEM.
    certificates: Option<Vec<String>>,
    /// The claim that names a person's groups.
    groups_claim: String,
    /// The role that each group has.
    #[schemars(with = "BTreeMap<String, Role>")]
    role_by_group: BTreeMap<String, String>,
    /// The role of who is in none of them; `null` to refuse them.
    #[schemars(with = "Option<Role>")]
    default_role: Option<String>,
    enabled: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// A provider as it is answered: with what its own configuration needs.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IdentityProvider {
    #[serde(flatten)]
    kept: Kept,
    /// Where people begin to sign on.
    start_url: String,
    /// Where the provider sends them back to.
    redirect_uri: String,
}

fn kept(provider: &Provider) -> Kept {
    let provider = provider.clone();
    Kept {
        id: provider.id,
        name: provider.name,
        kind: provider.kind,
        issuer: provider.issuer,
        client_id: provider.client_id,
        secret_changed_at: provider.secret_changed_at,
        sso_url: provider.sso_url,
        certificates: provider.certificates,
        groups_claim: provider.groups_claim,
        role_by_group: provider.role_by_group,
        default_role: provider.default_role,
        enabled: provider.enabled,
        created_at: provider.created_at,
        updated_at: provider.updated_at,
    }
}

fn shown(provider: &Provider, sign_on: &SignOn) -> IdentityProvider {
    IdentityProvider {
        kept: kept(provider),
        start_url: sign_on.public_url.at(&format!("/v1/auth/sso/{}/start", provider.id)),
        redirect_uri: redirect_uri(provider, sign_on),
    }
}

#[cfg(feature = "saml")]
fn redirect_uri(provider: &Provider, sign_on: &SignOn) -> String {
    if provider.kind == SAML { sign_on.public_url.at(super::saml::ACS_PATH) } else { sign_on.redirect_uri() }
}

#[cfg(not(feature = "saml"))]
fn redirect_uri(_: &Provider, sign_on: &SignOn) -> String {
    sign_on.redirect_uri()
}

#[cfg(feature = "saml")]
fn is_certificate(pem: &str) -> bool {
    super::saml::is_certificate(pem)
}

#[cfg(not(feature = "saml"))]
const fn is_certificate(_: &str) -> bool {
    false
}

/// The id that a new provider of SAML knows us by, where it is not given.
#[cfg(feature = "saml")]
fn entity_id(sign_on: &SignOn, provider: Uuid) -> String {
    super::saml::entity_id(&sign_on.public_url, provider)
}

#[cfg(not(feature = "saml"))]
const fn entity_id(_: &SignOn, _: Uuid) -> String {
    String::new()
}

pub(crate) async fn list(
    caller: Caller<ListIdentityProviders>,
    accounts: web::Data<Accounts>,
    query: Query<PageQuery>,
) -> Result<Answer<Page<IdentityProvider>>, ApiError> {
    let (after, limit) = query.read()?.place()?;
    let found = sign_on::providers(&accounts.pool, caller.tenant_id, after, limit).await;
    let shown = |provider: &Provider| shown(provider, &accounts.sign_on);
    Ok(Answer::of(&Page::of(&found.map_err(ApiError::database)?, |provider| cursor::encode(&provider.id), shown)))
}

pub(crate) async fn one(
    caller: Caller<GetIdentityProvider>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Answer<IdentityProvider>, ApiError> {
    let id = path_id(&request, "identity provider")?;
    let found = sign_on::find_provider(&accounts.pool, caller.tenant_id, id).await.map_err(ApiError::database)?;
    let found = found.ok_or_else(|| ApiError::not_found("identity provider"))?;
    Ok(Answer::of(&shown(&found, &accounts.sign_on)))
}

/// What is to be set; what is left out stays as it is.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "IdentityProviderToSet")]
pub(crate) struct Asked {
    name: Option<String>,
    #[schemars(extend("enum" = [OIDC, SAML, serde_json::Value::Null]))]
    kind: Option<String>,
    issuer: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    sso_url: Option<String>,
    certificates: Option<Vec<String>>,
    groups_claim: Option<String>,
    #[schemars(with = "Option<BTreeMap<String, Role>>")]
    role_by_group: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Role>")]
    default_role: Option<Option<String>>,
    enabled: Option<bool>,
}

/// Tells null from what is left out.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

fn check_text(problems: &mut Problems, field: &str, value: &str, length_max: usize) {
    if !(1..=length_max).contains(&value.len()) || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        problems.add(field, format!("must have 1 to {length_max} visible ASCII characters"));
    }
}

fn check_role(problems: &mut Problems, field: &str, role: &str) {
    if Role::from_name(role).is_none() {
        let names: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
        problems.add(field, format!("must be one of {}", names.join(", ")));
    }
}

impl Asked {
    /// What is wrong with what is given.
    fn check(&self, problems: &mut Problems) {
        if let Some(name) = &self.name {
            problems.name("name", name);
        }
        if let Some(client_id) = &self.client_id {
            check_text(problems, "client_id", client_id, CLIENT_ID_LENGTH_MAX);
        }
        if let Some(secret) = &self.client_secret {
            check_text(problems, "client_secret", secret, SECRET_LENGTH_MAX);
        }
        if let Some(claim) = &self.groups_claim {
            check_text(problems, "groups_claim", claim, CLAIM_LENGTH_MAX);
        }
        if let Some(Some(role)) = &self.default_role {
            check_role(problems, "default_role", role);
        }
        let Some(roles) = &self.role_by_group else { return };
        if roles.len() > GROUPS_MAX {
            problems.add("role_by_group", format!("may name {GROUPS_MAX} groups at most"));
        }
        for (group, role) in roles.iter().take(GROUPS_MAX) {
            if !(1..=GROUP_LENGTH_MAX).contains(&group.len()) || group.contains('\0') {
                problems.add("role_by_group", format!("a group's name has 1 to {GROUP_LENGTH_MAX} bytes"));
            } else {
                check_role(problems, &format!("role_by_group.{group}"), role);
            }
        }
    }

    /// A new provider.
    fn create(self, accounts: &Accounts, deed: &Deed) -> Result<Provider, ApiError> {
        let mut problems = Problems::default();
        self.check(&mut problems);
        let saml = self.kind.as_deref() == Some(SAML);
        let missing = [
            ("name", self.name.is_none()),
            ("kind", self.kind.is_none()),
            ("issuer", self.issuer.is_none()),
            ("client_id", self.client_id.is_none() && !saml),
            ("client_secret", self.client_secret.is_none() && !saml),
            ("sso_url", self.sso_url.is_none() && saml),
            ("certificates", self.certificates.is_none() && saml),
        ];
        for (field, _) in missing.into_iter().filter(|(_, missing)| *missing) {
            problems.add(field, "is missing");
        }
        if self.kind.as_deref().is_some_and(|kind| !KINDS.contains(&kind)) {
            problems.add("kind", format!("must be one of {}", KINDS.join(", ")));
        }
        self.check_of_kind(saml, accounts, &mut problems);
        match &self.issuer {
            // A name only, which is called by nobody.
            Some(issuer) if saml => check_text(&mut problems, "issuer", issuer, ISSUER_LENGTH_MAX),
            Some(issuer) => match accounts.sign_on.outbound.check(issuer) {
                // Its identifier, compared as it is written (Discovery 1.0, section 3).
                Ok(url) if url.query().is_some() => problems.add("issuer", "must have no query"),
                Ok(_) => {}
                Err(error) => problems.add("issuer", error.to_string()),
            },
            None => {}
        }
        problems.none()?;
        let id = Uuid::now_v7();
        let blank = Provider {
            id,
            tenant: deed.tenant,
            name: String::new(),
            kind: self.kind.clone().unwrap_or_default(),
            issuer: self.issuer.clone().unwrap_or_default(),
            client_id: if saml { entity_id(&accounts.sign_on, id) } else { String::new() },
            sealed_secret: None,
            secret_changed_at: None,
            sso_url: None,
            certificates: None,
            groups_claim: GROUPS_CLAIM.to_owned(),
            role_by_group: BTreeMap::new(),
            default_role: None,
            enabled: true,
            created_at: deed.at,
            updated_at: deed.at,
        };
        self.set(blank, accounts, deed)
    }

    /// What one kind of provider has and the other has not.
    fn check_of_kind(&self, saml: bool, accounts: &Accounts, problems: &mut Problems) {
        if saml && self.client_secret.is_some() {
            problems.add("client_secret", "is not of SAML");
        }
        if !saml && self.sso_url.is_some() {
            problems.add("sso_url", "is of SAML");
        }
        if !saml && self.certificates.is_some() {
            problems.add("certificates", "is of SAML");
        }
        if let Some(Err(error)) = self.sso_url.as_ref().filter(|_| saml).map(|url| accounts.sign_on.outbound.check(url))
        {
            problems.add("sso_url", error.to_string());
        }
        let sound = |pem: &String| pem.len() <= CERTIFICATE_LENGTH_MAX && is_certificate(pem);
        if let Some(list) = self.certificates.as_ref().filter(|_| saml)
            && (!(1..=CERTIFICATES_MAX).contains(&list.len()) || !list.iter().all(sound))
        {
            problems.add("certificates", format!("must be 1 to {CERTIFICATES_MAX} X.509 certificates in PEM"));
        }
    }

    /// A provider that is changed.
    fn change(&self, old: &Provider, accounts: &Accounts, deed: &Deed) -> Result<Provider, ApiError> {
        let mut problems = Problems::default();
        self.check(&mut problems);
        for (field, asked, is) in [("kind", &self.kind, &old.kind), ("issuer", &self.issuer, &old.issuer)] {
            // Another issuer's subjects are other people.
            if asked.as_ref().is_some_and(|asked| asked != is) {
                problems.add(field, "cannot be changed; make another identity provider");
            }
        }
        self.check_of_kind(old.kind == SAML, accounts, &mut problems);
        problems.none()?;
        self.clone().set(old.clone(), accounts, deed)
    }

    fn set(self, mut provider: Provider, accounts: &Accounts, deed: &Deed) -> Result<Provider, ApiError> {
        provider.updated_at = deed.at;
        provider.name = self.name.map_or(provider.name, |name| name.trim().to_owned());
        provider.client_id = self.client_id.unwrap_or(provider.client_id);
        provider.sso_url = self.sso_url.or(provider.sso_url);
        provider.certificates = self.certificates.or(provider.certificates);
        provider.groups_claim = self.groups_claim.unwrap_or(provider.groups_claim);
        provider.role_by_group = self.role_by_group.unwrap_or(provider.role_by_group);
        provider.default_role = self.default_role.unwrap_or(provider.default_role);
        provider.enabled = self.enabled.unwrap_or(provider.enabled);
        if let Some(text) = self.client_secret {
            let sealed = accounts.secrets.seal(&secret_purpose(provider.id), text.as_bytes()).map_err(secret)?;
            provider.sealed_secret = Some(sealed);
            provider.secret_changed_at = Some(deed.at);
        }
        Ok(provider)
    }
}

pub(crate) async fn create(
    caller: Caller<CreateIdentityProvider>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<Asked>,
) -> Result<Answer<IdentityProvider, 201>, ApiError> {
    let asked = body.read()?;
    let deed = caller.deed(&request);
    let provider = asked.create(&accounts, &deed)?;
    let put = accounts.control.change([deed.tenant], async |tx| {
        let granted = Grant::of(tx, &caller).await?.provider(None, &provider, &[])?;
        sign_on::put_provider(tx, granted).await.map_err(ApiError::database)?;
        if sign_on::provider_count(tx, deed.tenant).await.map_err(ApiError::database)? > PROVIDERS_MAX {
            let message = format!("a tenant has {PROVIDERS_MAX} identity providers at most");
            return Err(ApiError::new(ErrorCode::ValidationFailed, message));
        }
        let (entity, new) = (provider.id, shapes::value(&kept(&provider)));
        let (action, entity_kind) = ("identity_provider.create", "identity_provider");
        tx.record(&deed, Change { action, entity_kind, entity, old: None, new }).await.map_err(ApiError::database)
    });
    put.await?;
    let location = format!("/v1/identity-providers/{}", provider.id);
    Ok(Answer::of(&shown(&provider, &accounts.sign_on)).header(("location", location)))
}

pub(crate) async fn update(
    caller: Caller<UpdateIdentityProvider>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: Body<Asked>,
) -> Result<Answer<IdentityProvider>, ApiError> {
    let id = path_id(&request, "identity provider")?;
    let asked = body.read()?;
    let deed = caller.deed(&request);
    let put = accounts.control.change([deed.tenant], async |tx| {
        let old = locked(tx, deed.tenant, id).await?;
        let new = asked.change(&old, &accounts, &deed)?;
        let people = sign_on::members_by(tx, deed.tenant, id).await.map_err(ApiError::database)?;
        let granted = Grant::of(tx, &caller).await?.provider(Some(&old), &new, &people)?;
        if old.enabled && !new.enabled {
            keep_an_admin(tx, deed.tenant, id).await?;
            sign_on::end_sessions(tx, id, "identity_provider_disabled", deed.at).await.map_err(ApiError::database)?;
        }
        sign_on::put_provider(tx, granted).await.map_err(ApiError::database)?;
        let (action, entity_kind) = ("identity_provider.update", "identity_provider");
        let (was, is) = (shapes::value(&kept(&old)), shapes::value(&kept(&new)));
        let change = Change { action, entity_kind, entity: id, old: was, new: is };
        tx.record(&deed, change).await.map_err(ApiError::database)?;
        Ok(new)
    });
    let new = put.await?;
    accounts.authenticator.forget();
    Ok(Answer::of(&shown(&new, &accounts.sign_on)))
}

/// Removes a provider, and with it the people who come by it: nobody else could let them in.
pub(crate) async fn delete(
    caller: Caller<DeleteIdentityProvider>,
    request: HttpRequest,
    accounts: web::Data<Accounts>,
) -> Result<Done, ApiError> {
    let id = path_id(&request, "identity provider")?;
    let deed = caller.deed(&request);
    let deleted = accounts.control.change([deed.tenant], async |tx| {
        let old = locked(tx, deed.tenant, id).await?;
        let people = sign_on::members_by(tx, deed.tenant, id).await.map_err(ApiError::database)?;
        let grant = Grant::of(tx, &caller).await?;
        let granted = grant.provider(None, &old, &people)?;
        keep_an_admin(tx, deed.tenant, id).await?;
        sign_on::end_sessions(tx, id, "identity_provider_deleted", deed.at).await.map_err(ApiError::database)?;
        for (user, role) in &people {
            people::remove(tx, deed.tenant, *user, grant.person(role)?).await.map_err(ApiError::database)?;
            let old = Some(json!({ "role": role, "identity_provider_id": id }));
            let change = Change { action: "member.remove", entity_kind: "member", entity: *user, old, new: None };
            tx.record(&deed, change).await.map_err(ApiError::database)?;
        }
        sign_on::delete_provider(tx, granted, deed.at).await.map_err(ApiError::database)?;
        let (action, entity_kind) = ("identity_provider.delete", "identity_provider");
        let change = Change { action, entity_kind, entity: id, old: shapes::value(&kept(&old)), new: None };
        tx.record(&deed, change).await.map_err(ApiError::database)
    });
    deleted.await?;
    accounts.authenticator.forget();
    Ok(Done)
}

async fn locked(connection: &mut PgConnection, tenant: TenantId, id: Uuid) -> Result<Provider, ApiError> {
    let found = sign_on::lock_provider(connection, tenant, id).await.map_err(ApiError::database)?;
    found.ok_or_else(|| ApiError::not_found("identity provider"))
}

/// Refuses what would leave a tenant without an admin who can sign in.
async fn keep_an_admin(connection: &mut PgConnection, tenant: TenantId, provider: Uuid) -> Result<(), ApiError> {
    let comes_by_it = sign_on::members_by(connection, tenant, provider).await.map_err(ApiError::database)?;
    if !comes_by_it.iter().any(|(_, role)| role == Role::Admin.name())
        || sign_on::has_admin_without(connection, tenant, provider).await.map_err(ApiError::database)?
    {
        return Ok(());
    }
    let message = "all admins come by this identity provider; make somebody else one first";
    Err(ApiError::new(ErrorCode::LastAdmin, message))
}
