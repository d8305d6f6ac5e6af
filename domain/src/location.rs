//! Locations: the places that hold stock.

use crate::command::{CreateLocation, UpdateLocation};
use crate::draft::{Draft, Stop};
use crate::entity::{Entity, EntityKind};
use crate::id::LocationId;
use crate::item::set;
use crate::rejection::Rejection;
use crate::status::status;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

status! {
    /// What kind of place it is.
    LocationType {
        /// Goods are kept there.
        Warehouse = "warehouse",
        /// Goods are sold there.
        Store = "store",
        /// A supplier ships from there in our name.
        DropShip = "drop_ship",
    }
}

/// A location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// The client's own code.
    pub code: String,
    /// What people call it.
    pub name: Option<String>,
    /// What kind of place it is.
    #[serde(rename = "type")]
    pub location_type: LocationType,
    /// Whether more may be promised or taken than is there.
    pub allow_negative_stock: bool,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateLocation) -> Result<(), Stop> {
    draft.claim_code(EntityKind::Location, "code", &body.code)?;
    let location = Location {
        id: LocationId(draft.subject_id()),
        code: body.code.clone(),
        name: body.name.clone(),
        location_type: body.location_type,
        allow_negative_stock: body.allow_negative_stock,
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(location, "location.created")
}

pub(crate) fn update(draft: &mut Draft<'_>, body: &UpdateLocation) -> Result<(), Stop> {
    let Entity::Location(mut location) = draft.subject(EntityKind::Location)?.as_ref().clone() else {
        return Err(Rejection::NotFound(EntityKind::Location).into());
    };
    set(&mut location.name, body.name.as_ref(), body.clear.iter().any(|field| field == "name"));
    location.allow_negative_stock = body.allow_negative_stock.unwrap_or(location.allow_negative_stock);
    draft.save(location, "location.updated")
}
