//! Adjustments: corrections of stock, each with its reason.

use crate::command::{CreateAdjustment, NamesItem, NamesLocation};
use crate::decimal::Quantity;
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{EntityKind, number_from_id};
use crate::id::{ItemId, LocationId};
use crate::lines;
use crate::movement::MovementKind;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Adjustment;

/// What was corrected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdjustmentDocumentLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many more, or fewer.
    pub quantity: Quantity,
}

/// An adjustment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Adjustment {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Where.
    pub location_id: LocationId,
    /// Why.
    pub reason: String,
    /// What was corrected.
    pub lines: Vec<AdjustmentDocumentLine>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateAdjustment) -> Result<(), Stop> {
    let id = draft.subject_id();
    let number = body.number.clone().unwrap_or_else(|| number_from_id("ADJ", id));
    draft.claim_code(KIND, "number", &number)?;
    let location_id = draft.location(body.location_ref(), "")?;
    let mut document_lines = Vec::with_capacity(body.lines.len());
    for (index, line) in body.lines.iter().enumerate() {
        let item = draft.stocked_item(line.item_ref(), &format!("lines[{index}]."))?;
        let number = lines::number(index);
        let posting = Posting {
            kind: MovementKind::Adjust,
            item: item.id,
            sku: &item.sku,
            location: location_id,
            on_hand: line.quantity,
            reserved: Quantity::ZERO,
            line: number,
            reason: Some(&body.reason),
        };
        draft.post(KIND, &posting)?;
        document_lines.push(AdjustmentDocumentLine {
            line: number,
            item_id: item.id,
            sku: item.sku,
            quantity: line.quantity,
        });
    }
    let adjustment = Adjustment {
        id,
        number,
        location_id,
        reason: body.reason.clone(),
        lines: document_lines,
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(adjustment, "stock.adjusted")
}
