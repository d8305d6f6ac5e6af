//! Items: the catalogue. A stock item has levels and movements; a service (postage, a fee) only stands on documents.

use crate::command::{CreateItem, ReportLowStock, UpdateItem};
use crate::decimal::Quantity;
use crate::draft::{Draft, Stop};
use crate::entity::{Entity, EntityKind};
use crate::id::ItemId;
use crate::money::Money;
use crate::rejection::Rejection;
use crate::status::status;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

status! {
    /// Whether an item holds stock.
    ItemType {
        /// It does.
        Stock = "stock",
        /// It does not: postage, fees, discounts.
        Service = "service",
    }
}

/// An item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// Its id.
    pub id: ItemId,
    /// The client's own code.
    pub sku: String,
    /// What people call it.
    pub name: Option<String>,
    /// More about it.
    pub description: Option<String>,
    /// Whether it holds stock.
    #[serde(rename = "type")]
    pub item_type: ItemType,
    /// What a quantity of 1 is.
    pub unit: String,
    /// Codes that scanners read.
    pub barcodes: Vec<String>,
    /// What it costs to buy.
    pub cost_price: Option<Money>,
    /// What it sells for.
    pub sale_price: Option<Money>,
    /// The availability at which more should be ordered.
    pub reorder_point: Option<Quantity>,
    /// The client's own pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What `stock.low` says: an item whose availability, over all locations, has come down to its reorder point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LowStock {
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// What people call it.
    pub name: Option<String>,
    /// What could be promised when it came down.
    pub available: Quantity,
    /// The reorder point that it came down to.
    pub reorder_point: Quantity,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateItem) -> Result<(), Stop> {
    let id = ItemId(draft.subject_id());
    draft.claim_code(EntityKind::Item, "sku", &body.sku)?;
    draft.swap_barcodes(id, &[], &body.barcodes)?;
    let item = Item {
        id,
        sku: body.sku.clone(),
        name: body.name.clone(),
        description: body.description.clone(),
        item_type: body.item_type,
        unit: body.unit.clone().unwrap_or_else(|| "each".to_owned()),
        barcodes: body.barcodes.clone(),
        cost_price: body.cost_price,
        sale_price: body.sale_price,
        reorder_point: body.reorder_point,
        metadata: body.metadata.clone(),
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(item, "item.created")
}

pub(crate) fn update(draft: &mut Draft<'_>, body: &UpdateItem) -> Result<(), Stop> {
    let Entity::Item(mut item) = draft.subject(EntityKind::Item)?.as_ref().clone() else {
        return Err(Rejection::NotFound(EntityKind::Item).into());
    };
    let cleared = |field: &str| body.clear.iter().any(|name| name == field);
    let barcodes = if cleared("barcodes") { Some(Vec::new()) } else { body.barcodes.clone() };
    if let Some(barcodes) = barcodes {
        draft.swap_barcodes(item.id, &item.barcodes, &barcodes)?;
        item.barcodes = barcodes;
    }
    set(&mut item.name, body.name.as_ref(), cleared("name"));
    set(&mut item.description, body.description.as_ref(), cleared("description"));
    set(&mut item.cost_price, body.cost_price.as_ref(), cleared("cost_price"));
    set(&mut item.sale_price, body.sale_price.as_ref(), cleared("sale_price"));
    set(&mut item.reorder_point, body.reorder_point.as_ref(), cleared("reorder_point"));
    if let Some(unit) = &body.unit {
        item.unit.clone_from(unit);
    }
    if cleared("metadata") {
        item.metadata.clear();
    } else if let Some(metadata) = &body.metadata {
        item.metadata.clone_from(metadata);
    }
    draft.save(item, "item.updated")
}

pub(crate) fn report_low(draft: &mut Draft<'_>, body: &ReportLowStock) -> Result<(), Stop> {
    let Entity::Item(item) = draft.subject(EntityKind::Item)?.as_ref() else {
        return Err(Rejection::NotFound(EntityKind::Item).into());
    };
    let low = LowStock {
        item_id: item.id,
        sku: item.sku.clone(),
        name: item.name.clone(),
        available: body.available,
        reorder_point: body.reorder_point,
    };
    draft.tell(EntityKind::Item, low.item_id.0, "stock.low", &low);
    Ok(())
}

/// Absent stays, named is set, cleared is emptied.
pub(crate) fn set<T: Clone>(field: &mut Option<T>, value: Option<&T>, cleared: bool) {
    if cleared {
        *field = None;
    } else if let Some(value) = value {
        *field = Some(value.clone());
    }
}
