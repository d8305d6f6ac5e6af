//! Documents: one by its id, byte for byte as it was written; many by page and filter.

use crate::reader::{Read, Reader};
use crate::text::Text;
use crate::versioned::Versioned;
use actix_web::HttpRequest;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use twh_domain::documents::adjustment::Adjustment;
use twh_domain::documents::count::Count;
use twh_domain::documents::item::{Item, ItemType};
use twh_domain::documents::location::Location;
use twh_domain::documents::purchase_order::{PurchaseOrder, PurchaseOrderStatus};
use twh_domain::documents::reservation::{Reservation, ReservationStatus};
use twh_domain::documents::returns::Return;
use twh_domain::documents::sales_order::{SalesOrder, SalesOrderStatus};
use twh_domain::documents::supplier::Supplier;
use twh_domain::documents::transfer::{Transfer, TransferStatus};
use twh_domain::entity::EntityKind;
use twh_edge::access::{
    GetAdjustment, GetCount, GetItem, GetLocation, GetPurchaseOrder, GetReservation, GetReturn, GetSalesOrder,
    GetSupplier, GetTransfer, Guarded, ListAdjustments, ListCounts, ListItems, ListLocations, ListPurchaseOrders,
    ListReservations, ListReturns, ListSalesOrders, ListSuppliers, ListTransfers,
};
use twh_edge::answer::{Answer, Page, next_cursor};
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_edge::routes::Routes;
use twh_sinks::postgres::documents::{DocumentFilter, find_document, list_documents};
use uuid::Uuid;

/// Adds a list and a look-up for each kind.
pub(crate) fn routes(routes: Routes) -> Routes {
    let routes = kind::<Item, _, _>(routes, ListItems, GetItem);
    let routes = kind::<Location, _, _>(routes, ListLocations, GetLocation);
    let routes = kind::<Supplier, _, _>(routes, ListSuppliers, GetSupplier);
    let routes = kind::<PurchaseOrder, _, _>(routes, ListPurchaseOrders, GetPurchaseOrder);
    let routes = kind::<SalesOrder, _, _>(routes, ListSalesOrders, GetSalesOrder);
    let routes = kind::<Transfer, _, _>(routes, ListTransfers, GetTransfer);
    let routes = kind::<Return, _, _>(routes, ListReturns, GetReturn);
    let routes = kind::<Adjustment, _, _>(routes, ListAdjustments, GetAdjustment);
    let routes = kind::<Count, _, _>(routes, ListCounts, GetCount);
    kind::<Reservation, _, _>(routes, ListReservations, GetReservation)
}

fn kind<D: Document, L: Guarded, G: Guarded>(routes: Routes, many: L, single: G) -> Routes {
    routes.on(many, list::<D, L>).on(single, one::<D, G>)
}

/// A kind of document, and what its list can be asked.
trait Document: JsonSchema + 'static {
    const KIND: EntityKind;
    type Asked: Asked;
}

/// The query of a list of documents.
trait Asked: DeserializeOwned + JsonSchema + 'static {
    fn limit(&self) -> Option<i64>;
    fn cursor(&self) -> Option<&str>;
    fn filter(self) -> DocumentFilter;
}

