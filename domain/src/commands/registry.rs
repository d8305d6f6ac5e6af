//! Every kind of command, a row each. What is to be known of a kind is a fold over this table.

use crate::commands::body::{Body, Size};
use crate::commands::{
    AllocateSalesOrder, CancelPurchaseOrder, CancelSalesOrder, CancelTransfer, ClosePurchaseOrder, CloseSalesOrder,
    CloseTransfer, CreateAdjustment, CreateCount, CreateItem, CreateLocation, CreatePurchaseOrder, CreateReservation,
    CreateReturn, CreateSalesOrder, CreateSupplier, CreateTransfer, DispatchTransfer, ExpireReservation,
    PlacePurchaseOrder, ReceivePurchaseOrder, ReceiveTransfer, ReleaseReservation, ReportLowStock, ShipSalesOrder,
    UpdateItem, UpdateLocation, UpdateSupplier,
};
use crate::draft::{Draft, Stop};
use crate::entity::EntityKind;
use crate::reads::Reads;
use crate::timestamp::Timestamp;
use crate::validate::{Problem, Problems};
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// What a command does to its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Makes it: its id is fixed at the edge.
    Create,
    /// Changes the fields that are named: over HTTP a PATCH, in which `null` empties a field.
    Update,
    /// Takes it a step further in its life.
    Act,
}

/// What is known of a kind of command.
#[derive(Debug)]
pub struct CommandKind {
    /// The stable name, as in `commands:batch`, in audit and in metrics: `sales_order.ship`.
    pub name: &'static str,
    /// The kind of document that it is about.
    pub subject: EntityKind,
    /// What it does to it.
    pub shape: Shape,
    /// Whether it can move stock, and so be refused for want of it.
    pub moves_stock: bool,
    /// Whether the items that it names must hold stock.
    pub stocked_items: bool,
    /// Whether it must say which version it is meant for: updates, and ends that cannot be taken back.
    pub if_match: bool,
    /// Whether only the platform itself asks for it, never a client.
    pub internal: bool,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

impl CommandKind {
    /// The kind with this name.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Self> {
        COMMAND_KINDS.iter().copied().find(|kind| kind.name == name)
    }

    /// The kind with a name that is written in code: one that does not exist does not compile, in a constant.
    #[must_use]
    #[expect(clippy::panic, reason = "in a constant it ends the compiler")]
    pub const fn named(name: &str) -> &'static Self {
        let mut rest = COMMAND_KINDS;
        while let [kind, others @ ..] = rest {
            if same(kind.name.as_bytes(), name.as_bytes()) {
                return kind;
            }
            rest = others;
        }
        panic!("there is no such kind of command")
    }

    /// The JSON Schema of its body.
    pub fn schema(&self, schemas: &mut SchemaGenerator) -> Schema {
        (self.schema)(schemas)
    }
}

/// Whether two texts are the same; `==` is not for constants yet.
const fn same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([a, ones @ ..], [b, others @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (ones, others);
    }
    one.is_empty() && other.is_empty()
}

/// Ties a body to its row.
trait Row {
    const ROW: CommandKind;
}

macro_rules! commands {
    ($($body:ident => $name:literal, $subject:ident, $shape:ident $(, $flag:ident)*;)*) => {
        /// The body of a command, one variant a kind.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "each variant is documented by the record of its name")]
        pub enum Payload { $($body($body),)* }

        $(impl Row for $body {
            const ROW: CommandKind = CommandKind {
                $($flag: true,)*
                ..row($name, EntityKind::$subject, Shape::$shape, |schemas| schemas.subschema_for::<$body>())
            };
        })*

        /// Every kind of command.
        pub const COMMAND_KINDS: &[&CommandKind] = &[$(&$body::ROW),*];

        impl Payload {
            /// What is known of its kind.
            #[must_use]
            pub const fn kind(&self) -> &'static CommandKind {
                match self { $(Self::$body(_) => &$body::ROW,)* }
            }

            /// Reads the body of a command of this kind; `None` when there is no such kind.
            pub fn deserialize_kind<'de, D: Deserializer<'de>>(name: &str, body: D) -> Option<Result<Self, D::Error>> {
                match name {
                    $($name => Some($body::deserialize(body).map(Self::$body)),)*
                    _ => None,
                }
            }

            fn body(&self) -> &dyn Body {
                match self { $(Self::$body(body) => body,)* }
            }
        }
    };
}

