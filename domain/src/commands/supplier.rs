//! Suppliers: whom goods are bought from.

use crate::commands::body::{Body, bodies, check_clear, set};
use crate::documents::supplier::Supplier;
use crate::draft::{Draft, Stop};
use crate::entity::{Entity, EntityKind};
use crate::event::EventType;
use crate::id::SupplierId;
use crate::reads::Reads;
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, NAME_LENGTH_MAX, Problems};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Supplier;

bodies! {
    /// Adds a party to buy from.
    CreateSupplier {
        /// The client's own code for it: unique, never changes.
        #[schemars(regex(pattern = CODE_PATTERN))]
        code: String,
        /// What people call it.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// Where orders go.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        email: Option<String>,
    }

    /// Changes a supplier.
    UpdateSupplier {
        /// See [`CreateSupplier`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// See [`CreateSupplier`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        email: Option<String>,
        /// Fields to empty; over HTTP, a `null`.
        #[serde(default)]
        #[schemars(skip)]
        clear: Vec<String>,
    }
}

impl Body for CreateSupplier {
    fn check(&self, problems: &mut Problems) {
        problems.code("code", &self.code);
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("email", self.email.as_deref(), NAME_LENGTH_MAX);
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, Some(&self.code));
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        draft.claim_code(KIND, "code", &self.code)?;
        let supplier = Supplier {
            id: SupplierId(draft.subject_id()),
            code: self.code.clone(),
            name: self.name.clone(),
            email: self.email.clone(),
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(supplier, EventType::SupplierCreated)
    }
}

impl Body for UpdateSupplier {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("email", self.email.as_deref(), NAME_LENGTH_MAX);
        check_clear(problems, &self.clear, &[("name", self.name.is_some()), ("email", self.email.is_some())]);
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let Entity::Supplier(mut supplier) = draft.subject(KIND)?.as_ref().clone() else {
            return Err(Rejection::NotFound(KIND).into());
        };
        let cleared = |name: &str| self.clear.iter().any(|field| field == name);
        set(&mut supplier.name, self.name.as_ref(), cleared("name"));
        set(&mut supplier.email, self.email.as_ref(), cleared("email"));
        draft.save(supplier, EventType::SupplierUpdated)
    }
}
