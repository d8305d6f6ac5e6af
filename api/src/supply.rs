//! Supply: what there is of items, what comes and what goes; what was there, day by day; how long suppliers take. It is read
//! from the read model of that name.

use crate::documents::path_id;
use crate::projected::Projected;
use crate::reader::{Read, Reader};
use actix_web::HttpRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Iso8601;
use time::{Date, Duration, OffsetDateTime};
use twh_domain::decimal::Quantity;
use twh_domain::documents::item::Item;
use twh_domain::entity::EntityKind;
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use twh_edge::access::{GetFreshness, GetItemSupply, GetLeadTimes, GetStockHistory, ListLowStock, ListOpenLines};
use twh_edge::answer::{Answer, Page};
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_sinks::postgres::builds::{Projection, freshness};
use twh_sinks::postgres::documents::find_document;
use twh_sinks::postgres::standing::reflects;
use twh_sinks::postgres::supply::{self, OpenLineFilter, OpenLineRow};
use twh_sinks::postgres::tenant::TenantConnection;
use uuid::Uuid;

/// Days of a history, where it is not said how many, and at most.
const DAYS_DEFAULT: i64 = 30;
const DAYS_MAX: i64 = 366;

/// What there is of an item over all locations, what comes and what goes.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ItemSupply {
    item_id: Uuid,
    sku: String,
    name: Option<String>,
    qty_on_hand: Total,
    qty_reserved: Total,
    /// What can be promised: on hand less reserved.
    available: Total,
    /// Still to come of purchase orders that are with their suppliers.
    qty_incoming: Total,
    /// On its way between locations.
    qty_in_transit: Total,
    /// Still to go of sales orders, reserved or not.
    qty_outgoing: Total,
    /// What of that is not reserved.
    qty_backordered: Total,
    /// The availability at which more should be ordered.
    reorder_point: Option<Quantity>,
    /// Since when there is no more than that; `null` while there is more.
    low_since: Option<Timestamp>,
    /// What to order to be back at the reorder point once all that is under way has come and gone: reorder point − (available +
    /// incoming + in transit − backordered), or 0; `null` without a reorder point.
    suggested_order: Option<Total>,
}

fn item_supply(row: supply::ItemSupply) -> ItemSupply {
    let available = row.on_hand - row.reserved;
    let to_be = available + row.incoming + row.in_transit - row.backordered;
    let missing = |point: Quantity| (Total::from(point) - to_be).max(Total::ZERO);
    ItemSupply {
        item_id: row.item_id,
        sku: row.sku,
        name: row.name,
        qty_on_hand: row.on_hand,
        qty_reserved: row.reserved,
        available,
        qty_incoming: row.incoming,
        qty_in_transit: row.in_transit,
        qty_outgoing: row.outgoing,
        qty_backordered: row.backordered,
        reorder_point: row.reorder_point,
        low_since: row.low_since,
        suggested_order: row.reorder_point.map(missing),
    }
}

/// The item of a request, as the ledger has it.
async fn item(connection: &mut TenantConnection, reader: &Read, request: &HttpRequest) -> Result<Item, ApiError> {
    let id = path_id(request, EntityKind::Item)?;
    let found = find_document(connection, EntityKind::Item, reader.tenant_id, id).await.map_err(ApiError::database)?;
    let document = found.ok_or_else(|| ApiError::not_found(EntityKind::Item.noun()))?;
    serde_json::from_str(&document.json).map_err(ApiError::internal)
}