macro_rules! lists {
    ($($query:ident $filter:expr => { $($(#[$doc:meta])* $field:ident: $type:ty,)* } for $($document:ident)+;)*) => {$(
        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $query {
            /// Documents in the page; 50 by default.
            #[schemars(range(min = 1, max = LIMIT_MAX))]
            limit: Option<i64>,
            /// The `next_cursor` of the page before.
            cursor: Option<String>,
            $($(#[$doc])* $field: Option<$type>,)*
        }

        impl Asked for $query {
            fn limit(&self) -> Option<i64> {
                self.limit
            }
            fn cursor(&self) -> Option<&str> {
                self.cursor.as_deref()
            }
            fn filter(self) -> DocumentFilter {
                let filter: fn(Self) -> DocumentFilter = $filter;
                filter(self)
            }
        }

        $(impl Document for $document {
            const KIND: EntityKind = EntityKind::$document;
            type Asked = $query;
        })+
    )*};
}

fn code(code: Option<Text>, status: Option<&str>) -> DocumentFilter {
    DocumentFilter { code: code.map(Text::into), status: status.map(str::to_owned), ..DocumentFilter::default() }
}

lists! {
    ItemQuery |asked| DocumentFilter {
        barcode: asked.barcode.map(Text::into),
        name_prefix: asked.name.map(Text::into),
        item_type: asked.item_type.map(|one| one.name().to_owned()),
        ..code(asked.sku, None)
    } => {
        /// With exactly this SKU.
        sku: Text,
        /// With this barcode.
        barcode: Text,
        /// Whose name begins like this, in whatever case.
        name: Text,
        /// Of this type.
        #[serde(rename = "type")]
        item_type: ItemType,
    } for Item;
    CodeQuery |asked| code(asked.code, None) => {
        /// With exactly this code.
        code: Text,
    } for Location Supplier;
    NumberQuery |asked| code(asked.number, None) => {
        /// With exactly this number.
        number: Text,
    } for Return Adjustment Count;
    PurchaseOrderQuery |asked| code(asked.number, asked.status.map(PurchaseOrderStatus::name)) => {
        /// With exactly this number.
        number: Text,
        /// That stand there.
        status: PurchaseOrderStatus,
    } for PurchaseOrder;
    SalesOrderQuery |asked| code(asked.number, asked.status.map(SalesOrderStatus::name)) => {
        /// With exactly this number.
        number: Text,
        /// That stand there.
        status: SalesOrderStatus,
    } for SalesOrder;
    TransferQuery |asked| code(asked.number, asked.status.map(TransferStatus::name)) => {
        /// With exactly this number.
        number: Text,
        /// That stand there.
        status: TransferStatus,
    } for Transfer;
    ReservationQuery |asked| code(None, asked.status.map(ReservationStatus::name)) => {
        /// That stand there.
        status: ReservationStatus,
    } for Reservation;
}

/// The id in a path; what is no id names nothing.
pub(crate) fn path_id(request: &HttpRequest, kind: EntityKind) -> Result<Uuid, ApiError> {
    let text = request.match_info().get("id").unwrap_or_default();
    Uuid::parse_str(text).map_err(|_| ApiError::not_found(kind.noun()))
}

async fn one<D: Document, E: Guarded>(reader: Reader<E>, request: HttpRequest) -> Result<Versioned<D>, ApiError> {
    let id = path_id(&request, D::KIND)?;
    let read: &Read = &reader;
    let found =
        find_document(&mut *read.ledger().await?, D::KIND, read.tenant_id, id).await.map_err(ApiError::database)?;
    let document = found.ok_or_else(|| ApiError::not_found(D::KIND.noun()))?;
    Ok(Versioned::new(&request, Some(document.version), || document.json))
}

async fn list<D: Document, E: Guarded>(reader: Reader<E>, query: Query<D::Asked>) -> Result<Answer<Page<D>>, ApiError> {
    let asked = query.read()?;
    let limit = query::limit(asked.limit())?;
    let after = asked.cursor().map(cursor::decode::<Uuid>).transpose()?;
    let newest_first = !matches!(D::KIND, EntityKind::Item | EntityKind::Location | EntityKind::Supplier);
    let filter = asked.filter();
    let mut connection = reader.ledger().await?;
    let found = list_documents(&mut connection, D::KIND, reader.tenant_id, &filter, after, newest_first, limit).await;
    let found = found.map_err(ApiError::database)?;
    let next = next_cursor(&found, |row| cursor::encode(&row.id));
    // The documents stand in the page as they were written, without being read and written again; each is in memory once.
    let mut page = String::from("{\"data\":[");
    for (index, row) in found.rows.into_iter().enumerate() {
        page.push_str(if index > 0 { "," } else { "" });
        page.push_str(&row.json);
    }
    let next = next.map_or_else(|| "null".to_owned(), |cursor| format!("\"{cursor}\""));
    page.push_str(&format!("],\"next_cursor\":{next}}}"));
    Ok(Answer::written(page))
}
