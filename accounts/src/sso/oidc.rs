//! OpenID Connect (Core 1.0): the authorization code flow with PKCE, and what an ID token must be to be believed.
//!
//! Signatures are checked with the provider's published keys and asymmetric algorithms only; neither the key nor the algorithm
//! is the token's to choose.

use super::attempt::{self, Ended};
use super::person::Vouched;
use super::{Begun, failed, secret_purpose};
use crate::{Accounts, secret};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use twh_domain::timestamp::Timestamp;
use twh_edge::auth::Client;
use twh_edge::error::{ApiError, ErrorCode};
use twh_sinks::outbound::{Method, Outbound, OutboundError};
use twh_sinks::postgres::accounts::sign_on::Provider;
use twh_sinks::secrets::random;
use url::{Url, form_urlencoded};
use uuid::Uuid;

/// How long what a provider publishes is used.
const REMEMBER: Duration = Duration::from_secs(3_600);
/// How long it is believed that a provider does not answer.
const REMEMBER_FAILURE: Duration = Duration::from_secs(5);
/// Keys are fetched again at most this often, when a token names one that is not known.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
const PROVIDERS_MAX: usize = 10_000;
/// Longest document or answer of a provider, in bytes.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// Longest ID token, in bytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Keys that are looked at.
const KEYS_MAX: usize = 100;
/// How far a provider's clock may be from ours, in seconds.
const CLOCK_SKEW_SECONDS: i64 = 60;
/// Longest subject (Core, section 2).
const SUBJECT_LENGTH_MAX: usize = 255;
/// Groups of a person that are looked at.
const GROUPS_MAX: usize = 2_000;

/// Those with a public key. `none` is no algorithm, and with HMAC the secret would be one that the provider publishes.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What a provider says of itself (Discovery 1.0, section 3).
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// A JSON Web Key Set (RFC 7517, section 5).
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Keys that are published, and when they were fetched.
#[derive(Debug)]
struct Keys {
    keys: Vec<Jwk>,
    fetched: Instant,
}

/// What is known of a provider.
#[derive(Debug)]
struct Published {
    metadata: Metadata,
    fetched: Instant,
    keys: tokio::sync::Mutex<Option<Keys>>,
    /// When they were fetched because one was missing.
    refetched: Mutex<Option<Instant>>,
    /// When and why they could not be fetched: those who wait for them do not all ask again.
    failed: Mutex<Option<(Instant, String)>>,
}

type Fetched = Result<Arc<Published>, (Instant, String)>;

/// Asks providers, and remembers what they publish.
#[derive(Debug)]
pub(super) struct Oidc {
    outbound: Outbound,
    /// By provider and issuer.
    published: Cache<(Uuid, String), Fetched>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    nonce: String,
    verifier: String,
}

/// Begins a sign-on.
pub(super) async fn begin(accounts: &Accounts, provider: &Provider, client: &Client) -> Result<Begun, ApiError> {
    let published = accounts.sign_on.oidc.published(provider).await?;
    let kept = Kept { nonce: random_text()?, verifier: random_text()? };
    let begun = attempt::begin(accounts, provider, client, &kept).await?;
    // PKCE (RFC 7636, section 4.2).
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(kept.verifier.as_bytes()));
    let metadata = &published.metadata;
    let mut url = Url::parse(&metadata.authorization_endpoint).map_err(ApiError::internal)?;
    // Where a provider can name groups, it often does so only when it is asked.
    let groups = metadata.scopes_supported.iter().any(|scope| scope == "groups");
    let scope = if groups { "openid email profile groups" } else { "openid email profile" };
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &provider.client_id)
        .append_pair("redirect_uri", &accounts.sign_on.redirect_uri())
        .append_pair("scope", scope)
        .append_pair("state", &begun.state)
        .append_pair("nonce", &kept.nonce)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    Ok(Begun { url: url.into(), browser: begun.browser })
}

fn random_text() -> Result<String, ApiError> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(random::<32>().map_err(secret)?))
}

/// What comes for a code.
#[derive(Deserialize)]
struct TokenAnswer {
    id_token: String,
    access_token: String,
}

