//! The rules, one document at a time: life cycles, what each action does to stock, and what it refuses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod book;

use book::{Book, accepted, command, commands, payload, refusal};
use serde_json::{Value, json};
use twh_domain::commands::{Command, Operation};
use twh_domain::outcome::{Outcome, Verdict};
use uuid::Uuid;

/// A tenant with two stock items, a service and two locations, and a way to talk to it.
struct Shop {
    book: Book,
    next: u128,
}

const WIDGET: Uuid = Uuid::from_u128(101);
const MAIN: Uuid = Uuid::from_u128(201);
const OTHER: Uuid = Uuid::from_u128(202);

impl Shop {
    fn open() -> Self {
        let mut shop = Self { book: Book::default(), next: 1_000 };
        shop.ok("item.create", WIDGET, json!({"sku": "WIDGET", "barcodes": ["4006381333931"]}));
        shop.ok("item.create", Uuid::from_u128(102), json!({"sku": "GADGET"}));
        shop.ok("item.create", Uuid::from_u128(103), json!({"sku": "POST", "type": "service"}));
        shop.ok("location.create", MAIN, json!({"code": "MAIN"}));
        shop.ok("location.create", OTHER, json!({"code": "OTHER", "allow_negative_stock": true}));
        shop
    }

    fn with_long_sku() -> Self {
        let mut shop = Self::open();
        shop.new_ok("item.create", json!({"sku": LONG_SKU}));
        shop
    }

    fn stocked(quantity: i32) -> Self {
        let mut shop = Self::open();
        shop.new_ok(
            "adjustment.create",
            json!({"location_code": "MAIN", "reason": "opening", "lines": [{"sku": "WIDGET", "quantity": quantity}]}),
        );
        shop
    }

    fn send(&mut self, kind: &str, subject: Uuid, body: Value) -> Outcome {
        self.next += 1;
        let command = command(self.next, subject, payload(kind, &body.to_string()));
        let (mut outcomes, missed) = self.book.apply(&[command]);
        assert_eq!(missed, 0, "{kind} needed something that was not preloaded");
        self.book.check();
        outcomes.remove(0)
    }

    fn ok(&mut self, kind: &str, subject: Uuid, body: Value) -> Value {
        accepted(&self.send(kind, subject, body))
    }

    /// Creates a document under a fresh id, which it gives.
    fn new_ok(&mut self, kind: &str, body: Value) -> Uuid {
        let id = Uuid::from_u128(10_000 + self.next);
        self.ok(kind, id, body);
        id
    }

    fn refused(&mut self, kind: &str, subject: Uuid, body: Value) -> String {
        let movements = self.book.movements.len();
        let outcome = self.send(kind, subject, body);
        assert_eq!(self.book.movements.len(), movements, "a refusal moves nothing");
        refusal(&outcome).to_owned()
    }

    /// (on hand, reserved) of the widget at MAIN.
    fn widget(&self) -> (String, String) {
        let level = self.book.levels.iter().find(|(key, _)| key.item.0 == WIDGET && key.location.0 == MAIN);
        level.map_or_else(
            || ("0".into(), "0".into()),
            |(_, level)| (level.on_hand.to_string(), level.reserved.to_string()),
        )
    }

    fn order(&mut self, quantity: i32) -> Uuid {
        self.new_ok("sales_order.create", json!({"location_code": "MAIN", "lines": [{"sku": "WIDGET", "quantity": quantity}, {"sku": "POST", "quantity": 1}]}))
    }
}

fn level(on_hand: &str, reserved: &str) -> (String, String) {
    (on_hand.to_owned(), reserved.to_owned())
}

#[test]
fn allocation_reserves_shipping_consumes_cancelling_releases() {
    let mut shop = Shop::stocked(10);
    let (first, second) = (shop.order(4), shop.order(5));
    shop.ok("sales_order.allocate", first, json!({}));
    shop.ok("sales_order.allocate", second, json!({}));
    assert_eq!(shop.widget(), level("10", "9"));
    let order = shop.ok("sales_order.ship", first, json!({"lines": [{"line": 1, "quantity": 3}]}));
    assert_eq!(order["status"], "partially_shipped");
    assert_eq!(shop.widget(), level("7", "6"));
    assert_eq!(shop.ok("sales_order.ship", first, json!({}))["status"], "shipped");
    shop.ok("sales_order.cancel", second, json!({}));
    assert_eq!(shop.widget(), level("6", "0"));
    assert_eq!(shop.refused("sales_order.cancel", first, json!({})), "ILLEGAL_TRANSITION");
    assert_eq!(shop.ok("sales_order.close", first, json!({}))["status"], "closed");
}

