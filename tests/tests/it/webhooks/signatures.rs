use super::sink::{Received, Sink};
use super::{item, register, server};
use serde_json::json;
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use twh_tests::{Tenant, World, npm_packages, python};

const PYTHON: &str = "
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
hook = Webhook(given['secret'])
hook.verify(given['text'], given['headers'])
try:
    hook.verify(given['text'] + ' ', given['headers'])
    sys.exit('an altered body is believed')
except WebhookVerificationError:
    print('verified')
";
const JAVASCRIPT: &str = "
import { Webhook } from 'standardwebhooks';
import { readFileSync } from 'node:fs';
const given = JSON.parse(readFileSync(0, 'utf8'));
const hook = new Webhook(given.secret);
hook.verify(given.text, given.headers);
try { hook.verify(given.text + ' ', given.headers); } catch { console.log('verified'); }
";

/// What a program says that is given some text.
async fn answers(mut command: Command, text: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_libraries_of_standard_webhooks_believe_what_is_sent_and_nothing_else() {
    let (server, tenant, sink) = server().await;
    let made = register(&tenant, &sink.url("/signed"), json!({})).await;
    let first = made.body["secret"].as_str().unwrap().to_owned();
    let path = format!("/v1/webhooks/{}/rotate", made.id());
    let rotated = tenant.post(&path, json!({ "overlap_seconds": 600 })).await.unwrap();
    let second = rotated.body["secret"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    let got = signed_by(2, &tenant, made.id(), &sink).await;
    let headers: std::collections::BTreeMap<_, _> =
        got.headers.iter().filter(|(name, _)| name.starts_with("webhook-")).collect();
    // While the secret is rotated, either is believed.
    for secret in [&first, &second] {
        let given = json!({ "secret": secret, "text": got.text, "headers": headers }).to_string();
        let mut script = Command::new(python().unwrap());
        script.args(["-c", PYTHON]);
        assert_eq!(answers(script, &given).await.trim(), "verified");
        let mut script = Command::new("node");
        script.args(["--input-type=module", "-e", JAVASCRIPT]).current_dir(npm_packages().unwrap().join(".."));
        assert_eq!(answers(script, &given).await.trim(), "verified");
        let rust = standardwebhooks::Webhook::new(secret).unwrap();
        let mut map = http::HeaderMap::new();
        for (name, value) in &headers {
            map.insert(http::HeaderName::try_from(name.as_str()).unwrap(), value.parse().unwrap());
        }
        rust.verify(got.text.as_bytes(), &map).unwrap();
        assert!(rust.verify(b"{}", &map).is_err());
        own_scheme(secret, got.header("x-twh-signature"), &got.text);
    }
    // Once it is over, only the newer one is.
    let over = tenant.post(&path, json!({ "overlap_seconds": 0 })).await.unwrap();
    assert_eq!(over.body["previous_secret_until"], json!(null));
    let third = over.body["secret"].as_str().unwrap();
    let last = signed_by(1, &tenant, made.id(), &sink).await;
    own_scheme(third, last.header("x-twh-signature"), &last.text);
    // The secret is nowhere to be read.
    let shown = tenant.get(&format!("/v1/webhooks/{}", made.id())).await.unwrap();
    assert!(!shown.body.to_string().contains(third) && shown.body.get("secret").is_none());
    let again = tenant.post(&path, json!({ "overlap_seconds": 600 })).await.unwrap();
    let stored = sqlx::query_as("select secret, previous_secret from webhook_subscriptions where id = $1::uuid");
    let (newer, older): (Vec<u8>, Vec<u8>) =
        stored.bind(made.id()).fetch_one(&server.pool().await.unwrap()).await.unwrap();
    sealed(&newer, again.body["secret"].as_str().unwrap());
    sealed(&older, third);
}

/// A delivery that so many secrets sign: who sends hears of a rotation within a second, so it is tried until one is.
async fn signed_by(secrets: usize, tenant: &Tenant, subscription: &str, sink: &Sink) -> Received {
    let begun = std::time::Instant::now();
    loop {
        let got = super::test(tenant, subscription, sink, "/signed").await;
        if got.header("x-twh-signature").matches("v1=").count() == secrets {
            return got;
        }
        assert!(begun.elapsed() < super::PATIENCE, "{}", got.header("x-twh-signature"));
    }
}

/// What is stored holds neither the secret's text nor its bytes.
fn sealed(stored: &[u8], secret: &str) {
    use base64::Engine as _;
    let holds = |part: &[u8]| stored.windows(part.len()).any(|window| window == part);
    let text = secret.strip_prefix("whsec_").unwrap();
    let key = base64::prelude::BASE64_STANDARD.decode(text).unwrap();
    // A few bytes of either, wherever they stand.
    assert!(!holds(b"whsec_") && text.as_bytes().chunks(8).chain(key.chunks(8)).all(|part| !holds(part)));
}

/// `t=…,v1=…`: HMAC-SHA256 over timestamp and body, as the documentation says it.
fn own_scheme(secret: &str, header: &str, text: &str) {
    use base64::Engine as _;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let key = base64::prelude::BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut fields = header.split(',');
    let timestamp = fields.next().unwrap().strip_prefix("t=").unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{timestamp}.{text}").as_bytes());
    let expected = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(fields.any(|field| field == format!("v1={expected}")), "{header}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(timestamp.parse::<u64>().unwrap().abs_diff(now) < 300);
}

/// What a self-made authority signs.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut of = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        of.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = of.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(of, key) }
    }

    /// A certificate and its key.
    fn signs(&self, name: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let of = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (of.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// What a server needs that takes only who has a certificate of the authority.
    fn server(&self) -> rustls::ServerConfig {
        // Crates that tests use bring another provider along, so that rustls chooses none by itself.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (certificate, key) = self.signs("localhost");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let clients = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        rustls::ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_to_who_asks_for_one() {
    let authority = Authority::new();
    let trusted = std::env::temp_dir().join(format!("twh-authority-{}.pem", uuid::Uuid::new_v4().simple()));
    std::fs::write(&trusted, authority.certificate.pem()).unwrap();
    let mut settings = twh_tests::shared::SETTINGS.to_vec();
    settings.push(("SSL_CERT_FILE", trusted.to_str().unwrap()));
    let world = World::start_with(&settings).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let sink = super::sink::Sink::start_with(Some(authority.server()));
    let url = |path: &str| sink.url(path).replace("127.0.0.1", "localhost");
    let (certificate, key) = authority.signs("twh");
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    let shown = register(&tenant, &url("/mutual"), json!({ "client_certificate": pem })).await;
    assert_eq!(shown.body["client_certificate"], json!(true));
    assert!(!shown.body.to_string().contains("PRIVATE"));
    let without = register(&tenant, &url("/without"), json!({})).await;
    item(&tenant, "A").await;
    sink.first("/mutual").await;
    let path = format!("/v1/webhooks/{}/deliveries", without.id());
    let tried = super::until(&tenant, &path, |body| body["data"][0]["attempts"][0].is_object()).await;
    assert!(tried["data"][0]["attempts"][0]["status"].is_null(), "{tried}");
    assert!(sink.all("/without").is_empty());
    std::fs::remove_file(trusted).unwrap();
    // What is no certificate is refused where it is given.
    let body = json!({ "url": "https://example.com/", "event_types": ["*"], "client_certificate": "none" });
    let refused = tenant.post("/v1/webhooks/register", body).await.unwrap();
    assert_eq!(refused.body["details"][0]["field"], "client_certificate", "{}", refused.body);
}
