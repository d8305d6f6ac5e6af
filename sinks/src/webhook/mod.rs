//! Posts webhooks: signs them, sends them where the outbound guard lets them go, and says what came back.
//!
//! Each carries two signatures over the same secret, by the scheme that the receiver likes better: `X-TWH-Signature`, HMAC-SHA256
//! over `{timestamp}.{body}` in hexadecimal, and the headers of Standard Webhooks 1.0.0, HMAC-SHA256 over
//! `{id}.{timestamp}.{body}` in Base64.

pub mod body;

use crate::outbound::{Identity, Outbound, OutboundError, Target};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::time::{Duration, Instant, SystemTime};
use twh_domain::hex;
use url::Url;
use uuid::Uuid;

/// What a secret begins with (Standard Webhooks 1.0.0, "Symmetric signatures").
pub const SECRET_PREFIX: &str = "whsec_";
/// Random bytes in a secret.
pub const SECRET_BYTES: usize = 32;
/// Of an answer's body so much is read; what comes after is not waited for.
const BODY_READ_MAX: usize = 64 * 1024;
/// Of an answer's body so much is kept.
const BODY_KEPT_MAX: usize = 1_024;
/// Of an answer so many headers are kept, and so much of each.
const HEADERS_KEPT_MAX: usize = 20;
const HEADER_KEPT_MAX: usize = 200;

/// What the secrets of a subscription are sealed for.
#[must_use]
pub fn secret_purpose(subscription: Uuid) -> String {
    format!("webhook_secret:{subscription}")
}

/// What the client certificate of a subscription is sealed for.
#[must_use]
pub fn certificate_purpose(subscription: Uuid) -> String {
    format!("webhook_certificate:{subscription}")
}

/// A secret that signs.
#[derive(Clone)]
pub struct SigningSecret {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

impl SigningSecret {
    /// The text of a new secret, from random bytes.
    #[must_use]
    pub fn text(bytes: &[u8]) -> String {
        format!("{SECRET_PREFIX}{}", BASE64_STANDARD.encode(bytes))
    }

    /// Reads the text of a secret.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.strip_prefix(SECRET_PREFIX)?).ok()?;
        Some(Self { keyed: Hmac::new_from_slice(&bytes).ok()? })
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

/// The headers that say who signed, for a body sent at a second of Unix time; each secret signs.
#[must_use]
pub fn signatures(secrets: &[SigningSecret], id: &str, timestamp: i64, body: &[u8]) -> [(&'static str, String); 4] {
    let timestamp = timestamp.to_string();
    let mut own = format!("t={timestamp}");
    let mut standard = String::new();
    for secret in secrets {
        own.push_str(",v1=");
        own.push_str(&hex::encode(&secret.sign(&[timestamp.as_bytes(), b".", body])));
        if !standard.is_empty() {
            standard.push(' ');
        }
        let signed = secret.sign(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
        standard.push_str("v1,");
        standard.push_str(&BASE64_STANDARD.encode(signed));
    }
    [
        ("x-twh-signature", own),
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", standard),
    ]
}

/// What came of an attempt.
#[derive(Debug, Clone, Default)]
pub struct Attempt {
    /// The HTTP status; absent where no answer came.
    pub status: Option<u16>,
    /// Why no answer came, in words for the subscriber.
    pub error: Option<String>,
    /// How long it took.
    pub took: Duration,
    /// The answer's headers, cut.
    pub headers: Vec<(String, String)>,
    /// The beginning of the answer's body.
    pub body: String,
    /// What `Retry-After` asks for.
    pub retry_after: Option<Duration>,
}

impl Attempt {
    /// The subscriber has it.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The event's id.
    pub id: &'a str,
    /// The second of Unix time.
    pub timestamp: i64,
    /// The JSON.
    pub body: &'a str,
    /// Headers beside the signatures.
    pub headers: &'a [(&'static str, String)],
}

/// Where a subscription's deliveries go, and how. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    target: Target,
    url: Url,
    secrets: Vec<SigningSecret>,
    timeout: Duration,
}

impl Endpoint {
    /// An endpoint, if its URL may be called. A client certificate has connections of its own.
    pub fn new(
        outbound: &Outbound,
        url: &str,
        secrets: Vec<SigningSecret>,
        timeout: Duration,
        identity: Option<Identity>,
    ) -> Result<Self, OutboundError> {
        let url = outbound.check(url)?;
        Ok(Self { target: outbound.target(&url, identity)?, url, secrets, timeout })
    }

