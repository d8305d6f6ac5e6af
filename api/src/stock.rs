//! Stock: levels now, or as of a time; an item's levels over all locations.

use crate::documents::path_id;
use crate::page;
use crate::reader::{Read, Reader};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use twh_domain::decimal::Quantity;
use twh_domain::entity::EntityKind;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{GetItemStock, ListStock};
use twh_edge::error::ApiError;
use twh_edge::headers::{etag, has_version};
use twh_edge::{cursor, query};
use twh_sinks::postgres::queries::{
    ItemStock, LevelFilter, LevelRow, Moment, item_stock, list_levels, partition_of, sequence_at, sequence_through,
};
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StockQuery {
    limit: Option<i64>,
    cursor: Option<String>,
    item_id: Option<Uuid>,
    sku: Option<String>,
    location_id: Option<Uuid>,
    location_code: Option<String>,
    as_of: Option<String>,
    as_of_basis: Option<String>,
}

/// The moment that is asked for, as it is written.
enum AsOf {
    Now,
    Recorded(Timestamp),
    Occurred(Timestamp),
    Position(Position),
}

impl StockQuery {
    fn as_of(&self) -> Result<AsOf, ApiError> {
        let occurred = match self.as_of_basis.as_deref() {
            None | Some("recorded") => false,
            Some("occurred") => true,
            Some(_) => return Err(query::invalid("as_of_basis", "must be recorded or occurred")),
        };
        let Some(text) = self.as_of.as_deref() else {
            return match self.as_of_basis {
                Some(_) => Err(query::invalid("as_of_basis", "needs as_of")),
                None => Ok(AsOf::Now),
            };
        };
        match (text.parse(), text.parse(), occurred) {
            (Ok(position), _, false) => Ok(AsOf::Position(position)),
            (Ok(_), _, true) => Err(query::invalid("as_of_basis", "occurred needs a time in as_of, not a position")),
            (_, Ok(at), false) => Ok(AsOf::Recorded(at)),
            (_, Ok(at), true) => Ok(AsOf::Occurred(at)),
            (Err(_), Err(_), _) => Err(query::invalid(
                "as_of",
                "must be an RFC 3339 time such as 2026-03-01T09:30:00Z (a + in it is written %2B) or a position such as 3-1042",
            )),
        }
    }
}

/// Finds the moment in the ledger; one that is a position is waited for.
async fn moment(reader: &Read, as_of: AsOf) -> Result<Moment, ApiError> {
    let sequence = match as_of {
        AsOf::Now => return Ok(Moment::Now),
        AsOf::Occurred(at) => return Ok(Moment::Occurred(at)),
        AsOf::Recorded(at) => sequence_at(&reader.pool, reader.tenant_id, at).await,
        AsOf::Position(position) => {
            let partition = partition_of(&reader.pool, reader.tenant_id).await.map_err(ApiError::database)?;
            if partition.is_some_and(|own| own != position.partition) {
                return Err(query::invalid("as_of", "is a position of a partition where you have no commands"));
            }
            reader.reach(position).await?;
            sequence_through(&reader.pool, reader.tenant_id, position).await
        }
    };
    Ok(Moment::Sequence(sequence.map_err(ApiError::database)?))
}

fn row(level: &LevelRow) -> Value {
    json!({
        "item_id": level.item_id,
        "sku": level.sku,
        "location_id": level.location_id,
        "location_code": level.location_code,
        "qty_on_hand": level.on_hand,
        "qty_reserved": level.reserved,
        "available": level.on_hand.checked_sub(level.reserved).unwrap_or_default(),
        "last_counted_at": level.last_counted_at,
        "version": level.version,
        "updated_at": level.updated_at,
    })
}

pub(crate) async fn list(reader: Reader<ListStock>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let asked: StockQuery = query::parse(&request)?;
    let limit = query::limit(asked.limit)?;
    let after = asked.cursor.as_deref().map(cursor::decode::<(Uuid, Uuid)>).transpose()?;
    let as_of = asked.as_of()?;
    for (name, value) in [("sku", &asked.sku), ("location_code", &asked.location_code)] {
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(query::invalid(name, "must not hold NUL"));
        }
    }
    let filter = LevelFilter {
        item_id: asked.item_id,
        sku: asked.sku,
        location_id: asked.location_id,
        location_code: asked.location_code,
    };
    let moment = moment(&reader, as_of).await?;
    let mut rows = list_levels(&reader.pool, reader.tenant_id, &filter, moment, after, limit + 1)
        .await
        .map_err(ApiError::database)?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if more {
        rows.pop();
    }
    let next = if more { rows.last().map(|level| cursor::encode(&(level.item_id, level.location_id))) } else { None };
    Ok(page(&rows.iter().map(row).collect::<Vec<_>>(), next))
}

pub(crate) async fn of_item(reader: Reader<GetItemStock>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let id = path_id(&request, EntityKind::Item)?;
    let stock = item_stock(&reader.pool, reader.tenant_id, id).await.map_err(ApiError::database)?;
    let ItemStock { levels, in_transit } = stock.ok_or_else(|| ApiError::not_found(EntityKind::Item.noun()))?;
    let coming: BTreeMap<Uuid, Quantity> = in_transit.into_iter().collect();
    let total = |of: fn(&LevelRow) -> Quantity| {
        levels.iter().map(of).try_fold(Quantity::ZERO, Quantity::checked_add).unwrap_or_default()
    };
    let (on_hand, reserved) = (total(|level| level.on_hand), total(|level| level.reserved));
    let on_the_way = coming.values().copied().try_fold(Quantity::ZERO, Quantity::checked_add).unwrap_or_default();
    // Every movement of the item raises one level's version, so their sum names this answer.
    let version = levels.iter().map(|level| level.version).sum();
    let mut response = HttpResponse::Ok();
    if coming.is_empty() {
        response.insert_header(etag(version));
        if has_version(&request, version) {
            return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
        }
    }
    Ok(response.json(json!({
        "item_id": id,
        "qty_on_hand": on_hand,
        "qty_reserved": reserved,
        "available": on_hand.checked_sub(reserved).unwrap_or_default(),
        "qty_in_transit": on_the_way,
        "in_transit": coming.iter().map(|(location, quantity)| json!({ "to_location_id": location, "quantity": quantity })).collect::<Vec<_>>(),
        "levels": levels.iter().map(row).collect::<Vec<_>>(),
    })))
}
