//! Stream processors: one consumer loop for all (`runtime`), and a module for each consumer group.

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

pub mod expiry;
pub mod ledger;
pub mod outbox;
pub mod projections;
pub mod replay;
pub mod runtime;
pub mod sealing;
pub mod seams;
pub mod webhooks;