#[test]
fn closing_a_partly_shipped_order_releases_the_rest() {
    let mut shop = Shop::stocked(10);
    let order = shop.order(8);
    shop.ok("sales_order.allocate", order, json!({}));
    shop.ok("sales_order.ship", order, json!({"lines": [{"line": 1, "quantity": 5}]}));
    shop.ok("sales_order.close", order, json!({}));
    assert_eq!(shop.widget(), level("5", "0"));
}

#[test]
fn a_shortage_names_every_short_line_and_reserves_nothing() {
    let mut shop = Shop::stocked(10);
    let lines =
        json!([{"sku": "WIDGET", "quantity": 7}, {"sku": "WIDGET", "quantity": 4}, {"sku": "GADGET", "quantity": 1}]);
    let order = shop.new_ok("sales_order.create", json!({"location_code": "MAIN", "lines": lines}));
    let outcome = shop.send("sales_order.allocate", order, json!({}));
    let twh_domain::outcome::Verdict::Rejected(refusal) = outcome.verdict.as_ref() else { panic!("accepted") };
    assert_eq!(refusal.code, "INSUFFICIENT_STOCK");
    let details: Value = serde_json::from_str(&refusal.details).unwrap();
    assert_eq!(details.as_array().unwrap().len(), 2);
    assert_eq!(
        (&details[0]["line"], &details[0]["requested"], &details[0]["available"]),
        (&json!(2), &json!("4"), &json!("3"))
    );
    assert_eq!(details[1]["sku"], "GADGET");
    assert_eq!(shop.widget(), level("10", "0"));
}

#[test]
fn a_location_that_allows_it_goes_below_zero_and_back() {
    let mut shop = Shop::open();
    let body = |quantity: i32| json!({"location_code": "OTHER", "reason": "sold unseen", "lines": [{"sku": "WIDGET", "quantity": quantity}]});
    shop.new_ok("adjustment.create", body(-3));
    shop.new_ok("adjustment.create", body(1));
    let fresh = Uuid::from_u128(77);
    assert_eq!(
        shop.refused(
            "adjustment.create",
            fresh,
            json!({"location_code": "MAIN", "reason": "x", "lines": [{"sku": "WIDGET", "quantity": -1}]})
        ),
        "INSUFFICIENT_STOCK"
    );
}

#[test]
fn a_purchase_order_is_received_by_line_within_its_over_receipt_policy() {
    let mut shop = Shop::open();
    let body = json!({"location_id": MAIN, "over_receipt_percent": 10, "lines": [{"item_id": WIDGET, "quantity": 10}, {"sku": "GADGET", "quantity": "2.5"}]});
    let po = shop.new_ok("purchase_order.create", body);
    assert_eq!(shop.refused("purchase_order.receive", po, json!({})), "ILLEGAL_TRANSITION");
    shop.ok("purchase_order.order", po, json!({}));
    let order = shop.ok("purchase_order.receive", po, json!({"lines": [{"line": 1, "quantity": 4}]}));
    assert_eq!(order["status"], "partially_received");
    assert_eq!(shop.refused("purchase_order.cancel", po, json!({})), "ILLEGAL_TRANSITION");
    assert_eq!(
        shop.refused("purchase_order.receive", po, json!({"lines": [{"line": 3, "quantity": 1}]})),
        "UNKNOWN_LINE"
    );
    assert_eq!(
        shop.refused("purchase_order.receive", po, json!({"lines": [{"line": 1, "quantity": 8}]})),
        "QUANTITY_EXCEEDED"
    );
    let order = shop.ok("purchase_order.receive", po, json!({"lines": [{"line": 1, "quantity": 7}]}));
    assert_eq!(order["lines"][0]["quantity_received"], "11");
    assert_eq!(shop.ok("purchase_order.receive", po, json!({}))["status"], "received");
    assert_eq!(shop.widget(), level("11", "0"));
    assert_eq!(shop.ok("purchase_order.close", po, json!({}))["status"], "closed");
}

