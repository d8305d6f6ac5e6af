//! Where results land: one module an outside system, and nothing else that touches it; and how tasks are kept, which all above
//! this use.

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

pub mod counters;
pub mod kafka;
pub mod mail;
pub mod metrics;
pub mod outbound;
pub mod postgres;
pub mod search;
pub mod secrets;
pub mod tasks;
pub mod webhook;
