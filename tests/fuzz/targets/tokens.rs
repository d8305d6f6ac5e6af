//! Access tokens and API keys as text. The first byte chooses what is tried with the rest.
//!
//! - No text is taken for an access token but the one that was issued: no unsigned one, no altered one, none that is signed with
//!   what everybody knows, the public key.
//! - An API key is read as it was made. With one letter changed, or cut short, it is refused.
//! - What is taken for an API key has its whole form, and shows no more than its hint.

#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use std::sync::LazyLock;
use twh_edge::api_key::{ApiKey, Environment};
use twh_edge::tokens::fuzzing::Keys;

/// Longer than any run.
const SECONDS: i64 = 365 * 86_400;
const KEY_LENGTH: usize = 58;
const HINT_LENGTH: usize = 13;

/// Keys, and the one token that they signed.
static ISSUED: LazyLock<(Keys, String)> = LazyLock::new(|| {
    let keys = Keys::new().expect("keys are made");
    let token = keys.issue(SECONDS).expect("a token is issued");
    assert!(keys.verify(&token).is_some(), "a good token is taken");
    (keys, token)
});

/// Only the token that was issued is one.
fn check_token(text: &str) {
    let (keys, issued) = &*ISSUED;
    assert_eq!(keys.verify(text).is_some(), text == issued, "{text}");
    assert_eq!(keys.verify_by_key(text).is_some(), text == issued, "{text}");
}

/// The issued token with some bytes replaced: three bytes of input say where, and by what.
fn edited(edits: &[u8]) -> String {
    let mut token = ISSUED.1.clone().into_bytes();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % token.len();
        token[at] = edit[2];
    }
    String::from_utf8_lossy(&token).into_owned()
}

/// A header and claims of the forger's, divided by a line break, under each signature that a forger can have.
fn check_forged(parts: &[u8]) {
    let (keys, issued) = &*ISSUED;
    let mut parts = parts.splitn(2, |byte| *byte == b'\n');
    let mut part = || BASE64_URL_SAFE_NO_PAD.encode(parts.next().unwrap_or_default());
    let (header, claims) = (part(), part());
    let (signed, signature) = issued.rsplit_once('.').expect("a token has three parts");
    let (good_header, _) = signed.split_once('.').expect("a token has three parts");
    for message in [format!("{header}.{claims}"), format!("{good_header}.{claims}")] {
        let mut mac = Hmac::<Sha256>::new_from_slice(keys.public()).expect("any key will do");
        mac.update(message.as_bytes());
        let by_public_key = BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        let zeros = BASE64_URL_SAFE_NO_PAD.encode([0_u8; 64]);
        for signature in [signature, "", &by_public_key, &zeros] {
            check_token(&format!("{message}.{signature}"));
        }
        check_token(&message);
    }
}

fn check_key_text(text: &str) {
    let Some(key) = ApiKey::parse(text) else { return };
    assert_eq!(key.reveal(), text);
    assert_eq!((text.len(), key.hint().len()), (KEY_LENGTH, HINT_LENGTH));
    assert!(text.starts_with("twh_live_") || text.starts_with("twh_test_"), "{text}");
    assert!(!format!("{key:?}").contains(&text[HINT_LENGTH..]));
}

/// Makes a key of the input, and changes a letter of it.
fn check_key_made(data: &[u8]) {
    const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
    let byte = |at: usize| data.get(at).copied().unwrap_or_default();
    let environment = if byte(0) % 2 == 0 { Environment::Live } else { Environment::Sandbox };
    let key = ApiKey::new(environment, &std::array::from_fn(|at| byte(at + 3)));
    assert_eq!(ApiKey::parse(key.reveal()), Some(key.clone()));
    check_key_text(key.reveal());
    let at = usize::from(byte(1)) % KEY_LENGTH;
    let mut slip = key.reveal().as_bytes().to_vec();
    slip[at] = LETTERS[usize::from(byte(2)) % LETTERS.len()];
    let slip = String::from_utf8(slip).expect("a key is ASCII");
    assert_eq!(ApiKey::parse(&slip).is_some(), slip == key.reveal(), "{slip}");
    assert_eq!(ApiKey::parse(&key.reveal()[..at]), None);
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    match first {
        b'e' => check_token(&edited(rest)),
        b'f' => check_forged(rest),
        b'k' => check_key_text(&String::from_utf8_lossy(rest)),
        b'm' => check_key_made(rest),
        _ => check_token(&String::from_utf8_lossy(rest)),
    }
});