    /// The same, signed by other secrets.
    #[must_use]
    pub fn signed_by(&self, secrets: Vec<SigningSecret>) -> Self {
        Self { secrets, ..self.clone() }
    }

    /// Posts a message, once, and waits for an answer no longer than the endpoint may take.
    pub async fn post(&self, message: Message<'_>) -> Attempt {
        let begun = Instant::now();
        let mut request = self.target.post(self.url.clone()).timeout(self.timeout);
        request = request.header("content-type", "application/json");
        for (name, value) in message.headers {
            request = request.header(*name, value);
        }
        for (name, value) in signatures(&self.secrets, message.id, message.timestamp, message.body.as_bytes()) {
            request = request.header(name, value);
        }
        let attempt = match request.body(message.body.to_owned()).send().await {
            Ok(response) => answer(response).await,
            Err(error) => Attempt { error: Some(self.words(error)), ..Attempt::default() },
        };
        Attempt { took: begun.elapsed(), ..attempt }
    }

    fn words(&self, error: reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("no answer within {} ms", self.timeout.as_millis());
        }
        OutboundError::from(error).to_string()
    }
}

async fn answer(mut response: reqwest::Response) -> Attempt {
    let status = response.status().as_u16();
    let cut = |text: &str, length: usize| text.chars().take(length).collect::<String>();
    let kept = response.headers().iter().take(HEADERS_KEPT_MAX);
    let headers: Vec<_> = kept
        .map(|(name, value)| {
            (name.as_str().to_owned(), cut(&String::from_utf8_lossy(value.as_bytes()), HEADER_KEPT_MAX))
        })
        .collect();
    let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = asked.and_then(|asked| retry_after(asked, SystemTime::now()));
    let mut body = Vec::new();
    // The status says it all; a body that does not come, or not whole, changes nothing.
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_READ_MAX {
            break;
        }
    }
    body.truncate(BODY_KEPT_MAX);
    // PostgreSQL's text holds any character but this one.
    let text = String::from_utf8_lossy(&body).replace('\0', "\u{fffd}");
    Attempt {
        status: Some(status),
        headers: headers.into_iter().map(|(name, value)| (name, value.replace('\0', "\u{fffd}"))).collect(),
        body: text,
        retry_after,
        ..Attempt::default()
    }
}

/// How long `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3); one that is over asks for nothing.
fn retry_after(asked: &str, now: SystemTime) -> Option<Duration> {
    let seconds = || asked.trim().parse().ok().map(Duration::from_secs);
    let date = || httpdate::parse_http_date(asked.trim()).ok();
    seconds().or_else(|| Some(date()?.duration_since(now).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_time_says_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (asked, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:51:07 GMT", Some(90)),
            ("Sunday, 06-Nov-94 08:51:07 GMT", Some(90)),
            ("Sun Nov  6 08:51:07 1994", Some(90)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(asked, now), seconds.map(Duration::from_secs), "{asked}");
        }
    }

    /// The example of the Standard Webhooks specification's reference libraries.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let headers = signatures(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(headers[3], ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()));
    }

    #[test]
    fn while_a_secret_is_rotated_both_sign() {
        let secrets: Vec<_> = [[1; SECRET_BYTES], [2; SECRET_BYTES]]
            .iter()
            .map(|bytes| SigningSecret::parse(&SigningSecret::text(bytes)).unwrap())
            .collect();
        let both = signatures(&secrets, "id", 7, b"{}");
        for (index, secret) in secrets.into_iter().enumerate() {
            let alone = signatures(&[secret], "id", 7, b"{}");
            assert_eq!(both[0].1.split(',').nth(index + 1), alone[0].1.split(',').nth(1));
            assert_eq!(both[3].1.split(' ').nth(index), Some(alone[3].1.as_str()));
        }
    }
}
