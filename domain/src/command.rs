//! Commands: what a client asks for, with everything that is not deterministic (ids, times, actor) already fixed.
//!
//! Each payload is at once the JSON body of its endpoint and the Avro record on the `commands` topic.

use crate::decimal::Quantity;
use crate::id::{CommandId, ItemId, LocationId, SalesOrderId, SupplierId, TenantId};
use crate::item::ItemType;
use crate::location::LocationType;
use crate::money::Money;
use crate::returns::Disposition;
use crate::timestamp::Timestamp;
use crate::validate::{
    BARCODES_MAX, CODE_PATTERN, DESCRIPTION_LENGTH_MAX, LINES_MAX, METADATA_ENTRIES_MAX, NAME_LENGTH_MAX, Problem,
    Problems,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The rules that today's commands are decided by; carried in each command, so that a replay decides as it was decided.
///
/// 1: the first. 2: what a command writes is bounded by bytes, see [`crate::limits::BOUNDED_SINCE`].
pub const RULES_VERSION: i32 = 2;
/// Idempotency-Keys that begin like this are the platform's own: no client may send one.
pub const SYSTEM_KEY_PREFIX: &str = "system/";
/// Most operations in one command: an atomic batch.
pub const OPERATIONS_MAX: usize = 1_000;

/// Who asked, from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// `api_key`, `user` or `system`.
    pub kind: String,
    /// The key's or user's id.
    pub id: String,
    /// The client's address, as the edge saw it.
    pub ip: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
}

/// One request to change something, as it stands on the `commands` topic. All or nothing, however many operations it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Fixed at the edge.
    pub command_id: CommandId,
    /// Whose stock.
    pub tenant_id: TenantId,
    /// Which rules decide it: see [`RULES_VERSION`].
    pub rules_version: i32,
    /// The edge's clock when it took the request; the default of `occurred_at`.
    pub issued_at: Timestamp,
    /// Who asked.
    pub actor: Arc<Actor>,
    /// The request that brought it, for logs and audit.
    pub request_id: Arc<str>,
    /// The client's name for this request; the same key is applied once.
    pub idempotency_key: String,
    /// SHA-256 of method, route and canonical body, in hexadecimal: tells a retry from a reuse of the key.
    pub fingerprint: String,
    /// What to do, in order.
    pub operations: Vec<Operation>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The id of what is created (fixed at the edge) or acted upon.
    pub subject: Uuid,
    /// The version that the client saw (`If-Match`); another one refuses the command.
    pub expected_version: Option<i64>,
    /// What.
    pub payload: Payload,
}

macro_rules! payloads {
    ($($variant:ident => $kind:literal,)*) => {
        /// What to do, one variant a kind.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "each variant is documented by the record of its name")]
        pub enum Payload { $($variant($variant),)* }

        /// Every kind of command, as named in `commands:batch`, in audit and in metrics.
        pub const KINDS: &[&str] = &[$($kind),*];

        impl Payload {
            /// The stable name of the kind, such as `sales_order.ship`.
            #[must_use]
            pub const fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            /// Reads the body of a command of this kind; `None` when there is no such kind.
            pub fn deserialize_kind<'de, D: Deserializer<'de>>(kind: &str, body: D) -> Option<Result<Self, D::Error>> {
                match kind {
                    $($kind => Some($variant::deserialize(body).map(Self::$variant)),)*
                    _ => None,
                }
            }

            /// The JSON Schema of the body of a command of this kind; `None` when there is no such kind.
            pub fn schema_of_kind(kind: &str, schemas: &mut SchemaGenerator) -> Option<Schema> {
                match kind { $($kind => Some(schemas.subschema_for::<$variant>()),)* _ => None }
            }

            /// Everything that is wrong with the shape of the body; empty when it is sound.
            #[must_use]
            pub fn problems(&self) -> Vec<Problem> {
                let mut problems = Problems::default();
                match self { $(Self::$variant(body) => body.check(&mut problems),)* }
                problems.into_vec()
            }
        }
    };
}

