//! Cursors: where a page ended, in a form that clients hand back unchanged.

use crate::error::ApiError;
use crate::query::invalid;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A cursor for a position.
#[must_use]
pub fn encode<T: Serialize>(position: &T) -> String {
    serde_json::to_vec(position).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The position of a cursor.
pub fn decode<T: DeserializeOwned>(cursor: &str) -> Result<T, ApiError> {
    let bytes: Option<Vec<u8>> =
        cursor.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(not_ours)
}

/// A cursor that we never gave.
#[must_use]
pub fn not_ours() -> ApiError {
    invalid("cursor", "is not a cursor of ours: take next_cursor from the page before, unchanged")
}
