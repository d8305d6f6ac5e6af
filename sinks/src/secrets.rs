//! What must not be read by who reads the database: sealed with AES-256-GCM, each under a key of its own that is itself sealed
//! under a master key (envelope encryption); or, where only equality matters, kept as a keyed hash.
//!
//! Master keys come from a file, the newest first. What an older one sealed is still opened, so that keys can be rotated.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// How a sealed value is written: master key's name, sealed data key, sealed value.
const FORMAT: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// What AES-GCM adds.
const TAG_BYTES: usize = 16;
const SEALED_KEY_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;
const NAME_LENGTH_MAX: usize = 64;

/// Why a secret cannot be sealed or opened. It never says what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file of master keys is not one.
    #[error("line {line} of the master keys: {problem}")]
    File {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file of master keys is not there, or not ours to read.
    #[error("it cannot be read; twh secrets new makes one")]
    Unreadable(#[source] std::io::Error),
    /// There is no master key.
    #[error("there is no master key")]
    None,
    /// The master key that sealed it is not in the file.
    #[error("it was sealed under the master key {0:?}, which is not there")]
    UnknownKey(String),
    /// It was altered, or sealed for another purpose.
    #[error("it is not what was sealed")]
    Altered,
    /// The operating system gives no random bytes.
    #[error("there are no random bytes: {0}")]
    Random(String),
}

struct MasterKey {
    name: String,
    cipher: Aes256Gcm,
    /// For keyed hashes: derived from the key, so that one file is enough.
    pepper: [u8; KEY_BYTES],
}

/// The master keys, and what is done with them. Cheap to clone.
#[derive(Clone)]
pub struct Secrets {
    keys: Arc<Vec<MasterKey>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.name)).finish()
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SecretError::Random(error.to_string()))?;
    Ok(bytes)
}

/// A line for the file of master keys.
pub fn new_master_key(name: &str) -> Result<String, SecretError> {
    Ok(format!("{name} {}\n", BASE64_STANDARD.encode(random::<KEY_BYTES>()?)))
}

impl Secrets {
    /// Reads a file of master keys.
    pub fn read(file: &Path) -> Result<Self, SecretError> {
        Self::parse(&std::fs::read_to_string(file).map_err(SecretError::Unreadable)?)
    }

    /// Reads master keys: a line each, its name and 32 bytes in Base64; the first seals. Lines that begin with # are skipped.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem| SecretError::File { line: number + 1, problem };
            let (name, key) = line.split_once(' ').ok_or_else(|| wrong("must be a name, a space and a key"))?;
            if name.len() > NAME_LENGTH_MAX || keys.iter().any(|known| known.name == name) {
                return Err(wrong("the name is too long or not the only one"));
            }
            let bytes = BASE64_STANDARD.decode(key.trim()).map_err(|_| wrong("the key is not Base64"))?;
            let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| wrong("the key is not 32 bytes long"))?;
            let pepper = mac(&bytes, &[b"twh.pepper.v1"]);
            keys.push(MasterKey { name: name.to_owned(), cipher: cipher(&bytes), pepper });
        }
        if keys.is_empty() { Err(SecretError::None) } else { Ok(Self { keys: Arc::new(keys) }) }
    }

    fn current(&self) -> Result<&MasterKey, SecretError> {
        self.keys.first().ok_or(SecretError::None)
    }

    /// Seals a value for a purpose: it is opened for the same purpose only.
    pub fn seal(&self, purpose: &str, value: &[u8]) -> Result<Vec<u8>, SecretError> {
        let master = self.current()?;
        let data_key: [u8; KEY_BYTES] = random()?;
        let mut sealed = vec![FORMAT, u8::try_from(master.name.len()).unwrap_or(u8::MAX)];
        sealed.extend_from_slice(master.name.as_bytes());
        sealed.extend(encrypt(&master.cipher, purpose, &data_key)?);
        sealed.extend(encrypt(&cipher(&data_key), purpose, value)?);
        Ok(sealed)
    }

    /// Opens what was sealed for a purpose.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let (name, data_key, value) = parts(sealed).ok_or(SecretError::Altered)?;
        let master = self.keys.iter().find(|key| key.name == name);
        let master = master.ok_or_else(|| SecretError::UnknownKey(name.to_owned()))?;
        let data_key: [u8; KEY_BYTES] =
            decrypt(&master.cipher, purpose, data_key)?.try_into().map_err(|_| SecretError::Altered)?;
        decrypt(&cipher(&data_key), purpose, value)
    }

    /// Seals the data key of a sealed value under the newest master key; the value stays as it is. `None` where it is already.
    pub fn resealed(&self, purpose: &str, sealed: &[u8]) -> Result<Option<Vec<u8>>, SecretError> {
        let newest = self.current()?;
        let (name, data_key, value) = parts(sealed).ok_or(SecretError::Altered)?;
        if name == newest.name {
            return Ok(None);
        }
        let master = self.keys.iter().find(|key| key.name == name);
        let master = master.ok_or_else(|| SecretError::UnknownKey(name.to_owned()))?;
        let data_key = decrypt(&master.cipher, purpose, data_key)?;
        let mut again = vec![FORMAT, u8::try_from(newest.name.len()).unwrap_or(u8::MAX)];
        again.extend_from_slice(newest.name.as_bytes());
        again.extend(encrypt(&newest.cipher, purpose, &data_key)?);
        again.extend_from_slice(value);
        Ok(Some(again))
    }

    /// The keyed hashes (HMAC-SHA256) that a text may be kept as: under the newest master key first, by which it is kept.
    #[must_use]
    pub fn hashes(&self, purpose: &str, text: &str) -> Vec<[u8; 32]> {
        let purpose = purpose.as_bytes();
        self.keys.iter().map(|key| mac(&key.pepper, &[purpose, &[0], text.as_bytes()])).collect()
    }

    /// Whether a hash is one that a text may be kept as; compared in constant time.
    #[must_use]
    pub fn is_hash(&self, purpose: &str, text: &str, hash: &[u8]) -> bool {
        let parts: [&[u8]; 3] = [purpose.as_bytes(), &[0], text.as_bytes()];
        self.keys.iter().any(|key| hmac(&key.pepper, &parts).is_some_and(|mac| mac.verify_slice(hash).is_ok()))
    }

    /// The keyed hash that a text is kept as.
    pub fn hash(&self, purpose: &str, text: &str) -> Result<[u8; 32], SecretError> {
        self.hashes(purpose, text).into_iter().next().ok_or(SecretError::None)
    }
}

