//! Reservations: stock held for a while without an order, until it is released or its time comes.

use crate::command::{CreateReservation, NamesItem, NamesLocation};
use crate::decimal::Quantity;
use crate::draft::{Draft, Posting, Stop};
use crate::entity::{Entity, EntityKind};
use crate::id::{ItemId, LocationId};
use crate::movement::MovementKind;
use crate::rejection::Rejection;
use crate::status::status;
use crate::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const KIND: EntityKind = EntityKind::Reservation;

status! {
    /// Where a reservation stands.
    ReservationStatus {
        /// It holds stock.
        Active = "active",
        /// It was let go.
        Released = "released",
        /// Its time came.
        Expired = "expired",
    }
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reservation {
    /// Its id.
    pub id: Uuid,
    /// Of what.
    pub item_id: ItemId,
    /// Of what, as the client calls it.
    pub sku: String,
    /// Where.
    pub location_id: LocationId,
    /// How many.
    pub quantity: Quantity,
    /// Where it stands.
    pub status: ReservationStatus,
    /// When it lapses.
    pub expires_at: Option<Timestamp>,
    /// What for, in the client's words.
    pub reference: Option<String>,
    /// How often it was written.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Reservation {
    /// When it will lapse, while it still holds.
    #[must_use]
    pub const fn pending_expiry(&self) -> Option<Timestamp> {
        match self.status {
            ReservationStatus::Active => self.expires_at,
            _ => None,
        }
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

pub(crate) fn create(draft: &mut Draft<'_>, body: &CreateReservation) -> Result<(), Stop> {
    draft.claim_id(KIND)?;
    let item = draft.stocked_item(body.item_ref(), "")?;
    let reservation = Reservation {
        id: draft.subject_id(),
        item_id: item.id,
        sku: item.sku,
        location_id: draft.location(body.location_ref(), "")?,
        quantity: body.quantity,
        status: ReservationStatus::Active,
        expires_at: body.expires_at,
        reference: body.reference.clone(),
        version: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    post(draft, &reservation, MovementKind::Reserve, body.quantity)?;
    draft.save(reservation, "reservation.created")
}

fn end(draft: &mut Draft<'_>, status: ReservationStatus, event_type: &'static str) -> Result<(), Stop> {
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

pub(crate) fn release(draft: &mut Draft<'_>) -> Result<(), Stop> {
    end(draft, ReservationStatus::Released, "reservation.released")
}

pub(crate) fn expire(draft: &mut Draft<'_>) -> Result<(), Stop> {
    end(draft, ReservationStatus::Expired, "reservation.expired")
}