payloads! {
    CreateItem => "item.create",
    UpdateItem => "item.update",
    CreateLocation => "location.create",
    UpdateLocation => "location.update",
    CreateSupplier => "supplier.create",
    UpdateSupplier => "supplier.update",
    CreatePurchaseOrder => "purchase_order.create",
    PlacePurchaseOrder => "purchase_order.order",
    ReceivePurchaseOrder => "purchase_order.receive",
    ClosePurchaseOrder => "purchase_order.close",
    CancelPurchaseOrder => "purchase_order.cancel",
    CreateSalesOrder => "sales_order.create",
    AllocateSalesOrder => "sales_order.allocate",
    ShipSalesOrder => "sales_order.ship",
    CloseSalesOrder => "sales_order.close",
    CancelSalesOrder => "sales_order.cancel",
    CreateTransfer => "transfer.create",
    DispatchTransfer => "transfer.dispatch",
    ReceiveTransfer => "transfer.receive",
    CloseTransfer => "transfer.close",
    CancelTransfer => "transfer.cancel",
    CreateReturn => "return.create",
    CreateAdjustment => "adjustment.create",
    CreateCount => "count.create",
    CreateReservation => "reservation.create",
    ReleaseReservation => "reservation.release",
    ExpireReservation => "reservation.expire",
    ReportLowStock => "item.report_low",
}

impl Payload {
    /// When it happened, by the client's word, where the body says so.
    #[must_use]
    pub fn occurred_at(&self) -> Option<Timestamp> {
        match self {
            Self::ReceivePurchaseOrder(b) => b.occurred_at,
            Self::CreateSalesOrder(b) => b.occurred_at,
            Self::AllocateSalesOrder(b) => b.occurred_at,
            Self::ShipSalesOrder(b) => b.occurred_at,
            Self::DispatchTransfer(b) => b.occurred_at,
            Self::ReceiveTransfer(b) => b.occurred_at,
            Self::CreateReturn(b) => b.occurred_at,
            Self::CreateAdjustment(b) => b.occurred_at,
            Self::CreateCount(b) => b.occurred_at,
            _ => None,
        }
    }

    /// True for what only the platform itself asks for, never a client.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(self, Self::ExpireReservation(_) | Self::ReportLowStock(_))
    }
}

/// An item by id or by SKU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemRef<'a> {
    /// By id.
    Id(ItemId),
    /// By SKU.
    Sku(&'a str),
}

/// A location by id or by code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocationRef<'a> {
    /// By id.
    Id(LocationId),
    /// By code.
    Code(&'a str),
}

/// A body that names an item.
pub trait NamesItem {
    /// The item named; `None` where the body may leave it out and does.
    fn item_ref(&self) -> Option<ItemRef<'_>>;
}

/// A body that names a location.
pub trait NamesLocation {
    /// The location named; `None` where the body may leave it out and does.
    fn location_ref(&self) -> Option<LocationRef<'_>>;
}

macro_rules! names_item {
    ($($body:ident)*) => {$(
        impl NamesItem for $body {
            fn item_ref(&self) -> Option<ItemRef<'_>> {
                self.item_id.map(ItemRef::Id).or_else(|| self.sku.as_deref().map(ItemRef::Sku))
            }
        }
        impl $body {
            fn check_item(&self, prefix: &str, problems: &mut Problems) {
                problems.exactly_one(prefix, ("item_id", self.item_id.is_some()), ("sku", self.sku.is_some()));
            }
        }
    )*};
}

macro_rules! names_location {
    ($($body:ident)*) => {$(
        impl NamesLocation for $body {
            fn location_ref(&self) -> Option<LocationRef<'_>> {
                self.location_id.map(LocationRef::Id).or_else(|| self.location_code.as_deref().map(LocationRef::Code))
            }
        }
        impl $body {
            fn check_location(&self, problems: &mut Problems) {
                problems.exactly_one("", ("location_id", self.location_id.is_some()), ("location_code", self.location_code.is_some()));
            }
        }
    )*};
}

names_item! { PurchaseLine SalesLine TransferLine ReturnLine AdjustmentLine CountLine CreateReservation }
names_location! { CreatePurchaseOrder CreateSalesOrder CreateReturn CreateAdjustment CreateCount CreateReservation }

macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    )*};
}

/// A body with nothing in it.
macro_rules! empty_bodies {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {}
        impl $name {
            #[allow(clippy::unused_self, reason = "every body is checked by the same call")]
            fn check(&self, _: &mut Problems) {}
        }
    )*};
}

