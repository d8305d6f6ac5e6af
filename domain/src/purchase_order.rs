//! Purchase orders: draft → ordered → partially received → received → closed; or cancelled while nothing has come.

use crate::command::{CreatePurchaseOrder, NamesItem, NamesLocation, ReceivePurchaseOrder};
use crate::decimal::Quantity;
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind, number_from_id};
use crate::id::{ItemId, LocationId, SupplierId};
use crate::lines;
use crate::money::Money;
use crate::movement::MovementKind;
use crate::rejection::Rejection;
use crate::status::status;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

const KIND: EntityKind = EntityKind::PurchaseOrder;

status! {
    /// Where a purchase order stands.
    PurchaseOrderStatus {
        /// Being written.
        Draft = "draft",
        /// With the supplier.
        Ordered = "ordered",
        /// Some of it has come.
        PartiallyReceived = "partially_received",
        /// All of it has come.
        Received = "received",
        /// Ended.
        Closed = "closed",
        /// Dropped.
        Cancelled = "cancelled",
    }
}

/// What is bought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurchaseOrderLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// False for a service: it is received without a movement.
    pub stocked: bool,
    /// How many.
    pub quantity_ordered: Quantity,
    /// How many have come.
    pub quantity_received: Quantity,
    /// Agreed cost of one unit.
    pub unit_cost: Option<Money>,
}

impl PurchaseOrderLine {
    fn outstanding(&self) -> Quantity {
        self.quantity_ordered.checked_sub(self.quantity_received).unwrap_or_default().max(Quantity::ZERO)
    }

    /// The most that may come of this line, by the order's policy.
    fn limit(&self, over_receipt_percent: i32) -> Quantity {
        let ordered = i128::from(self.quantity_ordered.micros());
        let limit = ordered + ordered * i128::from(over_receipt_percent) / 100;
        i64::try_from(limit).ok().and_then(Quantity::from_micros).unwrap_or(self.quantity_ordered)
    }
}

/// A purchase order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurchaseOrder {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Whom from.
    pub supplier_id: Option<SupplierId>,
    /// Where the goods arrive.
    pub location_id: LocationId,
    /// Where it stands.
    pub status: PurchaseOrderStatus,
    /// What is bought.
    pub lines: Vec<PurchaseOrderLine>,
    /// How much more than ordered a line may receive, in percent.
    pub over_receipt_percent: i32,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreatePurchaseOrder) -> Result<(), Stop> {
    let id = draft.subject_id();
    let number = body.number.clone().unwrap_or_else(|| number_from_id("PO", id));
    draft.claim_code(KIND, "number", &number)?;
    if let Some(supplier) = body.supplier_id
        && draft.entity(EntityKind::Supplier, supplier.0)?.is_none()
    {
        return Err(Rejection::UnknownReference { field: "supplier_id".to_owned(), kind: EntityKind::Supplier }.into());
    }
    let location_id = draft.location(body.location_ref(), "")?;
    let mut order_lines = Vec::with_capacity(body.lines.len());
    for (index, line) in body.lines.iter().enumerate() {
        let item = draft.item(line.item_ref(), &format!("lines[{index}]."))?;
        order_lines.push(PurchaseOrderLine {
            line: lines::number(index),
            item_id: item.id,
            sku: item.sku,
            stocked: item.stocked,
            quantity_ordered: line.quantity,
            quantity_received: Quantity::ZERO,
            unit_cost: line.unit_cost,
        });
    }
    let order = PurchaseOrder {
        id,
        number,
        supplier_id: body.supplier_id,
        location_id,
        status: PurchaseOrderStatus::Draft,
        lines: order_lines,
        over_receipt_percent: body.over_receipt_percent,
        metadata: body.metadata.clone(),
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(order, "po.created")
}

fn subject(draft: &Draft<'_>) -> Result<PurchaseOrder, Stop> {
    match draft.subject(KIND)?.as_ref() {
        Entity::PurchaseOrder(order) => Ok(order.clone()),
        _ => Err(Rejection::NotFound(KIND).into()),
    }
}

/// The order, if its status is one of those that the action starts from.
fn in_status(draft: &Draft<'_>, from: &[PurchaseOrderStatus], action: &'static str) -> Result<PurchaseOrder, Stop> {
    let order = subject(draft)?;
    if from.contains(&order.status) {
        Ok(order)
    } else {
        Err(Rejection::IllegalTransition { kind: KIND, status: order.status.name(), action }.into())
    }
}

pub(crate) fn place(draft: &mut Draft<'_>) -> Result<(), Stop> {
    let mut order = in_status(draft, &[PurchaseOrderStatus::Draft], "ordered")?;
    order.status = PurchaseOrderStatus::Ordered;
    draft.save(order, "po.ordered")
}

pub(crate) fn receive(draft: &mut Draft<'_>, body: &ReceivePurchaseOrder) -> Result<(), Stop> {
    use PurchaseOrderStatus::{Ordered, PartiallyReceived, Received};
    // A received order still takes what its over-receipt policy allows.
    let mut order = in_status(draft, &[Ordered, PartiallyReceived, Received], "received")?;
    let outstanding: Vec<_> = order.lines.iter().map(PurchaseOrderLine::outstanding).collect();
    let taken = lines::taken(body.lines.as_deref(), &outstanding)?;
    if taken.is_empty() {
        return Err(Rejection::IllegalTransition { kind: KIND, status: order.status.name(), action: "received" }.into());
    }
    for (index, quantity) in taken {
        let Some(line) = order.lines.get_mut(index) else { continue };
        let received = line.quantity_received.checked_add(quantity).ok_or(Rejection::OutOfRange)?;
        lines::within(line.line, received, line.limit(order.over_receipt_percent))?;
        line.quantity_received = received;
        if line.stocked {
            let posting = Posting {
                kind: MovementKind::Receive,
                item: line.item_id,
                sku: &line.sku,
                location: order.location_id,
                on_hand: quantity,
                reserved: Quantity::ZERO,
                line: line.line,
                reason: None,
            };
            draft.post(KIND, &posting)?;
        }
    }
    let complete = order.lines.iter().all(|line| line.outstanding().is_zero());
    order.status = if complete { Received } else { PartiallyReceived };
    draft.save(order, "po.received")
}

pub(crate) fn close(draft: &mut Draft<'_>) -> Result<(), Stop> {
    use PurchaseOrderStatus::{Closed, PartiallyReceived, Received};
    let mut order = in_status(draft, &[PartiallyReceived, Received], "closed")?;
    order.status = Closed;
    draft.save(order, "po.closed")
}

pub(crate) fn cancel(draft: &mut Draft<'_>) -> Result<(), Stop> {
    use PurchaseOrderStatus::{Cancelled, Draft as Drafted, Ordered};
    let mut order = in_status(draft, &[Drafted, Ordered], "cancelled")?;
    order.status = Cancelled;
    draft.save(order, "po.cancelled")
}
