//! Physical counts: what is there, whatever the books say. The movement is the difference, even where it is nothing.

use crate::command::{CreateCount, NamesItem, NamesLocation};
use crate::decimal::Quantity;
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{EntityKind, number_from_id};
use crate::id::{ItemId, LocationId};
use crate::lines;
use crate::movement::MovementKind;
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Count;

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CountDocumentLine {
    /// From 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// How many the books said.
    pub quantity_expected: Quantity,
    /// How many there were.
    pub quantity_counted: Quantity,
}

/// A physical count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// Its id.
    pub id: Uuid,
    /// Its number.
    pub number: String,
    /// Where.
    pub location_id: LocationId,
    /// What was counted.
    pub lines: Vec<CountDocumentLine>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateCount) -> Result<(), Stop> {
    let id = draft.subject_id();
    let number = body.number.clone().unwrap_or_else(|| number_from_id("CNT", id));
    draft.claim_code(KIND, "number", &number)?;
    let location_id = draft.location(body.location_ref(), "")?;
    let mut document_lines = Vec::with_capacity(body.lines.len());
    for (index, line) in body.lines.iter().enumerate() {
        let item = draft.stocked_item(line.item_ref(), &format!("lines[{index}]."))?;
        let expected = draft.level(item.id, location_id)?.on_hand;
        let number = lines::number(index);
        let posting = Posting {
            kind: MovementKind::Count,
            item: item.id,
            sku: &item.sku,
            location: location_id,
            on_hand: line.quantity_counted.checked_sub(expected).ok_or(Rejection::OutOfRange)?,
            reserved: Quantity::ZERO,
            line: number,
            reason: None,
        };
        draft.post(KIND, &posting)?;
        document_lines.push(CountDocumentLine {
            line: number,
            item_id: item.id,
            sku: item.sku,
            quantity_expected: expected,
            quantity_counted: line.quantity_counted,
        });
    }
    let count = Count {
        id,
        number,
        location_id,
        lines: document_lines,
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(count, "stock.counted")
}
