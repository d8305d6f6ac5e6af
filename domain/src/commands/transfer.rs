//! Transfers between locations: draft → in transit → partially received → received → closed; or cancelled before they leave.
//!
//! Goods in transit are at no location: they left the source's level and have not reached the destination's.

use crate::commands::body::{Body, Size, bodies};
use crate::commands::lines;
use crate::commands::lines::{LineQuantity, check_line_quantities};
use crate::decimal::Quantity;
use crate::documents::transfer::{Transfer, TransferDocumentLine, TransferStatus};
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind};
use crate::event::EventType;
use crate::id::{ItemId, LocationId};
use crate::movement::MovementKind;
use crate::reads::Reads;
use crate::references::{LocationRef, NamesItem, names_item};
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, LINES_MAX, METADATA_ENTRIES_MAX, NAME_LENGTH_MAX, Problem, Problems};
use std::collections::BTreeMap;
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Transfer;

bodies! {
    /// What to move, one line an item.
    TransferLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
    }

    /// Drafts a transfer between two locations.
    CreateTransfer {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Where from, by id …
        from_location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        from_location_code: Option<String>,
        /// Where to, by id …
        to_location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        to_location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<TransferLine>,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
    }

    /// Sends a transfer on its way: its goods leave the source.
    DispatchTransfer {
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Takes goods of a transfer in; without lines, all that is in transit.
    ReceiveTransfer {
        /// Which lines, how much.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Option<Vec<LineQuantity>>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Ends a transfer; what is still in transit is lost.
    CloseTransfer {
        /// Why goods are missing.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        reason: Option<String>,
    }

    /// Drops a transfer that has not left.
    CancelTransfer {}
}

names_item! { TransferLine }

impl CreateTransfer {
    /// Where from.
    #[must_use]
    pub fn from(&self) -> Option<LocationRef<'_>> {
        self.from_location_id.map(LocationRef::Id).or_else(|| self.from_location_code.as_deref().map(LocationRef::Code))
    }

    /// Where to.
    #[must_use]
    pub fn to(&self) -> Option<LocationRef<'_>> {
        self.to_location_id.map(LocationRef::Id).or_else(|| self.to_location_code.as_deref().map(LocationRef::Code))
    }
}

impl Body for CreateTransfer {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.exactly_one(
            "",
            ("from_location_id", self.from_location_id.is_some()),
            ("from_location_code", self.from_location_code.is_some()),
        );
        problems.exactly_one(
            "",
            ("to_location_id", self.to_location_id.is_some()),
            ("to_location_code", self.to_location_code.is_some()),
        );
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
        }
        problems.metadata(&self.metadata);
    }

    fn size(&self) -> Size {
        Size::of(self.lines.len(), Some(&self.metadata))
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, self.number.as_deref());
        for place in [self.from(), self.to()] {
            let location = reads.location(place);
            reads.lines(&self.lines, location);
        }
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let id = draft.subject_id();
        let number = draft.claim_number(KIND, self.number.as_deref())?;
        let from = draft.location(self.from(), "from_")?;
        let to = draft.location(self.to(), "to_")?;
        if from == to {
            let problem =
                Problem { field: "to_location_id".to_owned(), problem: "must differ from the source".to_owned() };
            return Err(Rejection::Invalid(vec![problem]).into());
        }
        let mut transfer_lines = Vec::with_capacity(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            let item = draft.stocked_item(line.item_ref(), &format!("lines[{index}]."))?;
            transfer_lines.push(TransferDocumentLine {
                line: lines::number(index),
                item_id: item.id,
                sku: item.sku,
                quantity: line.quantity,
                quantity_in_transit: Quantity::ZERO,
                quantity_received: Quantity::ZERO,
                quantity_lost: Quantity::ZERO,
            });
        }
        let transfer = Transfer {
            id,
            number,
            from_location_id: from,
            to_location_id: to,
            status: TransferStatus::Draft,
            lines: transfer_lines,
            close_reason: None,
            metadata: self.metadata.clone(),
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(transfer, EventType::TransferCreated)
    }
}

impl Body for DispatchTransfer {
    fn occurred_at(&self) -> Option<Timestamp> {
        self.occurred_at
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let mut transfer = in_status(draft, &[TransferStatus::Draft], "dispatched")?;
        for line in &mut transfer.lines {
            line.quantity_in_transit = line.quantity;
            post(draft, line, MovementKind::TransferOut, transfer.from_location_id, -line.quantity)?;
        }
        transfer.status = TransferStatus::InTransit;
        draft.save(transfer, EventType::TransferDispatched)
    }
}

impl Body for ReceiveTransfer {
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
        use TransferStatus::{InTransit, PartiallyReceived, Received};
        let mut transfer = in_status(draft, &[InTransit, PartiallyReceived], "received")?;
        let in_transit: Vec<_> = transfer.lines.iter().map(|line| line.quantity_in_transit).collect();
        for (index, quantity) in lines::taken(self.lines.as_deref(), &in_transit)? {
            let Some(line) = transfer.lines.get_mut(index) else { continue };
            lines::within(line.line, quantity, line.quantity_in_transit)?;
            line.quantity_in_transit = line.quantity_in_transit.checked_sub(quantity).ok_or(Rejection::OutOfRange)?;
            line.quantity_received = line.quantity_received.checked_add(quantity).ok_or(Rejection::OutOfRange)?;
            post(draft, line, MovementKind::TransferIn, transfer.to_location_id, quantity)?;
        }
        let complete = transfer.lines.iter().all(|line| line.quantity_in_transit.is_zero());
        transfer.status = if complete { Received } else { PartiallyReceived };
        draft.save(transfer, EventType::TransferReceived)
    }
}

impl Body for CloseTransfer {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("reason", self.reason.as_deref(), NAME_LENGTH_MAX);
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        use TransferStatus::{Closed, InTransit, PartiallyReceived, Received};
        let mut transfer = in_status(draft, &[InTransit, PartiallyReceived, Received], "closed")?;
        for line in &mut transfer.lines {
            line.quantity_lost = std::mem::take(&mut line.quantity_in_transit);
        }
        transfer.close_reason.clone_from(&self.reason);
        transfer.status = Closed;
        draft.save(transfer, EventType::TransferClosed)
    }
}

impl Body for CancelTransfer {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let mut transfer = in_status(draft, &[TransferStatus::Draft], "cancelled")?;
        transfer.status = TransferStatus::Cancelled;
        draft.save(transfer, EventType::TransferCancelled)
    }
}

fn in_status(draft: &Draft<'_>, from: &[TransferStatus], action: &'static str) -> Result<Transfer, Stop> {
    let Entity::Transfer(transfer) = draft.subject(KIND)?.as_ref() else {
        return Err(Rejection::NotFound(KIND).into());
    };
    if from.contains(&transfer.status) {
        Ok(transfer.clone())
    } else {
        Err(Rejection::IllegalTransition { kind: KIND, status: transfer.status.name(), action }.into())
    }
}

fn post(
    draft: &mut Draft<'_>,
    line: &TransferDocumentLine,
    kind: MovementKind,
    location: LocationId,
    on_hand: Quantity,
) -> Result<(), Stop> {
    let posting = Posting {
        kind,
        item: line.item_id,
        sku: &line.sku,
        location,
        on_hand,
        reserved: Quantity::ZERO,
        line: line.line,
        reason: None,
    };
    draft.post(KIND, &posting)
}
