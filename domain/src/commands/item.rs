//! Items: the catalogue. A stock item has levels and movements; a service (postage, a fee) only stands on documents.

use crate::commands::body::{Body, Size, bodies, check_clear, set, written};
use crate::decimal::Quantity;
use crate::documents::item::{Item, ItemType, LowStock};
use crate::draft::{Draft, Stop};
use crate::entity::{CodeSpace, Entity, EntityKind};
use crate::event::EventType;
use crate::id::ItemId;
use crate::money::Money;
use crate::reads::Reads;
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{
    BARCODES_MAX, CODE_PATTERN, DESCRIPTION_LENGTH_MAX, METADATA_ENTRIES_MAX, NAME_LENGTH_MAX, Problems,
};
use std::collections::BTreeMap;
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Item;

bodies! {
    /// Adds an item to the catalogue.
    CreateItem {
        /// The client's own code for it: unique, never changes.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: String,
        /// What people call it.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// More about it.
        #[schemars(length(min = 1, max = DESCRIPTION_LENGTH_MAX))]
        description: Option<String>,
        /// Whether it holds stock; `stock` by default.
        #[serde(default, rename = "type")]
        item_type: ItemType,
        /// What a quantity of 1 is; `each` by default.
        #[schemars(regex(pattern = CODE_PATTERN))]
        unit: Option<String>,
        /// Codes that scanners read; each belongs to one item.
        #[serde(default)]
        #[schemars(length(max = BARCODES_MAX), inner(regex(pattern = CODE_PATTERN)))]
        barcodes: Vec<String>,
        /// What it costs to buy.
        cost_price: Option<Money>,
        /// What it sells for.
        sale_price: Option<Money>,
        /// The availability at which more should be ordered.
        reorder_point: Option<Quantity>,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
    }

    /// Changes an item: what is absent stays, what is named in `clear` is emptied.
    UpdateItem {
        /// See [`CreateItem`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// See [`CreateItem`].
        #[schemars(length(min = 1, max = DESCRIPTION_LENGTH_MAX))]
        description: Option<String>,
        /// See [`CreateItem`].
        #[serde(default)]
        #[schemars(with = "String", regex(pattern = CODE_PATTERN))]
        unit: Option<String>,
        /// Replaces all barcodes.
        #[schemars(length(max = BARCODES_MAX), inner(regex(pattern = CODE_PATTERN)))]
        barcodes: Option<Vec<String>>,
        /// See [`CreateItem`].
        cost_price: Option<Money>,
        /// See [`CreateItem`].
        sale_price: Option<Money>,
        /// See [`CreateItem`].
        reorder_point: Option<Quantity>,
        /// Replaces all pairs.
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: Option<BTreeMap<String, String>>,
        /// Fields to empty; over HTTP, a `null`.
        #[serde(default)]
        #[schemars(skip)]
        clear: Vec<String>,
    }

    /// The platform's own: what can be promised of an item, over all locations, has come down to its reorder point.
    ReportLowStock {
        /// What could be promised then.
        available: Quantity,
        /// The item's reorder point then.
        reorder_point: Quantity,
    }
}

impl Body for CreateItem {
    fn check(&self, problems: &mut Problems) {
        problems.code("sku", &self.sku);
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("description", self.description.as_deref(), DESCRIPTION_LENGTH_MAX);
        problems.optional_code("unit", self.unit.as_deref());
        problems.barcodes(&self.barcodes);
        problems.price("cost_price.amount", self.cost_price);
        problems.price("sale_price.amount", self.sale_price);
        problems.not_negative("reorder_point", self.reorder_point);
        problems.metadata(&self.metadata);
    }

    fn size(&self) -> Size {
        let size = Size::of(0, Some(&self.metadata));
        Size { text: size.text + self.description.as_deref().map_or(0, written), ..size }
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, Some(&self.sku));
        for barcode in &self.barcodes {
            reads.code(CodeSpace::Barcode, barcode);
        }
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let id = ItemId(draft.subject_id());
        draft.claim_code(KIND, "sku", &self.sku)?;
        draft.swap_barcodes(id, &[], &self.barcodes)?;
        let item = Item {
            id,
            sku: self.sku.clone(),
            name: self.name.clone(),
            description: self.description.clone(),
            item_type: self.item_type,
            unit: self.unit.clone().unwrap_or_else(|| "each".to_owned()),
            barcodes: self.barcodes.clone(),
            cost_price: self.cost_price,
            sale_price: self.sale_price,
            reorder_point: self.reorder_point,
            metadata: self.metadata.clone(),
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(item, EventType::ItemCreated)
    }
}

impl Body for UpdateItem {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("description", self.description.as_deref(), DESCRIPTION_LENGTH_MAX);
        problems.optional_code("unit", self.unit.as_deref());
        problems.barcodes(self.barcodes.as_deref().unwrap_or_default());
        problems.price("cost_price.amount", self.cost_price);
        problems.price("sale_price.amount", self.sale_price);
        problems.not_negative("reorder_point", self.reorder_point);
        if let Some(metadata) = &self.metadata {
            problems.metadata(metadata);
        }
        let clearable = [
            ("name", self.name.is_some()),
            ("description", self.description.is_some()),
            ("barcodes", self.barcodes.is_some()),
            ("cost_price", self.cost_price.is_some()),
            ("sale_price", self.sale_price.is_some()),
            ("reorder_point", self.reorder_point.is_some()),
            ("metadata", self.metadata.is_some()),
        ];
        check_clear(problems, &self.clear, &clearable);
    }

    fn size(&self) -> Size {
        let size = Size::of(0, self.metadata.as_ref());
        Size { text: size.text + self.description.as_deref().map_or(0, written), ..size }
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
        for barcode in self.barcodes.iter().flatten() {
            reads.code(CodeSpace::Barcode, barcode);
        }
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let Entity::Item(mut item) = draft.subject(KIND)?.as_ref().clone() else {
            return Err(Rejection::NotFound(KIND).into());
        };
        let cleared = |field: &str| self.clear.iter().any(|name| name == field);
        let barcodes = if cleared("barcodes") { Some(Vec::new()) } else { self.barcodes.clone() };
        if let Some(barcodes) = barcodes {
            draft.swap_barcodes(item.id, &item.barcodes, &barcodes)?;
            item.barcodes = barcodes;
        }
        set(&mut item.name, self.name.as_ref(), cleared("name"));
        set(&mut item.description, self.description.as_ref(), cleared("description"));
        set(&mut item.cost_price, self.cost_price.as_ref(), cleared("cost_price"));
        set(&mut item.sale_price, self.sale_price.as_ref(), cleared("sale_price"));
        set(&mut item.reorder_point, self.reorder_point.as_ref(), cleared("reorder_point"));
        if let Some(unit) = &self.unit {
            item.unit.clone_from(unit);
        }
        if cleared("metadata") {
            item.metadata.clear();
        } else if let Some(metadata) = &self.metadata {
            item.metadata.clone_from(metadata);
        }
        draft.save(item, EventType::ItemUpdated)
    }
}

impl Body for ReportLowStock {
    fn check(&self, problems: &mut Problems) {
        problems.not_negative("reorder_point", Some(self.reorder_point));
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let Entity::Item(item) = draft.subject(KIND)?.as_ref() else {
            return Err(Rejection::NotFound(KIND).into());
        };
        let low = LowStock {
            item_id: item.id,
            sku: item.sku.clone(),
            name: item.name.clone(),
            available: self.available,
            reorder_point: self.reorder_point,
        };
        draft.tell(low.item_id.0, EventType::StockLow, &low);
        Ok(())
    }
}
