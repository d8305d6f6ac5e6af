//! Sign-on by SAML: responses that samlify makes, and what attackers make of them.

use super::browser::Browser;
use super::certified::Process;
use super::{LOOPBACK, actions, ask, code, role, sign_up, text};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::process::Command;
use twh_tests::{Answer, Tenant, World};

const ISSUER: &str = "https://idp.example.com/metadata";
const RSA_SHA1: &str = "http://www.w3.org/2000/09/xmldsig#rsa-sha1";

/// A tenant that people come to by SAML.
struct Saml {
    _world: World,
    admin: Tenant,
    idp: Process,
    provider: Value,
}

/// What a browser brings from the provider.
struct Brought {
    browser: Browser,
    acs: String,
    state: String,
    xml: String,
}

impl Brought {
    async fn is_posted(&mut self, xml: &str) -> Answer {
        let fields = [("SAMLResponse", BASE64_STANDARD.encode(xml)), ("RelayState", self.state.clone())];
        self.browser.post(&self.acs, &fields).await
    }
}

impl Saml {
    async fn start() -> Self {
        let world = World::start_with(LOOPBACK).await.unwrap();
        let anyone = world.tenant().await.unwrap();
        let (_, admin) = sign_up(&anyone, "admin@example.com").await;
        let idp = Process::start("saml.mjs", |folder| {
            for name in ["own", "stranger"] {
                certificate(folder, name);
            }
            json!({ "issuer": ISSUER, "response": folder.join("response.json") })
        })
        .await;
        let made = json!({
            "name": "Corporate", "kind": "saml", "issuer": ISSUER, "sso_url": format!("{}/sso", idp.url),
            "certificates": [std::fs::read_to_string(idp.folder.join("own.crt")).unwrap()],
            "role_by_group": { "builders": "dev", "owners": "admin" },
        });
        let made = ask(&admin, "POST", "/v1/identity-providers", Some(made)).await;
        assert_eq!(made.status, 201, "{}", made.body);
        Self { _world: world, admin, idp, provider: made.body }
    }

    /// Begins a sign-on, and comes back with a response that says what a good one does, but for this.
    async fn brings(&self, otherwise: Value) -> Brought {
        let key = otherwise.get("signer").and_then(Value::as_str).unwrap_or("own").to_owned();
        let mut said = json!({
            "acs": text(&self.provider, "/redirect_uri"), "audience": text(&self.provider, "/client_id"),
            "key": self.idp.folder.join(format!("{key}.key")), "certificate": self.idp.folder.join(format!("{key}.crt")),
            "sign": "assertion", "tags": {}, "attributes": { "groups": ["builders"], "mail": ["grace@example.com"] },
        });
        said.as_object_mut().unwrap().extend(otherwise.as_object().unwrap().clone());
        std::fs::write(self.idp.folder.join("response.json"), said.to_string()).unwrap();
        let mut browser = Browser::new();
        let there = browser.get(text(&self.provider, "/start_url")).await;
        assert_eq!(there.status, 302, "{}", there.body);
        let page = browser.page(there.header("location")).await;
        let after = |mark: &str| {
            let (_, rest) = page.split_once(mark).unwrap_or_else(|| panic!("no {mark} in {page}"));
            rest.split('"').next().unwrap().to_owned()
        };
        let xml = BASE64_STANDARD.decode(after("name=\"SAMLResponse\" value=\"")).unwrap();
        let (acs, state) = (after("action=\""), after("name=\"RelayState\" value=\""));
        Brought { browser, acs, state, xml: String::from_utf8(xml).unwrap() }
    }

    /// The same, posted as it is.
    async fn comes(&self, otherwise: Value) -> Answer {
        let mut brought = self.brings(otherwise).await;
        let xml = brought.xml.clone();
        brought.is_posted(&xml).await
    }

    /// A good response, posted after an attacker has had it.
    async fn comes_altered(&self, sign: &str, alter: impl Fn(&Parts) -> String) -> Answer {
        let mut brought = self.brings(json!({ "sign": sign })).await;
        let altered = alter(&Parts::of(&brought.xml));
        brought.is_posted(&altered).await
    }
}