/// Exchanges a code, and says for whom the provider vouches.
pub(super) async fn redeem(
    accounts: &Accounts,
    provider: &Provider,
    ended: &Ended,
    code: &str,
    named_itself: bool,
) -> Result<Vouched, ApiError> {
    let oidc = &accounts.sign_on.oidc;
    let published = oidc.published(provider).await?;
    if published.metadata.authorization_response_iss_parameter_supported && !named_itself {
        return Err(failed("the answer does not say which identity provider it is from (RFC 9207)"));
    }
    let kept: Kept = ended.kept()?;
    let client_secret = match &provider.sealed_secret {
        Some(sealed) => accounts.secrets.open(&secret_purpose(provider.id), sealed).map_err(secret)?,
        None => return Err(ApiError::internal("an identity provider has no secret")),
    };
    let client_secret = String::from_utf8(client_secret).map_err(ApiError::internal)?;
    let answer = oidc
        .exchange(&published.metadata, provider, &client_secret, &accounts.sign_on.redirect_uri(), code, &kept.verifier)
        .await?;
    let expected = Expected {
        issuer: &provider.issuer,
        client_id: &provider.client_id,
        nonce: &kept.nonce,
        begun_at: ended.begun_at,
        now: OffsetDateTime::now_utc().unix_timestamp(),
    };
    let mut claims = oidc.verified(&published, &answer.id_token, &expected).await?;
    // Many providers keep a token short, and tell the rest here.
    if let Some(endpoint) = &published.metadata.userinfo_endpoint
        && (!claims.contains_key(&provider.groups_claim) || !claims.contains_key("email"))
    {
        let more = oidc.userinfo(endpoint, &answer.access_token, claims.get("sub")).await?;
        for (name, value) in more {
            claims.entry(name).or_insert(value);
        }
    }
    vouched(&claims, &provider.groups_claim)
}

fn vouched(claims: &Map<String, Value>, groups_claim: &str) -> Result<Vouched, ApiError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    let subject = text("sub").unwrap_or_default();
    if subject.is_empty() || subject.len() > SUBJECT_LENGTH_MAX || subject.chars().any(char::is_control) {
        return Err(failed("the subject is not 1 to 255 characters long"));
    }
    let groups = match claims.get(groups_claim) {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).take(GROUPS_MAX).map(str::to_owned).collect(),
        _ => vec![],
    };
    Ok(Vouched { subject, email: text("email"), name: text("name").or_else(|| text("preferred_username")), groups })
}

