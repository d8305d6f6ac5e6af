//! Transfers between locations: draft → in transit → partially received → received → closed; or cancelled before they leave.
//!
//! Goods in transit are at no location: they left the source's level and have not reached the destination's.

use crate::command::{CloseTransfer, CreateTransfer, NamesItem, ReceiveTransfer};
use crate::decimal::Quantity;
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind, number_from_id};
use crate::id::{ItemId, LocationId};
use crate::lines;
use crate::movement::MovementKind;
use crate::rejection::Rejection;
use crate::status::status;
use crate::timestamp::Timestamp;
use crate::validate::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Transfer;

status! {
    /// Where a transfer stands.
    TransferStatus {
        /// Being written.
        Draft = "draft",
        /// On its way.
        InTransit = "in_transit",
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

/// What is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransferDocumentLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many.
    pub quantity: Quantity,
    /// How many are on their way.
    pub quantity_in_transit: Quantity,
    /// How many have come.
    pub quantity_received: Quantity,
    /// How many left and will not come.
    pub quantity_lost: Quantity,
}

/// A transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transfer {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Where from.
    pub from_location_id: LocationId,
    /// Where to.
    pub to_location_id: LocationId,
    /// Where it stands.
    pub status: TransferStatus,
    /// What is moved.
    pub lines: Vec<TransferDocumentLine>,
    /// Why goods are missing, where it was closed short.
    pub close_reason: Option<String>,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateTransfer) -> Result<(), Stop> {
    let id = draft.subject_id();
    let number = body.number.clone().unwrap_or_else(|| number_from_id("TR", id));
    draft.claim_code(KIND, "number", &number)?;
    let from = draft.location(body.from(), "from_")?;
    let to = draft.location(body.to(), "to_")?;
    if from == to {
        let problem = Problem { field: "to_location_id".to_owned(), problem: "must differ from the source".to_owned() };
        return Err(Rejection::Invalid(vec![problem]).into());
    }
    let mut transfer_lines = Vec::with_capacity(body.lines.len());
    for (index, line) in body.lines.iter().enumerate() {
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
        metadata: body.metadata.clone(),
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(transfer, "transfer.created")
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

pub(crate) fn dispatch(draft: &mut Draft<'_>) -> Result<(), Stop> {
    let mut transfer = in_status(draft, &[TransferStatus::Draft], "dispatched")?;
    for line in &mut transfer.lines {
        line.quantity_in_transit = line.quantity;
        post(draft, line, MovementKind::TransferOut, transfer.from_location_id, -line.quantity)?;
    }
    transfer.status = TransferStatus::InTransit;
    draft.save(transfer, "transfer.dispatched")
}

pub(crate) fn receive(draft: &mut Draft<'_>, body: &ReceiveTransfer) -> Result<(), Stop> {
    use TransferStatus::{InTransit, PartiallyReceived, Received};
    let mut transfer = in_status(draft, &[InTransit, PartiallyReceived], "received")?;
    let in_transit: Vec<_> = transfer.lines.iter().map(|line| line.quantity_in_transit).collect();
    for (index, quantity) in lines::taken(body.lines.as_deref(), &in_transit)? {
        let Some(line) = transfer.lines.get_mut(index) else { continue };
        lines::within(line.line, quantity, line.quantity_in_transit)?;
        line.quantity_in_transit = line.quantity_in_transit.checked_sub(quantity).ok_or(Rejection::OutOfRange)?;
        line.quantity_received = line.quantity_received.checked_add(quantity).ok_or(Rejection::OutOfRange)?;
        post(draft, line, MovementKind::TransferIn, transfer.to_location_id, quantity)?;
    }
    let complete = transfer.lines.iter().all(|line| line.quantity_in_transit.is_zero());
    transfer.status = if complete { Received } else { PartiallyReceived };
    draft.save(transfer, "transfer.received")
}

pub(crate) fn close(draft: &mut Draft<'_>, body: &CloseTransfer) -> Result<(), Stop> {
    use TransferStatus::{Closed, InTransit, PartiallyReceived, Received};
    let mut transfer = in_status(draft, &[InTransit, PartiallyReceived, Received], "closed")?;
    for line in &mut transfer.lines {
        line.quantity_lost = std::mem::take(&mut line.quantity_in_transit);
    }
    transfer.close_reason.clone_from(&body.reason);
    transfer.status = Closed;
    draft.save(transfer, "transfer.closed")
}

pub(crate) fn cancel(draft: &mut Draft<'_>) -> Result<(), Stop> {
    let mut transfer = in_status(draft, &[TransferStatus::Draft], "cancelled")?;
    transfer.status = TransferStatus::Cancelled;
    draft.save(transfer, "transfer.cancelled")
}
