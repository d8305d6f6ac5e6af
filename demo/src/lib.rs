//! A month of real trade through the REST API, and the check that every closing quantity is right.
//!
//! The trade is that of a UK gift wholesaler ([`dataset`] reads the published file, [`generate`] makes one like it).
//! [`run`] plays it as a client would: one request a command, many in flight, each with its own `Idempotency-Key` and
//! sent again until it is answered. At the end it asks for every level and every movement and compares both with what
//! the file alone says must be left.
//!
//! This crate speaks HTTP and nothing else: it must never depend on the server's own crates, or the check would no
//! longer be a stranger's.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking"))]

mod client;
mod decimal;
mod download;
mod generate;
mod kind;
mod plan;
mod progress;
mod reconcile;
mod run;
mod summary;

pub mod dataset;

pub use download::{DATASET_URL, download};
pub use generate::{GenerateOptions, generate, write_csv};
pub use kind::{Kind, is_service};
pub use reconcile::{Disagreement, expected_closing};
pub use run::{RunOptions, run};
pub use summary::{Counts, Summary};
