//! What the body of every command has: its shape, what it reads, and its rules, beside one another.

use crate::draft::{Draft, Stop};
use crate::entity::EntityKind;
use crate::reads::Reads;
use crate::timestamp::Timestamp;
use crate::validate::Problems;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The body of a command. It is at once the JSON body of its endpoint and the Avro record on the `commands` topic.
pub(crate) trait Body {
    /// Finds everything that is wrong with its shape.
    fn check(&self, _: &mut Problems) {}

    /// When it happened, by the client's word, where the body says so.
    fn occurred_at(&self) -> Option<Timestamp> {
        None
    }

    /// About how much of a document it writes.
    fn size(&self) -> Size {
        Size::default()
    }

    /// A document besides its subject that it writes again.
    fn also_writes(&self) -> Option<(EntityKind, Uuid)> {
        None
    }

    /// Names what [`decide`](Self::decide) reads, so that it is loaded before. What is not named costs a query of its own.
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>);

    /// The rules.
    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop>;
}

/// How much of a document a body writes, of what may be much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Lines.
    pub lines: usize,
    /// Bytes of free text and of the client's own pairs, as JSON writes them.
    pub text: usize,
}

impl Size {
    /// Of a document with so many lines, and the client's own pairs.
    pub(crate) fn of(lines: usize, metadata: Option<&BTreeMap<String, String>>) -> Self {
        let pairs = metadata.into_iter().flatten();
        Self { lines, text: pairs.map(|(key, value)| written(key) + written(value) + PAIR_BYTES).sum() }
    }
}

/// What JSON adds to a pair: quotes, a colon and a comma.
const PAIR_BYTES: usize = 6;

/// The bytes of a text as JSON writes it, without its quotes.
pub(crate) fn written(text: &str) -> usize {
    let of = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(of).sum()
}

/// Declares bodies, and what they are made of.
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    )*};
}
pub(crate) use bodies;

/// Every field to clear may be cleared, and is not given a value as well.
pub(crate) fn check_clear(problems: &mut Problems, clear: &[String], clearable: &[(&str, bool)]) {
    for field in clear {
        match clearable.iter().find(|(name, _)| name == field) {
            None => problems.add(field.as_str(), "must not be null"),
            Some((_, true)) => problems.add(field.as_str(), "is given a value and cleared at once"),
            Some((_, false)) => {}
        }
    }
}

/// Absent stays, named is set, cleared is emptied.
pub(crate) fn set<T: Clone>(field: &mut Option<T>, value: Option<&T>, cleared: bool) {
    if cleared {
        *field = None;
    } else if let Some(value) = value {
        *field = Some(value.clone());
    }
}
