//! Sign-ons under way: kept here, so that each ends once, bound to the browser in which it began.

use crate::Accounts;
use crate::attempts::network;
use crate::secret;
use crate::token::{self, Purpose};
use serde::Serialize;
use serde::de::DeserializeOwned;
use twh_domain::timestamp::Timestamp;
use twh_edge::auth::{Client, now};
use twh_edge::error::{ApiError, ErrorCode};
use twh_sinks::postgres::accounts::sign_on::{self, Attempt, Provider};
use uuid::Uuid;

/// How long a sign-on may take, in seconds.
pub(super) const SECONDS: i64 = 600;
/// Sign-ons under way from one address: an office has one.
const FROM_ADDRESS_MAX: i64 = 500;
const PURPOSE: &str = "sign_on_attempt";

/// A sign-on that was begun: what the provider, and what the browser is to show at its end.
pub(super) struct Begun {
    pub(super) state: String,
    pub(super) browser: String,
}

/// A sign-on that has come back.
pub(super) struct Ended {
    pub(super) provider: Uuid,
    pub(super) begun_at: Timestamp,
    opened: Vec<u8>,
}

impl Ended {
    /// What was kept for its end.
    pub(super) fn kept<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.opened).map_err(ApiError::internal)
    }
}

pub(super) async fn begin(
    accounts: &Accounts,
    provider: &Provider,
    client: &Client,
    keep: &impl Serialize,
) -> Result<Begun, ApiError> {
    let (state, state_hash) = token::new(&accounts.secrets, Purpose::SignOnState).map_err(secret)?;
    let (browser, browser_hash) = token::new(&accounts.secrets, Purpose::SignOnBrowser).map_err(secret)?;
    let keep = serde_json::to_vec(keep).map_err(ApiError::internal)?;
    let at = now();
    let attempt = Attempt {
        state_hash,
        browser_hash,
        provider: provider.id,
        sealed: accounts.secrets.seal(PURPOSE, &keep).map_err(secret)?,
        ip: client.ip.map(network),
        created_at: at,
        expires_at: Timestamp::from_micros(at.micros() + SECONDS * 1_000_000),
    };
    if sign_on::begin(&accounts.pool, &attempt, FROM_ADDRESS_MAX).await.map_err(ApiError::database)? {
        return Ok(Begun { state, browser });
    }
    Err(ApiError::new(ErrorCode::TooManyAttempts, "too many sign-ons are under way from this address").retry_after(60))
}

/// Ends a sign-on. A state works once, also where it is refused.
pub(super) async fn end(accounts: &Accounts, state: &str, browser: Option<&str>) -> Result<Ended, ApiError> {
    let not_open = |message| ApiError::new(ErrorCode::SignOnNotOpen, message);
    let hashes = token::hashes(&accounts.secrets, Purpose::SignOnState, state);
    let found = sign_on::end(&accounts.pool, &hashes).await.map_err(ApiError::database)?;
    let attempt = found.ok_or_else(|| not_open("the sign-on is not known, or has ended; begin again"))?;
    if attempt.expires_at <= now() {
        return Err(not_open("the sign-on took too long; begin again"));
    }
    let same = browser.is_some_and(|browser| {
        token::hashes(&accounts.secrets, Purpose::SignOnBrowser, browser).contains(&attempt.browser_hash)
    });
    if !same {
        return Err(not_open("the sign-on was begun in another browser, or this one keeps no cookies; begin again"));
    }
    let opened = accounts.secrets.open(PURPOSE, &attempt.sealed).map_err(secret)?;
    Ok(Ended { provider: attempt.provider, begun_at: attempt.created_at, opened })
}