/// What an ID token must say.
struct Expected<'a> {
    issuer: &'a str,
    client_id: &'a str,
    nonce: &'a str,
    begun_at: Timestamp,
    /// Seconds since 1970.
    now: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Oidc {
    pub(super) fn new(outbound: Outbound) -> Self {
        Self { outbound, published: Cache::new(PROVIDERS_MAX) }
    }

    /// What a provider publishes; fetched once by however many ask for it at once.
    async fn published(&self, provider: &Provider) -> Result<Arc<Published>, ApiError> {
        let key = (provider.id, provider.issuer.clone());
        if self.published.get(&key).is_some_and(|fetched| is_stale(&fetched)) {
            self.published.remove(&key);
        }
        let fetched = self.published.get_or_insert_async(&key, async {
            let fetched = self.discover(&provider.issuer).await;
            Ok::<Fetched, std::convert::Infallible>(fetched.map(Arc::new).map_err(|error| (Instant::now(), error)))
        });
        let Ok(fetched) = fetched.await;
        fetched.map_err(|(_, error)| away(format!("discovery: {error}")))
    }

    async fn discover(&self, issuer: &str) -> Result<Published, String> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let metadata: Metadata = self.document(&url).await?;
        // Who publishes under another's name is not the other (Discovery, section 4.3).
        if metadata.issuer != issuer {
            return Err("the document is another issuer's".to_owned());
        }
        let named = [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.jwks_uri];
        for url in named.into_iter().chain(&metadata.userinfo_endpoint) {
            self.outbound.check(url).map_err(|error| format!("an endpoint: {error}"))?;
        }
        let (fetched, keys) = (Instant::now(), tokio::sync::Mutex::default());
        Ok(Published { metadata, fetched, keys, refetched: Mutex::default(), failed: Mutex::default() })
    }

    async fn document<T: DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let request = self.outbound.request(Method::GET, url).map_err(|error| error.to_string())?;
        let request = request.header("accept", "application/json");
        let answer = self.outbound.send(request, DOCUMENT_BYTES_MAX).await.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("the answer has the status {}", answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|_| "the answer is not what the standard says".to_owned())
    }

    /// The keys that may have signed a token. One that is not known is looked for once more, but not by every token.
    async fn keys(&self, published: &Published, kid: Option<&str>) -> Result<Vec<Jwk>, ApiError> {
        let mut held = published.keys.lock().await;
        if let Some(keys) = held.as_ref().filter(|keys| keys.fetched.elapsed() < REMEMBER) {
            let found = named(&keys.keys, kid);
            if !found.is_empty() || !published.may_refetch() {
                return Ok(found);
            }
        }
        if let Some((at, error)) = published.keys_failed()
            && at.elapsed() < REMEMBER_FAILURE
        {
            return Err(away(error));
        }
        let set: KeySet = self.document(&published.metadata.jwks_uri).await.map_err(|error| {
            let error = format!("its keys: {error}");
            published.note_keys_failed(&error);
            away(error)
        })?;
        // A key of a kind that we do not know is no reason to refuse the others.
        let keys = set.keys.into_iter().take(KEYS_MAX).filter_map(|key| serde_json::from_value(key).ok()).collect();
        let keys = Keys { keys, fetched: Instant::now() };
        let found = named(&keys.keys, kid);
        *held = Some(keys);
        Ok(found)
    }

    async fn exchange(
        &self,
        metadata: &Metadata,
        provider: &Provider,
        client_secret: &str,
        redirect_uri: &str,
        code: &str,
        verifier: &str,
    ) -> Result<TokenAnswer, ApiError> {
        let methods = metadata.token_endpoint_auth_methods_supported.as_deref();
        let basic = methods.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"));
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("code_verifier", verifier);
        let mut request = self.outbound.request(Method::POST, &metadata.token_endpoint).map_err(outbound)?;
        if basic {
            // Both are encoded first (RFC 6749, section 2.3.1).
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encoded(&provider.client_id), encoded(client_secret));
            request = request.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(pair)));
        } else {
            form.append_pair("client_id", &provider.client_id).append_pair("client_secret", client_secret);
        }
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(form.finish());
        let answer = self.outbound.send(request, DOCUMENT_BYTES_MAX).await.map_err(outbound)?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).map_err(|_| failed("there is no ID token in its answer")),
            400 => {
                Err(failed("the identity provider does not take the code: it was used, has expired, or is another's"))
            }
            401 => Err(away("it does not know us by the client_id and client_secret that are set up")),
            status => Err(away(format!("its token endpoint answers with the status {status}"))),
        }
    }

    /// The claims of an ID token that is to be believed (Core, section 3.1.3.7).
    async fn verified(
        &self,
        published: &Published,
        token: &str,
        expected: &Expected<'_>,
    ) -> Result<Map<String, Value>, ApiError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(failed("the ID token is too long"));
        }
        let header = decode_header(token).map_err(|_| failed("the ID token is not one, or is not signed"))?;
        // We know no extension that must be understood (RFC 7515, section 4.1.11).
        if !ALGORITHMS.contains(&header.alg) || header.crit.is_some() {
            return Err(failed("the ID token is signed with an algorithm that proves nothing here"));
        }
        let keys = self.keys(published, header.kid.as_deref()).await?;
        let usable: Vec<_> = keys.iter().filter(|key| fits(key, header.alg)).collect();
        // Without a name there must be no choice (Core, section 10.1).
        let [key] = usable.as_slice() else {
            return Err(failed("the ID token is signed with a key that the identity provider does not publish"));
        };
        let key = DecodingKey::from_jwk(key).map_err(|_| failed("the key of the ID token is not usable"))?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = CLOCK_SKEW_SECONDS.unsigned_abs();
        validation.validate_nbf = true;
        validation.set_issuer(&[expected.issuer]);
        validation.set_audience(&[expected.client_id]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let decoded =
            decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| failed(problem(&error)))?;
        expected.hold(&decoded.claims)?;
        Ok(decoded.claims)
    }

    /// What a provider tells of who holds an access token (Core, section 5.3).
    async fn userinfo(
        &self,
        endpoint: &str,
        access_token: &str,
        subject: Option<&Value>,
    ) -> Result<Map<String, Value>, ApiError> {
        let request = self.outbound.request(Method::GET, endpoint).map_err(outbound)?;
        let request = request.bearer_auth(access_token).header("accept", "application/json");
        let answer = self.outbound.send(request, DOCUMENT_BYTES_MAX).await.map_err(outbound)?;
        if answer.status != 200 {
            return Err(away(format!("its userinfo endpoint answers with the status {}", answer.status)));
        }
        let claims: Map<String, Value> =
            serde_json::from_slice(&answer.body).map_err(|_| failed("its userinfo is not a JSON object"))?;
        // Another's would be put in this one's place (Core, section 5.3.2).
        if claims.get("sub").is_none() || claims.get("sub") != subject {
            return Err(failed("its userinfo is about another person"));
        }
        Ok(claims)
    }
}

