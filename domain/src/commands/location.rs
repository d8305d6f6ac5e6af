//! Locations: the places that hold stock.

use crate::commands::body::{Body, bodies, check_clear, set};
use crate::documents::location::{Location, LocationType};
use crate::draft::{Draft, Stop};
use crate::entity::{Entity, EntityKind};
use crate::event::EventType;
use crate::id::LocationId;
use crate::reads::Reads;
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, NAME_LENGTH_MAX, Problems};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Location;

bodies! {
    /// Adds a place that holds stock.
    CreateLocation {
        /// The client's own code for it: unique, never changes.
        #[schemars(regex(pattern = CODE_PATTERN))]
        code: String,
        /// What people call it.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// What kind of place; `warehouse` by default.
        #[serde(default, rename = "type")]
        location_type: LocationType,
        /// Whether more may be promised or taken than is there; no by default.
        #[serde(default)]
        allow_negative_stock: bool,
    }

    /// Changes a location.
    UpdateLocation {
        /// See [`CreateLocation`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// See [`CreateLocation`].
        #[serde(default)]
        #[schemars(with = "bool")]
        allow_negative_stock: Option<bool>,
        /// Fields to empty; over HTTP, a `null`.
        #[serde(default)]
        #[schemars(skip)]
        clear: Vec<String>,
    }
}

impl Body for CreateLocation {
    fn check(&self, problems: &mut Problems) {
        problems.code("code", &self.code);
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, Some(&self.code));
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        draft.claim_code(KIND, "code", &self.code)?;
        let location = Location {
            id: LocationId(draft.subject_id()),
            code: self.code.clone(),
            name: self.name.clone(),
            location_type: self.location_type,
            allow_negative_stock: self.allow_negative_stock,
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        draft.save(location, EventType::LocationCreated)
    }
}

impl Body for UpdateLocation {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        check_clear(problems, &self.clear, &[("name", self.name.is_some())]);
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let Entity::Location(mut location) = draft.subject(KIND)?.as_ref().clone() else {
            return Err(Rejection::NotFound(KIND).into());
        };
        set(&mut location.name, self.name.as_ref(), self.clear.iter().any(|field| field == "name"));
        location.allow_negative_stock = self.allow_negative_stock.unwrap_or(location.allow_negative_stock);
        draft.save(location, EventType::LocationUpdated)
    }
}
