//! An event of the topic as subscribers get it, and what it is about.

use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_schemas::records::{DomainEvent, StockChange};
use twh_sinks::postgres::webhooks::events::Event;
use twh_sinks::webhook::body::{Body, Stock, Subject, ordering_key};
use uuid::Uuid;

fn stock(change: &StockChange) -> Stock {
    Stock {
        item_id: change.item_id,
        location_id: change.location_id,
        version_before: change.version_before,
        version: change.version,
        qty_on_hand: change.qty_on_hand,
        qty_reserved: change.qty_reserved,
        available: change.qty_on_hand.checked_sub(change.qty_reserved).unwrap_or_default(),
    }
}

/// Every item and location that a document names.
fn names(value: &Value, items: &mut BTreeSet<Uuid>, locations: &mut BTreeSet<Uuid>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| names(value, items, locations)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let id = value.as_str().and_then(|text| Uuid::parse_str(text).ok());
                match (name.as_str(), id) {
                    ("item_id", Some(id)) => drop(items.insert(id)),
                    ("location_id" | "from_location_id" | "to_location_id", Some(id)) => drop(locations.insert(id)),
                    _ => names(value, items, locations),
                }
            }
        }
        _ => {}
    }
}

/// An event of the topic, ready to be kept and sent. The error is a document that is no JSON.
pub(super) fn event(record: &DomainEvent) -> Result<Event, serde_json::Error> {
    let data: &RawValue = serde_json::from_str(&record.data)?;
    let (mut items, mut locations) = (BTreeSet::new(), BTreeSet::new());
    names(&serde_json::from_str(&record.data)?, &mut items, &mut locations);
    match record.subject_type.as_str() {
        "item" => drop(items.insert(record.subject_id)),
        "location" => drop(locations.insert(record.subject_id)),
        _ => {}
    }
    let mut ordering_keys = vec![ordering_key(&[record.subject_id.as_bytes()])];
    for change in &record.stock {
        items.insert(change.item_id.0);
        locations.insert(change.location_id.0);
        ordering_keys.push(ordering_key(&[change.item_id.0.as_bytes(), change.location_id.0.as_bytes()]));
    }
    let position = Position { partition: record.partition, offset: record.offset };
    let recorded_at = Timestamp::from_micros(record.recorded_at);
    let body = Body {
        id: record.event_id.0,
        r#type: &record.event_type,
        timestamp: Timestamp::from_micros(record.occurred_at),
        recorded_at,
        tenant_id: record.tenant_id,
        sequence: Some(record.sequence),
        position: Some(position.to_string()),
        subject: Subject { r#type: &record.subject_type, id: record.subject_id },
        stock: record.stock.iter().map(stock).collect(),
        data,
    };
    Ok(Event {
        tenant: record.tenant_id,
        id: record.event_id.0,
        sequence: Some(record.sequence),
        event_type: record.event_type.clone(),
        position: Some(position),
        items: items.into_iter().collect(),
        locations: locations.into_iter().collect(),
        ordering_keys,
        recorded_at,
        body: serde_json::to_string(&body)?.into(),
    })
}
