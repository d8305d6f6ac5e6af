//! Sign-on: people come by the identity provider that an admin of their tenant set up.
//!
//! A sign-on is begun here, ends here once, in the same browser, within minutes. What a provider says counts for the people of
//! its own tenant only: it never reaches who has a password, or comes by another provider.

mod attempt;
mod browser;
mod oidc;
mod person;
mod providers;
#[cfg(feature = "saml")]
mod saml;

use crate::Accounts;
use crate::keys::path_id;
use crate::sessions::SignedIn;
use actix_web::http::header::{CACHE_CONTROL, COOKIE, REFERRER_POLICY, SET_COOKIE};
use actix_web::{HttpRequest, web};
use browser::ToProvider;
#[cfg(not(feature = "saml"))]
use browser::{Metadata, SamlForm};
use oidc::Oidc;
use schemars::JsonSchema;
use std::fmt;
use twh_edge::answer::Answer;
use twh_edge::auth::Client;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::query::{self, Query};
use twh_sinks::outbound::Outbound;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::accounts::sign_on::{self, Provider};
use twh_sinks::secrets::{SecretError, Secrets};
use url::{Url, form_urlencoded};
use uuid::Uuid;

pub(crate) use providers::{create, delete, list, one, update};
#[cfg(all(fuzzing, feature = "saml"))]
pub use saml::fuzzing as saml_fuzzing;

const CALLBACK_PATH: &str = "/v1/auth/sso/callback";
const OIDC: &str = "oidc";
const SAML: &str = "saml";
/// Longest value that a provider sends through the browser.
const PARAMETER_LENGTH_MAX: usize = 4_096;

/// Where browsers reach this service.
#[derive(Debug, Clone)]
pub struct PublicUrl {
    /// Without a slash at its end.
    text: String,
    secure: bool,
}

impl PublicUrl {
    /// Reads one: `https` or `http`, a host, perhaps a path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be an address such as https://twh.example.com".to_owned();
        let url = Url::parse(text).map_err(|_| wrong())?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() || !plain || url.password().is_some() {
            return Err(wrong());
        }
        Ok(Self { text: url.as_str().trim_end_matches('/').to_owned(), secure: url.scheme() == "https" })
    }

    /// True where browsers reach it by TLS.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }
}

/// What sign-on stands on.
#[derive(Debug)]
pub struct SignOn {
    public_url: PublicUrl,
    outbound: Outbound,
    oidc: Oidc,
}

impl SignOn {
    /// Sends browsers back to a public address, and asks providers with a client that reaches no private network.
    #[must_use]
    pub fn new(public_url: PublicUrl, outbound: Outbound) -> Self {
        Self { public_url, oidc: Oidc::new(outbound.clone()), outbound }
    }

    fn redirect_uri(&self) -> String {
        self.public_url.at(CALLBACK_PATH)
    }

    /// A cookie with the prefix is taken only from this very host, over TLS (RFC 6265bis, section 4.1.3.2).
    const fn cookie_name(&self) -> &'static str {
        if self.public_url.secure { "__Host-twh-sign-on" } else { "twh-sign-on" }
    }

    /// What SAML brings back comes as a POST from the provider's page: only a cookie of all sites comes along, over TLS.
    fn cookie(&self, value: &str, seconds: i64, by_post: bool) -> String {
        let secure = if self.public_url.secure { "; Secure" } else { "" };
        let site = if self.public_url.secure && by_post { "None" } else { "Lax" };
        format!("{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite={site}{secure}", self.cookie_name())
    }
}

/// What a provider's secret is sealed for: a row's secret is of no use in another row.
fn secret_purpose(provider: Uuid) -> String {
    format!("identity_provider/{provider}")
}

/// What a provider says that cannot be believed.
fn failed(message: impl fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::SignOnFailed, message.to_string())
}

/// Seals the secrets of identity providers under the newest master key; says how many were sealed under another.
pub async fn reseal(pool: &PgPool, secrets: &Secrets) -> Result<usize, ResealError> {
    let mut resealed = 0;
    for (provider, old) in sign_on::secrets(pool).await? {
        let again = secrets.resealed(&secret_purpose(provider), &old);
        if let Some(new) = again.map_err(|source| ResealError::Sealed { provider, source })? {
            sign_on::reseal(pool, provider, &old, &new).await?;
            resealed += 1;
        }
    }
    Ok(resealed)
}

/// Why a secret was not sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A secret cannot be opened.
    #[error("the secret of the identity provider {provider} cannot be opened: {source}")]
    Sealed {
        /// Whose.
        provider: Uuid,
        /// Why not.
        source: SecretError,
    },
}

/// A sign-on that was begun.
struct Begun {
    /// Where the browser goes.
    url: String,
    /// What its cookie holds.
    browser: String,
}

/// Sends the browser to the provider.
pub(crate) async fn start(request: HttpRequest, accounts: web::Data<Accounts>) -> Result<ToProvider, ApiError> {
    let id = path_id(&request, "identity provider")?;
    let client = Client::of(&request);
    let find = sign_on::usable_provider(&accounts.pool, id);
    let found = accounts.authenticator.strangers().found(client.ip, find).await?;
    let provider = found.ok_or_else(|| ApiError::not_found("identity provider"))?;
    let begun = match provider.kind.as_str() {
        OIDC => oidc::begin(&accounts, &provider, &client).await?,
        #[cfg(feature = "saml")]
        SAML => saml::begin(&accounts, &provider, &client).await?,
        _ => return Err(ApiError::not_found("identity provider")),
    };
    let cookie = accounts.sign_on.cookie(&begun.browser, attempt::SECONDS, provider.kind == SAML);
    Ok(ToProvider { url: begun.url, cookie })
}

