//! What levels and documents must be by the rows that they were made of.

use super::rows::{Place, Stored};
use std::collections::BTreeMap;
use twh_domain::entity::{Entity, EntityKind};
use twh_domain::level::StockLevel;
use twh_domain::movement::Movement;

/// Adds a movement to the level before it; says in what the movement contradicts that.
pub(super) fn fold(level: &mut StockLevel, movement: &Movement) -> Result<(), String> {
    let on_hand = level.on_hand.checked_add(movement.on_hand_change);
    let reserved = level.reserved.checked_add(movement.reserved_change);
    if (on_hand, reserved) != (Some(movement.on_hand_after), Some(movement.reserved_after)) {
        return Err(format!(
            "says {} on hand and {} reserved after it; the movements before it and its own changes come to something else",
            movement.on_hand_after, movement.reserved_after
        ));
    }
    if movement.level_version != level.version + 1 {
        return Err(format!("is number {} of its level, but follows number {}", movement.level_version, level.version));
    }
    level.evolve(movement);
    Ok(())
}

pub(super) fn first_difference(
    folded: &BTreeMap<Place, StockLevel>,
    stored: &BTreeMap<Place, Result<StockLevel, String>>,
) -> Option<(Place, String)> {
    let told = |level: &StockLevel| {
        format!("{} on hand, {} reserved after {} movements", level.on_hand, level.reserved, level.version)
    };
    let places: std::collections::BTreeSet<_> = folded.keys().chain(stored.keys()).collect();
    places.into_iter().find_map(|place| {
        let problem = match (folded.get(place), stored.get(place)) {
            (_, Some(Err(problem))) => problem.clone(),
            (Some(folded), Some(Ok(stored))) if folded == stored => return None,
            (Some(folded), Some(Ok(stored))) => {
                format!(
                    "says {}; its movements come to {}, or its times differ from theirs",
                    told(stored),
                    told(folded)
                )
            }
            (Some(folded), None) => format!("is missing; its movements come to {}", told(folded)),
            (None, _) => "has no movement".to_owned(),
        };
        Some((*place, problem))
    })
}

/// Compares a document's row with its newest audit record; gives the document.
pub(super) fn compare(kind: EntityKind, newest: &str, stored: &Stored) -> Result<Entity, String> {
    if stored.document != newest {
        return Err("is not what its newest audit record says".to_owned());
    }
    let entity = Entity::from_document(kind, newest).map_err(|error| error.to_string())?;
    let drawn = Stored {
        document: stored.document.clone(),
        code: entity.code().map(str::to_owned),
        status: entity.status().map(str::to_owned),
        expires_at: entity.expires_at(),
        version: entity.version(),
        created_at: entity.created_at(),
        updated_at: entity.updated_at(),
    };
    if drawn == *stored { Ok(entity) } else { Err("its columns are not what its document says".to_owned()) }
}