pub(crate) async fn of_item(
    reader: Reader<GetItemSupply>,
    request: HttpRequest,
) -> Result<Projected<ItemSupply>, ApiError> {
    let mut connection = reader.ledger().await?;
    let item = item(&mut connection, &reader, &request).await?;
    let (mut tx, fresh) = reader.projected(&mut connection, Projection::Supply).await?;
    let row = supply::item_supply(&mut tx, reader.tenant_id, &fresh.build, item.id.0).await;
    // What holds no stock, and what has just been added, has none.
    let row = row.map_err(ApiError::database)?.unwrap_or_else(|| supply::ItemSupply::none(&item));
    Ok(Projected::of(item_supply(row), &fresh))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LowStockQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

pub(crate) async fn low(
    reader: Reader<ListLowStock>,
    query: Query<LowStockQuery>,
) -> Result<Projected<Page<ItemSupply>>, ApiError> {
    let asked = query.read()?;
    let limit = query::limit(asked.limit)?;
    let after = asked.cursor.as_deref().map(cursor::decode::<Uuid>).transpose()?;
    let mut connection = reader.ledger().await?;
    let (mut tx, fresh) = reader.projected(&mut connection, Projection::Supply).await?;
    let found = supply::low_items(&mut tx, reader.tenant_id, &fresh.build, after, limit).await;
    let place = |row: &supply::ItemSupply| cursor::encode(&row.item_id);
    let page = Page::of(&found.map_err(ApiError::database)?, place, |row| item_supply(row.clone()));
    Ok(Projected::of(page, &fresh))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    /// The first day (UTC); 29 days before the last by default.
    #[schemars(extend("format" = "date"))]
    from: Option<String>,
    /// The last day (UTC); today by default. At most 366 days with the first.
    #[schemars(extend("format" = "date"))]
    to: Option<String>,
    /// At this location.
    location_id: Option<Uuid>,
}

/// An item's stock day by day, as it happened.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StockHistory {
    item_id: Uuid,
    #[schemars(extend("format" = "date"))]
    from: String,
    #[schemars(extend("format" = "date"))]
    to: String,
    locations: Vec<LocationHistory>,
}

/// A location's days.
#[derive(Serialize, JsonSchema)]
struct LocationHistory {
    location_id: Uuid,
    location_code: String,
    /// On hand before the first day.
    opening: Total,
    /// On hand after the last day.
    closing: Total,
    /// Days on which something came or went; on every other day there is what was there the day before.
    days: Vec<StockDay>,
}

/// What came and went on a day.
#[derive(Serialize, JsonSchema)]
struct StockDay {
    #[schemars(extend("format" = "date"))]
    day: String,
    qty_in: Total,
    qty_out: Total,
    /// On hand at the day's end.
    qty_on_hand: Total,
}

fn date(name: &str, text: Option<&str>) -> Result<Option<Date>, ApiError> {
    let parsed = text.map(|text| Date::parse(text, &Iso8601::DATE)).transpose();
    parsed.map_err(|_| query::invalid(name, "must be a day such as 2026-03-01"))
}

fn span(asked: &HistoryQuery) -> Result<(Date, Date), ApiError> {
    let last = date("to", asked.to.as_deref())?.unwrap_or_else(|| OffsetDateTime::now_utc().date());
    let first = match date("from", asked.from.as_deref())? {
        Some(first) => first,
        None => last.checked_sub(Duration::days(DAYS_DEFAULT - 1)).unwrap_or(last),
    };
    match (last - first).whole_days() {
        days if days < 0 => Err(query::invalid("from", "must not be after to")),
        days if days >= DAYS_MAX => Err(query::invalid("from", &format!("must be within {DAYS_MAX} days of to"))),
        _ => Ok((first, last)),
    }
}

fn location_history(history: supply::History) -> LocationHistory {
    LocationHistory {
        location_id: history.location_id,
        location_code: history.location_code,
        opening: history.opening,
        closing: history.days.last().map_or(history.opening, |day| day.on_hand),
        days: history
            .days
            .into_iter()
            .map(|day| StockDay {
                day: day.day.to_string(),
                qty_in: day.came,
                qty_out: day.went,
                qty_on_hand: day.on_hand,
            })
            .collect(),
    }
}

