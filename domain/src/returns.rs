//! Returns: goods that come back, of a shipment (at most what it shipped) or blind, restocked or scrapped.

use crate::command::{CreateReturn, NamesItem, NamesLocation, ReturnLine as Asked};
use crate::decimal::Quantity;
use crate::draft::{Draft, LineItem, Posting, Stop};
use crate::entity::{Entity, EntityKind, number_from_id};
use crate::id::{ItemId, LocationId, SalesOrderId};
use crate::lines;
use crate::movement::MovementKind;
use crate::rejection::Rejection;
use crate::sales_order::SalesOrder;
use crate::status::status;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Return;

status! {
    /// What becomes of returned goods.
    Disposition {
        /// Back on the shelf.
        Restock = "restock",
        /// Thrown away: they come in and are written off at once.
        Scrap = "scrap",
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReturnDocumentLine {
    /// From 1.
    pub line: i32,
    /// The line of the sales order that shipped it.
    pub order_line: Option<i32>,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many.
    pub quantity: Quantity,
    /// What became of them.
    pub disposition: Disposition,
}

/// A return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Return {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// The order that shipped the goods; absent for a blind return.
    pub sales_order_id: Option<SalesOrderId>,
    /// Where they arrived.
    pub location_id: LocationId,
    /// What came back.
    pub lines: Vec<ReturnDocumentLine>,
    /// Why.
    pub reason: Option<String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateReturn) -> Result<(), Stop> {
    let id = draft.subject_id();
    let number = body.number.clone().unwrap_or_else(|| number_from_id("RET", id));
    draft.claim_code(KIND, "number", &number)?;
    let location_id = draft.location(body.location_ref(), "")?;
    let mut order = match body.sales_order_id {
        Some(id) => Some(shipped_order(draft, id)?),
        None => None,
    };
    let mut document_lines = Vec::with_capacity(body.lines.len());
    for (index, line) in body.lines.iter().enumerate() {
        let number = lines::number(index);
        let item = match &mut order {
            Some(order) => take_back(order, line)?,
            None => draft.item(line.item_ref(), &format!("lines[{index}]."))?,
        };
        if item.stocked {
            post(draft, &item, location_id, line, number, body.reason.as_deref())?;
        }
        document_lines.push(ReturnDocumentLine {
            line: number,
            order_line: line.order_line,
            item_id: item.id,
            sku: item.sku,
            quantity: line.quantity,
            disposition: line.disposition,
        });
    }
    let document = Return {
        id,
        number,
        sales_order_id: body.sales_order_id,
        location_id,
        lines: document_lines,
        reason: body.reason.clone(),
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(document, "return.received")?;
    match order {
        Some(order) => draft.save_along(order, "order.returned"),
        None => Ok(()),
    }
}

fn shipped_order(draft: &Draft<'_>, id: SalesOrderId) -> Result<SalesOrder, Stop> {
    match draft.entity(EntityKind::SalesOrder, id.0)?.map(AsRef::as_ref) {
        Some(Entity::SalesOrder(order)) => Ok(order.clone()),
        _ => {
            Err(Rejection::UnknownReference { field: "sales_order_id".to_owned(), kind: EntityKind::SalesOrder }.into())
        }
    }
}

/// Counts a line as returned on its order: never more than was shipped.
fn take_back(order: &mut SalesOrder, asked: &Asked) -> Result<LineItem, Stop> {
    let number = asked.order_line.unwrap_or_default();
    let index = lines::index(number, order.lines.len())?;
    let line = order.lines.get_mut(index).ok_or(Rejection::UnknownLine { line: number })?;
    let left = line.quantity_shipped.checked_sub(line.quantity_returned).ok_or(Rejection::OutOfRange)?;
    lines::within(number, asked.quantity, left)?;
    line.quantity_returned = line.quantity_returned.checked_add(asked.quantity).ok_or(Rejection::OutOfRange)?;
    Ok(LineItem { id: line.item_id, sku: line.sku.clone(), stocked: line.stocked })
}

fn post(
    draft: &mut Draft<'_>,
    item: &LineItem,
    location: LocationId,
    asked: &Asked,
    line: i32,
    reason: Option<&str>,
) -> Result<(), Stop> {
    let mut posting = Posting {
        kind: MovementKind::Return,
        item: item.id,
        sku: &item.sku,
        location,
        on_hand: asked.quantity,
        reserved: Quantity::ZERO,
        line,
        reason,
    };
    draft.post(KIND, &posting)?;
    if asked.disposition == Disposition::Scrap {
        posting.kind = MovementKind::Adjust;
        posting.on_hand = -asked.quantity;
        posting.reason = Some("scrapped on return");
        draft.post(KIND, &posting)?;
    }
    Ok(())
}
