//! Reservations: stock held for a while without an order, until it is released or its time comes.

use crate::commands::body::{Body, bodies};
use crate::decimal::Quantity;
use crate::documents::reservation::{Reservation, ReservationStatus};
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind};
use crate::event::EventType;
use crate::id::{ItemId, LocationId};
use crate::movement::MovementKind;
use crate::reads::Reads;
use crate::references::{NamesItem, NamesLocation, names_item, names_location};
use crate::rejection::Rejection;
use crate::timestamp::Timestamp;
use crate::validate::{CODE_PATTERN, NAME_LENGTH_MAX, Problems};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Reservation;

bodies! {
    /// Holds stock for a while, without an order.
    CreateReservation {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// Where, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// How many.
        quantity: Quantity,
        /// When it lapses; never where absent.
        expires_at: Option<Timestamp>,
        /// What for, in the client's words.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        reference: Option<String>,
    }

    /// Lets go of what a reservation holds.
    ReleaseReservation {}

    /// The platform's own: the reservation's time has come.
    ExpireReservation {}
}

names_item! { CreateReservation }
names_location! { CreateReservation }

impl Body for CreateReservation {
    fn check(&self, problems: &mut Problems) {
        self.check_item("", problems);
        self.check_location(problems);
        problems.positive("quantity", self.quantity);
        problems.optional_text("reference", self.reference.as_deref(), NAME_LENGTH_MAX);
    }

    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.new_document(KIND, subject, None);
        let item = reads.item(self.item_ref());
        let location = reads.location(self.location_ref());
        reads.level(item, location);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        draft.claim_id(KIND)?;
        let item = draft.stocked_item(self.item_ref(), "")?;
        let reservation = Reservation {
            id: draft.subject_id(),
            item_id: item.id,
            sku: item.sku,
            location_id: draft.location(self.location_ref(), "")?,
            quantity: self.quantity,
            status: ReservationStatus::Active,
            expires_at: self.expires_at,
            reference: self.reference.clone(),
            version: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        post(draft, &reservation, MovementKind::Reserve, self.quantity)?;
        draft.save(reservation, EventType::ReservationCreated)
    }
}

impl Body for ReleaseReservation {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        end(draft, ReservationStatus::Released, EventType::ReservationReleased)
    }
}

impl Body for ExpireReservation {
    fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        reads.document(KIND, subject);
    }

    fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        end(draft, ReservationStatus::Expired, EventType::ReservationExpired)
    }
}

fn post(draft: &mut Draft<'_>, reservation: &Reservation, kind: MovementKind, reserved: Quantity) -> Result<(), Stop> {
    let posting = Posting {
        kind,
        item: reservation.item_id,
        sku: &reservation.sku,
        location: reservation.location_id,
        on_hand: Quantity::ZERO,
        reserved,
        line: 1,
        reason: (reservation.status == ReservationStatus::Expired).then_some("expired"),
    };
    draft.post(KIND, &posting)
}

fn end(draft: &mut Draft<'_>, status: ReservationStatus, event_type: EventType) -> Result<(), Stop> {
    let Entity::Reservation(mut reservation) = draft.subject(KIND)?.as_ref().clone() else {
        return Err(Rejection::NotFound(KIND).into());
    };
    // The ledger's clock decides whether its time has come, so that a replay decides alike.
    let due = reservation.expires_at.is_some_and(|at| at <= draft.recorded_at());
    if reservation.status != ReservationStatus::Active || (status == ReservationStatus::Expired && !due) {
        return Err(Rejection::IllegalTransition {
            kind: KIND,
            status: reservation.status.name(),
            action: status.name(),
        }
        .into());
    }
    reservation.status = status;
    post(draft, &reservation, MovementKind::Release, -reservation.quantity)?;
    draft.save(reservation, event_type)
}