pub(crate) async fn history(
    reader: Reader<GetStockHistory>,
    request: HttpRequest,
    query: Query<HistoryQuery>,
) -> Result<Projected<StockHistory>, ApiError> {
    let asked = query.read()?;
    let (first, last) = span(&asked)?;
    let mut connection = reader.ledger().await?;
    let item = item(&mut connection, &reader, &request).await?;
    let (mut tx, fresh) = reader.projected(&mut connection, Projection::Supply).await?;
    let (tenant, build) = (reader.tenant_id, &fresh.build);
    let found = supply::history(&mut tx, tenant, build, item.id.0, asked.location_id, (first, last)).await;
    let found = found.map_err(ApiError::database)?;
    let found = found.ok_or_else(|| {
        query::invalid("from", "asks for more than an answer may hold: name a location_id, or fewer days")
    })?;
    let locations = found.into_iter().map(location_history).collect();
    let body = StockHistory { item_id: item.id.0, from: first.to_string(), to: last.to_string(), locations };
    Ok(Projected::of(body, &fresh))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenLineQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Of this kind of document.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["purchase_order", "sales_order", "transfer"]))]
    kind: Option<String>,
    /// Of this item.
    item_id: Option<Uuid>,
    /// Only those of which something is neither shipped nor reserved.
    backordered: Option<bool>,
}

/// A line of which something is still to come, to arrive or to go.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OpenLine {
    #[schemars(extend("enum" = ["purchase_order", "sales_order", "transfer"]))]
    document_type: String,
    document_id: Uuid,
    number: String,
    line: i32,
    item_id: Uuid,
    sku: String,
    /// Where to; for a sales order, where from.
    location_id: Uuid,
    location_code: String,
    /// How much is outstanding.
    quantity: Quantity,
    /// What of it is neither shipped nor reserved: of sales orders only.
    qty_backordered: Quantity,
    /// Since when: sent to the supplier, ordered by the buyer, or on its way.
    since: Timestamp,
}

fn open_line(row: &OpenLineRow) -> OpenLine {
    OpenLine {
        document_type: row.document_kind.clone(),
        document_id: row.document_id,
        number: row.number.clone(),
        line: row.line,
        item_id: row.item_id,
        sku: row.sku.clone(),
        location_id: row.location_id,
        location_code: row.location_code.clone(),
        quantity: row.quantity,
        qty_backordered: row.backordered,
        since: row.since,
    }
}

pub(crate) async fn open(
    reader: Reader<ListOpenLines>,
    query: Query<OpenLineQuery>,
) -> Result<Projected<Page<OpenLine>>, ApiError> {
    let asked = query.read()?;
    let limit = query::limit(asked.limit)?;
    let after = asked.cursor.as_deref().map(cursor::decode::<(Uuid, i32)>).transpose()?;
    let document_kind = match asked.kind.as_deref() {
        None => None,
        Some("purchase_order") => Some(EntityKind::PurchaseOrder.name()),
        Some("sales_order") => Some(EntityKind::SalesOrder.name()),
        Some("transfer") => Some(EntityKind::Transfer.name()),
        Some(_) => return Err(query::invalid("type", "must be purchase_order, sales_order or transfer")),
    };
    let filter =
        OpenLineFilter { document_kind, item_id: asked.item_id, backordered: asked.backordered.unwrap_or_default() };
    let mut connection = reader.ledger().await?;
    let (mut tx, fresh) = reader.projected(&mut connection, Projection::Supply).await?;
    let found = supply::open_lines(&mut tx, reader.tenant_id, &fresh.build, &filter, after, limit).await;
    let place = |row: &OpenLineRow| cursor::encode(&(row.document_id, row.line));
    Ok(Projected::of(Page::of(&found.map_err(ApiError::database)?, place, open_line), &fresh))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeadTimeQuery {
    /// Of this item.
    item_id: Option<Uuid>,
    /// Ordered then or later.
    since: Option<Timestamp>,
}

/// How long a supplier has taken, as measured: from the order to the last of a line.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LeadTimes {
    supplier_id: Uuid,
    item_id: Option<Uuid>,
    /// Lines that came whole, which are what is measured.
    lines: i64,
    /// Lines of which something has not come.
    lines_outstanding: i64,
    /// In days; `null` before the first line has come whole.
    days: Option<LeadTimeDays>,
}

