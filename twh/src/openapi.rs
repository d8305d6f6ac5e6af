//! The description of the whole API, whichever of it a process serves.

use twh_edge::openapi::Document;
use twh_edge::routes::Routes;

/// The description of all routes.
pub(crate) fn document() -> Document {
    let routes = Routes::new()
        .merge(twh_ingest::routes())
        .merge(twh_api::routes())
        .merge(twh_accounts::routes())
        .merge(twh_webhooks::routes());
    Document::of(&routes, env!("CARGO_PKG_VERSION"))
}
