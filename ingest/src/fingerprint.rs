//! Tells a retry from a reuse of an Idempotency-Key: the same request has the same fingerprint, however its JSON is spelled.

use sha2::{Digest, Sha256};
use twh_domain::commands::Operation;
use twh_domain::hex;

/// SHA-256, in hexadecimal, over what was asked. `creates` says that the subject's id is the edge's own, new at each try,
/// and so no part of the request.
pub(crate) fn fingerprint<'a>(operations: impl Iterator<Item = (&'a Operation, bool)>) -> String {
    let mut hasher = Sha256::new();
    for (operation, creates) in operations {
        hasher.update(operation.payload.kind().name);
        if !creates {
            hasher.update(operation.subject.as_bytes());
        }
        hasher.update(operation.expected_version.unwrap_or(-1).to_be_bytes());
        // The body as it was understood: field order, white space and spellings of a number do not matter.
        hasher.update(serde_json::to_vec(&operation.payload).unwrap_or_default());
        hasher.update([0]);
    }
    hex::encode(&hasher.finalize())
}
