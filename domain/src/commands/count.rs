//! Physical counts: what is there, whatever the books say. The movement is the difference, even where it is nothing.

use crate::commands::body::{Body, Size, bodies};
use crate::commands::lines;
use crate::decimal::Quantity;
use crate::documents::count::{Count, CountDocumentLine};
use crate::draft::{Draft, Posting, Stop};
use crate::entity::EntityKind;
use crate::event::EventType;
use crate::id::{ItemId, LocationId};
use crate::movement::MovementKind;
use crate::reads::Reads;
use crate::references::{NamesItem, NamesLocation, names_item, names_location};
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, LINES_MAX, Problems};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Count;

bodies! {
    /// What was counted of one item.
    CountLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many are there.
        quantity_counted: Quantity,
    }

    /// A physical count: what is there, whatever the books say.
    CreateCount {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Where, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<CountLine>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }
}

names_item! { CountLine }
names_location! { CreateCount }

impl Body for CreateCount {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.not_negative(format!("lines[{index}].quantity_counted"), Some(line.quantity_counted));
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
        draft.save(count, EventType::StockCounted)
    }
}