#[test]
fn goods_in_transit_are_nowhere_until_they_are_received() {
    let mut shop = Shop::stocked(10);
    let transfer = shop.new_ok(
        "transfer.create",
        json!({"from_location_code": "MAIN", "to_location_code": "OTHER", "lines": [{"sku": "WIDGET", "quantity": 6}]}),
    );
    shop.ok("transfer.dispatch", transfer, json!({}));
    let total = |shop: &Shop| shop.book.levels.values().map(|level| level.on_hand.micros()).sum::<i64>();
    assert_eq!(total(&shop), 4_000_000);
    shop.ok("transfer.receive", transfer, json!({"lines": [{"line": 1, "quantity": 5}]}));
    assert_eq!(total(&shop), 9_000_000);
    let closed = shop.ok("transfer.close", transfer, json!({"reason": "one fell off"}));
    assert_eq!((&closed["status"], &closed["lines"][0]["quantity_lost"]), (&json!("closed"), &json!("1")));
    let body =
        json!({"from_location_code": "MAIN", "to_location_id": MAIN, "lines": [{"sku": "WIDGET", "quantity": 6}]});
    assert_eq!(shop.refused("transfer.create", Uuid::from_u128(78), body), "VALIDATION_FAILED");
}

#[test]
fn a_return_never_exceeds_what_was_shipped() {
    let mut shop = Shop::stocked(10);
    let order = shop.order(4);
    shop.ok("sales_order.allocate", order, json!({}));
    shop.ok("sales_order.ship", order, json!({}));
    let body = |quantity: i32, disposition: &str| json!({"sales_order_id": order, "location_code": "MAIN", "lines": [{"order_line": 1, "quantity": quantity, "disposition": disposition}]});
    shop.new_ok("return.create", body(3, "restock"));
    assert_eq!(shop.widget(), level("9", "0"));
    assert_eq!(shop.refused("return.create", Uuid::from_u128(79), body(2, "restock")), "QUANTITY_EXCEEDED");
    let movements = shop.book.movements.len();
    shop.new_ok("return.create", body(1, "scrap"));
    assert_eq!(shop.book.movements.len(), movements + 2, "scrapped goods come in and are written off");
    assert_eq!(shop.widget(), level("9", "0"));
    shop.new_ok("return.create", json!({"location_code": "MAIN", "lines": [{"sku": "WIDGET", "quantity": 2, "disposition": "restock"}, {"sku": "POST", "quantity": 1, "disposition": "restock"}]}));
    assert_eq!(shop.widget(), level("11", "0"));
}

#[test]
fn a_count_sets_what_is_there_but_not_below_what_is_promised() {
    let mut shop = Shop::stocked(10);
    let order = shop.order(4);
    shop.ok("sales_order.allocate", order, json!({}));
    let count = |quantity: i32| json!({"location_code": "MAIN", "lines": [{"sku": "WIDGET", "quantity_counted": quantity}], "occurred_at": "2026-01-02T03:04:05Z"});
    shop.new_ok("count.create", count(8));
    assert_eq!(shop.widget(), level("8", "4"));
    assert_eq!(shop.refused("count.create", Uuid::from_u128(80), count(3)), "INSUFFICIENT_STOCK");
    shop.new_ok("count.create", count(8));
    let counted = shop.book.levels.values().filter_map(|level| level.last_counted_at).collect::<Vec<_>>();
    assert_eq!(counted.len(), 1);
    assert_eq!(counted[0].to_string(), "2026-01-02T03:04:05Z");
    assert_eq!(
        shop.book.movements.last().unwrap().on_hand_change.to_string(),
        "0",
        "a count that agrees is a movement too"
    );
}

#[test]
fn a_reservation_holds_until_it_is_released_or_its_time_comes() {
    let mut shop = Shop::stocked(10);
    let body = |expires: &str| json!({"sku": "WIDGET", "location_code": "MAIN", "quantity": 6, "expires_at": expires});
    let first = shop.new_ok("reservation.create", body("1970-01-01T00:00:01Z"));
    assert_eq!(shop.widget(), level("10", "6"));
    assert_eq!(
        shop.refused("reservation.create", Uuid::from_u128(81), body("2999-01-01T00:00:00Z")),
        "INSUFFICIENT_STOCK"
    );
    shop.ok("reservation.expire", first, json!({}));
    assert_eq!(shop.refused("reservation.release", first, json!({})), "ILLEGAL_TRANSITION");
    let second = shop.new_ok("reservation.create", body("2999-01-01T00:00:00Z"));
    assert_eq!(shop.refused("reservation.expire", second, json!({})), "ILLEGAL_TRANSITION");
    shop.ok("reservation.release", second, json!({}));
    assert_eq!(shop.widget(), level("10", "0"));
}

