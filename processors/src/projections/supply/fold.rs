//! Adds events up.

use crate::projections::{is_document_of, touched};
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use twh_domain::decimal::Quantity;
use twh_domain::documents::item::{Item, ItemType};
use twh_domain::documents::purchase_order::{PurchaseOrder, PurchaseOrderStatus};
use twh_domain::documents::sales_order::{SalesOrder, SalesOrderStatus};
use twh_domain::documents::transfer::{Transfer, TransferStatus};
use twh_domain::entity::EntityKind;
use twh_domain::event::EventType;
use twh_domain::id::{ItemId, TenantId};
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use twh_schemas::records::{DomainEvent, StockChange};
use twh_sinks::postgres::supply::{self, Batch, Crossing, Day, Line, LineKey, Receipt};

const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// The items that are held, and what events make of them.
pub(super) struct Fold {
    items: HashMap<ItemId, supply::Item>,
    /// The last event of each tenant that is added.
    reflected: HashMap<TenantId, i64>,
    changed_items: HashSet<ItemId>,
    batch: Batch,
    /// What came down to its reorder point before this is not told of.
    told_since: Timestamp,
}

fn less(from: Quantity, take: Quantity) -> Quantity {
    from.checked_sub(take).unwrap_or_default().max(Quantity::ZERO)
}

fn day(at: Timestamp) -> i32 {
    i32::try_from(at.micros().div_euclid(DAY_MICROS)).unwrap_or_default()
}

impl Fold {
    pub(super) fn new(
        items: HashMap<ItemId, supply::Item>,
        reflected: HashMap<TenantId, i64>,
        told_since: Timestamp,
    ) -> Self {
        Self { items, reflected, changed_items: HashSet::new(), batch: Batch::default(), told_since }
    }

    /// Adds an event, unless it is added already.
    pub(super) fn add(&mut self, event: &DomainEvent) {
        let last = self.reflected.entry(event.tenant_id).or_default();
        if event.sequence <= *last {
            return;
        }
        *last = event.sequence;
        let touched = touched(event);
        // An item that is low from its beginning has not come down.
        let was_more: Vec<_> =
            touched.iter().map(|id| self.items.get(id).is_some_and(|it| it.low_since.is_none())).collect();
        if is_document_of(event, EntityKind::Item) {
            self.describe(event);
        }
        for change in &event.stock {
            self.stock(event, change);
        }
        for (id, was_more) in touched.into_iter().zip(was_more) {
            self.judge(event, id, was_more);
        }
        for (line, open) in self.lines(event).unwrap_or_default() {
            self.open(LineKey { tenant: event.tenant_id, document: event.subject_id, line }, open);
        }
    }

    /// What changed, and what came down to its reorder point on the way.
    pub(super) fn finish(mut self) -> Batch {
        self.batch.items = self.changed_items.iter().filter_map(|id| self.items.remove(id)).collect();
        self.batch
    }

    fn describe(&mut self, event: &DomainEvent) {
        let Some(document) = read::<Item>(event) else { return };
        if document.item_type != ItemType::Stock {
            return;
        }
        let known = self.items.remove(&document.id);
        let item = supply::Item {
            tenant: event.tenant_id,
            item: document.id,
            sku: document.sku,
            name: document.name,
            reorder_point: document.reorder_point,
            on_hand: known.as_ref().map_or(Total::ZERO, |known| known.on_hand),
            reserved: known.as_ref().map_or(Total::ZERO, |known| known.reserved),
            low_since: known.and_then(|known| known.low_since),
        };
        self.changed_items.insert(item.item);
        self.items.insert(item.item, item);
    }

    fn stock(&mut self, event: &DomainEvent, change: &StockChange) {
        let moved = Total::from(change.qty_on_hand) - change.qty_on_hand_before.into();
        let promised = Total::from(change.qty_reserved) - change.qty_reserved_before.into();
        if let Some(item) = self.items.get_mut(&change.item_id) {
            item.on_hand += moved;
            item.reserved += promised;
            self.changed_items.insert(change.item_id);
        }
        if moved != Total::ZERO {
            let (tenant, item, location) = (event.tenant_id, change.item_id, change.location_id);
            let at = Day { tenant, item, location, day: day(Timestamp::from_micros(event.occurred_at)) };
            let sum = self.batch.days.entry(at).or_default();
            sum.came += moved.max(Total::ZERO);
            sum.went += (Total::ZERO - moved).max(Total::ZERO);
        }
    }

    /// Says whether an item is low after an event, and since when.
    fn judge(&mut self, event: &DomainEvent, id: ItemId, was_more: bool) {
        let Some(item) = self.items.get_mut(&id) else { return };
        let recorded_at = Timestamp::from_micros(event.recorded_at);
        let point = item.reorder_point.filter(|point| item.available() <= Total::from(*point));
        item.low_since = point.map(|_| item.low_since.unwrap_or(recorded_at));
        if let (true, Some(reorder_point)) = (was_more && recorded_at >= self.told_since, point) {
            self.batch.crossings.push(Crossing {
                tenant: event.tenant_id,
                item: id,
                sequence: event.sequence,
                // A command has room for a quantity.
                available: item.available().nearest_quantity(),
                reorder_point,
            });
        }
    }

