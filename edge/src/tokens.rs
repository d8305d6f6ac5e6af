//! Access tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037), that live for minutes and name a session.
//!
//! A token says who signed in; what that one may do now is looked up, so that a role that was taken away is gone at once.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::accounts::signing_keys::{self, SigningKeyRow};
use twh_sinks::secrets::{SecretError, Secrets, random};
use uuid::Uuid;

/// How long a token lives, in seconds.
pub const ACCESS_TOKEN_SECONDS: i64 = 900;
const ISSUER: &str = "twh";
const AUDIENCE: &str = "twh-api";
/// What private keys are sealed for.
const PURPOSE: &str = "signing_key";
/// Keys are read again at most this often, when a token names one that is not known.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// After so long keys are read again, so that one that another process made signs here too.
const REREAD_AFTER: Duration = Duration::from_secs(60);
/// How long after a key was retired its last token may live, in seconds: until every process has read the keys again, with a
/// minute of slack for one that could not, they sign with it.
const LAST_ALIVE_SECONDS: i64 = ACCESS_TOKEN_SECONDS + 60 + 60;

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    aud: String,
    /// The person.
    pub sub: Uuid,
    /// The session.
    pub sid: Uuid,
    /// The tenant that is meant where a request names none.
    pub tid: Uuid,
    iat: i64,
    exp: i64,
}

/// Why there are no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The database failed.
    #[error("the signing keys cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    /// A private key cannot be opened.
    #[error("the signing key {kid} cannot be opened: {source}; is its master key in TWH_SECRETS_FILE?")]
    Sealed {
        /// Which.
        kid: String,
        /// Why not.
        source: SecretError,
    },
    /// A secret cannot be made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A key is not one.
    #[error("a signing key is not usable: {0}")]
    Unusable(String),
}

struct Keyring {
    kid: String,
    signer: EncodingKey,
    known: Vec<(String, DecodingKey)>,
    jwks: Value,
}

/// Signs and checks tokens.
pub struct Tokens {
    pool: PgPool,
    secrets: Secrets,
    /// Empty until it is read for the first time.
    keyring: RwLock<Option<Arc<Keyring>>>,
    reloaded: Mutex<Option<Instant>>,
    reread_after: Duration,
}

impl Tokens {
    /// Signs and checks with the keys in a database, which are read when the first is needed.
    #[must_use]
    pub fn new(pool: PgPool, secrets: Secrets) -> Self {
        let (keyring, reloaded) = (RwLock::default(), Mutex::default());
        Self { pool, secrets, keyring, reloaded, reread_after: REREAD_AFTER }
    }

    /// The same, with keys that are read again after so long.
    #[must_use]
    pub fn reread_after(self, age: Duration) -> Self {
        Self { reread_after: age, ..self }
    }

    /// Reads the platform's keys, and makes the first where there is none.
    pub async fn load(pool: PgPool, secrets: Secrets) -> Result<Self, TokenError> {
        signing_keys::insert(&pool, &new_key(&secrets)?, OffsetDateTime::now_utc().into(), true).await?;
        let tokens = Self::new(pool, secrets);
        tokens.read_again().await?;
        Ok(tokens)
    }

    async fn read_again(&self) -> Result<Arc<Keyring>, TokenError> {
        let keyring = Arc::new(read(&self.pool, &self.secrets).await?);
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&keyring));
        Ok(keyring)
    }

    fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys, read again where they are old: by one of those who ask, while the others go on with what there is.
    async fn current(&self) -> Result<Arc<Keyring>, TokenError> {
        let Some(keyring) = self.keyring() else { return self.read_again().await };
        if !self.may_reload(self.reread_after) {
            return Ok(keyring);
        }
        let read = self.read_again().await;
        Ok(read.unwrap_or_else(|error| {
            tracing::warn!(%error, "the signing keys cannot be read again: those of before go on");
            keyring
        }))
    }

    /// The public keys, as a JSON Web Key Set (RFC 7517).
    pub async fn jwks(&self) -> Result<Value, TokenError> {
        Ok(self.current().await?.jwks.clone())
    }

    /// A token for a session.
    pub async fn issue(&self, user: Uuid, session: Uuid, tenant: Uuid) -> Result<String, TokenError> {
        self.current().await?.issue(user, session, tenant, ACCESS_TOKEN_SECONDS)
    }

    /// What a token says, where it is ours and alive. A key that another process made meanwhile is read.
    pub async fn verify(&self, token: &str) -> Result<Option<Claims>, TokenError> {
        let Some(kid) = kid_of(token) else { return Ok(None) };
        let mut keyring = self.current().await?;
        if !keyring.knows(&kid) && self.may_reload(RELOAD_INTERVAL) {
            keyring = self.read_again().await?;
        }
        Ok(keyring.check(&kid, token))
    }

    /// True for one of those who ask at once, where the keys were read so long ago.
    fn may_reload(&self, after: Duration) -> bool {
        let mut reloaded = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
        let due = reloaded.is_none_or(|at| at.elapsed() >= after);
        if due {
            *reloaded = Some(Instant::now());
        }
        due
    }
}

