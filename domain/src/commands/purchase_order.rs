//! Purchase orders: draft → ordered → partially received → received → closed; or cancelled while nothing has come.

use crate::commands::body::{Body, Size, bodies};
use crate::commands::lines;
use crate::commands::lines::{LineQuantity, check_line_quantities};
use crate::decimal::Quantity;
use crate::documents::purchase_order::{PurchaseOrder, PurchaseOrderLine, PurchaseOrderStatus};
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind};
use crate::event::EventType;
use crate::id::{ItemId, LocationId, SupplierId};
use crate::money::Money;
use crate::movement::MovementKind;
use crate::reads::Reads;
use crate::references::{NamesItem, NamesLocation, names_item, names_location};
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, LINES_MAX, METADATA_ENTRIES_MAX, Problems};
use std::collections::BTreeMap;
use uuid::Uuid;

const KIND: EntityKind = EntityKind::PurchaseOrder;

bodies! {
    /// What to buy, one line an item.
    PurchaseLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
        /// Agreed cost of one unit.
        unit_cost: Option<Money>,
    }

    /// Drafts a purchase order.
    CreatePurchaseOrder {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Whom from.
        supplier_id: Option<SupplierId>,
        /// Where the goods will arrive, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<PurchaseLine>,
        /// How much more than ordered a line may receive, in percent of its quantity; 0 by default.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1_000))]
        over_receipt_percent: i32,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
    }

    /// Takes goods of a purchase order in; without lines, all that is outstanding.
    ReceivePurchaseOrder {
        /// Which lines, how much.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Option<Vec<LineQuantity>>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Sends a drafted purchase order to its supplier.
    PlacePurchaseOrder {}

    /// Ends a purchase order, whatever is still outstanding.
    ClosePurchaseOrder {}

    /// Drops a purchase order of which nothing has come.
    CancelPurchaseOrder {}
}

names_item! { PurchaseLine }
names_location! { CreatePurchaseOrder }

impl Body for CreatePurchaseOrder {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
            problems.price(format!("lines[{index}].unit_cost.amount"), line.unit_cost);
        }
        if !(0..=1_000).contains(&self.over_receipt_percent) {
            problems.add("over_receipt_percent", "must be 0 to 1000");
        }
        problems.metadata(&self.metadata);
    }

    fn size(&self) -> Size {
        Size::of(self.lines.len(), Some(&self.metadata))
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, self.number.as_deref());
        if let Some(supplier) = self.supplier_id {
            reads.entity(EntityKind::Supplier, supplier.0);
        }
        let location = reads.location(self.location_ref());
        reads.lines(&self.lines, location);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let id = draft.subject_id();
        let number = draft.claim_number(KIND, self.number.as_deref())?;
        if let Some(supplier) = self.supplier_id
            && draft.entity(EntityKind::Supplier, supplier.0)?.is_none()
        {
            return Err(
                Rejection::UnknownReference { field: "supplier_id".to_owned(), kind: EntityKind::Supplier }.into()
            );
        }
        let location_id = draft.location(self.location_ref(), "")?;
        let mut order_lines = Vec::with_capacity(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
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
            supplier_id: self.supplier_id,
            location_id,
            status: PurchaseOrderStatus::Draft,
            lines: order_lines,
            over_receipt_percent: self.over_receipt_percent,
            metadata: self.metadata.clone(),
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(order, EventType::PurchaseOrderCreated)
    }
}

impl Body for PlacePurchaseOrder {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let mut order = in_status(draft, &[PurchaseOrderStatus::Draft], "ordered")?;
        order.status = PurchaseOrderStatus::Ordered;
        draft.save(order, EventType::PurchaseOrderOrdered)
    }
}

impl Body for ReceivePurchaseOrder {
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
        use PurchaseOrderStatus::{Ordered, PartiallyReceived, Received};
        // A received order still takes what its over-receipt policy allows.
        let mut order = in_status(draft, &[Ordered, PartiallyReceived, Received], "received")?;
        let outstanding: Vec<_> = order.lines.iter().map(PurchaseOrderLine::outstanding).collect();
        let taken = lines::taken(self.lines.as_deref(), &outstanding)?;
        if taken.is_empty() {
            return Err(
                Rejection::IllegalTransition { kind: KIND, status: order.status.name(), action: "received" }.into()
            );
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
        draft.save(order, EventType::PurchaseOrderReceived)
    }
}

impl Body for ClosePurchaseOrder {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        use PurchaseOrderStatus::{Closed, PartiallyReceived, Received};
        let mut order = in_status(draft, &[PartiallyReceived, Received], "closed")?;
        order.status = Closed;
        draft.save(order, EventType::PurchaseOrderClosed)
    }
}

impl Body for CancelPurchaseOrder {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        use PurchaseOrderStatus::{Cancelled, Draft as Drafted, Ordered};
        let mut order = in_status(draft, &[Drafted, Ordered], "cancelled")?;
        order.status = Cancelled;
        draft.save(order, EventType::PurchaseOrderCancelled)
    }
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
