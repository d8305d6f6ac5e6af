//! Commands that no edge has seen: whatever decodes by the schema of `commands` is decided without a panic, and what must hold of
//! a ledger holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "tests stop at the first surprise"
)]

#[path = "../../domain/tests/book/mod.rs"]
mod book;
mod samples;

use book::{Book, command, commands, payload};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use samples::{codec, full_bodies};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use twh_domain::commands::{COMMAND_KINDS, Command, Operation, Payload};
use twh_schemas::catalogue::COMMANDS;
use uuid::Uuid;

const LONG: usize = 5_000;
const LINES: usize = 1_200;

/// What stands in the place of a value: what is sound, or the ends of what can be read.
fn instead(field: &str, value: &Value, extreme: bool, pick: Index) -> Value {
    let choose = |from: &[Value]| pick.get(from).clone();
    let id = |number: u128| json!(Uuid::from_u128(number));
    let sound: Vec<Value> = match field {
        "sku" => vec![json!("A"), json!("B"), json!("SERVICE")],
        "code" | "number" => (0..20).map(|number| json!(format!("N{number}"))).collect(),
        "location_code" | "from_location_code" | "to_location_code" => vec![json!("MAIN"), json!("LOOSE")],
        "quantity" | "quantity_counted" => vec![json!(1), json!(2), json!("0.5"), json!(-1), json!(7)],
        "line" | "order_line" => vec![json!(1), json!(2)],
        "disposition" => vec![json!("restock"), json!("scrap")],
        "supplier_id" => vec![id(300)],
        "sales_order_id" => (0..3).map(|number| id(500 + number)).collect(),
        _ => vec![value.clone()],
    };
    if !extreme {
        return choose(&sound);
    }
    let decimal =
        [json!("999999999999.999999"), json!("-999999999999.999999"), json!("0.000001"), json!("-0.000001"), json!(0)];
    match field {
        "quantity" | "quantity_counted" | "available" | "reorder_point" | "amount" => choose(&decimal),
        "occurred_at" | "expires_at" => choose(&[
            json!("0000-01-01T00:00:00Z"),
            json!("9999-12-31T23:59:59.999999Z"),
            json!("1970-01-01T00:00:00Z"),
        ]),
        _ if field.ends_with("_id") || field.ends_with("item_id") => {
            choose(&[id(0), id(u128::MAX), id(100), id(200), id(500)])
        }
        _ => match value {
            Value::Number(_) => choose(&[json!(i32::MIN), json!(i32::MAX), json!(-1), json!(0)]),
            Value::String(_) => {
                choose(&[json!(""), json!("x".repeat(LONG)), json!("\u{0}\u{7}"), json!(" "), json!("\u{fdfa}")])
            }
            Value::Bool(value) => json!(!value),
            other => other.clone(),
        },
    }
}

/// How one value of a body is changed.
#[derive(Debug, Clone, Copy)]
enum Change {
    Keep,
    Extreme,
    Absent,
    Repeated(bool),
}

fn changes() -> impl Strategy<Value = Vec<(Change, Index)>> {
    let change = prop_oneof![
        12 => Just(Change::Keep),
        2 => Just(Change::Extreme),
        3 => Just(Change::Absent),
        1 => any::<bool>().prop_map(Change::Repeated),
    ];
    prop::collection::vec((change, any::<Index>()), 64)
}

/// A body with its values changed, each by the next of the changes.
fn changed(field: &str, value: &Value, changes: &mut dyn Iterator<Item = (Change, Index)>) -> Option<Value> {
    let (change, pick) = changes.next().unwrap_or((Change::Keep, any_index()));
    if matches!(change, Change::Absent) && !field.is_empty() {
        return None;
    }
    Some(match value {
        Value::Object(fields) => fields
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), changed(name, value, changes)?)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(elements) => {
            let mut elements: Vec<Value> =
                elements.iter().filter_map(|element| changed(field, element, changes)).collect();
            if let (Change::Repeated(often), Some(first)) = (change, elements.first().cloned()) {
                elements.extend(std::iter::repeat_n(first, if often { LINES } else { 1 }));
            }
            elements.into()
        }
        leaf => instead(field, leaf, matches!(change, Change::Extreme), pick),
    })
}

fn any_index() -> Index {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    any::<Index>().new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

/// Of two ways to name a thing a sound body has one.
fn one_name(value: &mut Value) {
    let pairs = [
        ("item_id", "sku"),
        ("location_id", "location_code"),
        ("from_location_id", "from_location_code"),
        ("to_location_id", "to_location_code"),
    ];
    match value {
        Value::Object(fields) => {
            for (id, code) in pairs {
                if fields.contains_key(code) {
                    fields.remove(id);
                }
            }
            fields.values_mut().for_each(one_name);
        }
        Value::Array(elements) => elements.iter_mut().for_each(one_name),
        _ => {}
    }
}

fn body_of(kind: &str) -> Value {
    full_bodies().into_iter().find(|(of, _)| *of == kind).map_or_else(|| json!({}), |(_, body)| body)
}

/// A payload that can be read; `None` where the body cannot. A tame one leaves things out, and has no ends of what can be read.
fn hostile(kind: &str, changes: Vec<(Change, Index)>, tame: bool) -> Option<Payload> {
    let tamed = |(change, pick)| match change {
        Change::Extreme | Change::Repeated(_) if tame => (Change::Keep, pick),
        change => (change, pick),
    };
    let mut body = changed("", &body_of(kind), &mut changes.into_iter().map(tamed))?;
    if tame {
        one_name(&mut body);
        let fields = body.as_object_mut()?;
        fields.remove("clear");
        // What is left to do is all that is outstanding.
        if !kind.ends_with("create") {
            fields.remove("lines");
        }
    }
    Payload::deserialize_kind(kind, body)?.ok()
}

fn names() -> Vec<&'static str> {
    COMMAND_KINDS.iter().map(|kind| kind.name).collect()
}