bodies! {
    /// Adds an item to the catalogue.
    CreateItem {
        /// The client's own code for it: unique, never changes.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: String,
        /// What people call it.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// More about it.
        #[schemars(length(min = 1, max = DESCRIPTION_LENGTH_MAX))]
        description: Option<String>,
        /// Whether it holds stock; `stock` by default.
        #[serde(default, rename = "type")]
        item_type: ItemType,
        /// What a quantity of 1 is; `each` by default.
        #[schemars(regex(pattern = CODE_PATTERN))]
        unit: Option<String>,
        /// Codes that scanners read; each belongs to one item.
        #[serde(default)]
        #[schemars(length(max = BARCODES_MAX), inner(regex(pattern = CODE_PATTERN)))]
        barcodes: Vec<String>,
        /// What it costs to buy.
        cost_price: Option<Money>,
        /// What it sells for.
        sale_price: Option<Money>,
        /// The availability at which more should be ordered.
        reorder_point: Option<Quantity>,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
    }

    /// Changes an item: what is absent stays, what is named in `clear` is emptied.
    UpdateItem {
        /// See [`CreateItem`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// See [`CreateItem`].
        #[schemars(length(min = 1, max = DESCRIPTION_LENGTH_MAX))]
        description: Option<String>,
        /// See [`CreateItem`].
        #[serde(default)]
        #[schemars(with = "String", regex(pattern = CODE_PATTERN))]
        unit: Option<String>,
        /// Replaces all barcodes.
        #[schemars(length(max = BARCODES_MAX), inner(regex(pattern = CODE_PATTERN)))]
        barcodes: Option<Vec<String>>,
        /// See [`CreateItem`].
        cost_price: Option<Money>,
        /// See [`CreateItem`].
        sale_price: Option<Money>,
        /// See [`CreateItem`].
        reorder_point: Option<Quantity>,
        /// Replaces all pairs.
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: Option<BTreeMap<String, String>>,
        /// Fields to empty; over HTTP, a `null`.
        #[serde(default)]
        #[schemars(skip)]
        clear: Vec<String>,
    }

    /// Adds a place that holds stock.
    CreateLocation {
        /// The client's own code for it: unique, never changes.
        #[schemars(regex(pattern = CODE_PATTERN))]
        code: String,
        /// What people call it.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// What kind of place; `warehouse` by default.
        #[serde(default, rename = "type")]
        location_type: LocationType,
        /// Whether more may be promised or taken than is there; no by default.
        #[serde(default)]
        allow_negative_stock: bool,
    }

    /// Changes a location.
    UpdateLocation {
        /// See [`CreateLocation`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// See [`CreateLocation`].
        #[serde(default)]
        #[schemars(with = "bool")]
        allow_negative_stock: Option<bool>,
        /// Fields to empty; over HTTP, a `null`.
        #[serde(default)]
        #[schemars(skip)]
        clear: Vec<String>,
    }

    /// Adds a party to buy from.
    CreateSupplier {
        /// The client's own code for it: unique, never changes.
        #[schemars(regex(pattern = CODE_PATTERN))]
        code: String,
        /// What people call it.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// Where orders go.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        email: Option<String>,
    }

    /// Changes a supplier.
    UpdateSupplier {
        /// See [`CreateSupplier`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        name: Option<String>,
        /// See [`CreateSupplier`].
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        email: Option<String>,
        /// Fields to empty; over HTTP, a `null`.
        #[serde(default)]
        #[schemars(skip)]
        clear: Vec<String>,
    }

    /// What to buy, one line an item.
    PurchaseLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
        /// Agreed cost of one unit.
        unit_cost: Option<Money>,
    }

    /// Drafts a purchase order.
    CreatePurchaseOrder {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Whom from.
        supplier_id: Option<SupplierId>,
        /// Where the goods will arrive, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<PurchaseLine>,
        /// How much more than ordered a line may receive, in percent of its quantity; 0 by default.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1_000))]
        over_receipt_percent: i32,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
    }

    /// How much of one line of the document acted upon.
    LineQuantity {
        /// The line's number in the document, from 1.
        #[schemars(range(min = 1))]
        line: i32,
        /// How much of it.
        quantity: Quantity,
    }

    /// Takes goods of a purchase order in; without lines, all that is outstanding.
    ReceivePurchaseOrder {
        /// Which lines, how much.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Option<Vec<LineQuantity>>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// What to sell, one line an item (the same item may stand on several).
    SalesLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
        /// Agreed price of one unit.
        unit_price: Option<Money>,
        /// Where this line ships from, where not from the order's location: by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
    }

    /// Drafts a sales order.
    CreateSalesOrder {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// The client's name for the buyer.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        customer_reference: Option<String>,
        /// Where the goods ship from, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<SalesLine>,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Reserves stock for every line of a sales order, all or nothing.
    AllocateSalesOrder {
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Ships allocated goods of a sales order; without lines, all that is allocated.
    ShipSalesOrder {
        /// Which lines, how much.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Option<Vec<LineQuantity>>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// What to move, one line an item.
    TransferLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
    }

    /// Drafts a transfer between two locations.
    CreateTransfer {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Where from, by id …
        from_location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        from_location_code: Option<String>,
        /// Where to, by id …
        to_location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        to_location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<TransferLine>,
        /// The client's own key-value pairs.
        #[serde(default)]
        #[schemars(extend("maxProperties" = METADATA_ENTRIES_MAX))]
        metadata: BTreeMap<String, String>,
    }

    /// Sends a transfer on its way: its goods leave the source.
    DispatchTransfer {
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Takes goods of a transfer in; without lines, all that is in transit.
    ReceiveTransfer {
        /// Which lines, how much.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Option<Vec<LineQuantity>>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// Ends a transfer; what is still in transit is lost.
    CloseTransfer {
        /// Why goods are missing.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        reason: Option<String>,
    }

    /// What came back.
    ReturnLine {
        /// The line of the sales order that shipped it; required exactly when the return names an order.
        #[schemars(range(min = 1))]
        order_line: Option<i32>,
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU; neither where the order's line tells.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many.
        quantity: Quantity,
        /// Back on the shelf, or thrown away.
        disposition: Disposition,
    }

    /// Takes returned goods in: of a shipment, or (a blind return) without one.
    CreateReturn {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// The order that shipped the goods.
        sales_order_id: Option<SalesOrderId>,
        /// Where the goods arrive, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<ReturnLine>,
        /// Why.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        reason: Option<String>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// A correction of one item.
    AdjustmentLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many more (or, negative, fewer) there are.
        quantity: Quantity,
    }

    /// Corrects stock, with a reason.
    CreateAdjustment {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Where, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// Why.
        #[schemars(length(min = 1, max = NAME_LENGTH_MAX))]
        reason: String,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<AdjustmentLine>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

    /// What was counted of one item.
    CountLine {
        /// The item by id …
        item_id: Option<ItemId>,
        /// … or by SKU.
        #[schemars(regex(pattern = CODE_PATTERN))]
        sku: Option<String>,
        /// How many are there.
        quantity_counted: Quantity,
    }

    /// A physical count: what is there, whatever the books say.
    CreateCount {
        /// The client's own number; one is made where it is absent.
        #[schemars(regex(pattern = CODE_PATTERN))]
        number: Option<String>,
        /// Where, by id …
        location_id: Option<LocationId>,
        /// … or by code.
        #[schemars(regex(pattern = CODE_PATTERN))]
        location_code: Option<String>,
        /// What.
        #[schemars(length(min = 1, max = LINES_MAX))]
        lines: Vec<CountLine>,
        /// When it happened; now by default.
        occurred_at: Option<Timestamp>,
    }

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

    /// The platform's own: what can be promised of an item, over all locations, has come down to its reorder point.
    ReportLowStock {
        /// What could be promised then.
        available: Quantity,
        /// The item's reorder point then.
        reorder_point: Quantity,
    }
}

empty_bodies! {
    /// Sends a drafted purchase order to its supplier.
    PlacePurchaseOrder
    /// Ends a purchase order, whatever is still outstanding.
    ClosePurchaseOrder
    /// Drops a purchase order of which nothing has come.
    CancelPurchaseOrder
    /// Ends a shipped sales order.
    CloseSalesOrder
    /// Drops a sales order and releases what it holds.
    CancelSalesOrder
    /// Drops a transfer that has not left.
    CancelTransfer
    /// Lets go of what a reservation holds.
    ReleaseReservation
    /// The platform's own: the reservation's time has come.
    ExpireReservation
}

impl ReportLowStock {
    fn check(&self, problems: &mut Problems) {
        problems.not_negative("reorder_point", Some(self.reorder_point));
    }
}

impl CreateItem {
    fn check(&self, problems: &mut Problems) {
        problems.code("sku", &self.sku);
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("description", self.description.as_deref(), DESCRIPTION_LENGTH_MAX);
        problems.optional_code("unit", self.unit.as_deref());
        problems.barcodes(&self.barcodes);
        problems.price("cost_price.amount", self.cost_price);
        problems.price("sale_price.amount", self.sale_price);
        problems.not_negative("reorder_point", self.reorder_point);
        problems.metadata(&self.metadata);
    }
}

/// Every field to clear may be cleared, and is not given a value as well.
fn check_clear(problems: &mut Problems, clear: &[String], clearable: &[(&str, bool)]) {
    for field in clear {
        match clearable.iter().find(|(name, _)| name == field) {
            None => problems.add(field.as_str(), "must not be null"),
            Some((_, true)) => problems.add(field.as_str(), "is given a value and cleared at once"),
            Some((_, false)) => {}
        }
    }
}

impl UpdateItem {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("description", self.description.as_deref(), DESCRIPTION_LENGTH_MAX);
        problems.optional_code("unit", self.unit.as_deref());
        problems.barcodes(self.barcodes.as_deref().unwrap_or_default());
        problems.price("cost_price.amount", self.cost_price);
        problems.price("sale_price.amount", self.sale_price);
        problems.not_negative("reorder_point", self.reorder_point);
        if let Some(metadata) = &self.metadata {
            problems.metadata(metadata);
        }
        let clearable = [
            ("name", self.name.is_some()),
            ("description", self.description.is_some()),
            ("barcodes", self.barcodes.is_some()),
            ("cost_price", self.cost_price.is_some()),
            ("sale_price", self.sale_price.is_some()),
            ("reorder_point", self.reorder_point.is_some()),
            ("metadata", self.metadata.is_some()),
        ];
        check_clear(problems, &self.clear, &clearable);
    }
}

impl CreateLocation {
    fn check(&self, problems: &mut Problems) {
        problems.code("code", &self.code);
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
    }
}

impl UpdateLocation {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        check_clear(problems, &self.clear, &[("name", self.name.is_some())]);
    }
}

impl CreateSupplier {
    fn check(&self, problems: &mut Problems) {
        problems.code("code", &self.code);
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("email", self.email.as_deref(), NAME_LENGTH_MAX);
    }
}

impl UpdateSupplier {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("name", self.name.as_deref(), NAME_LENGTH_MAX);
        problems.optional_text("email", self.email.as_deref(), NAME_LENGTH_MAX);
        check_clear(problems, &self.clear, &[("name", self.name.is_some()), ("email", self.email.is_some())]);
    }
}

impl CreatePurchaseOrder {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
            problems.price(format!("lines[{index}].unit_cost.amount"), line.unit_cost);
        }
        if !(0..=1_000).contains(&self.over_receipt_percent) {
            problems.add("over_receipt_percent", "must be 0 to 1000");
        }
        problems.metadata(&self.metadata);
    }
}

