//! Bytes as people and programs pass them on: lower-case hexadecimal.

use crate::movement::Hash;

/// Bytes as hexadecimal.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal; `None` where the text is none.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// A hash from hexadecimal; `None` where the text is none.
#[must_use]
pub fn decode_hash(text: &str) -> Option<Hash> {
    decode(text)?.try_into().ok()
}
