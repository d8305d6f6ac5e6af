//! SAML 2.0: the web browser profile, begun here, with the request by redirect and the response by POST.

mod response;

use super::attempt;
use super::browser::{Metadata, SamlForm};
use super::person;
use super::{Begun, SAML, failed, usable};
use crate::keys::path_id;
use crate::sessions::SignedIn;
use crate::{Accounts, secret};
use actix_web::http::header::{CACHE_CONTROL, SET_COOKIE};
use actix_web::{HttpRequest, web};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use response::{Expected, Problem};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use twh_edge::answer::Answer;
use twh_edge::auth::{Client, now};
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::query;
use twh_sinks::postgres::accounts::sign_on::{self, Provider};
use twh_sinks::secrets::random;
use url::{Url, form_urlencoded};
use uuid::Uuid;

pub(super) use response::is_certificate;

pub(super) const ACS_PATH: &str = "/v1/auth/sso/saml/acs";
/// Longest response, in bytes, before and after Base64.
const RESPONSE_BYTES_MAX: usize = 192 * 1024;

#[derive(Serialize, Deserialize)]
struct Kept {
    request: String,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Begins a sign-on: the request goes to the provider by redirect (SAML Bindings, section 3.4).
pub(super) async fn begin(accounts: &Accounts, provider: &Provider, client: &Client) -> Result<Begun, ApiError> {
    let id: [u8; 20] = random().map_err(secret)?;
    // An XML name begins with no digit.
    let kept = Kept { request: id.iter().fold("_".to_owned(), |text, byte| format!("{text}{byte:02x}")) };
    let begun = attempt::begin(accounts, provider, client, &kept).await?;
    let sso_url = provider.sso_url.as_deref().unwrap_or_default();
    let at = OffsetDateTime::now_utc().replace_nanosecond(0).map_err(ApiError::internal)?;
    let request = format!(
        "<samlp:AuthnRequest xmlns:samlp=\"urn:oasis:names:tc:SAML:2.0:protocol\" \
         xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\" ID=\"{}\" Version=\"2.0\" IssueInstant=\"{}\" \
         Destination=\"{}\" AssertionConsumerServiceURL=\"{}\" \
         ProtocolBinding=\"urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST\"><saml:Issuer>{}</saml:Issuer>\
         </samlp:AuthnRequest>",
        kept.request,
        at.format(&Rfc3339).map_err(ApiError::internal)?,
        escaped(sso_url),
        escaped(&accounts.sign_on.public_url.at(ACS_PATH)),
        escaped(&provider.client_id),
    );
    let mut deflated = DeflateEncoder::new(Vec::new(), Compression::default());
    deflated.write_all(request.as_bytes()).map_err(ApiError::internal)?;
    let deflated = deflated.finish().map_err(ApiError::internal)?;
    let mut url = Url::parse(sso_url).map_err(ApiError::internal)?;
    url.query_pairs_mut()
        .append_pair("SAMLRequest", &BASE64_STANDARD.encode(deflated))
        .append_pair("RelayState", &begun.state);
    Ok(Begun { url: url.into(), browser: begun.browser })
}

/// Takes the response that the browser brings.
pub(crate) async fn acs(
    request: HttpRequest,
    accounts: web::Data<Accounts>,
    body: SamlForm,
) -> Result<Answer<SignedIn>, ApiError> {
    let field = |name: &str| {
        let mut found =
            form_urlencoded::parse(&body.0).filter(|(own, _)| own == name).map(|(_, value)| value.into_owned());
        found.next().filter(|value| value.len() <= RESPONSE_BYTES_MAX && found.next().is_none())
    };
    let state = field("RelayState").ok_or_else(|| query::invalid("RelayState", "must stand once"))?;
    let cookie = super::cookie(&request, accounts.sign_on.cookie_name());
    let ended = attempt::end(&accounts, &state, cookie).await?;
    let provider = usable(&accounts, ended.provider).await?;
    if provider.kind != SAML {
        return Err(failed("the sign-on was begun with OpenID Connect"));
    }
    let encoded = field("SAMLResponse").ok_or_else(|| query::invalid("SAMLResponse", "must stand once"))?;
    let encoded: String = encoded.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let xml = BASE64_STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let xml = xml.ok_or_else(|| failed("the response is not XML in Base64"))?;
    let kept: Kept = ended.kept()?;
    let expected = Expected {
        issuer: &provider.issuer,
        audience: &provider.client_id,
        recipient: &accounts.sign_on.public_url.at(ACS_PATH),
        request: &kept.request,
        certificates: provider.certificates.as_deref().unwrap_or_default(),
        groups_attribute: &provider.groups_claim,
        now: OffsetDateTime::now_utc(),
    };
    let proved = response::read(&xml, &expected).map_err(|problem| match problem {
        Problem::Denied => ApiError::new(ErrorCode::SignOnDenied, "the identity provider refuses the sign-on"),
        Problem::Wrong(what) => failed(what),
    })?;
    let fresh =
        sign_on::use_assertion(&accounts.pool, provider.id, &proved.assertion, now(), proved.until.into()).await;
    if !fresh.map_err(ApiError::database)? {
        return Err(failed("the assertion was used before"));
    }
    let signed_in = person::sign_on(&request, &accounts, &provider, &proved.vouched).await?;
    Ok(Answer::of(&signed_in)
        .header((SET_COOKIE, accounts.sign_on.cookie("", 0, true)))
        .header((CACHE_CONTROL, "no-store")))
}

/// Our side, as the provider's configuration takes it (SAML Metadata).
pub(crate) async fn metadata(request: HttpRequest, accounts: web::Data<Accounts>) -> Result<Metadata, ApiError> {
    let id = path_id(&request, "identity provider")?;
    let found = sign_on::usable_provider(&accounts.pool, id).await.map_err(ApiError::database)?;
    let provider = found.filter(|provider| provider.kind == SAML);
    let provider = provider.ok_or_else(|| ApiError::not_found("identity provider"))?;
    let document = format!(
        "<md:EntityDescriptor xmlns:md=\"urn:oasis:names:tc:SAML:2.0:metadata\" entityID=\"{}\"><md:SPSSODescriptor \
         AuthnRequestsSigned=\"false\" WantAssertionsSigned=\"true\" \
         protocolSupportEnumeration=\"urn:oasis:names:tc:SAML:2.0:protocol\"><md:AssertionConsumerService index=\"0\" \
         isDefault=\"true\" Binding=\"urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST\" Location=\"{}\"/>\
         </md:SPSSODescriptor></md:EntityDescriptor>",
        escaped(&provider.client_id),
        escaped(&accounts.sign_on.public_url.at(ACS_PATH)),
    );
    Ok(Metadata(document))
}

/// The entity id of a provider's client, where it is not said otherwise: the address of its metadata.
pub(super) fn entity_id(public_url: &super::PublicUrl, provider: Uuid) -> String {
    public_url.at(&format!("/v1/auth/sso/{provider}/metadata"))
}

/// The reading of responses without a sign-on that was begun: what `tests/fuzz` holds it to.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::response::{Expected, read};
    use time::OffsetDateTime;

