//! Stock: levels now, or as of a time; an item's levels over all locations.

use crate::documents::path_id;
use crate::reader::{Read, Reader};
use crate::text::Text;
use crate::versioned::Versioned;
use actix_web::HttpRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use twh_domain::entity::EntityKind;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use twh_edge::access::{GetItemStock, ListStock};
use twh_edge::answer::{Answer, Page};
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_edge::room::resting;
use twh_sinks::postgres::levels::{
    ItemStock, LevelFilter, LevelRow, Moment, item_stock, list_levels, sequence_at, sequence_through,
};
use uuid::Uuid;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StockQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Of this item, by id.
    item_id: Option<Uuid>,
    /// Of this item, by SKU.
    sku: Option<Text>,
    /// At this location, by id.
    location_id: Option<Uuid>,
    /// At this location, by code.
    location_code: Option<Text>,
    /// What the books said then: an RFC 3339 time, or a position as `X-TWH-Position` gives it.
    as_of: Option<String>,
    /// Whether a time in `as_of` is when the ledger recorded (the default) or when it happened.
    #[schemars(extend("enum" = ["recorded", "occurred"]))]
    as_of_basis: Option<String>,
}

/// How much of an item a location holds.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Level {
    item_id: Uuid,
    sku: String,
    location_id: Uuid,
    location_code: String,
    /// What is there.
    qty_on_hand: Total,
    /// What of it is promised.
    qty_reserved: Total,
    /// What can be promised: on hand less reserved.
    available: Total,
    last_counted_at: Option<Timestamp>,
    /// How many movements made it.
    version: i64,
    updated_at: Timestamp,
}

/// An item's stock over all locations.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StockOfItem {
    item_id: Uuid,
    qty_on_hand: Total,
    qty_reserved: Total,
    available: Total,
    /// What is on its way between locations.
    qty_in_transit: Total,
    /// The first 1,000 locations to which something is on its way. The sum is over all.
    in_transit: Vec<InTransit>,
    /// At the first 1,000 locations. The sums are over all.
    levels: Vec<Level>,
    /// Whether there are more levels: `GET /v1/stock` with this `item_id` lists all, page by page.
    has_more_levels: bool,
}

/// What is on its way to a location.
#[derive(Serialize, JsonSchema)]
pub(crate) struct InTransit {
    to_location_id: Uuid,
    quantity: Total,
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
async fn moment(request: &HttpRequest, reader: &Read, as_of: AsOf) -> Result<Moment, ApiError> {
    let sequence = match as_of {
        AsOf::Now => return Ok(Moment::Now),
        AsOf::Occurred(at) => return Ok(Moment::Occurred(at)),
        AsOf::Recorded(at) => sequence_at(&mut *reader.ledger().await?, reader.tenant_id, at).await,
        AsOf::Position(position) => {
            if !reader.owns(position) {
                return Err(query::invalid("as_of", "is a position of a partition where you have no commands"));
            }
            resting(request, reader.reach(position)).await??;
            sequence_through(&mut *reader.ledger().await?, reader.tenant_id, position).await
        }
    };
    Ok(Moment::Sequence(sequence.map_err(ApiError::database)?))
}

fn row(level: &LevelRow) -> Level {
    Level {
        item_id: level.item_id,
        sku: level.sku.clone(),
        location_id: level.location_id,
        location_code: level.location_code.clone(),
        qty_on_hand: level.on_hand,
        qty_reserved: level.reserved,
        available: level.on_hand - level.reserved,
        last_counted_at: level.last_counted_at,
        version: level.version,
        updated_at: level.updated_at,
    }
}

pub(crate) async fn list(
    reader: Reader<ListStock>,
    request: HttpRequest,
    query: Query<StockQuery>,
) -> Result<Answer<Page<Level>>, ApiError> {
    let asked = query.read()?;
    let limit = query::limit(asked.limit)?;
    let after = asked.cursor.as_deref().map(cursor::decode::<(Uuid, Uuid)>).transpose()?;
    let as_of = asked.as_of()?;
    let filter = LevelFilter {
        item_id: asked.item_id,
        sku: asked.sku.map(Text::into),
        location_id: asked.location_id,
        location_code: asked.location_code.map(Text::into),
    };
    let moment = moment(&request, &reader, as_of).await?;
    let found = list_levels(&mut *reader.ledger().await?, reader.tenant_id, &filter, moment, after, limit)
        .await
        .map_err(ApiError::database)?;
    let place = |level: &LevelRow| cursor::encode(&(level.item_id, level.location_id));
    Ok(Answer::of(&Page::of(&found, place, row)))
}

pub(crate) async fn of_item(
    reader: Reader<GetItemStock>,
    request: HttpRequest,
) -> Result<Versioned<StockOfItem>, ApiError> {
    let id = path_id(&request, EntityKind::Item)?;
    let stock = item_stock(&mut *reader.ledger().await?, reader.tenant_id, id).await.map_err(ApiError::database)?;
    let stock = stock.ok_or_else(|| ApiError::not_found(EntityKind::Item.noun()))?;
    let ItemStock { on_hand, reserved, version, levels, on_its_way, in_transit } = stock;
    let coming = |(to, quantity): &(Uuid, Total)| InTransit { to_location_id: *to, quantity: *quantity };
    let body = StockOfItem {
        item_id: id,
        qty_on_hand: on_hand,
        qty_reserved: reserved,
        available: on_hand - reserved,
        qty_in_transit: on_its_way,
        in_transit: in_transit.rows.iter().map(coming).collect(),
        levels: levels.rows.iter().map(row).collect(),
        has_more_levels: levels.has_more,
    };
    // Every movement of the item raises one level's version, so that their sum names this answer. What is on its way changes
    // without a movement of a level.
    let version = in_transit.rows.is_empty().then_some(version);
    Ok(Versioned::new(&request, version, || serde_json::to_string(&body).unwrap_or_default()))
}