fn parts(sealed: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (head, rest) = sealed.split_at_checked(2)?;
    let &[FORMAT, name_length] = head else { return None };
    let (name, rest) = rest.split_at_checked(usize::from(name_length))?;
    let (data_key, value) = rest.split_at_checked(SEALED_KEY_BYTES)?;
    Some((std::str::from_utf8(name).ok()?, data_key, value))
}

fn cipher(key: &[u8; KEY_BYTES]) -> Aes256Gcm {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key))
}

/// A fresh random nonce, and what it and the key make of a value. Each data key seals one value, and each master key far
/// fewer than the 2^32 for which random nonces are safe (NIST SP 800-38D, section 8.3).
fn encrypt(cipher: &Aes256Gcm, purpose: &str, value: &[u8]) -> Result<Vec<u8>, SecretError> {
    let nonce: [u8; NONCE_BYTES] = random()?;
    let payload = Payload { msg: value, aad: purpose.as_bytes() };
    let sealed = cipher.encrypt(&Nonce::from(nonce), payload).map_err(|_| SecretError::Altered)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn decrypt(cipher: &Aes256Gcm, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(SecretError::Altered)?;
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| SecretError::Altered)?;
    let payload = Payload { msg: sealed, aad: purpose.as_bytes() };
    cipher.decrypt(&Nonce::from(nonce), payload).map_err(|_| SecretError::Altered)
}

fn hmac(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    // A key of any length is taken (RFC 2104).
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(part);
    }
    Some(mac)
}

fn mac(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; 32] {
    hmac(key, parts).map_or([0; 32], |mac| mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(names: &[&str]) -> Secrets {
        let line = |name: &&str| format!("{name} {}\n", BASE64_STANDARD.encode([name.as_bytes()[0]; 32]));
        Secrets::parse(&names.iter().map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_for_its_purpose_only() {
        let secrets = secrets(&["a"]);
        let sealed = secrets.seal("jwt", b"value").unwrap();
        assert_eq!(secrets.open("jwt", &sealed).unwrap(), b"value");
        assert!(matches!(secrets.open("webhook", &sealed), Err(SecretError::Altered)));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(secrets.open("jwt", &altered).is_err(), "byte {at}");
            assert!(secrets.open("jwt", &sealed[..at]).is_err());
        }
        assert_ne!(sealed, secrets.seal("jwt", b"value").unwrap());
    }

    #[test]
    fn a_rotated_master_key_opens_what_the_old_one_sealed_until_it_is_sealed_anew() {
        let sealed = secrets(&["old"]).seal("jwt", b"value").unwrap();
        let both = secrets(&["new", "old"]);
        assert_eq!(both.open("jwt", &sealed).unwrap(), b"value");
        let again = both.resealed("jwt", &sealed).unwrap().unwrap();
        assert_eq!(both.resealed("jwt", &again).unwrap(), None);
        assert_eq!(secrets(&["new"]).open("jwt", &again).unwrap(), b"value");
        assert!(matches!(secrets(&["new"]).open("jwt", &sealed), Err(SecretError::UnknownKey(name)) if name == "old"));
        assert_eq!(both.hashes("key", "k")[1], secrets(&["old"]).hash("key", "k").unwrap());
    }

    #[test]
    fn a_file_that_is_not_one_is_refused_by_its_line() {
        for (text, expected) in [
            ("", "there is no master key"),
            ("a", "line 1 of the master keys: must be a name, a space and a key"),
            ("# c\na ???", "line 2 of the master keys: the key is not Base64"),
            ("a AAAA", "line 1 of the master keys: the key is not 32 bytes long"),
        ] {
            assert_eq!(Secrets::parse(text).unwrap_err().to_string(), expected);
        }
        assert!(Secrets::parse(&new_master_key("k").unwrap()).is_ok());
    }
}
