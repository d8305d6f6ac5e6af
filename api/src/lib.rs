//! The read side: queries over the ledger and its snapshots. It never writes.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests stop at the first surprise"
    )
)]

mod audit;
mod commands;
mod documents;
mod engine;
mod ledger;
mod movements;
mod projected;
mod reader;
mod search;
mod signer;
mod stock;
mod supply;
mod text;
mod versioned;

use twh_edge::access::{
    ExportAudit, GetAuditCheckpoint, GetCheckpoint, GetCommand, GetFreshness, GetItemStock, GetItemSupply,
    GetLeadTimes, GetLedgerKeys, GetMovement, GetMovementProof, GetStockHistory, GetVerification, ListAudit,
    ListItemMovements, ListLowStock, ListMovements, ListOpenLines, ListStock, SearchItems,
};
use twh_edge::routes::Routes;

pub use engine::Engine;
pub use reader::Reads;
pub use signer::Signer;

/// The read side's routes; they need a `web::Data<Reads>`.
#[must_use]
pub fn routes() -> Routes {
    documents::routes(Routes::new())
        .on(SearchItems, search::items)
        .on(ListStock, stock::list)
        .on(GetItemStock, stock::of_item)
        .on(GetStockHistory, supply::history)
        .on(GetItemSupply, supply::of_item)
        .on(ListLowStock, supply::low)
        .on(ListOpenLines, supply::open)
        .on(GetLeadTimes, supply::lead_times)
        .on(GetFreshness, supply::all_freshness)
        .on(ListItemMovements, movements::of_item)
        .on(ListMovements, movements::list)
        .on(GetMovement, movements::one)
        .on(GetMovementProof, ledger::proof)
        .on(GetCheckpoint, ledger::checkpoint)
        .on(GetLedgerKeys, ledger::keys)
        .on(GetVerification, ledger::verification)
        .on(GetCommand, commands::one)
        .on(ListAudit, audit::list)
        .on(ExportAudit, audit::export_chain)
        .on(GetAuditCheckpoint, ledger::control_checkpoint)
}