/// Lines of the document acted upon: at least one, each once, more than nothing of each.
fn check_line_quantities(problems: &mut Problems, lines: Option<&[LineQuantity]>) {
    let Some(lines) = lines else { return };
    problems.lines(lines.len());
    let mut seen = std::collections::BTreeSet::new();
    for (index, line) in lines.iter().enumerate() {
        problems.positive(format!("lines[{index}].quantity"), line.quantity);
        if line.line < 1 {
            problems.add(format!("lines[{index}].line"), "must be 1 or more");
        } else if !seen.insert(line.line) {
            problems.add(format!("lines[{index}].line"), "names a line that stands there already");
        }
    }
}

impl ReceivePurchaseOrder {
    fn check(&self, problems: &mut Problems) {
        check_line_quantities(problems, self.lines.as_deref());
    }
}

impl CreateSalesOrder {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.optional_text("customer_reference", self.customer_reference.as_deref(), NAME_LENGTH_MAX);
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
            problems.price(format!("lines[{index}].unit_price.amount"), line.unit_price);
            if line.location_id.is_some() && line.location_code.is_some() {
                problems.add(
                    format!("lines[{index}].location_id"),
                    "is ambiguous: give only one of location_id and location_code",
                );
            }
        }
        problems.metadata(&self.metadata);
    }
}

