use super::fold::Fold;
use serde_json::{Value, json};
use std::collections::HashMap;
use twh_domain::decimal::Quantity;
use twh_domain::id::{CommandId, EventId, ItemId, LocationId, TenantId};
use twh_domain::timestamp::Timestamp;
use twh_schemas::records::{DomainEvent, StockChange};
use twh_sinks::postgres::supply::Batch;
use uuid::Uuid;

pub(super) const TENANT: TenantId = TenantId(Uuid::from_u128(1));
pub(super) const ITEM: ItemId = ItemId(Uuid::from_u128(2));
pub(super) const NORTH: LocationId = LocationId(Uuid::from_u128(3));
pub(super) const SOUTH: LocationId = LocationId(Uuid::from_u128(4));
const HOUR: i64 = 3_600_000_000;

fn quantity(text: &str) -> Quantity {
    text.parse().unwrap()
}

fn event(sequence: i64, event_type: &str, subject: (&str, Uuid), data: &Value, stock: Vec<StockChange>) -> DomainEvent {
    DomainEvent {
        event_id: EventId(Uuid::from_u128(u128::try_from(sequence).unwrap())),
        tenant_id: TENANT,
        sequence,
        event_type: event_type.to_owned(),
        subject_type: subject.0.to_owned(),
        subject_id: subject.1,
        occurred_at: sequence * HOUR,
        recorded_at: sequence * HOUR,
        command_id: CommandId(Uuid::from_u128(9)),
        partition: 0,
        offset: sequence,
        data: data.to_string().into(),
        stock,
    }
}

pub(super) fn item(sequence: i64, reorder_point: Option<&str>) -> DomainEvent {
    let time = "2026-01-01T00:00:00Z";
    let data = json!({ "id": ITEM, "sku": "CUP", "name": null, "description": null, "type": "stock", "unit": "each", "barcodes": [],
        "cost_price": null, "sale_price": null, "reorder_point": reorder_point, "metadata": {}, "version": 1, "created_at": time,
        "updated_at": time });
    event(sequence, "item.updated", ("item", ITEM.0), &data, Vec::new())
}

/// On hand and reserved after it.
fn moved(sequence: i64, levels: &[(LocationId, &str, &str)]) -> DomainEvent {
    let change = |(location, on_hand, reserved): &(LocationId, &str, &str)| StockChange {
        item_id: ITEM,
        location_id: *location,
        version_before: sequence,
        version: sequence + 1,
        qty_on_hand_before: Quantity::ZERO,
        qty_reserved_before: Quantity::ZERO,
        qty_on_hand: quantity(on_hand),
        qty_reserved: quantity(reserved),
    };
    let stock = levels.iter().map(change).collect();
    event(sequence, "stock.adjusted", ("adjustment", Uuid::from_u128(8)), &json!({}), stock)
}

/// The same, on a day.
pub(super) fn moved_at(sequence: i64, day: i32, levels: &[(LocationId, &str, &str)]) -> DomainEvent {
    DomainEvent { occurred_at: i64::from(day) * 24 * HOUR, ..moved(sequence, levels) }
}

/// Events in their order, each with what was there before it.
pub(super) fn history<E: AsMut<[DomainEvent]>>(mut events: E) -> E {
    let mut levels = HashMap::new();
    for change in events.as_mut().iter_mut().flat_map(|event| &mut event.stock) {
        let after = (change.qty_on_hand, change.qty_reserved);
        let before = levels.insert(change.location_id, after).unwrap_or_default();
        (change.qty_on_hand_before, change.qty_reserved_before) = before;
    }
    events
}

fn folded(events: &[DomainEvent]) -> (Batch, Vec<(i64, String)>) {
    let mut fold = Fold::new(HashMap::new(), HashMap::new(), Timestamp::default());
    events.iter().for_each(|event| fold.add(event));
    let batch = fold.finish();
    let crossings = batch.crossings.iter().map(|it| (it.sequence, it.available.to_string())).collect();
    (batch, crossings)
}

#[test]
fn an_item_comes_down_once_however_much_goes_after() {
    let events = history([
        item(1, Some("5")),
        moved(2, &[(NORTH, "8", "0")]),
        moved(3, &[(NORTH, "8", "2")]),
        moved(4, &[(NORTH, "8", "3")]),
        moved(5, &[(NORTH, "4", "0")]),
        moved(6, &[(NORTH, "4", "0"), (SOUTH, "6", "0")]),
        moved(7, &[(NORTH, "0", "0"), (SOUTH, "5", "0")]),
    ]);
    let (batch, crossings) = folded(&events);
    // At 4 it is 5: the point itself is low. At 5 it is lower still, at 6 it is 10 again.
    assert_eq!(crossings, [(4, "5".to_owned()), (7, "5".to_owned())]);
    assert_eq!(batch.items[0].low_since.unwrap().micros(), 7 * HOUR);
    assert_eq!(batch.items[0].available().to_string(), "5");
}

#[test]
fn an_event_that_comes_again_adds_nothing() {
    let events = history([item(1, Some("5")), moved(2, &[(NORTH, "8", "0")]), moved(3, &[(NORTH, "5", "0")])]);
    let (once, crossings) = folded(&events);
    let again: Vec<_> = events.iter().chain(&events[1..]).chain(&events).cloned().collect();
    let (twice, crossings_again) = folded(&again);
    assert_eq!((&once.items, &once.days, crossings), (&twice.items, &twice.days, crossings_again));
    let change = once.days.values().next().unwrap();
    assert_eq!((change.came.to_string(), change.went.to_string()), ("8".to_owned(), "3".to_owned()));
}

#[test]
fn a_point_that_is_raised_above_what_there_is_is_a_crossing_and_a_new_item_is_none() {
    let raised =
        [item(1, None), moved(2, &[(NORTH, "8", "0")]), item(3, Some("9")), item(4, Some("20")), item(5, None)];
    let (batch, crossings) = folded(&raised);
    assert_eq!(crossings, [(3, "8".to_owned())]);
    assert_eq!(batch.items[0].low_since, None, "without a point nothing is low");
    let (batch, crossings) = folded(&[item(1, Some("9"))]);
    assert!(crossings.is_empty() && batch.items[0].low_since.is_some());
}

#[test]
fn days_are_those_on_which_it_happened() {
    let events =
        history([item(1, None), moved(2, &[(NORTH, "8", "0")]), moved(25, &[(NORTH, "1", "0"), (SOUTH, "2", "1")])]);
    let (batch, _) = folded(&events);
    let days: Vec<_> =
        batch.days.iter().map(|(at, it)| (at.location, at.day, it.came.micros(), it.went.micros())).collect();
    assert_eq!(days, [(NORTH, 0, 8_000_000, 0), (NORTH, 1, 0, 7_000_000), (SOUTH, 1, 2_000_000, 0)]);
}
