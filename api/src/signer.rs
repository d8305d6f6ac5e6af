//! Signs checkpoints of ledgers, as signed notes (C2SP signed-note, Ed25519): text that any of the tools for transparency logs
//! can check.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The signature type of Ed25519 in a signed note.
const ED25519: u8 = 1;

/// A key and its name.
#[derive(Debug, Clone)]
pub struct Signer {
    name: Arc<str>,
    key: Arc<SigningKey>,
}

impl Signer {
    /// A key as PKCS#8 PEM.
    pub fn from_pem(name: &str, pem: &str) -> Result<Self, ed25519_dalek::pkcs8::Error> {
        Ok(Self { name: name.into(), key: Arc::new(SigningKey::from_pkcs8_pem(pem)?) })
    }

    /// A new key as PKCS#8 PEM, from 32 random bytes.
    pub fn new_pem(random: &[u8; 32]) -> Result<String, ed25519_dalek::pkcs8::Error> {
        Ok(SigningKey::from_bytes(random).to_pkcs8_pem(LineEnding::LF)?.to_string())
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key, in Base64.
    #[must_use]
    pub fn public_key(&self) -> String {
        BASE64_STANDARD.encode(self.key.verifying_key().as_bytes())
    }

    /// The first four bytes of a hash over name and key: which key a signature is by.
    fn key_id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(self.name.as_bytes())
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.verifying_key().as_bytes())
            .finalize();
        let [a, b, c, d, ..]: [u8; 32] = hash.into();
        [a, b, c, d]
    }

    /// A text, which must end with a newline, with its signature.
    #[must_use]
    pub fn note(&self, text: &str) -> String {
        let mut signature = self.key_id().to_vec();
        signature.extend(self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n— {} {}\n", self.name, BASE64_STANDARD.encode(signature))
    }
}