impl SalesLine {
    /// Where this line ships from, where it says so itself.
    #[must_use]
    pub fn own_location(&self) -> Option<LocationRef<'_>> {
        self.location_id.map(LocationRef::Id).or_else(|| self.location_code.as_deref().map(LocationRef::Code))
    }
}

impl AllocateSalesOrder {
    #[allow(clippy::unused_self, reason = "every body is checked by the same call")]
    fn check(&self, _: &mut Problems) {}
}

impl ShipSalesOrder {
    fn check(&self, problems: &mut Problems) {
        check_line_quantities(problems, self.lines.as_deref());
    }
}

impl CreateTransfer {
    /// Where from.
    #[must_use]
    pub fn from(&self) -> Option<LocationRef<'_>> {
        self.from_location_id.map(LocationRef::Id).or_else(|| self.from_location_code.as_deref().map(LocationRef::Code))
    }

    /// Where to.
    #[must_use]
    pub fn to(&self) -> Option<LocationRef<'_>> {
        self.to_location_id.map(LocationRef::Id).or_else(|| self.to_location_code.as_deref().map(LocationRef::Code))
    }

    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.exactly_one(
            "",
            ("from_location_id", self.from_location_id.is_some()),
            ("from_location_code", self.from_location_code.is_some()),
        );
        problems.exactly_one(
            "",
            ("to_location_id", self.to_location_id.is_some()),
            ("to_location_code", self.to_location_code.is_some()),
        );
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
        }
        problems.metadata(&self.metadata);
    }
}