fn certificate(folder: &std::path::Path, name: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=idp", "-keyout"])
        .arg(folder.join(format!("{name}.key")))
        .arg("-out")
        .arg(folder.join(format!("{name}.crt")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A response, taken apart.
struct Parts {
    whole: String,
    /// Before the assertion, the assertion, and after it.
    head: String,
    assertion: String,
    tail: String,
    signature: String,
}

impl Parts {
    fn of(xml: &str) -> Self {
        let cut = |open: &str, close: &str| {
            let from = xml.find(open).unwrap_or_else(|| panic!("no {open} in {xml}"));
            from..xml.find(close).unwrap() + close.len()
        };
        let (assertion, signature) =
            (cut("<saml:Assertion", "</saml:Assertion>"), cut("<ds:Signature", "</ds:Signature>"));
        Self {
            whole: xml.to_owned(),
            head: xml[..assertion.start].to_owned(),
            tail: xml[assertion.end..].to_owned(),
            assertion: xml[assertion].to_owned(),
            signature: xml[signature].to_owned(),
        }
    }

    /// What is signed, without its signature.
    fn bare(&self, signed: &str) -> String {
        signed.replace(&self.signature, "")
    }

    /// The same of somebody else, under another id, not signed.
    fn evil(&self, signed: &str) -> String {
        let evil = self.bare(signed).replace(">grace<", ">mallory<").replace(">builders<", ">owners<");
        let id = evil.split_once(" ID=\"").unwrap().1.split('"').next().unwrap().to_owned();
        evil.replacen(&id, "_evil", 1)
    }

    /// An element with this before its end.
    fn within(element: &str, more: &str) -> String {
        let end = element.rfind("</").unwrap();
        format!("{}{more}{}", &element[..end], &element[end..])
    }

    /// An element with this after its issuer: where a signature stands.
    fn after_issuer(element: &str, more: &str) -> String {
        element.replacen("</saml:Issuer>", &format!("</saml:Issuer>{more}"), 1)
    }

    fn with(&self, assertions: &str) -> String {
        format!("{}{assertions}{}", self.head, self.tail)
    }
}

#[tokio::test]
async fn people_come_by_saml_with_the_role_of_their_groups() {
    let saml = Saml::start().await;
    let metadata = Browser::new().page(text(&saml.provider, "/client_id")).await;
    assert!(metadata.contains(text(&saml.provider, "/redirect_uri")), "{metadata}");
    // Whichever part is signed.
    let mut ids = Vec::new();
    for sign in ["assertion", "message", "both"] {
        let came = saml.comes(json!({ "sign": sign })).await;
        assert_eq!(came.status, 200, "{sign}: {}", came.body);
        assert_eq!(
            (text(&came.body, "/user/email"), text(&came.body, "/tenants/0/role")),
            ("grace@example.com", "dev")
        );
        ids.push(text(&came.body, "/user/id").to_owned());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let came = saml.comes(json!({ "attributes": { "groups": ["builders", "owners"] } })).await;
    assert_eq!(text(&came.body, "/tenants/0/role"), "admin");
    let session = saml.admin.with(text(&came.body, "/tokens/access_token"));
    assert_eq!(role(&session).await, "admin");
    // A response works once, and so does an assertion.
    let mut brought = saml.brings(json!({ "tags": { "AssertionID": "_once" } })).await;
    let xml = brought.xml.clone();
    assert_eq!(brought.is_posted(&xml).await.status, 200);
    assert_eq!(code(&brought.is_posted(&xml).await), (401, "SIGN_ON_NOT_OPEN"));
    let replayed = saml.comes(json!({ "tags": { "AssertionID": "_once" } })).await;
    assert!(code(&replayed) == (401, "SIGN_ON_FAILED") && replayed.body.to_string().contains("used before"));
    // In the browser in which it began.
    let mut brought = saml.brings(json!({})).await;
    brought.browser = Browser::new();
    let xml = brought.xml.clone();
    assert_eq!(code(&brought.is_posted(&xml).await), (401, "SIGN_ON_NOT_OPEN"));
    // Of no group: refused. Refused by the provider: too.
    assert_eq!(code(&saml.comes(json!({ "attributes": {} })).await), (403, "SIGN_ON_DENIED"));
    let responder = "urn:oasis:names:tc:SAML:2.0:status:Responder";
    assert_eq!(code(&saml.comes(json!({ "tags": { "StatusCode": responder } })).await), (403, "SIGN_ON_DENIED"));
    assert!(actions(&saml.admin).await.iter().any(|action| action == "member.join"));
}

#[tokio::test]
async fn a_response_that_is_not_wholly_right_lets_nobody_in() {
    let saml = Saml::start().await;
    let at = |seconds: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        twh_domain::timestamp::Timestamp::from_micros((i64::try_from(now).unwrap() + seconds) * 1_000_000).to_string()
    };
    for (what, otherwise) in [
        ("nothing signed", json!({ "sign": "nothing" })),
        ("another's key, its certificate inside", json!({ "signer": "stranger" })),
        ("another's key, for the message", json!({ "signer": "stranger", "sign": "message" })),
        ("SHA-1", json!({ "algorithm": RSA_SHA1 })),
        ("another audience", json!({ "tags": { "Audience": "https://another.example" } })),
        ("another recipient", json!({ "tags": { "SubjectRecipient": "https://another.example/acs" } })),
        ("another destination", json!({ "tags": { "Destination": "https://another.example/acs" } })),
        ("another request", json!({ "tags": { "InResponseTo": "_another" } })),
        ("no request", json!({ "tags": { "InResponseTo": "" } })),
        ("another issuer", json!({ "tags": { "Issuer": "https://another.example" } })),
        ("expired", json!({ "tags": { "ConditionsNotOnOrAfter": at(-120) } })),
        ("not good yet", json!({ "tags": { "ConditionsNotBefore": at(600) } })),
        ("confirmed until before", json!({ "tags": { "SubjectConfirmationDataNotOnOrAfter": at(-120) } })),
        ("from the future", json!({ "tags": { "IssueInstant": at(600) } })),
        ("of no time", json!({ "tags": { "ConditionsNotOnOrAfter": "soon" } })),
        (
            "a passing name",
            json!({ "tags": { "NameIDFormat": "urn:oasis:names:tc:SAML:2.0:nameid-format:transient" } }),
        ),
        ("no name", json!({ "tags": { "NameID": "" } })),
        ("a name with something inside", json!({ "name_id": "<b>grace</b>" })),
    ] {
        let answer = saml.comes(otherwise).await;
        assert_eq!(code(&answer), (401, "SIGN_ON_FAILED"), "{what}: {}", answer.body);
    }
    for (what, alter) in [
        ("a document type", (|p| format!("<!DOCTYPE a>{}", p.whole)) as fn(&Parts) -> String),
        ("an entity", |p| format!("<!DOCTYPE a [<!ENTITY g \"mallory\">]>{}", p.whole.replace(">grace<", ">&g;<"))),
        ("a changed name", |p| p.whole.replace(">grace<", ">mallory<")),
        ("a changed group", |p| p.whole.replace(">builders<", ">owners<")),
        ("no signature", |p| p.bare(&p.whole)),
        ("an empty signature", |p| {
            p.whole.replace(&p.signature, "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"/>")
        }),
        ("no XML", |_| "x".to_owned()),
        ("nothing", |_| String::new()),
        ("an endless depth", |p| p.whole.replace(">grace<", &format!(">{}<", "<a>".repeat(10_000)))),
    ] {
        let answer = saml.comes_altered("assertion", alter).await;
        assert_eq!(code(&answer), (401, "SIGN_ON_FAILED"), "{what}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_signature_counts_for_what_it_stands_in_and_for_nothing_wrapped_around_it() {
    let saml = Saml::start().await;
    let object = |inside: &str, signature: &str| {
        Parts::within(
            signature,
            &format!("<ds:Object xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\">{inside}</ds:Object>"),
        )
    };
    // The eight of Somorovsky and others, "On Breaking SAML" (USENIX Security 2012), and some more of their kind.
    type Alter<'a> = Box<dyn Fn(&Parts) -> String + 'a>;
    let attacks: Vec<(&str, &str, Alter<'_>)> = vec![
        (
            "XSW1",
            "message",
            Box::new(|p| Parts::after_issuer(&p.evil(&p.whole), &Parts::within(&p.signature, &p.bare(&p.whole)))),
        ),
        (
            "XSW1 in an object",
            "message",
            Box::new(|p| Parts::after_issuer(&p.evil(&p.whole), &object(&p.bare(&p.whole), &p.signature))),
        ),
        (
            "XSW2",
            "message",
            Box::new(|p| Parts::after_issuer(&p.evil(&p.whole), &format!("{}{}", p.bare(&p.whole), p.signature))),
        ),
        ("XSW3", "assertion", Box::new(|p| p.with(&format!("{}{}", p.evil(&p.assertion), p.assertion)))),
        ("XSW3 after it", "assertion", Box::new(|p| p.with(&format!("{}{}", p.assertion, p.evil(&p.assertion))))),
        ("XSW4", "assertion", Box::new(|p| p.with(&Parts::within(&p.evil(&p.assertion), &p.assertion)))),
        (
            "XSW5",
            "assertion",
            Box::new(|p| {
                p.with(&format!("{}{}", Parts::after_issuer(&p.evil(&p.assertion), &p.signature), p.bare(&p.assertion)))
            }),
        ),
        (
            "XSW6",
            "assertion",
            Box::new(|p| {
                let signature = Parts::within(&p.signature, &p.bare(&p.assertion));
                p.with(&Parts::after_issuer(&p.evil(&p.assertion), &signature))
            }),
        ),
        (
            "XSW7",
            "assertion",
            Box::new(|p| {
                p.with(&format!("<samlp:Extensions>{}</samlp:Extensions>{}", p.evil(&p.assertion), p.assertion))
            }),
        ),
        (
            "XSW7 the other way round",
            "assertion",
            Box::new(|p| {
                p.with(&format!("<samlp:Extensions>{}</samlp:Extensions>{}", p.assertion, p.evil(&p.assertion)))
            }),
        ),
        (
            "XSW8",
            "assertion",
            Box::new(|p| {
                p.with(&Parts::after_issuer(&p.evil(&p.assertion), &object(&p.bare(&p.assertion), &p.signature)))
            }),
        ),
        (
            "the same id twice",
            "assertion",
            Box::new(|p| {
                let id = p.assertion.split_once(" ID=\"").unwrap().1.split('"').next().unwrap();
                p.with(&format!("{}{}", p.evil(&p.assertion).replace("_evil", id), p.assertion))
            }),
        ),
        (
            "a signature moved to the response",
            "assertion",
            Box::new(|p| Parts::after_issuer(&p.with(&p.bare(&p.assertion)), &p.signature)),
        ),
        ("a signed response in another", "message", Box::new(|p| Parts::within(&p.evil(&p.whole), &p.whole))),
        ("the whole in another element", "assertion", Box::new(|p| format!("<a>{}</a>", p.whole))),
        (
            "an assertion of another namespace",
            "assertion",
            Box::new(|p| p.with(&p.evil(&p.assertion).replace("urn:oasis:names:tc:SAML:2.0:assertion", "urn:x"))),
        ),
    ];
    for (what, sign, alter) in attacks {
        let answer = saml.comes_altered(sign, alter).await;
        assert_eq!(code(&answer), (401, "SIGN_ON_FAILED"), "{what}: {}", answer.body);
    }
    // What was altered above is taken when it is not: it is the attacks that are refused.
    for sign in ["message", "assertion"] {
        assert_eq!(saml.comes_altered(sign, |p| p.with(&p.assertion)).await.status, 200);
    }
}

#[tokio::test]
async fn a_comment_cuts_nobody_out_of_a_longer_name() {
    let saml = Saml::start().await;
    let grace = saml.comes(json!({})).await;
    // Signed: a name that begins like grace's. The signature does not see a comment; whoever reads up to it sees grace.
    for cut in ["grace<!---->.evil", "grace<!-- x -->.evil", "<!-- x -->grace.evil"] {
        let mut brought = saml.brings(json!({ "tags": { "NameID": "grace.evil" } })).await;
        let altered = brought.xml.replace(">grace.evil<", &format!(">{cut}<"));
        assert_ne!(altered, brought.xml);
        let answer = brought.is_posted(&altered).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_ne!(text(&answer.body, "/user/id"), text(&grace.body, "/user/id"), "{cut}");
        assert_eq!(text(&answer.body, "/user/name"), "grace.evil");
    }
    // Of a group too the whole is meant.
    let mut brought = saml.brings(json!({ "attributes": { "groups": ["owners-of-nothing"] } })).await;
    let altered = brought.xml.replace(">owners-of-nothing<", ">owners<!---->-of-nothing<");
    assert_eq!(code(&brought.is_posted(&altered).await), (403, "SIGN_ON_DENIED"));
}

#[tokio::test]
async fn a_provider_of_saml_is_checked_before_it_is_kept() {
    let saml = Saml::start().await;
    let wrong = json!({ "name": "P", "kind": "saml", "issuer": "", "client_secret": "x", "sso_url": "http://10.0.0.1/",
        "certificates": ["x"] });
    let answer = ask(&saml.admin, "POST", "/v1/identity-providers", Some(wrong)).await;
    let fields: Vec<_> = answer.body["details"].as_array().unwrap().iter().map(|one| text(one, "/field")).collect();
    assert_eq!(fields, ["client_secret", "sso_url", "certificates", "issuer"], "{}", answer.body);
    let other = json!({ "name": "P", "kind": "oidc", "issuer": "https://idp.example", "client_id": "a",
        "client_secret": "b", "sso_url": "https://idp.example", "certificates": [] });
    let answer = ask(&saml.admin, "POST", "/v1/identity-providers", Some(other)).await;
    assert_eq!(answer.body["details"].as_array().map(Vec::len), Some(2), "{}", answer.body);
    // The address of the one protocol is none of the other.
    let there = Browser::new().get(text(&saml.provider, "/start_url")).await.header("location").to_owned();
    let state = super::parameter(&there, "RelayState");
    let callback = text(&saml.provider, "/redirect_uri").replace("saml/acs", "callback");
    let answer = Browser::new().get(&format!("{callback}?code=c&state={state}")).await;
    assert_eq!(code(&answer), (401, "SIGN_ON_NOT_OPEN"), "{}", answer.body);
}