    /// Notes what is outstanding of a line; since when, it keeps.
    fn open(&mut self, key: LineKey, mut line: Option<Line>) {
        if let (Some(line), Some(Some(before))) = (&mut line, self.batch.lines.get(&key)) {
            line.since = before.since;
        }
        self.batch.lines.insert(key, line);
    }

    /// The lines of the document that an event is about, with what is outstanding of each; `None` where it has none to wait for.
    fn lines(&mut self, event: &DomainEvent) -> Option<Vec<(i32, Option<Line>)>> {
        if is_document_of(event, EntityKind::PurchaseOrder) {
            let order = read::<PurchaseOrder>(event)?;
            self.receive(event, &order);
            return Some(incoming(event, &order));
        }
        if is_document_of(event, EntityKind::SalesOrder) {
            return read(event).map(|order| outgoing(&order));
        }
        if is_document_of(event, EntityKind::Transfer) {
            return read(event).map(|transfer| in_transit(event, &transfer));
        }
        None
    }

    /// Notes when lines of a purchase order were sent and received, and when no more of them is awaited.
    fn receive(&mut self, event: &DomainEvent, order: &PurchaseOrder) {
        let Some(supplier) = order.supplier_id else { return };
        let (received, closed) = match EventType::from_name(&event.event_type) {
            Some(EventType::PurchaseOrderOrdered) => (false, false),
            Some(EventType::PurchaseOrderReceived) => (true, false),
            Some(EventType::PurchaseOrderClosed | EventType::PurchaseOrderCancelled) => (false, true),
            _ => return,
        };
        let at = Timestamp::from_micros(event.occurred_at);
        for line in &order.lines {
            let came = received && line.quantity_received.is_positive();
            if received && !came {
                continue;
            }
            let whole = came && line.quantity_received >= line.quantity_ordered;
            let key = LineKey { tenant: event.tenant_id, document: order.id, line: line.line };
            let receipt = self.batch.receipts.entry(key).or_insert(Receipt {
                supplier: supplier.0,
                item: line.item_id,
                ordered_at: at,
                first_received_at: None,
                received_at: None,
                closed_at: None,
            });
            receipt.first_received_at = receipt.first_received_at.or(came.then_some(at));
            receipt.received_at = receipt.received_at.or(whole.then_some(at));
            receipt.closed_at = receipt.closed_at.or(closed.then_some(at));
        }
    }
}

fn read<T: DeserializeOwned>(event: &DomainEvent) -> Option<T> {
    let read = serde_json::from_str(&event.data);
    if let Err(error) = &read {
        tracing::error!(%error, event_id = %event.event_id, "supply: a document is not understood; what was known of it stays");
    }
    read.ok()
}

fn line(number: i32, outstanding: Quantity, line: impl FnOnce() -> Line) -> (i32, Option<Line>) {
    (number, outstanding.is_positive().then(line))
}

fn incoming(event: &DomainEvent, order: &PurchaseOrder) -> Vec<(i32, Option<Line>)> {
    let awaited = matches!(order.status, PurchaseOrderStatus::Ordered | PurchaseOrderStatus::PartiallyReceived);
    let of = |it: &twh_domain::documents::purchase_order::PurchaseOrderLine| {
        let quantity =
            if awaited && it.stocked { less(it.quantity_ordered, it.quantity_received) } else { Quantity::ZERO };
        line(it.line, quantity, || Line {
            kind: EntityKind::PurchaseOrder,
            number: order.number.clone(),
            item: it.item_id,
            sku: it.sku.clone(),
            location: order.location_id,
            quantity,
            backordered: Quantity::ZERO,
            since: Timestamp::from_micros(event.occurred_at),
        })
    };
    order.lines.iter().map(of).collect()
}

fn outgoing(order: &SalesOrder) -> Vec<(i32, Option<Line>)> {
    let ended =
        matches!(order.status, SalesOrderStatus::Shipped | SalesOrderStatus::Closed | SalesOrderStatus::Cancelled);
    let of = |it: &twh_domain::documents::sales_order::SalesOrderLine| {
        let quantity =
            if ended || !it.stocked { Quantity::ZERO } else { less(it.quantity_ordered, it.quantity_shipped) };
        line(it.line, quantity, || Line {
            kind: EntityKind::SalesOrder,
            number: order.number.clone(),
            item: it.item_id,
            sku: it.sku.clone(),
            location: it.location_id,
            quantity,
            backordered: less(quantity, it.quantity_allocated),
            since: order.ordered_at,
        })
    };
    order.lines.iter().map(of).collect()
}

fn in_transit(event: &DomainEvent, transfer: &Transfer) -> Vec<(i32, Option<Line>)> {
    let moving = matches!(transfer.status, TransferStatus::InTransit | TransferStatus::PartiallyReceived);
    let of = |it: &twh_domain::documents::transfer::TransferDocumentLine| {
        let quantity = if moving { it.quantity_in_transit } else { Quantity::ZERO };
        line(it.line, quantity, || Line {
            kind: EntityKind::Transfer,
            number: transfer.number.clone(),
            item: it.item_id,
            sku: it.sku.clone(),
            location: transfer.to_location_id,
            quantity,
            backordered: Quantity::ZERO,
            since: Timestamp::from_micros(event.occurred_at),
        })
    };
    transfer.lines.iter().map(of).collect()
}
