//! Suppliers: whom goods are bought from.

use super::Document;
use crate::id::SupplierId;
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

impl Document for Supplier {
    fn code(&self) -> Option<&str> {
        Some(&self.code)
    }
}
