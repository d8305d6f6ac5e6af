//! Responses of SAML: any text for what a browser brings from an identity provider.
//!
//! - Two of the seeds are signed by a key of which only the certificate is left (`own.crt`). So nobody can sign anything else:
//!   what is believed must say just what one of these two says, to the last group.
//! - A text without a signature is never believed, nor is one of the two when its signature is taken out.
//! - Nothing is believed under another certificate (`stranger.crt`), or after its time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use time::{Duration, OffsetDateTime};
use twh_accounts::sso::saml_fuzzing::{Said, said};

const OWN: &str = include_str!("own.crt");
const STRANGER: &str = include_str!("stranger.crt");

/// Responses with a good signature: of the assertion, and of the whole.
static SIGNED: [(&str, &str); 2] =
    [("grace", include_str!("../seeds/saml/assertion.xml")), ("heidi", include_str!("../seeds/saml/message.xml"))];

/// The moment at which the signed ones are good: 2026-01-01T00:00:00Z.
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_767_225_600).expect("a time")
}

/// What the signed ones say. They are believed: otherwise nothing below would be a test.
static TRUE: LazyLock<Vec<Said>> = LazyLock::new(|| {
    let each = SIGNED.iter().map(|(subject, xml)| {
        let said = said(xml, OWN, now()).expect("a good response is believed");
        assert_eq!((said.subject.as_str(), said.groups.first().map(String::as_str)), (*subject, Some("builders")));
        assert!(said_by(xml, STRANGER).is_none(), "another's key is no key");
        said
    });
    each.collect()
});

fn said_by(xml: &str, certificate: &str) -> Option<Said> {
    said(xml, certificate, now())
}

/// The text without what stands from the first signature to the end of the last.
fn unsigned(xml: &str) -> Option<String> {
    const END: &str = "</ds:Signature>";
    let (from, to) = (xml.find("<ds:Signature")?, xml.rfind(END)? + END.len());
    (from < to).then(|| format!("{}{}", &xml[..from], &xml[to..]))
}

fuzz_target!(|data: &[u8]| {
    let known = &*TRUE;
    let Ok(xml) = std::str::from_utf8(data) else { return };
    if let Some(proved) = said_by(xml, OWN) {
        assert!(known.contains(&proved), "nobody signed this: {proved:?}");
        assert!(xml.contains("Signature"), "nothing is signed here");
        assert_eq!(said(xml, OWN, now() + Duration::days(1)), None, "its time is over");
        if let Some(bare) = unsigned(xml) {
            assert_eq!(said_by(&bare, OWN), None, "the signature is gone");
        }
    }
    if xml.contains("Signature") {
        assert_eq!(said_by(xml, STRANGER), None, "another's key is no key");
    }
});