#[test]
fn codes_and_barcodes_are_unique_and_barcodes_can_move() {
    let mut shop = Shop::open();
    let fresh = Uuid::from_u128(82);
    assert_eq!(shop.refused("item.create", fresh, json!({"sku": "WIDGET"})), "DUPLICATE");
    assert_eq!(shop.refused("item.create", fresh, json!({"sku": "NEW", "barcodes": ["4006381333931"]})), "DUPLICATE");
    let item = shop.ok("item.update", WIDGET, json!({"name": "Widget", "clear": ["barcodes"]}));
    assert_eq!((&item["name"], &item["barcodes"], &item["version"]), (&json!("Widget"), &json!([]), &json!(2)));
    shop.ok("item.create", fresh, json!({"sku": "NEW", "barcodes": ["4006381333931"]}));
}

#[test]
fn what_a_body_names_must_exist_and_hold_stock() {
    let mut shop = Shop::open();
    let fresh = Uuid::from_u128(83);
    let body = |line: Value| json!({"location_code": "MAIN", "reason": "x", "lines": [line]});
    assert_eq!(
        shop.refused("adjustment.create", fresh, body(json!({"sku": "NOPE", "quantity": 1}))),
        "UNKNOWN_REFERENCE"
    );
    assert_eq!(
        shop.refused("adjustment.create", fresh, body(json!({"sku": "POST", "quantity": 1}))),
        "ITEM_NOT_STOCKED"
    );
    assert_eq!(shop.refused("sales_order.allocate", fresh, json!({})), "NOT_FOUND");
    let huge = body(json!({"sku": "WIDGET", "quantity": "999999999999"}));
    shop.ok("adjustment.create", fresh, huge.clone());
    assert_eq!(shop.refused("adjustment.create", Uuid::from_u128(84), huge), "QUANTITY_OUT_OF_RANGE");
}

