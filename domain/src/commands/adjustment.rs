//! Adjustments: corrections of stock, each with its reason.

use crate::commands::body::{Body, Size, bodies};
use crate::commands::lines;
use crate::decimal::Quantity;
use crate::documents::adjustment::{Adjustment, AdjustmentDocumentLine};
use crate::draft::{Draft, Posting, Stop};
use crate::entity::EntityKind;
use crate::event::EventType;
use crate::id::{ItemId, LocationId};
use crate::movement::MovementKind;
use crate::reads::Reads;
use crate::references::{NamesItem, NamesLocation, names_item, names_location};
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, LINES_MAX, NAME_LENGTH_MAX, Problems};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Adjustment;

bodies! {
    /// A correction of one item.
    AdjustmentLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many more (or, negative, fewer) there are.
        quantity: Quantity,
    }

    /// Corrects stock, with a reason.
    CreateAdjustment {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Where, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// Why.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        reason: String,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<AdjustmentLine>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }
}

names_item! { AdjustmentLine }
names_location! { CreateAdjustment }

impl Body for CreateAdjustment {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.text("reason", &self.reason, NAME_LENGTH_MAX);
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            if line.quantity.is_zero() {
                problems.add(format!("lines[{index}].quantity"), "must not be 0");
            }
        }
    }

    fn occurred_at(&self) -> Option<Timestamp> {
        self.occurred_at
    }

    fn size(&self) -> Size {
        Size::of(self.lines.len(), None)
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, self.number.as_deref());
        let location = reads.location(self.location_ref());
        reads.lines(&self.lines, location);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let id = draft.subject_id();
        let number = draft.claim_number(KIND, self.number.as_deref())?;
        let location_id = draft.location(self.location_ref(), "")?;
        let mut document_lines = Vec::with_capacity(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
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
                reason: Some(&self.reason),
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
            reason: self.reason.clone(),
            lines: document_lines,
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(adjustment, EventType::StockAdjusted)
    }
}
