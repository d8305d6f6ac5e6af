//! Who may call: tenants, people, sessions, invitations and API keys. It changes nothing of a tenant's stock, and writes an
//! account of every change that it makes.
//!
//! Secrets (keys, refresh tokens, invitations) are shown once and kept as keyed hashes; passwords as argon2id.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests stop at the first surprise"
    )
)]

mod attempts;
mod fields;
mod invitations;
mod keys;
mod members;
mod password;
pub mod post;
pub mod provision;
mod sessions;
mod shapes;
mod signup;
pub mod sso;
mod token;

use attempts::Attempts;
use password::Passwords;
use post::Post;
use sso::SignOn;
use std::sync::Arc;
use twh_edge::access::{
    AcceptInvitation, ChangePassword, CreateApiKey, CreateIdentityProvider, CreateInvitation, DeleteIdentityProvider,
    FinishSamlSignOn, FinishSignOn, ForgetPassword, GetApiKey, GetIdentityProvider, GetJwks, GetMe, GetPlan,
    GetSamlMetadata, ListApiKeys, ListIdentityProviders, ListInvitations, ListMembers, LogIn, LogOut, RefreshSession,
    RemoveMember, ResetPassword, RevokeApiKey, RevokeInvitation, RotateApiKey, SignUp, StartSignOn,
    UpdateIdentityProvider, UpdateMember,
};
use twh_edge::auth::Authenticator;
use twh_edge::control::Control;
use twh_edge::error::ApiError;
use twh_edge::routes::Routes;
use twh_edge::tokens::Tokens;
use twh_sinks::postgres::PgPool;
use twh_sinks::secrets::Secrets;

/// What the endpoints work with.
pub struct Accounts {
    pool: PgPool,
    /// Where changes are made.
    control: Control,
    secrets: Secrets,
    tokens: Arc<Tokens>,
    authenticator: actix_web::web::Data<Authenticator>,
    passwords: Passwords,
    attempts: Attempts,
    sign_on: SignOn,
    post: Post,
}

impl Accounts {
    /// Endpoints over a database.
    pub fn new(
        control: Control,
        secrets: Secrets,
        tokens: Arc<Tokens>,
        authenticator: actix_web::web::Data<Authenticator>,
        sign_on: SignOn,
        post: Post,
    ) -> Result<Self, password::PasswordError> {
        let passwords = Passwords::new()?;
        let pool = control.pool().clone();
        let attempts = Attempts::new(pool.clone(), secrets.clone(), authenticator.clone());
        Ok(Self { pool, control, secrets, tokens, authenticator, passwords, attempts, sign_on, post })
    }
}

/// The routes; they need a `web::Data<Accounts>`.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .open(SignUp, signup::sign_up)
        .open(LogIn, sessions::log_in)
        .open(RefreshSession, sessions::refresh)
        .on(LogOut, sessions::log_out)
        .on(ChangePassword, sessions::change_password)
        .open(ForgetPassword, sessions::forget_password)
        .open(ResetPassword, sessions::reset_password)
        .open(AcceptInvitation, invitations::accept)
        .open(GetJwks, sessions::jwks)
        .on(GetMe, members::me)
        .on(GetPlan, members::plan)
        .on(ListMembers, members::list)
        .on(UpdateMember, members::update)
        .on(RemoveMember, members::remove)
        .on(ListInvitations, invitations::list)
        .on(CreateInvitation, invitations::invite)
        .on(RevokeInvitation, invitations::revoke)
        .open(StartSignOn, sso::start)
        .open(FinishSignOn, sso::callback)
        .open(FinishSamlSignOn, sso::acs)
        .open(GetSamlMetadata, sso::metadata)
        .on(ListIdentityProviders, sso::list)
        .on(GetIdentityProvider, sso::one)
        .on(CreateIdentityProvider, sso::create)
        .on(UpdateIdentityProvider, sso::update)
        .on(DeleteIdentityProvider, sso::delete)
        .on(ListApiKeys, keys::list)
        .on(GetApiKey, keys::one)
        .on(CreateApiKey, keys::create)
        .on(RotateApiKey, keys::rotate)
        .on(RevokeApiKey, keys::revoke)
}

/// A secret that could not be made: a defect, or an operating system without random bytes.
fn secret(error: impl std::fmt::Display) -> ApiError {
    ApiError::internal(error)
}