/// The key that a token names.
fn kid_of(token: &str) -> Option<String> {
    decode_header(token).ok().and_then(|header| header.kid)
}

impl Keyring {
    fn issue(&self, user: Uuid, session: Uuid, tenant: Uuid, seconds: i64) -> Result<String, TokenError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            sid: session,
            tid: tenant,
            iat: now,
            exp: now + seconds,
        };
        encode(&header, &claims, &self.signer).map_err(|error| TokenError::Unusable(error.to_string()))
    }

    fn knows(&self, kid: &str) -> bool {
        self.known.iter().any(|(known, _)| known == kid)
    }

    fn check(&self, kid: &str, token: &str) -> Option<Claims> {
        let (_, key) = self.known.iter().find(|(known, _)| known == kid)?;
        // The algorithm is ours to choose, never the token's.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        decode::<Claims>(token, key, &validation).ok().map(|token| token.claims)
    }
}

/// Makes another key, which signs from now on.
pub async fn rotate(pool: &PgPool, secrets: &Secrets) -> Result<String, TokenError> {
    let key = new_key(secrets)?;
    signing_keys::insert(pool, &key, OffsetDateTime::now_utc().into(), false).await?;
    Ok(key.kid)
}

/// Seals the keys that older master keys sealed under the newest; says how many there were.
pub async fn reseal(pool: &PgPool, secrets: &Secrets) -> Result<usize, TokenError> {
    let mut resealed = 0;
    for row in signing_keys::list(pool, OffsetDateTime::UNIX_EPOCH.into()).await? {
        let again = secrets.resealed(PURPOSE, &row.sealed_private);
        if let Some(sealed) = again.map_err(|source| TokenError::Sealed { kid: row.kid.clone(), source })? {
            signing_keys::reseal(pool, &row.kid, &sealed).await?;
            resealed += 1;
        }
    }
    Ok(resealed)
}

fn new_key(secrets: &Secrets) -> Result<SigningKeyRow, TokenError> {
    let private: [u8; 32] = random()?;
    Ok(SigningKeyRow {
        kid: Uuid::now_v7().simple().to_string(),
        public_key: SigningKey::from_bytes(&private).verifying_key().to_bytes().to_vec(),
        sealed_private: secrets.seal(PURPOSE, &private)?,
    })
}

async fn read(pool: &PgPool, secrets: &Secrets) -> Result<Keyring, TokenError> {
    let last_alive = OffsetDateTime::now_utc() - time::Duration::seconds(LAST_ALIVE_SECONDS);
    keyring(&signing_keys::list(pool, last_alive.into()).await?, secrets)
}

/// Keys as they are kept, ready for use; the newest signs.
fn keyring(rows: &[SigningKeyRow], secrets: &Secrets) -> Result<Keyring, TokenError> {
    let newest = rows.first().ok_or_else(|| TokenError::Unusable("there is none".to_owned()))?;
    let private = secrets
        .open(PURPOSE, &newest.sealed_private)
        .map_err(|source| TokenError::Sealed { kid: newest.kid.clone(), source })?;
    let private: [u8; 32] =
        private.try_into().map_err(|_| TokenError::Unusable("it is not 32 bytes long".to_owned()))?;
    let der =
        SigningKey::from_bytes(&private).to_pkcs8_der().map_err(|error| TokenError::Unusable(error.to_string()))?;
    let jwks = rows.iter().map(|row| {
        let x = BASE64_URL_SAFE_NO_PAD.encode(&row.public_key);
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": row.kid, "x": x })
    });
    Ok(Keyring {
        kid: newest.kid.clone(),
        signer: EncodingKey::from_ed_der(der.as_bytes()),
        known: rows.iter().map(|row| (row.kid.clone(), DecodingKey::from_ed_der(&row.public_key))).collect(),
        jwks: json!({ "keys": jwks.collect::<Vec<_>>() }),
    })
}

