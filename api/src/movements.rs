//! Movements: the ledger as it stands, newest first.

use crate::documents::path_id;
use crate::reader::{Read, Reader};
use actix_web::HttpRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use twh_domain::decimal::Quantity;
use twh_domain::entity::EntityKind;
use twh_domain::hex;
use twh_domain::movement::MovementKind;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{GetMovement, ListItemMovements, ListMovements};
use twh_edge::answer::{Answer, Page};
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_sinks::postgres::documents::find_document;
use twh_sinks::postgres::movements::{MovementFilter, MovementRow, find_movement, list_movements};
use uuid::Uuid;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MovementQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Of this item.
    item_id: Option<Uuid>,
    /// At this location.
    location_id: Option<Uuid>,
    /// Of this type.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = MovementKind::NAMES))]
    kind: Option<String>,
    /// Caused by this document.
    reference_id: Option<Uuid>,
}

/// A change of one level: a line of the ledger, which nothing ever changes.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Movement {
    /// Its number in the ledger, from 1.
    id: i64,
    item_id: Uuid,
    location_id: Uuid,
    #[schemars(extend("enum" = MovementKind::NAMES))]
    r#type: String,
    /// The level's version after it.
    level_version: i64,
    change_on_hand: Quantity,
    change_reserved: Quantity,
    on_hand_after: Quantity,
    reserved_after: Quantity,
    /// The kind of document that caused it.
    reference_type: String,
    reference_id: Uuid,
    /// The document's line, from 1.
    reference_line: i32,
    reason: Option<String>,
    command_id: Uuid,
    /// The command's place in the log.
    position: String,
    /// When it happened, by the client's word.
    occurred_at: Timestamp,
    /// When the ledger took it.
    recorded_at: Timestamp,
    /// SHA-256 over it and the hash of the movement before, in hexadecimal.
    hash: String,
}

pub(crate) fn row(movement: &MovementRow) -> Movement {
    Movement {
        id: movement.sequence,
        item_id: movement.item_id,
        location_id: movement.location_id,
        r#type: movement.kind.clone(),
        level_version: movement.level_version,
        change_on_hand: movement.on_hand_change,
        change_reserved: movement.reserved_change,
        on_hand_after: movement.on_hand_after,
        reserved_after: movement.reserved_after,
        reference_type: movement.reference_kind.clone(),
        reference_id: movement.reference_id,
        reference_line: movement.reference_line,
        reason: movement.reason.clone(),
        command_id: movement.command_id,
        position: movement.position.to_string(),
        occurred_at: movement.occurred_at,
        recorded_at: movement.recorded_at,
        hash: hex::encode(&movement.hash),
    }
}

async fn answer(reader: &Read, asked: MovementQuery) -> Result<Answer<Page<Movement>>, ApiError> {
    let limit = query::limit(asked.limit)?;
    let before = asked.cursor.as_deref().map(cursor::decode::<i64>).transpose()?;
    if asked.kind.as_deref().is_some_and(|kind| MovementKind::from_name(kind).is_none()) {
        return Err(query::invalid("type", &format!("must be one of {}", MovementKind::NAMES.join(", "))));
    }
    let filter = MovementFilter {
        item_id: asked.item_id,
        location_id: asked.location_id,
        kind: asked.kind,
        reference_id: asked.reference_id,
    };
    let found = list_movements(&mut reader.ledger().await?, reader.tenant_id, &filter, before, limit).await;
    let found = found.map_err(ApiError::database)?;
    Ok(Answer::of(&Page::of(&found, |movement| cursor::encode(&movement.sequence), row)))
}

pub(crate) async fn list(
    reader: Reader<ListMovements>,
    query: Query<MovementQuery>,
) -> Result<Answer<Page<Movement>>, ApiError> {
    answer(&reader, query.read()?).await
}

pub(crate) async fn of_item(
    reader: Reader<ListItemMovements>,
    request: HttpRequest,
    query: Query<MovementQuery>,
) -> Result<Answer<Page<Movement>>, ApiError> {
    let id = path_id(&request, EntityKind::Item)?;
    let item = find_document(&mut *reader.ledger().await?, EntityKind::Item, reader.tenant_id, id)
        .await
        .map_err(ApiError::database)?;
    item.ok_or_else(|| ApiError::not_found(EntityKind::Item.noun()))?;
    let mut asked = query.read()?;
    if asked.item_id.replace(id).is_some_and(|other| other != id) {
        return Err(query::invalid("item_id", "is the path's"));
    }
    answer(&reader, asked).await
}

/// The movement's number in a path; what is no number names nothing.
pub(crate) fn sequence(request: &HttpRequest) -> Option<i64> {
    request.match_info().get("sequence")?.parse().ok()
}

pub(crate) async fn one(reader: Reader<GetMovement>, request: HttpRequest) -> Result<Answer<Movement>, ApiError> {
    let missing = || ApiError::not_found("movement");
    let sequence = sequence(&request).ok_or_else(missing)?;
    let found = find_movement(&mut *reader.ledger().await?, reader.tenant_id, sequence).await;
    Ok(Answer::of(&row(&found.map_err(ApiError::database)?.ok_or_else(missing)?)))
}
