//! Returns: goods that come back, of a shipment (at most what it shipped) or blind, restocked or scrapped.

use crate::commands::body::{Body, Size, bodies};
use crate::commands::lines;
use crate::decimal::Quantity;
use crate::documents::returns::{Disposition, Return, ReturnDocumentLine};
use crate::documents::sales_order::SalesOrder;
use crate::draft::{Draft, LineItem, Posting, Stop};
use crate::entity::{Entity, EntityKind};
use crate::event::EventType;
use crate::id::{ItemId, LocationId, SalesOrderId};
use crate::movement::MovementKind;
use crate::reads::Reads;
use crate::references::{NamesItem, NamesLocation, names_item, names_location};
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, LINES_MAX, NAME_LENGTH_MAX, Problems};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Return;

bodies! {
    /// What came back.
    ReturnLine {
        /// The line of the sales order that shipped it; required exactly when the return names an order.
        #[schemars(range(min = 1))]
        order_line: Option<i32>,
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU; neither where the order's line tells.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
        /// Back on the shelf, or thrown away.
        disposition: Disposition,
    }

    /// Takes returned goods in: of a shipment, or (a blind return) without one.
    CreateReturn {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// The order that shipped the goods.
        sales_order_id: Option<SalesOrderId>,
        /// Where the goods arrive, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<ReturnLine>,
        /// Why.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        reason: Option<String>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }
}

names_item! { ReturnLine }
names_location! { CreateReturn }

impl Body for CreateReturn {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.optional_text("reason", self.reason.as_deref(), NAME_LENGTH_MAX);
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
            match (self.sales_order_id, line.order_line) {
                (Some(_), None) => problems
                    .add(format!("lines[{index}].order_line"), "is required when the return names a sales_order_id"),
                (None, Some(_)) => {
                    problems.add(format!("lines[{index}].order_line"), "needs the return to name its sales_order_id")
                }
                (Some(_), Some(_)) if line.item_id.is_some() || line.sku.is_some() => {
                    problems
                        .add(format!("lines[{index}].item_id"), "must be left out: the order's line tells the item");
                }
                (Some(_), Some(_)) => {}
                (None, None) => line.check_item(&format!("lines[{index}]."), problems),
            }
        }
    }

    fn occurred_at(&self) -> Option<Timestamp> {
        self.occurred_at
    }

    fn size(&self) -> Size {
        Size::of(self.lines.len(), None)
    }

    fn also_writes(&self) -> Option<(EntityKind, Uuid)> {
        self.sales_order_id.map(|order| (EntityKind::SalesOrder, order.0))
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, self.number.as_deref());
        let location = reads.location(self.location_ref());
        reads.lines(&self.lines, location);
        if let Some(order) = self.sales_order_id
            && let Some(Entity::SalesOrder(order)) = reads.entity(EntityKind::SalesOrder, order.0)
        {
            for line in &order.lines {
                reads.level(Some(line.item_id), location);
            }
        }
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let id = draft.subject_id();
        let number = draft.claim_number(KIND, self.number.as_deref())?;
        let location_id = draft.location(self.location_ref(), "")?;
        let mut order = match self.sales_order_id {
            Some(id) => Some(shipped_order(draft, id)?),
            None => None,
        };
        let mut document_lines = Vec::with_capacity(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            let number = lines::number(index);
            let item = match &mut order {
                Some(order) => take_back(order, line)?,
                None => draft.item(line.item_ref(), &format!("lines[{index}]."))?,
            };
            if item.stocked {
                post(draft, &item, location_id, line, number, self.reason.as_deref())?;
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
            sales_order_id: self.sales_order_id,
            location_id,
            lines: document_lines,
            reason: self.reason.clone(),
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(document, EventType::ReturnReceived)?;
        match order {
            Some(order) => draft.save_along(order, EventType::SalesOrderReturned),
            None => Ok(()),
        }
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
fn take_back(order: &mut SalesOrder, asked: &ReturnLine) -> Result<LineItem, Stop> {
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
    asked: &ReturnLine,
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
