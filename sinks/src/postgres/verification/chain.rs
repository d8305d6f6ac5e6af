//! A chain of hashes, followed row by row, and what ends a page of a check.

use super::PAGE;
use super::rows::Unreadable;
use serde::{Deserialize, Serialize};
use twh_domain::id::TenantId;
use twh_domain::movement::{Hash, genesis};
use twh_domain::timestamp::Timestamp;

/// A chain of hashes, as far as it was followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Followed {
    pub(super) through: i64,
    #[serde(with = "hex")]
    pub(super) hash: Hash,
    pub(super) recorded_at: Timestamp,
    /// The Merkle tree over what was followed; only movements have one.
    #[serde(with = "hexes")]
    pub(super) frontier: Vec<Hash>,
}

impl Followed {
    pub(super) fn genesis(chain: &str, tenant: TenantId) -> Self {
        Self { through: 0, hash: genesis(chain, tenant), recorded_at: Timestamp::default(), frontier: Vec::new() }
    }
}

/// A row of a chain and its hash that somebody kept outside of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHead {
    /// How many rows there were.
    pub sequence: i64,
    /// The hash of the last of them.
    pub hash: Hash,
}

/// What somebody kept outside of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownHeads {
    /// Of the movements.
    pub movements: Option<KnownHead>,
    /// Of the control records.
    pub control_records: Option<KnownHead>,
}

impl KnownHead {
    /// A row that is another than it was.
    pub(super) fn contradicts(&self, noun: &str, sequence: i64, hash: &Hash) -> Option<Page> {
        (self.sequence == sequence && self.hash != *hash).then(|| {
            let problem = "its hash is not the one that was kept: history up to here was rewritten";
            unsound(format!("{noun} {sequence}"), problem)
        })
    }

    /// Rows that are not there any more after `through`.
    pub(super) fn misses(&self, noun: &str, through: i64) -> Option<Page> {
        (self.sequence > through).then(|| {
            let problem = format!("is missing: there were {} {noun}s, there are {through}", self.sequence);
            unsound(format!("{noun} {}", through + 1), &problem)
        })
    }
}

/// What a page came to.
pub(super) enum Page {
    /// There is more to check.
    Sound,
    /// It was the last, and all is as it must be.
    End,
    /// A row is not as it must be.
    Unsound(Unreadable),
}

pub(super) fn unsound(row: String, problem: &str) -> Page {
    Page::Unsound(Unreadable { row, problem: problem.to_owned() })
}

/// Whether a chain that was followed to its end ends as its head says.
pub(super) fn ends(followed: &Followed, noun: &str, row: &str, head: Option<Result<(i64, Hash), String>>) -> Page {
    let row = row.to_owned();
    match head {
        None if followed.through == 0 => Page::End,
        None => unsound(row, &format!("is missing, although there is a {noun}")),
        Some(Err(problem)) => unsound(row, &problem),
        Some(Ok((sequence, _))) if sequence > followed.through => unsound(
            format!("{noun} {}", followed.through + 1),
            &format!("is missing: the head says that the last is {sequence}"),
        ),
        Some(Ok((sequence, _))) if sequence < followed.through => unsound(
            format!("{noun} {}", sequence + 1),
            &format!("is not of the chain: the head says that the last is {sequence}"),
        ),
        Some(Ok((_, hash))) if hash != followed.hash => {
            unsound(row, &format!("its hash is not that of the last {noun}"))
        }
        Some(Ok(_)) => Page::End,
    }
}

pub(super) fn is_last(rows: usize) -> bool {
    i64::try_from(rows).unwrap_or(i64::MAX) < PAGE
}

/// A row of a chain, and the hash that it must have.
pub(super) struct Link {
    pub(super) noun: &'static str,
    pub(super) sequence: i64,
    pub(super) recorded_at: Timestamp,
    pub(super) hash: Hash,
    pub(super) expected: Hash,
}

impl Link {
    pub(super) fn follow(self, followed: &mut Followed) -> Result<(), Page> {
        let noun = self.noun;
        let next = followed.through + 1;
        if self.sequence != next {
            return Err(unsound(format!("{noun} {next}"), &format!("is missing: the next one is {}", self.sequence)));
        }
        if self.hash != self.expected {
            let problem = "its hash does not follow from its content and the hash before it: one of them was changed";
            return Err(unsound(format!("{noun} {next}"), problem));
        }
        if self.recorded_at < followed.recorded_at {
            return Err(unsound(format!("{noun} {next}"), "was recorded before the one that it follows"));
        }
        (followed.through, followed.hash, followed.recorded_at) = (self.sequence, self.hash, self.recorded_at);
        Ok(())
    }
}

/// A hash as text.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use twh_domain::movement::Hash;

    pub(super) fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&twh_domain::hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        twh_domain::hex::decode_hash(&text).ok_or_else(|| de::Error::custom("is no SHA-256 hash in hexadecimal"))
    }
}

/// Hashes as text.
mod hexes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use twh_domain::hex::{decode_hash, encode};
    use twh_domain::movement::Hash;

    pub(super) fn serialize<S: Serializer>(hashes: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
        hashes.iter().map(|hash| encode(hash)).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Hash>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let hashes: Option<Vec<Hash>> = texts.iter().map(|text| decode_hash(text)).collect();
        hashes.ok_or_else(|| de::Error::custom("one is no SHA-256 hash in hexadecimal"))
    }
}
