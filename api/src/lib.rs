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

mod commands;
mod documents;
mod ledger;
mod movements;
mod reader;
mod signer;
mod stock;

use actix_web::HttpResponse;
use serde_json::{Value, json};
use twh_edge::routes::Routes;

pub use reader::Reads;
pub use signer::Signer;

/// The read side's routes; they need a `web::Data<Reads>`.
#[must_use]
pub fn routes() -> Routes {
    documents::routes(Routes::new())
        .get("/v1/stock", stock::list)
        .get("/v1/items/{id}/stock", stock::of_item)
        .get("/v1/items/{id}/movements", movements::of_item)
        .get("/v1/movements", movements::list)
        .get("/v1/movements/{sequence}", movements::one)
        .get("/v1/movements/{sequence}/proof", ledger::proof)
        .get("/v1/ledger/checkpoint", ledger::checkpoint)
        .get("/v1/ledger/keys", ledger::keys)
        .get("/v1/ledger/verification", ledger::verification)
        .get("/v1/commands/{id}", commands::one)
}

/// A page of rows and where the next begins.
fn page(data: &[Value], next_cursor: Option<String>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "data": data, "next_cursor": next_cursor }))
}
