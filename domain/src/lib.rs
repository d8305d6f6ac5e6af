//! Pure inventory rules: `decide(state, command)` says what a command comes to, `evolve` moves the state on.
//!
//! No I/O, no clock, no randomness, no async: the same log of commands gives the same ledger, to the byte.

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

pub mod actor;
pub mod commands;
mod decide;
pub mod decimal;
pub mod documents;
mod draft;
pub mod entity;
pub mod event;
pub mod hex;
pub mod id;
pub mod level;
pub mod limits;
pub mod merkle;
pub mod money;
pub mod movement;
pub mod outcome;
mod prefetch;
mod reads;
pub mod references;
pub mod rejection;
mod schema;
pub mod state;
pub mod timestamp;
pub mod total;
pub mod validate;
pub mod webhook;

pub use decide::{Decision, IDEMPOTENCY_RETENTION_MICROS, decide};
pub use outcome::Recorded;
pub use prefetch::prefetch;
pub use reads::Needs;