commands! {
    CreateItem => "item.create", Item, Create;
    UpdateItem => "item.update", Item, Update, if_match;
    CreateLocation => "location.create", Location, Create;
    UpdateLocation => "location.update", Location, Update, if_match;
    CreateSupplier => "supplier.create", Supplier, Create;
    UpdateSupplier => "supplier.update", Supplier, Update, if_match;
    CreatePurchaseOrder => "purchase_order.create", PurchaseOrder, Create;
    PlacePurchaseOrder => "purchase_order.order", PurchaseOrder, Act;
    ReceivePurchaseOrder => "purchase_order.receive", PurchaseOrder, Act, moves_stock;
    ClosePurchaseOrder => "purchase_order.close", PurchaseOrder, Act, if_match;
    CancelPurchaseOrder => "purchase_order.cancel", PurchaseOrder, Act, if_match;
    CreateSalesOrder => "sales_order.create", SalesOrder, Create;
    AllocateSalesOrder => "sales_order.allocate", SalesOrder, Act, moves_stock;
    ShipSalesOrder => "sales_order.ship", SalesOrder, Act, moves_stock;
    CloseSalesOrder => "sales_order.close", SalesOrder, Act, moves_stock, if_match;
    CancelSalesOrder => "sales_order.cancel", SalesOrder, Act, moves_stock, if_match;
    CreateTransfer => "transfer.create", Transfer, Create, stocked_items;
    DispatchTransfer => "transfer.dispatch", Transfer, Act, moves_stock;
    ReceiveTransfer => "transfer.receive", Transfer, Act, moves_stock;
    CloseTransfer => "transfer.close", Transfer, Act, if_match;
    CancelTransfer => "transfer.cancel", Transfer, Act, if_match;
    CreateReturn => "return.create", Return, Create, moves_stock;
    CreateAdjustment => "adjustment.create", Adjustment, Create, moves_stock, stocked_items;
    CreateCount => "count.create", Count, Create, moves_stock, stocked_items;
    CreateReservation => "reservation.create", Reservation, Create, moves_stock, stocked_items;
    ReleaseReservation => "reservation.release", Reservation, Act, moves_stock;
    ExpireReservation => "reservation.expire", Reservation, Act, moves_stock, internal;
    ReportLowStock => "item.report_low", Item, Act, internal;
}

const fn row(
    name: &'static str,
    subject: EntityKind,
    shape: Shape,
    schema: fn(&mut SchemaGenerator) -> Schema,
) -> CommandKind {
    CommandKind {
        name,
        subject,
        shape,
        moves_stock: false,
        stocked_items: false,
        if_match: false,
        internal: false,
        schema,
    }
}

impl Payload {
    /// Everything that is wrong with the shape of the body; empty when it is sound.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.body().check(&mut problems);
        problems.into_vec()
    }

    /// When it happened, by the client's word, where the body says so.
    #[must_use]
    pub fn occurred_at(&self) -> Option<Timestamp> {
        self.body().occurred_at()
    }

    /// About how much of a document it writes.
    #[must_use]
    pub fn size(&self) -> Size {
        self.body().size()
    }

    /// A document besides its subject that it writes again.
    #[must_use]
    pub fn also_writes(&self) -> Option<(EntityKind, Uuid)> {
        self.body().also_writes()
    }

    pub(crate) fn reads(&self, subject: Uuid, reads: &mut Reads<'_>) {
        self.body().reads(subject, reads);
    }

    pub(crate) fn decide(&self, draft: &mut Draft<'_>) -> Result<(), Stop> {
        self.body().decide(draft)
    }
}
