//! Commands: a file for each kind of document, with the bodies of its commands, their checks, what they read, and their rules.

pub(crate) mod body;
mod command;
pub(crate) mod lines;
mod registry;

mod adjustment;
mod count;
mod item;
mod location;
mod purchase_order;
mod reservation;
mod returns;
mod sales_order;
mod supplier;
mod transfer;

pub use body::Size;
pub use command::{Command, OPERATIONS_MAX, Operation, RULES_VERSION, SYSTEM_KEY_PREFIX};
pub use lines::LineQuantity;
pub use registry::{COMMAND_KINDS, CommandKind, Payload, Shape};

pub use adjustment::{AdjustmentLine, CreateAdjustment};
pub use count::{CountLine, CreateCount};
pub use item::{CreateItem, ReportLowStock, UpdateItem};
pub use location::{CreateLocation, UpdateLocation};
pub use purchase_order::{
    CancelPurchaseOrder, ClosePurchaseOrder, CreatePurchaseOrder, PlacePurchaseOrder, PurchaseLine,
    ReceivePurchaseOrder,
};
pub use reservation::{CreateReservation, ExpireReservation, ReleaseReservation};
pub use returns::{CreateReturn, ReturnLine};
pub use sales_order::{
    AllocateSalesOrder, CancelSalesOrder, CloseSalesOrder, CreateSalesOrder, SalesLine, ShipSalesOrder,
};
pub use supplier::{CreateSupplier, UpdateSupplier};
pub use transfer::{CancelTransfer, CloseTransfer, CreateTransfer, DispatchTransfer, ReceiveTransfer, TransferLine};
