//! Movements: the ledger as it stands, newest first.

use crate::documents::path_id;
use crate::page;
use crate::reader::{Read, Reader};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Value, json};
use twh_domain::entity::EntityKind;
use twh_domain::hex;
use twh_domain::movement::MovementKind;
use twh_edge::access::{GetMovement, ListItemMovements, ListMovements};
use twh_edge::error::ApiError;
use twh_edge::{cursor, query};
use twh_sinks::postgres::queries::{MovementFilter, MovementRow, find_document, list_movements};
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MovementQuery {
    limit: Option<i64>,
    cursor: Option<String>,
    item_id: Option<Uuid>,
    location_id: Option<Uuid>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference_id: Option<Uuid>,
}

pub(crate) fn row(movement: &MovementRow) -> Value {
    json!({
        "id": movement.sequence,
        "item_id": movement.item_id,
        "location_id": movement.location_id,
        "type": movement.kind,
        "level_version": movement.level_version,
        "change_on_hand": movement.on_hand_change,
        "change_reserved": movement.reserved_change,
        "on_hand_after": movement.on_hand_after,
        "reserved_after": movement.reserved_after,
        "reference_type": movement.reference_kind,
        "reference_id": movement.reference_id,
        "reference_line": movement.reference_line,
        "reason": movement.reason,
        "command_id": movement.command_id,
        "position": movement.position.to_string(),
        "occurred_at": movement.occurred_at,
        "recorded_at": movement.recorded_at,
        "hash": hex::encode(&movement.hash),
    })
}

async fn answer(reader: &Read, asked: MovementQuery) -> Result<HttpResponse, ApiError> {
    let limit = query::limit(asked.limit)?;
    let before = asked.cursor.as_deref().map(cursor::decode::<i64>).transpose()?;
    if asked.kind.as_deref().is_some_and(|kind| MovementKind::from_name(kind).is_none()) {
        let names: Vec<_> = MovementKind::ALL.iter().map(|kind| kind.name()).collect();
        return Err(query::invalid("type", &format!("must be one of {}", names.join(", "))));
    }
    let filter = MovementFilter {
        sequence: None,
        item_id: asked.item_id,
        location_id: asked.location_id,
        kind: asked.kind,
        reference_id: asked.reference_id,
    };
    let mut rows =
        list_movements(&reader.pool, reader.tenant_id, &filter, before, limit + 1).await.map_err(ApiError::database)?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if more {
        rows.pop();
    }
    let next = if more { rows.last().map(|movement| cursor::encode(&movement.sequence)) } else { None };
    Ok(page(&rows.iter().map(row).collect::<Vec<_>>(), next))
}

pub(crate) async fn list(reader: Reader<ListMovements>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    answer(&reader, query::parse(&request)?).await
}

pub(crate) async fn of_item(reader: Reader<ListItemMovements>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let id = path_id(&request, EntityKind::Item)?;
    let item = find_document(&reader.pool, EntityKind::Item, reader.tenant_id, id).await.map_err(ApiError::database)?;
    item.ok_or_else(|| ApiError::not_found(EntityKind::Item.noun()))?;
    let mut asked: MovementQuery = query::parse(&request)?;
    if asked.item_id.replace(id).is_some_and(|other| other != id) {
        return Err(query::invalid("item_id", "is the path's"));
    }
    answer(&reader, asked).await
}

/// The movement's number in a path; what is no number names nothing.
pub(crate) fn sequence(request: &HttpRequest) -> Option<i64> {
    request.match_info().get("sequence")?.parse().ok()
}

pub(crate) async fn one(reader: Reader<GetMovement>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let missing = || ApiError::not_found("movement");
    let sequence = sequence(&request).ok_or_else(missing)?;
    let filter = MovementFilter { sequence: Some(sequence), ..MovementFilter::default() };
    let rows = list_movements(&reader.pool, reader.tenant_id, &filter, None, 1).await.map_err(ApiError::database)?;
    Ok(HttpResponse::Ok().json(row(rows.first().ok_or_else(missing)?)))
}
