//! Documents: one by its id, byte for byte as it was written; many by page and filter.

use crate::reader::{Read, Reader};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use twh_domain::entity::EntityKind;
use twh_edge::access::{
    GetAdjustment, GetCount, GetItem, GetLocation, GetPurchaseOrder, GetReservation, GetReturn, GetSalesOrder,
    GetSupplier, GetTransfer, Guarded, ListAdjustments, ListCounts, ListItems, ListLocations, ListPurchaseOrders,
    ListReservations, ListReturns, ListSalesOrders, ListSuppliers, ListTransfers,
};
use twh_edge::error::ApiError;
use twh_edge::headers::{etag, has_version};
use twh_edge::routes::Routes;
use twh_edge::{cursor, query};
use twh_sinks::postgres::queries::{DocumentFilter, find_document, list_documents};
use uuid::Uuid;

/// Adds a list and a look-up for each kind.
pub(crate) fn routes(routes: Routes) -> Routes {
    let routes = kind(routes, EntityKind::Item, ListItems, GetItem);
    let routes = kind(routes, EntityKind::Location, ListLocations, GetLocation);
    let routes = kind(routes, EntityKind::Supplier, ListSuppliers, GetSupplier);
    let routes = kind(routes, EntityKind::PurchaseOrder, ListPurchaseOrders, GetPurchaseOrder);
    let routes = kind(routes, EntityKind::SalesOrder, ListSalesOrders, GetSalesOrder);
    let routes = kind(routes, EntityKind::Transfer, ListTransfers, GetTransfer);
    let routes = kind(routes, EntityKind::Return, ListReturns, GetReturn);
    let routes = kind(routes, EntityKind::Adjustment, ListAdjustments, GetAdjustment);
    let routes = kind(routes, EntityKind::Count, ListCounts, GetCount);
    kind(routes, EntityKind::Reservation, ListReservations, GetReservation)
}

fn kind<L: Guarded, G: Guarded>(routes: Routes, kind: EntityKind, many: L, single: G) -> Routes {
    routes
        .on(many, move |reader: Reader<L>, request: HttpRequest| async move { list(kind, &request, &reader).await })
        .on(single, move |reader: Reader<G>, request: HttpRequest| async move { one(kind, &request, &reader).await })
}

/// The id in a path; what is no id names nothing.
pub(crate) fn path_id(request: &HttpRequest, kind: EntityKind) -> Result<Uuid, ApiError> {
    let text = request.match_info().get("id").unwrap_or_default();
    Uuid::parse_str(text).map_err(|_| ApiError::not_found(kind.noun()))
}

async fn one(kind: EntityKind, request: &HttpRequest, reader: &Read) -> Result<HttpResponse, ApiError> {
    let id = path_id(request, kind)?;
    let found = find_document(&reader.pool, kind, reader.tenant_id, id).await.map_err(ApiError::database)?;
    let document = found.ok_or_else(|| ApiError::not_found(kind.noun()))?;
    let mut response = HttpResponse::Ok();
    response.insert_header(etag(document.version));
    if has_version(request, document.version) {
        return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
    }
    Ok(response.content_type("application/json").body(document.json))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<String>,
    sku: Option<String>,
    code: Option<String>,
    number: Option<String>,
    status: Option<String>,
    barcode: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    item_type: Option<String>,
}

/// The statuses that documents of a kind can have.
const fn statuses(kind: EntityKind) -> &'static [&'static str] {
    match kind {
        EntityKind::PurchaseOrder => &["draft", "ordered", "partially_received", "received", "closed", "cancelled"],
        EntityKind::SalesOrder => &["draft", "allocated", "partially_shipped", "shipped", "closed", "cancelled"],
        EntityKind::Transfer => &["draft", "in_transit", "partially_received", "received", "closed", "cancelled"],
        EntityKind::Reservation => &["active", "released", "expired"],
        _ => &[],
    }
}

/// A misspelt value would find nothing, which looks like an answer.
fn one_of(parameter: &str, asked: Option<&str>, known: &[&str]) -> Result<(), ApiError> {
    match asked {
        Some(value) if !known.contains(&value) => {
            Err(query::invalid(parameter, &format!("must be one of {}", known.join(", "))))
        }
        _ => Ok(()),
    }
}

