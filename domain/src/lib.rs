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

pub mod adjustment;
pub mod command;
pub mod count;
mod decide;
pub mod decimal;
mod draft;
pub mod entity;
pub mod event;
pub mod hex;
pub mod id;
pub mod item;
pub mod level;
pub mod limits;
mod lines;
pub mod location;
pub mod merkle;
pub mod money;
pub mod movement;
pub mod outcome;
mod prefetch;
pub mod purchase_order;
pub mod rejection;
pub mod reservation;
pub mod returns;
pub mod sales_order;
mod schema;
pub mod state;
mod status;
pub mod supplier;
pub mod timestamp;
pub mod total;
pub mod transfer;
pub mod validate;
pub mod webhook;

pub use decide::{Decision, IDEMPOTENCY_RETENTION_MICROS, Recorded, decide};
pub use prefetch::{Needs, prefetch};