fn is_stale(fetched: &Fetched) -> bool {
    match fetched {
        Ok(published) => published.fetched.elapsed() >= REMEMBER,
        Err((at, _)) => at.elapsed() >= REMEMBER_FAILURE,
    }
}

impl Published {
    fn keys_failed(&self) -> Option<(Instant, String)> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_keys_failed(&self, error: &str) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error.to_owned()));
    }

    fn may_refetch(&self) -> bool {
        let mut refetched = self.refetched.lock().unwrap_or_else(PoisonError::into_inner);
        let due = refetched.is_none_or(|at| at.elapsed() >= REFETCH_INTERVAL);
        if due {
            *refetched = Some(Instant::now());
        }
        due
    }
}

/// The keys with a name; all where a token names none.
fn named(keys: &[Jwk], kid: Option<&str>) -> Vec<Jwk> {
    keys.iter().filter(|key| kid.is_none() || key.common.key_id.as_deref() == kid).cloned().collect()
}

/// True for a public key that can have made a signature of this algorithm.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match &key.algorithm {
        AlgorithmParameters::RSA(_) => matches!(
            algorithm,
            Algorithm::RS256
                | Algorithm::RS384
                | Algorithm::RS512
                | Algorithm::PS256
                | Algorithm::PS384
                | Algorithm::PS512
        ),
        AlgorithmParameters::EllipticCurve(_) => matches!(algorithm, Algorithm::ES256 | Algorithm::ES384),
        AlgorithmParameters::OctetKeyPair(_) => algorithm == Algorithm::EdDSA,
        _ => false,
    };
    let declared = key.common.key_algorithm.is_none_or(|own| own.to_string() == format!("{algorithm:?}"));
    let for_signatures = key.common.public_key_use.as_ref().is_none_or(|own| *own == PublicKeyUse::Signature);
    kind && declared && for_signatures
}

impl Expected<'_> {
    /// What the signature does not say.
    fn hold(&self, claims: &Map<String, Value>) -> Result<(), ApiError> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(self.issuer) {
            return Err(failed("the ID token is another issuer's"));
        }
        if text("nonce") != Some(self.nonce) {
            return Err(failed("the ID token is not for this sign-on"));
        }
        let audiences = claims.get("aud").cloned().and_then(|aud| serde_json::from_value(aud).ok());
        let several = match audiences {
            Some(OneOrMany::One(one)) if one == self.client_id => false,
            Some(OneOrMany::Many(many)) if many.iter().any(|one| one == self.client_id) => many.len() > 1,
            _ => return Err(failed("the ID token is for another audience")),
        };
        let party = claims.get("azp");
        if party.is_some_and(|party| party != self.client_id) || (several && party.is_none()) {
            return Err(failed("the ID token was given to another party"));
        }
        let issued = claims.get("iat").and_then(Value::as_f64).ok_or_else(|| failed("the ID token has no iat"))?;
        let earliest = self.begun_at.micros().div_euclid(1_000_000) - CLOCK_SKEW_SECONDS;
        if !(seconds(earliest)..=seconds(self.now + CLOCK_SKEW_SECONDS)).contains(&issued) {
            return Err(failed("the ID token is from before this sign-on, or from the future"));
        }
        Ok(())
    }
}

/// Seconds since 1970 as JSON has them: exact for the next hundred million years.
#[expect(clippy::cast_precision_loss, reason = "2^53 seconds are enough")]
const fn seconds(seconds: i64) -> f64 {
    seconds as f64
}

fn problem(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "the ID token has expired",
        ErrorKind::ImmatureSignature => "the ID token is not good yet",
        ErrorKind::InvalidIssuer => "the ID token is another issuer's",
        ErrorKind::InvalidAudience => "the ID token is for another audience",
        ErrorKind::InvalidSignature => "the ID token's signature is not the identity provider's",
        ErrorKind::MissingRequiredClaim(_) => "the ID token lacks exp, iss, aud or sub",
        _ => "the ID token is not one",
    }
}

/// The provider does not answer as one.
fn away(message: impl Into<String>) -> ApiError {
    let message = message.into();
    tracing::info!(problem = message, "an identity provider does not answer as one");
    ApiError::new(
        ErrorCode::IdentityProviderUnavailable,
        format!("the identity provider does not answer as one: {message}"),
    )
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn outbound(error: OutboundError) -> ApiError {
    away(error.to_string())
}