impl ListQuery {
    /// The filter, where the kind has what is asked about.
    fn filter(&self, kind: EntityKind) -> Result<DocumentFilter, ApiError> {
        use EntityKind::{Item, Location, PurchaseOrder, Reservation, SalesOrder, Supplier, Transfer};
        let numbered = !matches!(kind, Item | Location | Supplier | Reservation);
        let asked = [
            ("sku", &self.sku, kind == Item),
            ("code", &self.code, matches!(kind, Location | Supplier)),
            ("number", &self.number, numbered),
            ("status", &self.status, matches!(kind, PurchaseOrder | SalesOrder | Transfer | Reservation)),
            ("barcode", &self.barcode, kind == Item),
            ("name", &self.name, kind == Item),
            ("type", &self.item_type, kind == Item),
        ];
        for (name, value, known) in asked {
            if value.is_some() && !known {
                return Err(query::invalid(name, "is no filter of this list"));
            }
            if value.as_ref().is_some_and(|value| value.contains('\0')) {
                return Err(query::invalid(name, "must not hold NUL"));
            }
        }
        one_of("status", self.status.as_deref(), statuses(kind))?;
        one_of("type", self.item_type.as_deref(), &["stock", "service"])?;
        Ok(DocumentFilter {
            code: self.sku.clone().or_else(|| self.code.clone()).or_else(|| self.number.clone()),
            status: self.status.clone(),
            barcode: self.barcode.clone(),
            name_prefix: self.name.clone(),
            item_type: self.item_type.clone(),
        })
    }
}

async fn list(kind: EntityKind, request: &HttpRequest, reader: &Read) -> Result<HttpResponse, ApiError> {
    let asked: ListQuery = query::parse(request)?;
    let limit = query::limit(asked.limit)?;
    let after = asked.cursor.as_deref().map(cursor::decode::<Uuid>).transpose()?;
    let newest_first = !matches!(kind, EntityKind::Item | EntityKind::Location | EntityKind::Supplier);
    let filter = asked.filter(kind)?;
    // One row more than the page tells whether there is another page.
    let mut rows = list_documents(&reader.pool, kind, reader.tenant_id, &filter, after, newest_first, limit + 1)
        .await
        .map_err(ApiError::database)?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if more {
        rows.pop();
    }
    let next = if more { rows.last().map(|row| cursor::encode(&row.id)) } else { None };
    // The documents stand in the page as they were written, without being read and written again.
    let data = rows.iter().map(|row| row.json.as_str()).collect::<Vec<_>>().join(",");
    let next = next.map_or_else(|| "null".to_owned(), |cursor| format!("\"{cursor}\""));
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(format!("{{\"data\":[{data}],\"next_cursor\":{next}}}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::json;
    use twh_domain::purchase_order::PurchaseOrderStatus;
    use twh_domain::reservation::ReservationStatus;
    use twh_domain::sales_order::SalesOrderStatus;
    use twh_domain::transfer::TransferStatus;

    /// Holds that the filter takes the statuses of `T`, all of them and no others.
    fn agrees<T: DeserializeOwned>(kind: EntityKind) {
        let error = serde_json::from_value::<T>(json!("?")).err().unwrap().to_string();
        // serde names every variant: unknown variant `?`, expected one of `draft`, `ordered`, …
        let mut known: Vec<&str> = error.split('`').skip(1).step_by(2).filter(|name| *name != "?").collect();
        let mut asked = statuses(kind).to_vec();
        known.sort_unstable();
        asked.sort_unstable();
        assert_eq!(asked, known, "{kind:?}");
    }

    #[test]
    fn every_status_of_the_rules_can_be_asked_for() {
        agrees::<PurchaseOrderStatus>(EntityKind::PurchaseOrder);
        agrees::<SalesOrderStatus>(EntityKind::SalesOrder);
        agrees::<TransferStatus>(EntityKind::Transfer);
        agrees::<ReservationStatus>(EntityKind::Reservation);
    }
}
