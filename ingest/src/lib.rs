//! The write side: validates, makes a command, puts it on the log, awaits what becomes of it.
//!
//! Everything that is not deterministic (ids, times, actor) is fixed here and travels in the command. Nothing is decided here.

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

mod answer;
mod batch;
pub mod body;
mod compose;
mod describe;
mod fingerprint;
mod gateway;
mod ledger_watch;
mod rehearsal;
mod replies;
mod routes;
mod weights;

pub use gateway::{Gateway, Options};
pub use ledger_watch::LedgerWatch;
pub use replies::{Replies, Waker};
pub use routes::routes;