/// What a provider sends back through the browser.
#[derive(Debug, Default, JsonSchema)]
pub(crate) struct Returned {
    /// The sign-on that it belongs to.
    state: Option<String>,
    /// What the person's identity is had for.
    code: Option<String>,
    /// Who sends it (RFC 9207).
    iss: Option<String>,
    /// Why there is no code.
    error: Option<String>,
}

impl Returned {
    /// Providers add parameters of their own, which are passed over; ours stand once.
    fn of(query: &str) -> Result<Self, ApiError> {
        let mut returned = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match name.as_ref() {
                "state" => &mut returned.state,
                "code" => &mut returned.code,
                "iss" => &mut returned.iss,
                "error" => &mut returned.error,
                _ => continue,
            };
            if place.is_some() || value.len() > PARAMETER_LENGTH_MAX {
                return Err(query::invalid(&name, "must stand once, and not be longer than it may be"));
            }
            *place = Some(value.into_owned());
        }
        Ok(returned)
    }
}

/// Takes whom the provider sends back, and begins a session.
pub(crate) async fn callback(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    _: Query<Returned>,
) -> Result<Answer<SignedIn>, ApiError> {
    let returned = Returned::of(request.query_string())?;
    let state = returned.state.as_deref().ok_or_else(|| query::invalid("state", "is missing"))?;
    let ended = attempt::end(&accounts, state, cookie(&request, accounts.sign_on.cookie_name())).await?;
    let provider = usable(&accounts, ended.provider).await?;
    if provider.kind != OIDC {
        return Err(failed("the sign-on was begun with SAML"));
    }
    if let Some(iss) = &returned.iss
        && *iss != provider.issuer
    {
        return Err(failed("the answer comes from another identity provider (RFC 9207)"));
    }
    if let Some(error) = &returned.error {
        return Err(refused_by_provider(error));
    }
    let code = returned.code.as_deref().ok_or_else(|| query::invalid("code", "is missing"))?;
    let vouched = oidc::redeem(&accounts, &provider, &ended, code, returned.iss.is_some()).await?;
    let signed_in = person::sign_on(&request, &accounts, &provider, &vouched).await?;
    Ok(Answer::of(&signed_in)
        .header((SET_COOKIE, accounts.sign_on.cookie("", 0, false)))
        .header((CACHE_CONTROL, "no-store"))
        .header((REFERRER_POLICY, "no-referrer")))
}

#[cfg(feature = "saml")]
pub(crate) use saml::{acs, metadata};

/// Without SAML nothing comes by it.
#[cfg(not(feature = "saml"))]
pub(crate) async fn acs(_: SamlForm) -> Result<Answer<SignedIn>, ApiError> {
    Err(ApiError::not_found("identity provider"))
}

/// Without SAML no provider asks for it.
#[cfg(not(feature = "saml"))]
pub(crate) async fn metadata() -> Result<Metadata, ApiError> {
    Err(ApiError::not_found("identity provider"))
}

async fn usable(accounts: &Accounts, provider: Uuid) -> Result<Provider, ApiError> {
    let found = sign_on::usable_provider(&accounts.pool, provider).await.map_err(ApiError::database)?;
    found.ok_or_else(|| ApiError::new(ErrorCode::SignOnDenied, "the identity provider was disabled meanwhile"))
}

/// The errors of RFC 6749, section 4.1.2.1, and of OpenID Connect Core, section 3.1.2.6; other words are not repeated.
fn refused_by_provider(error: &str) -> ApiError {
    const KNOWN: &[&str] = &[
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "invalid_request",
        "invalid_scope",
        "login_required",
        "request_not_supported",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_response_type",
    ];
    let error = KNOWN.iter().copied().find(|known| *known == error).unwrap_or("another error than the standard knows");
    let code = match error {
        "server_error" | "temporarily_unavailable" => ErrorCode::IdentityProviderUnavailable,
        _ => ErrorCode::SignOnDenied,
    };
    ApiError::new(code, format!("the identity provider answers: {error}"))
}

/// The cookie with this name; where there are several, none.
fn cookie<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let pairs = request.headers().get_all(COOKIE).filter_map(|header| header.to_str().ok());
    let mut values = pairs
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(own, _)| *own == name)
        .map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_cookie_that_stands_twice_is_none() {
        let of = |header: &str| {
            let request = TestRequest::default().insert_header((COOKIE, header)).to_http_request();
            cookie(&request, "twh-sign-on").map(str::to_owned)
        };
        assert_eq!(of("a=b; twh-sign-on=x;c=d").as_deref(), Some("x"));
        assert_eq!(of("twh-sign-on=x; twh-sign-on=y"), None);
        assert_eq!(of("xtwh-sign-on=x"), None);
    }

    #[test]
    fn the_cookie_is_bound_to_the_host_where_there_is_tls() {
        let outbound = Outbound::new(vec![]).unwrap();
        let sign_on = |url| SignOn::new(PublicUrl::parse(url).unwrap(), outbound.clone());
        let cookie = |url| sign_on(url).cookie("v", 600, false);
        let secure = "__Host-twh-sign-on=v; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(cookie("https://twh.example/"), secure);
        assert_eq!(cookie("http://127.0.0.1:8080"), "twh-sign-on=v; Path=/; Max-Age=600; HttpOnly; SameSite=Lax");
        assert!(sign_on("https://twh.example").cookie("v", 600, true).ends_with("SameSite=None; Secure"));
        for wrong in ["twh.example", "ftp://twh.example", "https://u@twh.example", "https://twh.example/?a", "https://"]
        {
            assert!(PublicUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_parameter_that_stands_twice_is_refused() {
        assert!(Returned::of("state=a&code=b&session_state=c").is_ok());
        assert!(Returned::of("state=a&state=b").is_err());
    }
}