    /// Who must have made the response.
    pub const ISSUER: &str = "https://idp.example/metadata";
    /// Whom it must be for.
    pub const AUDIENCE: &str = "https://twh.example/metadata";
    /// Where it must be sent.
    pub const RECIPIENT: &str = "https://twh.example/v1/auth/sso/saml/acs";
    /// The request that it must answer.
    pub const REQUEST: &str = "_request";
    /// The attribute with the groups.
    pub const GROUPS: &str = "groups";

    /// What a response proves.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Said {
        /// The assertion's id.
        pub assertion: String,
        /// Until when it would be taken again.
        pub until: OffsetDateTime,
        /// The person's name at the provider.
        pub subject: String,
        /// Its address.
        pub email: Option<String>,
        /// What people call it.
        pub name: Option<String>,
        /// The groups that it is in.
        pub groups: Vec<String>,
    }

    /// Reads a response; `None` where it is not believed.
    #[must_use]
    pub fn said(xml: &str, certificate: &str, now: OffsetDateTime) -> Option<Said> {
        let certificates = [certificate.to_owned()];
        let expected = Expected {
            issuer: ISSUER,
            audience: AUDIENCE,
            recipient: RECIPIENT,
            request: REQUEST,
            certificates: &certificates,
            groups_attribute: GROUPS,
            now,
        };
        let proved = read(xml, &expected).ok()?;
        let (assertion, until, vouched) = (proved.assertion, proved.until, proved.vouched);
        Some(Said {
            assertion,
            until,
            subject: vouched.subject,
            email: vouched.email,
            name: vouched.name,
            groups: vouched.groups,
        })
    }
}
