//! Suppliers: whom goods are bought from.

use crate::command::{CreateSupplier, UpdateSupplier};
use crate::draft::{Draft, Stop};
use crate::entity::{Entity, EntityKind};
use crate::id::SupplierId;
use crate::item::set;
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A supplier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Supplier {
    /// Its id.
    pub id: SupplierId,
    /// The client's own code.
    pub code: String,
    /// What people call it.
    pub name: Option<String>,
    /// Where orders go.
    pub email: Option<String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateSupplier) -> Result<(), Stop> {
    draft.claim_code(EntityKind::Supplier, "code", &body.code)?;
    let supplier = Supplier {
        id: SupplierId(draft.subject_id()),
        code: body.code.clone(),
        name: body.name.clone(),
        email: body.email.clone(),
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    draft.save(supplier, "supplier.created")
}

pub(crate) fn update(draft: &mut Draft<'_>, body: &UpdateSupplier) -> Result<(), Stop> {
    let Entity::Supplier(mut supplier) = draft.subject(EntityKind::Supplier)?.as_ref().clone() else {
        return Err(Rejection::NotFound(EntityKind::Supplier).into());
    };
    let cleared = |name: &str| body.clear.iter().any(|field| field == name);
    set(&mut supplier.name, body.name.as_ref(), cleared("name"));
    set(&mut supplier.email, body.email.as_ref(), cleared("email"));
    draft.save(supplier, "supplier.updated")
}
