//! Tokens that are shown once: 256 random bits in Base64, kept as a keyed hash.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use twh_sinks::secrets::{SecretError, Secrets, random};

/// What a token is for; a hash made for one purpose is none for another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Refresh,
    Invitation,
    PasswordReset,
    /// What an identity provider gives back.
    SignOnState,
    /// The cookie of the browser in which a sign-on was begun.
    SignOnBrowser,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Refresh => "refresh_token",
            Self::Invitation => "invitation",
            Self::PasswordReset => "password_reset",
            Self::SignOnState => "sign_on_state",
            Self::SignOnBrowser => "sign_on_browser",
        }
    }
}

/// A new token, in the clear and as it is kept.
pub(crate) fn new(secrets: &Secrets, purpose: Purpose) -> Result<(String, [u8; 32]), SecretError> {
    let token = BASE64_URL_SAFE_NO_PAD.encode(random::<32>()?);
    let hash = secrets.hash(purpose.name(), &token)?;
    Ok((token, hash))
}

/// What a token that was shown may be kept as.
pub(crate) fn hashes(secrets: &Secrets, purpose: Purpose, token: &str) -> Vec<[u8; 32]> {
    secrets.hashes(purpose.name(), token)
}
