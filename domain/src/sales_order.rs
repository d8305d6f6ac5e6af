//! Sales orders: draft → allocated → partially shipped → shipped → closed; or cancelled until something ships.
//!
//! Allocation reserves, shipping consumes the reservation, cancelling (and closing short) releases it.

use crate::command::{CreateSalesOrder, NamesItem, NamesLocation, ShipSalesOrder};
use crate::decimal::Quantity;
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind, number_from_id};
use crate::id::{ItemId, LocationId, SalesOrderId};
use crate::lines;
use crate::money::Money;
use crate::movement::MovementKind;
use crate::rejection::Rejection;
use crate::status::status;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const KIND: EntityKind = EntityKind::SalesOrder;

status! {
    /// Where a sales order stands.
    SalesOrderStatus {
        /// Being written.
        Draft = "draft",
        /// Its stock is reserved.
        Allocated = "allocated",
        /// Some of it has gone.
        PartiallyShipped = "partially_shipped",
        /// All of it has gone.
        Shipped = "shipped",
        /// Ended.
        Closed = "closed",
        /// Dropped.
        Cancelled = "cancelled",
    }
}

/// What is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SalesOrderLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// False for a service: it is shipped without a movement.
    pub stocked: bool,
    /// Where it ships from.
    pub location_id: LocationId,
    /// How many.
    pub quantity_ordered: Quantity,
    /// How many are reserved and have not gone yet.
    pub quantity_allocated: Quantity,
    /// How many have gone.
    pub quantity_shipped: Quantity,
    /// How many of those came back.
    pub quantity_returned: Quantity,
    /// Agreed price of one unit.
    pub unit_price: Option<Money>,
}

/// A sales order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SalesOrder {
    /// Its id.
    pub id: SalesOrderId,
    /// Its number.
    pub number: String,
    /// The client's name for the buyer.
    pub customer_reference: Option<String>,
    /// Where the goods ship from, unless a line says otherwise.
    pub location_id: LocationId,
    /// Where it stands.
    pub status: SalesOrderStatus,
    /// What is sold.
    pub lines: Vec<SalesOrderLine>,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// When it was placed, by the client's word.
    pub ordered_at: Timestamp,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateSalesOrder) -> Result<(), Stop> {
    let id = draft.subject_id();
    let number = body.number.clone().unwrap_or_else(|| number_from_id("SO", id));
    draft.claim_code(KIND, "number", &number)?;
    let location_id = draft.location(body.location_ref(), "")?;
    let mut order_lines = Vec::with_capacity(body.lines.len());
    for (index, line) in body.lines.iter().enumerate() {
        let prefix = format!("lines[{index}].");
        let item = draft.item(line.item_ref(), &prefix)?;
        let location_id = match line.own_location() {
            Some(own) => draft.location(Some(own), &prefix)?,
            None => location_id,
        };
        order_lines.push(SalesOrderLine {
            line: lines::number(index),
            item_id: item.id,
            sku: item.sku,
            stocked: item.stocked,
            location_id,
            quantity_ordered: line.quantity,
            quantity_allocated: Quantity::ZERO,
            quantity_shipped: Quantity::ZERO,
            quantity_returned: Quantity::ZERO,
            unit_price: line.unit_price,
        });
    }
    let order = SalesOrder {
        id: SalesOrderId(id),
        number,
        customer_reference: body.customer_reference.clone(),
        location_id,
        status: SalesOrderStatus::Draft,
        lines: order_lines,
        metadata: body.metadata.clone(),
        ordered_at: draft.occurred_at(),
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(order, "order.created")
}

fn in_status(draft: &Draft<'_>, from: &[SalesOrderStatus], action: &'static str) -> Result<SalesOrder, Stop> {
    let Entity::SalesOrder(order) = draft.subject(KIND)?.as_ref() else {
        return Err(Rejection::NotFound(KIND).into());
    };
    if from.contains(&order.status) {
        Ok(order.clone())
    } else {
        Err(Rejection::IllegalTransition { kind: KIND, status: order.status.name(), action }.into())
    }
}

/// Posts a movement of a line, where its item holds stock.
fn post(
    draft: &mut Draft<'_>,
    line: &SalesOrderLine,
    kind: MovementKind,
    on_hand: Quantity,
    reserved: Quantity,
) -> Result<(), Stop> {
    if !line.stocked {
        return Ok(());
    }
    let posting = Posting {
        kind,
        item: line.item_id,
        sku: &line.sku,
        location: line.location_id,
        on_hand,
        reserved,
        line: line.line,
        reason: None,
    };
    draft.post(KIND, &posting)
}

pub(crate) fn allocate(draft: &mut Draft<'_>) -> Result<(), Stop> {
    let mut order = in_status(draft, &[SalesOrderStatus::Draft], "allocated")?;
    for line in &mut order.lines {
        line.quantity_allocated = line.quantity_ordered;
        post(draft, line, MovementKind::Reserve, Quantity::ZERO, line.quantity_ordered)?;
    }
    order.status = SalesOrderStatus::Allocated;
    draft.save(order, "order.allocated")
}

pub(crate) fn ship(draft: &mut Draft<'_>, body: &ShipSalesOrder) -> Result<(), Stop> {
    use SalesOrderStatus::{Allocated, PartiallyShipped, Shipped};
    let mut order = in_status(draft, &[Allocated, PartiallyShipped], "shipped")?;
    let allocated: Vec<_> = order.lines.iter().map(|line| line.quantity_allocated).collect();
    for (index, quantity) in lines::taken(body.lines.as_deref(), &allocated)? {
        let Some(line) = order.lines.get_mut(index) else { continue };
        lines::within(line.line, quantity, line.quantity_allocated)?;
        line.quantity_allocated = line.quantity_allocated.checked_sub(quantity).ok_or(Rejection::OutOfRange)?;
        line.quantity_shipped = line.quantity_shipped.checked_add(quantity).ok_or(Rejection::OutOfRange)?;
        post(draft, line, MovementKind::Sale, -quantity, -quantity)?;
    }
    let complete = order.lines.iter().all(|line| line.quantity_shipped >= line.quantity_ordered);
    order.status = if complete { Shipped } else { PartiallyShipped };
    draft.save(order, "order.shipped")
}

/// Lets go of all that is reserved and has not gone.
fn release(draft: &mut Draft<'_>, order: &mut SalesOrder) -> Result<(), Stop> {
    for line in order.lines.iter_mut().filter(|line| line.quantity_allocated.is_positive()) {
        post(draft, line, MovementKind::Release, Quantity::ZERO, -line.quantity_allocated)?;
        line.quantity_allocated = Quantity::ZERO;
    }
    Ok(())
}

pub(crate) fn close(draft: &mut Draft<'_>) -> Result<(), Stop> {
    use SalesOrderStatus::{Closed, PartiallyShipped, Shipped};
    let mut order = in_status(draft, &[PartiallyShipped, Shipped], "closed")?;
    release(draft, &mut order)?;
    order.status = Closed;
    draft.save(order, "order.closed")
}

pub(crate) fn cancel(draft: &mut Draft<'_>) -> Result<(), Stop> {
    use SalesOrderStatus::{Allocated, Cancelled, Draft as Drafted};
    let mut order = in_status(draft, &[Drafted, Allocated], "cancelled")?;
    release(draft, &mut order)?;
    order.status = Cancelled;
    draft.save(order, "order.cancelled")
}