fn operation() -> impl Strategy<Value = Option<Operation>> {
    let version =
        prop_oneof![20 => Just(None), 1 => Just(Some(i64::MAX)), 1 => Just(Some(i64::MIN)), 1 => Just(Some(1))];
    let stray = prop_oneof![8 => Just(None), 1 => select(&[0, u128::MAX, 100, 200, 300][..]).prop_map(Some)];
    (select(names()), changes(), 0..3_u128, stray, version, prop::bool::weighted(0.8)).prop_map(
        |(kind, changes, number, stray, expected_version, tame)| {
            // Each kind acts upon documents of its own, so that it meets them.
            let own = match kind.split_once('.') {
                Some(("item", "create")) => 600,
                Some(("item", _)) => 100,
                Some(("location", "update")) => 200,
                Some(("supplier", "update")) => 300,
                _ => 500,
            };
            let payload = hostile(kind, changes, tame)?;
            Some(Operation {
                subject: Uuid::from_u128(stray.unwrap_or(own + if own >= 500 { number } else { 0 })),
                expected_version,
                payload,
            })
        },
    )
}

/// A log: a catalogue, stock of it, then whatever comes.
fn log(asked: Vec<Vec<Option<Operation>>>) -> Vec<Command> {
    let mut log = Vec::new();
    for (number, sku) in (0..).zip(["A", "B", "SERVICE"]) {
        let kind = if sku == "SERVICE" { "service" } else { "stock" };
        let body = json!({ "sku": sku, "type": kind }).to_string();
        log.push(command(1 + number, Uuid::from_u128(100 + number), payload("item.create", &body)));
    }
    for (number, code) in (0..).zip(["MAIN", "LOOSE"]) {
        let body = json!({ "code": code, "allow_negative_stock": code == "LOOSE" }).to_string();
        log.push(command(11 + number, Uuid::from_u128(200 + number), payload("location.create", &body)));
    }
    log.push(command(15, Uuid::from_u128(300), payload("supplier.create", r#"{"code": "S"}"#)));
    let stock = json!({ "location_code": "MAIN", "reason": "opening", "lines": [{ "sku": "A", "quantity": 20 }, { "sku": "B", "quantity": 20 }] });
    log.push(command(20, Uuid::from_u128(400), payload("adjustment.create", &stock.to_string())));
    let asked = (1_000..).zip(asked.into_iter().map(|operations| operations.into_iter().flatten().collect::<Vec<_>>()));
    log.extend(
        asked.filter(|(_, operations)| !operations.is_empty()).map(|(number, operations)| commands(number, operations)),
    );
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_decodes_is_decided_and_the_ledger_stays_sound(
        asked in prop::collection::vec(prop::collection::vec(operation(), 1..3), 1..80),
        batch in 1_usize..20,
    ) {
        let codec = codec::<Command>(&COMMANDS);
        let sent = log(asked);
        let read: Vec<Command> = sent
            .iter()
            .map(|command| futures::executor::block_on(codec.decode(&codec.encode(command).unwrap())).unwrap())
            .collect();
        prop_assert_eq!(&read, &sent, "the log carries a command unchanged");
        let mut book = Book::default();
        for commands in read.chunks(batch) {
            let (outcomes, _) = book.apply(commands);
            prop_assert_eq!(outcomes.len(), commands.len());
        }
        book.check();
    }
}

/// The test above is worth something only while it reaches what it is about.
#[test]
fn hostile_commands_are_accepted_often_enough_to_get_anywhere() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(prop::collection::vec(operation(), 1..2), 120);
    let (mut accepted, mut decided) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..40 {
        let log = log(strategy.new_tree(&mut runner).unwrap().current());
        let mut book = Book::default();
        for command in &log {
            let (outcomes, _) = book.apply(std::slice::from_ref(command));
            let kind = command.operations[0].payload.kind().name;
            decided.insert(kind);
            if matches!(outcomes[0].verdict.as_ref(), twh_domain::outcome::Verdict::Accepted { .. }) {
                accepted.insert(kind);
            }
        }
    }
    let all: BTreeSet<_> = names().into_iter().collect();
    assert_eq!(decided, all);
    assert!(accepted.len() >= 22, "never accepted: {:?}", all.difference(&accepted).collect::<Vec<_>>());
}
