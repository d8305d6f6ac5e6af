//! How far a log was read, and what its last record was: enough to tell later whether it is still the same log.

use sha2::{Digest as _, Sha256};
use std::fmt;
use twh_domain::hex;
use twh_domain::timestamp::Timestamp;

/// What is kept of a record: where it stood, and a hash over what it was. Each command and each event has an id of its own in its
/// value, so only the same record has the same mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its offset.
    pub offset: i64,
    /// SHA-256 over its time, key and value.
    pub digest: [u8; 32],
}

impl Mark {
    /// The mark of a record.
    #[must_use]
    pub fn of(offset: i64, timestamp: Timestamp, key: Option<&[u8]>, value: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(timestamp.micros().to_be_bytes());
        // The length leads, so that no key runs into its value; an absent key is not an empty one.
        let length = key.map_or(-1, |key| i64::try_from(key.len()).unwrap_or(i64::MAX));
        hasher.update(length.to_be_bytes());
        hasher.update(key.unwrap_or_default());
        hasher.update(value);
        Self { offset, digest: hasher.finalize().into() }
    }

    /// As it is kept in two columns; `None` where either holds nothing, or no hash.
    #[must_use]
    pub fn from_columns(offset: Option<i64>, digest: Option<Vec<u8>>) -> Option<Self> {
        Some(Self { offset: offset?, digest: digest?.try_into().ok()? })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}, SHA-256 {}", self.offset, hex::encode(&self.digest))
    }
}

/// How far a log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The first offset that was not read.
    pub next_offset: i64,
    /// The last record before it, where it is known.
    pub last: Option<Mark>,
}

impl Reached {
    /// Everything before an offset was read; what came last is not known.
    #[must_use]
    pub const fn before(next_offset: i64) -> Self {
        Self { next_offset, last: None }
    }
}

impl From<Mark> for Reached {
    fn from(last: Mark) -> Self {
        Self { next_offset: last.offset + 1, last: Some(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_differ_in_anything_have_other_marks() {
        let at = Timestamp::from_millis(1_767_225_600_000);
        let later = Timestamp::from_millis(1_767_225_600_001);
        let mark = Mark::of(7, at, Some(b"key"), b"value");
        assert_eq!(mark, Mark::of(7, at, Some(b"key"), b"value"));
        let others = [
            Mark::of(8, at, Some(b"key"), b"value"),
            Mark::of(7, later, Some(b"key"), b"value"),
            Mark::of(7, at, Some(b"ke"), b"yvalue"),
            Mark::of(7, at, Some(b"key"), b"valu"),
            Mark::of(7, at, Some(b""), b"keyvalue"),
            Mark::of(7, at, None, b"keyvalue"),
        ];
        for (number, other) in others.iter().enumerate() {
            assert_ne!(*other, mark);
            assert!(!others.iter().skip(number + 1).any(|another| another == other));
        }
    }
}
