//! Cursors: where a page ended, in a form that clients hand back unchanged.
//!
//! A place in an order needs no protection: one that is made up leads to another page of what the client may read. A cursor that says
//! more, such as what was found on the way, is signed for its purpose and its tenant.

use crate::error::ApiError;
use crate::query::invalid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use twh_domain::hex;
use twh_domain::id::TenantId;
use twh_sinks::secrets::Secrets;

/// A cursor for a position.
#[must_use]
pub fn encode<T: Serialize>(position: &T) -> String {
    hex::encode(&serde_json::to_vec(position).unwrap_or_default())
}

/// The position of a cursor.
pub fn decode<T: DeserializeOwned>(cursor: &str) -> Result<T, ApiError> {
    hex::decode(cursor).and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(not_ours)
}

/// What a cursor is signed for.
fn purpose(of: &str, tenant: TenantId) -> String {
    format!("cursor/{of}/{tenant}")
}

/// A cursor that says more than a place, for a purpose and a tenant.
pub fn sign<T: Serialize>(secrets: &Secrets, of: &str, tenant: TenantId, says: &T) -> Result<String, ApiError> {
    let text = encode(says);
    let hash = secrets.hash(&purpose(of, tenant), &text).map_err(ApiError::internal)?;
    Ok(format!("{text}.{}", hex::encode(&hash)))
}

/// What a cursor says that was signed for a purpose and a tenant.
pub fn verify<T: DeserializeOwned>(secrets: &Secrets, of: &str, tenant: TenantId, cursor: &str) -> Result<T, ApiError> {
    let (text, hash) = cursor.split_once('.').ok_or_else(not_ours)?;
    // Exactly as it was written, not in capitals.
    let hash = hex::decode(hash).filter(|bytes| hex::encode(bytes) == hash).ok_or_else(not_ours)?;
    if !secrets.is_hash(&purpose(of, tenant), text, &hash) {
        return Err(not_ours());
    }
    decode(text)
}

/// A cursor that we never gave.
#[must_use]
pub fn not_ours() -> ApiError {
    invalid("cursor", "is not a cursor of ours: take next_cursor from the page before, unchanged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use twh_sinks::secrets::new_master_key;
    use uuid::Uuid;

    #[test]
    fn a_signed_cursor_is_read_only_as_it_was_given_for_its_purpose_by_its_tenant() {
        let secrets = |name: &str| new_master_key(name).unwrap();
        let (old, new) = (secrets("old"), secrets("new"));
        let of = |lines: &str| Secrets::parse(lines).unwrap();
        let tenants = [1, 2].map(|number| TenantId(Uuid::from_u128(number)));
        let cursor = sign(&of(&old), "count", tenants[0], &41).unwrap();
        let read = |keys: &Secrets, purpose, tenant, cursor: &str| verify::<i64>(keys, purpose, tenant, cursor).ok();
        assert_eq!(read(&of(&old), "count", tenants[0], &cursor), Some(41));
        assert_eq!(read(&of(&format!("{new}{old}")), "count", tenants[0], &cursor), Some(41), "a rotated key");
        assert_eq!(read(&of(&new), "count", tenants[0], &cursor), None);
        assert_eq!(read(&of(&old), "other", tenants[0], &cursor), None);
        assert_eq!(read(&of(&old), "count", tenants[1], &cursor), None);
        for at in 0..cursor.len() {
            let mut altered = cursor.clone().into_bytes();
            altered[at] = match altered[at] {
                b'0' => b'1',
                letter @ b'a'..=b'f' => letter.to_ascii_uppercase(),
                _ => b'0',
            };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(read(&of(&old), "count", tenants[0], &altered), None, "{at}: {altered}");
            assert_eq!(read(&of(&old), "count", tenants[0], &cursor[..at]), None);
        }
        assert_eq!(read(&of(&old), "count", tenants[0], &encode(&41)), None, "without a signature");
    }
}
