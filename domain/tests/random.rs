//! Random logs of commands: whatever is asked, nothing is oversold or lost, and the same log gives the same ledger however
//! it is cut into batches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "tests stop at the first surprise"
)]

mod book;

use book::{Book, command, commands, payload};
use proptest::prelude::*;
use serde_json::{Value, json};
use twh_domain::commands::{Command, Operation};
use uuid::Uuid;

const ITEMS: [&str; 3] = ["A", "B", "SERVICE"];
const LOCATIONS: [&str; 3] = ["MAIN", "STORE", "LOOSE"];

/// What a random client asks for. Documents are named by a small number, so that actions meet documents that exist.
#[derive(Debug, Clone)]
struct Ask {
    kind: &'static str,
    document: u8,
    body: Value,
    repeat_of: Option<u8>,
}

fn quantity() -> impl Strategy<Value = Value> {
    prop_oneof![4 => (1_i32..9).prop_map(|n| json!(n)), 1 => (1_i64..5_000_000).prop_map(|n| json!(format!("{}.{:06}", n / 1_000_000, n % 1_000_000)))]
}

fn line() -> impl Strategy<Value = Value> {
    (0..ITEMS.len(), quantity()).prop_map(|(item, quantity)| json!({"sku": ITEMS[item], "quantity": quantity}))
}

fn lines() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(line(), 1..4)
}

fn place() -> impl Strategy<Value = &'static str> {
    (0..LOCATIONS.len()).prop_map(|index| LOCATIONS[index])
}

fn some_lines() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        prop::collection::btree_map(1_i32..4, quantity(), 1..3)
            .prop_map(|lines| json!({"lines": lines.into_iter().map(|(line, quantity)| json!({"line": line, "quantity": quantity})).collect::<Vec<_>>()})),
    ]
}

fn ask() -> impl Strategy<Value = (&'static str, Value)> {
    let act = |kinds: &'static [&'static str]| (0..kinds.len()).prop_map(move |index| (kinds[index], json!({})));
    prop_oneof![
        3 => (lines(), place()).prop_map(|(lines, place)| ("sales_order.create", json!({"location_code": place, "lines": lines}))),
        2 => (lines(), place(), 0..50_i32).prop_map(|(lines, place, over)| ("purchase_order.create", json!({"location_code": place, "lines": lines, "over_receipt_percent": over}))),
        1 => (lines(), place(), place()).prop_map(|(lines, from, to)| ("transfer.create", json!({"from_location_code": from, "to_location_code": to, "lines": lines}))),
        2 => (lines(), place(), any::<bool>()).prop_map(|(mut lines, place, down)| {
            for line in &mut lines {
                if let (true, Some(number)) = (down, line["quantity"].as_i64()) {
                    line["quantity"] = json!(-number);
                }
            }
            ("adjustment.create", json!({"location_code": place, "reason": "found or lost", "lines": lines}))
        }),
        1 => (line(), place()).prop_map(|(line, place)| ("count.create", json!({"location_code": place, "lines": [{"sku": line["sku"], "quantity_counted": line["quantity"]}]}))),
        1 => (line(), place()).prop_map(|(line, place)| ("reservation.create", json!({"sku": line["sku"], "location_code": place, "quantity": line["quantity"], "expires_at": "1970-01-01T00:00:20Z"}))),
        2 => (0..8_u8, 1..3_i32, quantity(), place(), any::<bool>()).prop_map(|(order, line, quantity, place, scrap)| {
            let disposition = if scrap { "scrap" } else { "restock" };
            ("return.create", json!({"sales_order_id": document(order), "location_code": place, "lines": [{"order_line": line, "quantity": quantity, "disposition": disposition}]}))
        }),
        4 => some_lines().prop_map(|body| ("sales_order.ship", body)),
        3 => some_lines().prop_map(|body| ("purchase_order.receive", body)),
        2 => some_lines().prop_map(|body| ("transfer.receive", body)),
        8 => act(&["sales_order.allocate", "sales_order.allocate", "sales_order.close", "sales_order.cancel", "purchase_order.order", "purchase_order.close",
                   "purchase_order.cancel", "transfer.dispatch", "transfer.close", "transfer.cancel", "reservation.release", "reservation.expire"]),
    ]
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let one = (ask(), 0..8_u8, prop::option::weighted(0.1, any::<u8>()))
        .prop_map(|((kind, body), document, repeat_of)| Ask { kind, document, body, repeat_of });
    prop::collection::vec(one, 1..80)
}

fn document(number: u8) -> Uuid {
    Uuid::from_u128(500 + u128::from(number))
}

/// The log: a catalogue, then what was asked; some of it sent twice under one key, some in atomic pairs.
fn log(asks: &[Ask]) -> Vec<Command> {
    let mut log = Vec::new();
    for (index, sku) in ITEMS.iter().enumerate() {
        let kind = if *sku == "SERVICE" { "service" } else { "stock" };
        let body = json!({"sku": sku, "type": kind}).to_string();
        log.push(command(1 + index as u128, Uuid::from_u128(100 + index as u128), payload("item.create", &body)));
    }
    for (index, code) in LOCATIONS.iter().enumerate() {
        let body = json!({"code": code, "allow_negative_stock": *code == "LOOSE"}).to_string();
        log.push(command(11 + index as u128, Uuid::from_u128(200 + index as u128), payload("location.create", &body)));
    }
    let mut sent: Vec<Command> = Vec::new();
    for (index, ask) in asks.iter().enumerate() {
        let number = 1_000 + index as u128;
        let mut next = command(number, document(ask.document), payload(ask.kind, &ask.body.to_string()));
        match ask.repeat_of {
            Some(earlier) if !sent.is_empty() => {
                let earlier = &sent[usize::from(earlier) % sent.len()];
                next.idempotency_key.clone_from(&earlier.idempotency_key);
                if earlier.operations == next.operations {
                    next.fingerprint.clone_from(&earlier.fingerprint);
                }
            }
            None if index % 7 == 3 => {
                let also = Operation {
                    subject: document(ask.document),
                    expected_version: None,
                    payload: payload("sales_order.allocate", "{}"),
                };
                next = commands(number, vec![next.operations[0].clone(), also]);
            }
            _ => {}
        }
        sent.push(next.clone());
        log.push(next);
    }
    log
}

fn replay(log: &[Command], sizes: &[usize]) -> (Book, Vec<twh_domain::outcome::Outcome>) {
    let mut book = Book::default();
    let mut outcomes = Vec::new();
    let (mut rest, mut turn) = (log, 0);
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(sizes[turn % sizes.len()].min(rest.len()));
        outcomes.extend(book.apply(batch).0);
        (rest, turn) = (after, turn + 1);
    }
    (book, outcomes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_oversold_and_every_batching_gives_the_same_ledger(asks in asks(), sizes in prop::collection::vec(1_usize..40, 1..5)) {
        let log = log(&asks);
        let (one_by_one, outcomes) = replay(&log, &[1]);
        one_by_one.check();
        let (batched, batched_outcomes) = replay(&log, &sizes);
        prop_assert_eq!(&one_by_one.movements, &batched.movements);
        prop_assert_eq!(&one_by_one.events, &batched.events);
        prop_assert_eq!(&one_by_one.audit, &batched.audit);
        prop_assert_eq!(&one_by_one.levels, &batched.levels);
        prop_assert_eq!(outcomes, batched_outcomes);
    }
}