/// Lead times in days, rounded to a hundredth (a quarter of an hour); goods that came before they were ordered took none.
#[derive(Serialize, JsonSchema)]
struct LeadTimeDays {
    shortest: f64,
    median: f64,
    /// Nine lines of ten took no longer.
    p90: f64,
    longest: f64,
    mean: f64,
}

pub(crate) async fn lead_times(
    reader: Reader<GetLeadTimes>,
    request: HttpRequest,
    query: Query<LeadTimeQuery>,
) -> Result<Projected<LeadTimes>, ApiError> {
    let asked = query.read()?;
    let id = path_id(&request, EntityKind::Supplier)?;
    let mut connection = reader.ledger().await?;
    let found = find_document(&mut connection, EntityKind::Supplier, reader.tenant_id, id).await;
    if found.map_err(ApiError::database)?.is_none() {
        return Err(ApiError::not_found(EntityKind::Supplier.noun()));
    }
    let (mut tx, fresh) = reader.projected(&mut connection, Projection::Supply).await?;
    let (tenant, build) = (reader.tenant_id, &fresh.build);
    let found = supply::lead_times(&mut tx, tenant, build, id, asked.item_id, asked.since).await;
    let found = found.map_err(ApiError::database)?;
    let days =
        found.days.map(|[shortest, median, p90, longest, mean]| LeadTimeDays { shortest, median, p90, longest, mean });
    let (lines, lines_outstanding) = (found.lines, found.lines_outstanding);
    Ok(Projected::of(LeadTimes { supplier_id: id, item_id: asked.item_id, lines, lines_outstanding, days }, &fresh))
}

/// How far the ledger and what is made of it are, for you.
#[derive(Serialize, JsonSchema)]
pub(crate) struct FreshnessOfAll {
    /// The last command that the ledger has applied; `null` before your first.
    ledger: Option<String>,
    read_models: Vec<FreshnessOfModel>,
}

/// How far a read model is.
#[derive(Serialize, JsonSchema)]
struct FreshnessOfModel {
    #[schemars(extend("enum" = ["search", "supply"]))]
    name: &'static str,
    /// Which build of it answers; `null` where there is none.
    build: Option<String>,
    /// The last command that it reflects.
    reflects: Option<String>,
    /// Events of yours that it does not reflect yet; `null` where there is no build.
    events_behind: Option<i64>,
    /// Events of yours that it leaves out, since they cannot be stored in it: what it says lacks them. More than none is a defect
    /// of ours; `null` where there is no build.
    events_left_out: Option<i64>,
}

pub(crate) async fn all_freshness(reader: Reader<GetFreshness>) -> Result<Answer<FreshnessOfAll>, ApiError> {
    let mut connection = reader.ledger().await?;
    let ledger = reflects(&mut connection, reader.tenant_id).await.map_err(ApiError::database)?;
    let mut read_models = Vec::new();
    for projection in Projection::ALL {
        let found = freshness(&mut connection, *projection, reader.tenant_id).await.map_err(ApiError::database)?;
        read_models.push(FreshnessOfModel {
            name: projection.name(),
            build: found.as_ref().map(|fresh| fresh.build.name.clone()),
            reflects: found.as_ref().and_then(|fresh| fresh.reflects).map(|position| position.to_string()),
            events_behind: found.as_ref().map(|fresh| fresh.events_behind.max(0)),
            events_left_out: found.map(|fresh| fresh.events_left_out),
        });
    }
    Ok(Answer::of(&FreshnessOfAll { ledger: ledger.map(|position| position.to_string()), read_models }))
}