/// A keyring without a database: what `tests/fuzz` holds the reading of tokens to.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::{Claims, Keyring, PURPOSE, SigningKey, SigningKeyRow, TokenError, Uuid, keyring, kid_of};
    use twh_sinks::secrets::Secrets;

    /// One key, the same in every run, so that what was found is found again.
    pub struct Keys {
        keyring: Keyring,
        public: Vec<u8>,
    }

    impl Keys {
        /// Makes the key.
        pub fn new() -> Result<Self, TokenError> {
            let secrets = Secrets::parse("test q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=")?;
            let private = [7; 32];
            let row = SigningKeyRow {
                kid: "fuzz".to_owned(),
                public_key: SigningKey::from_bytes(&private).verifying_key().to_bytes().to_vec(),
                sealed_private: secrets.seal(PURPOSE, &private)?,
            };
            Ok(Self { keyring: keyring(std::slice::from_ref(&row), &secrets)?, public: row.public_key })
        }

        /// Its public half.
        #[must_use]
        pub fn public(&self) -> &[u8] {
            &self.public
        }

        /// A token that lives for so long.
        pub fn issue(&self, seconds: i64) -> Result<String, TokenError> {
            self.keyring.issue(Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3), seconds)
        }

        /// What a token says, by the same steps as [`super::Tokens::verify`].
        #[must_use]
        pub fn verify(&self, token: &str) -> Option<Claims> {
            self.keyring.check(&kid_of(token)?, token)
        }

        /// The same, whatever key the header names: the key's name is no secret.
        #[must_use]
        pub fn verify_by_key(&self, token: &str) -> Option<Claims> {
            self.keyring.check(&self.keyring.kid, token)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// A keyring, its public key, and a token of it.
    static SIGNED: LazyLock<(Keyring, Vec<u8>, String)> = LazyLock::new(|| {
        let secrets = Secrets::parse("test q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=").unwrap();
        let row = new_key(&secrets).unwrap();
        let keyring = keyring(std::slice::from_ref(&row), &secrets).unwrap();
        let token = encode(&header(Algorithm::EdDSA), &claims(), &keyring.signer).unwrap();
        (keyring, row.public_key, token)
    });

    fn header(algorithm: Algorithm) -> Header {
        Header { kid: Some(SIGNED_KID.to_owned()), ..Header::new(algorithm) }
    }

    /// What a header says does not choose the key: the test does.
    const SIGNED_KID: &str = "any";

    fn claims() -> Claims {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let id = Uuid::from_u128(1);
        Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: id,
            sid: id,
            tid: id,
            iat: now,
            exp: now + 86_400,
        }
    }

    fn check(token: &str) -> Option<Claims> {
        let (keyring, ..) = &*SIGNED;
        keyring.check(&keyring.kid, token)
    }

    proptest! {
        #[test]
        fn a_token_with_a_letter_changed_is_none(at in 0_usize..400, to in "[0-9A-Za-z_.=-]") {
            let (_, _, token) = &*SIGNED;
            prop_assert!(check(token).is_some());
            let at = at % token.len();
            let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
            prop_assert_eq!(check(&changed).is_some(), changed == *token, "{}", changed);
        }

        #[test]
        fn no_text_is_a_token(text in ".{0,300}", head in "[0-9A-Za-z_-]{0,80}", body in "[0-9A-Za-z_-]{0,200}") {
            let (_, _, token) = &*SIGNED;
            let (signed, signature) = token.rsplit_once('.').unwrap();
            for forged in [&text, &format!("{head}.{body}.{signature}"), &format!("{signed}."), &format!("{signed}.{body}")] {
                let _ = decode_header(forged);
                prop_assert!(check(forged).is_none(), "{forged}");
            }
        }

        /// Whoever knows the public key, which everybody does, signs nothing with it: the algorithm is not the token's choice.
        #[test]
        fn a_public_key_is_no_secret(exp in any::<i64>(), algorithm in prop::sample::select(vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512])) {
            let (_, public, _) = &*SIGNED;
            let forged = encode(&header(algorithm), &Claims { exp, ..claims() }, &EncodingKey::from_secret(public)).unwrap();
            prop_assert!(check(&forged).is_none());
        }

        #[test]
        fn a_token_is_good_until_its_time_only(left in -1_000_000_i64..1_000_000) {
            let (keyring, ..) = &*SIGNED;
            let now = OffsetDateTime::now_utc().unix_timestamp();
            prop_assume!(left.abs() > 2);
            let token = encode(&header(Algorithm::EdDSA), &Claims { exp: now + left, ..claims() }, &keyring.signer).unwrap();
            prop_assert_eq!(check(&token).is_some(), left > 0);
        }
    }
}
