//! Sales orders: draft → allocated → partially shipped → shipped → closed; or cancelled until something ships.
//!
//! Allocation reserves, shipping consumes the reservation, cancelling (and closing short) releases it.

use crate::commands::body::{Body, Size, bodies};
use crate::commands::lines;
use crate::commands::lines::{LineQuantity, check_line_quantities};
use crate::decimal::Quantity;
use crate::documents::sales_order::{SalesOrder, SalesOrderLine, SalesOrderStatus};
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind};
use crate::event::EventType;
use crate::id::{ItemId, LocationId, SalesOrderId};
use crate::money::Money;
use crate::movement::MovementKind;
use crate::reads::Reads;
use crate::references::{LocationRef, NamesItem, NamesLocation, names_item, names_location};
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, LINES_MAX, METADATA_ENTRIES_MAX, NAME_LENGTH_MAX, Problems};
use std::collections::BTreeMap;
use uuid::Uuid;

const KIND: EntityKind = EntityKind::SalesOrder;

bodies! {
    /// What to sell, one line an item (the same item may stand on several).
    SalesLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
        /// Agreed price of one unit.
        unit_price: Option<Money>,
        /// Where this line ships from, where not from the order's location: by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
    }

    /// Drafts a sales order.
    CreateSalesOrder {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// The client's name for the buyer.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        customer_reference: Option<String>,
        /// Where the goods ship from, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<SalesLine>,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Reserves stock for every line of a sales order, all or nothing.
    AllocateSalesOrder {
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Ships allocated goods of a sales order; without lines, all that is allocated.
    ShipSalesOrder {
        /// Which lines, how much.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Option<Vec<LineQuantity>>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Ends a shipped sales order.
    CloseSalesOrder {}

    /// Drops a sales order and releases what it holds.
    CancelSalesOrder {}
}

names_item! { SalesLine }
names_location! { CreateSalesOrder }

impl SalesLine {
    /// Where this line ships from, where it says so itself.
    #[must_use]
    pub fn own_location(&self) -> Option<LocationRef<'_>> {
        self.location_id.map(LocationRef::Id).or_else(|| self.location_code.as_deref().map(LocationRef::Code))
    }
}

impl Body for CreateSalesOrder {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.optional_text("customer_reference", self.customer_reference.as_deref(), NAME_LENGTH_MAX);
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
            problems.price(format!("lines[{index}].unit_price.amount"), line.unit_price);
            if line.location_id.is_some() && line.location_code.is_some() {
                problems.add(
                    format!("lines[{index}].location_id"),
                    "is ambiguous: give only one of location_id and location_code",
                );
            }
        }
        problems.metadata(&self.metadata);
    }

    fn occurred_at(&self) -> Option<Timestamp> {
        self.occurred_at
    }

    fn size(&self) -> Size {
        Size::of(self.lines.len(), Some(&self.metadata))
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, self.number.as_deref());
        let location = reads.location(self.location_ref());
        for line in &self.lines {
            let item = reads.item(line.item_ref());
            let own = reads.location(line.own_location());
            reads.level(item, own.or(location));
        }
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let id = draft.subject_id();
        let number = draft.claim_number(KIND, self.number.as_deref())?;
        let location_id = draft.location(self.location_ref(), "")?;
        let mut order_lines = Vec::with_capacity(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
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
            customer_reference: self.customer_reference.clone(),
            location_id,
            status: SalesOrderStatus::Draft,
            lines: order_lines,
            metadata: self.metadata.clone(),
            ordered_at: draft.occurred_at(),
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(order, EventType::SalesOrderCreated)
    }
}

impl Body for AllocateSalesOrder {
    fn occurred_at(&self) -> Option<Timestamp> {
        self.occurred_at
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let mut order = in_status(draft, &[SalesOrderStatus::Draft], "allocated")?;
        for line in &mut order.lines {
            line.quantity_allocated = line.quantity_ordered;
            post(draft, line, MovementKind::Reserve, Quantity::ZERO, line.quantity_ordered)?;
        }
        order.status = SalesOrderStatus::Allocated;
        draft.save(order, EventType::SalesOrderAllocated)
    }
}

impl Body for ShipSalesOrder {
    fn check(&self, problems: &mut Problems) {
        check_line_quantities(problems, self.lines.as_deref());
    }

    fn occurred_at(&self) -> Option<Timestamp> {
        self.occurred_at
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        use SalesOrderStatus::{Allocated, PartiallyShipped, Shipped};
        let mut order = in_status(draft, &[Allocated, PartiallyShipped], "shipped")?;
        let allocated: Vec<_> = order.lines.iter().map(|line| line.quantity_allocated).collect();
        for (index, quantity) in lines::taken(self.lines.as_deref(), &allocated)? {
            let Some(line) = order.lines.get_mut(index) else { continue };
            lines::within(line.line, quantity, line.quantity_allocated)?;
            line.quantity_allocated = line.quantity_allocated.checked_sub(quantity).ok_or(Rejection::OutOfRange)?;
            line.quantity_shipped = line.quantity_shipped.checked_add(quantity).ok_or(Rejection::OutOfRange)?;
            post(draft, line, MovementKind::Sale, -quantity, -quantity)?;
        }
        let complete = order.lines.iter().all(|line| line.quantity_shipped >= line.quantity_ordered);
        order.status = if complete { Shipped } else { PartiallyShipped };
        draft.save(order, EventType::SalesOrderShipped)
    }
}

impl Body for CloseSalesOrder {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        use SalesOrderStatus::{Closed, PartiallyShipped, Shipped};
        let mut order = in_status(draft, &[PartiallyShipped, Shipped], "closed")?;
        release(draft, &mut order)?;
        order.status = Closed;
        draft.save(order, EventType::SalesOrderClosed)
    }
}

impl Body for CancelSalesOrder {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        use SalesOrderStatus::{Allocated, Cancelled, Draft as Drafted};
        let mut order = in_status(draft, &[Drafted, Allocated], "cancelled")?;
        release(draft, &mut order)?;
        order.status = Cancelled;
        draft.save(order, EventType::SalesOrderCancelled)
    }
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

/// Lets go of all that is reserved and has not gone.
fn release(draft: &mut Draft<'_>, order: &mut SalesOrder) -> Result<(), Stop> {
    for line in order.lines.iter_mut().filter(|line| line.quantity_allocated.is_positive()) {
        post(draft, line, MovementKind::Release, Quantity::ZERO, -line.quantity_allocated)?;
        line.quantity_allocated = Quantity::ZERO;
    }
    Ok(())
}