impl DispatchTransfer {
    #[allow(clippy::unused_self, reason = "every body is checked by the same call")]
    fn check(&self, _: &mut Problems) {}
}

impl ReceiveTransfer {
    fn check(&self, problems: &mut Problems) {
        check_line_quantities(problems, self.lines.as_deref());
    }
}

impl CloseTransfer {
    fn check(&self, problems: &mut Problems) {
        problems.optional_text("reason", self.reason.as_deref(), NAME_LENGTH_MAX);
    }
}

impl CreateReturn {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.optional_text("reason", self.reason.as_deref(), NAME_LENGTH_MAX);
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            problems.positive(format!("lines[{index}].quantity"), line.quantity);
            match (self.sales_order_id, line.order_line) {
                (Some(_), None) => problems
                    .add(format!("lines[{index}].order_line"), "is required when the return names a sales_order_id"),
                (None, Some(_)) => {
                    problems.add(format!("lines[{index}].order_line"), "needs the return to name its sales_order_id")
                }
                (Some(_), Some(_)) if line.item_id.is_some() || line.sku.is_some() => {
                    problems
                        .add(format!("lines[{index}].item_id"), "must be left out: the order's line tells the item");
                }
                (Some(_), Some(_)) => {}
                (None, None) => line.check_item(&format!("lines[{index}]."), problems),
            }
        }
    }
}

impl CreateAdjustment {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        problems.text("reason", &self.reason, NAME_LENGTH_MAX);
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            if line.quantity.is_zero() {
                problems.add(format!("lines[{index}].quantity"), "must not be 0");
            }
        }
    }
}

impl CreateCount {
    fn check(&self, problems: &mut Problems) {
        problems.optional_code("number", self.number.as_deref());
        self.check_location(problems);
        problems.lines(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            line.check_item(&format!("lines[{index}]."), problems);
            problems.not_negative(format!("lines[{index}].quantity_counted"), Some(line.quantity_counted));
        }
    }
}

impl CreateReservation {
    fn check(&self, problems: &mut Problems) {
        self.check_item("", problems);
        self.check_location(problems);
        problems.positive("quantity", self.quantity);
        problems.optional_text("reference", self.reference.as_deref(), NAME_LENGTH_MAX);
    }
}