#[test]
fn a_stale_version_is_refused() {
    let mut shop = Shop::open();
    let update = |version| Operation {
        subject: WIDGET,
        expected_version: Some(version),
        payload: payload("item.update", r#"{"name":"x"}"#),
    };
    let (outcomes, _) =
        shop.book.apply(&[commands(1, vec![update(1)]), commands(2, vec![update(1)]), commands(3, vec![update(2)])]);
    accepted(&outcomes[0]);
    assert_eq!(refusal(&outcomes[1]), "PRECONDITION_FAILED");
    accepted(&outcomes[2]);
}

#[test]
fn the_same_key_is_applied_once_and_another_body_is_refused() {
    let mut shop = Shop::open();
    let create = |number: u128| {
        let mut command = command(
            number,
            Uuid::from_u128(90 + number),
            payload(
                "adjustment.create",
                r#"{"location_code":"MAIN","reason":"x","lines":[{"sku":"WIDGET","quantity":5}]}"#,
            ),
        );
        command.idempotency_key = "same".to_owned();
        command.fingerprint = "same".to_owned();
        command
    };
    let mut other = create(4);
    other.fingerprint = "other".to_owned();
    // In one batch and in the next: from what the batch remembers, and from what was stored.
    let (mut outcomes, _) = shop.book.apply(&[create(1), create(2)]);
    outcomes.extend(shop.book.apply(&[create(3), other]).0);
    assert_eq!(shop.widget(), level("5", "0"));
    assert_eq!(outcomes[1].verdict, outcomes[0].verdict);
    assert_eq!(outcomes[2].verdict, outcomes[0].verdict);
    assert_eq!(outcomes[2].replay_of, Some(outcomes[0].command_id));
    assert_eq!(refusal(&outcomes[3]), "IDEMPOTENCY_KEY_MISMATCH");
}

#[test]
fn an_atomic_batch_is_all_or_nothing() {
    let mut shop = Shop::stocked(10);
    let adjust = |number: u128, quantity: i32| Operation {
        subject: Uuid::from_u128(300 + number),
        expected_version: None,
        payload: payload(
            "adjustment.create",
            &json!({"location_code": "MAIN", "reason": "x", "lines": [{"sku": "WIDGET", "quantity": quantity}]})
                .to_string(),
        ),
    };
    let (outcomes, _) = shop
        .book
        .apply(&[commands(1, vec![adjust(1, 5), adjust(2, -16)]), commands(2, vec![adjust(1, 5), adjust(2, -15)])]);
    assert_eq!(refusal(&outcomes[0]), "INSUFFICIENT_STOCK");
    accepted(&outcomes[1]);
    assert_eq!(shop.widget(), level("0", "0"));
    shop.book.check();
}

/// As long as an SKU may be.
const LONG_SKU: &str = "0123456789012345678901234567890123456789012345678901234567890123";

/// An order of so many lines, with metadata of so many characters that JSON escapes to six bytes each.
fn long_order(number: u128, lines: usize, metadata: usize) -> Operation {
    let price = json!({"amount": "123456789.0001", "currency": "EUR"});
    let lines: Vec<_> = (0..lines).map(|_| json!({"sku": LONG_SKU, "quantity": 1, "unit_price": price})).collect();
    let value = "\u{1}".repeat(metadata);
    let metadata: serde_json::Map<_, _> =
        (0..50).map(|pair| (format!("key-{pair}"), json!(value))).filter(|_| metadata > 0).collect();
    let body = json!({"location_code": "MAIN", "lines": lines, "metadata": metadata}).to_string();
    Operation {
        subject: Uuid::from_u128(5_000 + number),
        expected_version: None,
        payload: payload("sales_order.create", &body),
    }
}

#[test]
fn what_a_command_writes_is_bounded_by_bytes_since_the_second_rules() {
    let mut shop = Shop::with_long_sku();
    let of = |number, rules_version, operations| Command { rules_version, ..commands(number, operations) };
    let first_of = |number: u128, count: u128| (0..count).map(|one| long_order(100 * number + one, 1_000, 0)).collect();
    let (outcomes, _) = shop.book.apply(&[
        of(1, 2, vec![long_order(1, 1_000, 0)]),
        of(2, 2, vec![long_order(2, 1_000, 500)]),
        of(3, 1, vec![long_order(3, 1_000, 500)]),
        of(4, 2, first_of(4, 8)),
        of(5, 2, first_of(5, 12)),
        of(6, 1, first_of(6, 12)),
    ]);
    accepted(&outcomes[0]);
    assert_eq!(refusal(&outcomes[1]), "DOCUMENT_TOO_LARGE");
    accepted(&outcomes[2]);
    accepted(&outcomes[3]);
    assert_eq!(refusal(&outcomes[4]), "OUTPUT_TOO_LARGE");
    accepted(&outcomes[5]);
    shop.book.check();
}

#[test]
fn a_document_that_grows_with_what_is_done_to_it_can_still_be_ended() {
    let mut shop = Shop::with_long_sku();
    let act = |number, kind: &str, version| {
        let operation =
            Operation { subject: Uuid::from_u128(5_001), expected_version: version, payload: payload(kind, "{}") };
        commands(number, vec![operation])
    };
    let (created, _) = shop.book.apply(&[commands(1, vec![long_order(1, 1_000, 100)])]);
    let length = accepted(&created[0]).to_string().len();
    assert!((380_000..=384 * 1024).contains(&length), "{length} is as long as a document may be when it is made");
    shop.ok(
        "adjustment.create",
        Uuid::from_u128(84),
        json!({"location_code": "MAIN", "reason": "x", "lines": [{"sku": LONG_SKU, "quantity": 1_000}]}),
    );
    let (outcomes, _) = shop.book.apply(&[
        act(2, "sales_order.allocate", None),
        act(3, "sales_order.ship", None),
        act(4, "sales_order.close", Some(3)),
    ]);
    assert_eq!(accepted(&outcomes[2])["status"], "closed");
    shop.book.check();
}

#[test]
fn a_refusal_names_a_hundred_problems_and_says_how_many_more_there_are() {
    let mut shop = Shop::open();
    let lines: Vec<_> = (0..500).map(|_| json!({"sku": "WIDGET", "quantity": 0})).collect();
    let body = json!({"location_code": "MAIN", "lines": lines}).to_string();
    let create = || command(1, Uuid::from_u128(84), payload("sales_order.create", &body));
    let problems = |outcome: &Outcome| match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => serde_json::from_str::<Vec<Value>>(&refusal.details).unwrap(),
        Verdict::Accepted { .. } => panic!("accepted"),
    };
    let (outcomes, _) =
        shop.book.apply(&[create(), Command { rules_version: 1, idempotency_key: "other".to_owned(), ..create() }]);
    let named = problems(&outcomes[0]);
    assert_eq!((named.len(), &named[100]["problem"]), (101, &json!("has 400 more problems")));
    assert_eq!(problems(&outcomes[1]).len(), 500);
}
