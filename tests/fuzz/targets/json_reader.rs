//! The reader of request bodies, with any bytes for a body of any command, and for a batch. The first byte chooses the command.
//!
//! - What it takes is a JSON object for plain serde_json too, and plain serde_json's reading of it is the same command.
//! - What it takes can be written down.
//! - It says that a body is not JSON only where serde_json says so too.
//! - Where a field stands twice it refuses, but for the places in [`stands_twice`].
//! - A refusal names fields in at most 300 characters, whatever the client called them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt;
use twh_domain::commands::{COMMAND_KINDS, CommandKind, Shape};
use twh_edge::body::parse;
use twh_ingest::body::{BatchBody, parse_payload, payload_from_value};
use twh_edge::error::{ApiError, ErrorCode};

/// The longest field, and the longest problem, that an answer may quote.
const QUOTE_LENGTH_MAX: usize = 300;
/// serde_json reads an object with this key as what the text below it says. No client has a reason to send it.
const RAW: &str = "$serde_json::private::RawValue";

/// JSON with every field as often as it stands there: a second reading, by none of the code that is tested.
enum Tree {
    Leaf,
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    fn fields(&self) -> &[(String, Tree)] {
        if let Self::Object(fields) = self { fields } else { &[] }
    }

    fn field(&self, name: &str) -> Option<&Tree> {
        self.fields().iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// A field stands twice in this very object.
    fn repeats(&self) -> bool {
        let mut seen = HashSet::new();
        self.fields().iter().any(|(name, _)| !seen.insert(name))
    }

    /// In this object, or in one below it.
    fn repeats_anywhere(&self) -> bool {
        self.repeats() || self.below().into_iter().any(Self::repeats_anywhere)
    }

    fn below(&self) -> Vec<&Tree> {
        match self {
            Self::Leaf => Vec::new(),
            Self::List(values) => values.iter().collect(),
            Self::Object(fields) => fields.iter().map(|(_, value)| value).collect(),
        }
    }

    fn names(&self, name: &str) -> bool {
        self.fields().iter().any(|(own, _)| own == name) || self.below().into_iter().any(|one| one.names(name))
    }
}

struct Trees;

impl<'de> Visitor<'de> for Trees {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element()? {
            values.push(value);
        }
        Ok(Tree::List(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = access.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Object(fields))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Trees)
    }
}

/// A field stands twice where the reader must see it. It does not look into `metadata`, nor below the fields of an update:
/// there the last of two counts.
fn stands_twice(kind: &CommandKind, body: &Tree) -> bool {
    let looks_below = kind.shape != Shape::Update;
    let below = |(name, value): &(String, Tree)| name != "metadata" && value.repeats_anywhere();
    body.repeats() || (looks_below && body.fields().iter().any(below))
}

/// What a refusal must be. `is_json` is what serde_json says of the body.
fn check_refusal(error: &ApiError, is_json: bool) {
    match error.code() {
        ErrorCode::ValidationFailed => {}
        ErrorCode::MalformedJson => assert!(!is_json, "this is JSON: {error:?}"),
        other => panic!("{other:?}"),
    }
    let answer = error.body("r");
    for detail in answer["details"].as_array().expect("details are a list") {
        for part in ["field", "problem"] {
            let length = detail[part].as_str().map_or(0, |text| text.chars().count());
            assert!(length <= QUOTE_LENGTH_MAX, "a {part} of {length} characters");
        }
    }
}

fn check_command(kind: &CommandKind, body: &[u8], plain: Option<&Value>, tree: Option<&Tree>) {
    let payload = match parse_payload(kind, body) {
        Ok(payload) => payload,
        Err(error) => return check_refusal(&error, plain.is_some()),
    };
    let tree = tree.filter(|tree| matches!(tree, Tree::Object(_))).expect("what is taken is a JSON object");
    assert!(!stands_twice(kind, tree), "a field stands twice, and {} takes it", kind.name);
    serde_json::to_string(&payload).expect("what is taken can be written down");
    if !tree.names(RAW) {
        let plain = plain.expect("what is taken is JSON").clone();
        let again = payload_from_value(kind, plain).expect("what is taken is taken from plain JSON too");
        assert_eq!(payload, again);
    }
}

fn check_batch(body: &[u8], plain: Option<&Value>, tree: Option<&Tree>) {
    let batch = match parse::<BatchBody>(body) {
        Ok(batch) => batch,
        Err(error) => return check_refusal(&error, plain.is_some()),
    };
    let tree = tree.expect("what is taken is JSON");
    let commands = tree.field("commands").map(Tree::below).unwrap_or_default();
    let bodies = commands.iter().filter_map(|command| command.field("body"));
    let twice =
        tree.repeats() || commands.iter().any(|command| command.repeats()) || bodies.into_iter().any(Tree::repeats);
    assert!(!twice, "a field stands twice, and the batch is taken");
    for command in batch.commands {
        let Some(kind) = CommandKind::of(&command.kind) else { continue };
        if let Err(error) = payload_from_value(kind, Value::Object(command.body)) {
            check_refusal(&error, true);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else { return };
    let kind = COMMAND_KINDS[usize::from(first.wrapping_sub(b'A')) % COMMAND_KINDS.len()];
    let plain = serde_json::from_slice::<Value>(body).ok();
    let tree = serde_json::from_slice::<Tree>(body).ok();
    match parse::<Value>(body) {
        Ok(value) => assert_eq!(Some(&value), plain.as_ref()),
        Err(error) => {
            assert!(plain.is_none(), "this is JSON: {error:?}");
            check_refusal(&error, false);
        }
    }
    check_command(kind, body, plain.as_ref(), tree.as_ref());
    check_batch(body, plain.as_ref(), tree.as_ref());
});
