//! A deterministic simulation of the ledger: the real rules, writer, partition loop and outbox, on a database, a log and a
//! group that fail in every way the real ones do, at every await, in virtual time, from one seed.
//!
//! After every commit and every record published a model that trusts none of them checks what must always hold. The same seed
//! is the same run, to the byte.

mod clients;
mod database;
mod group;
mod log;
mod model;
mod run;
mod world;

pub use run::{Finding, Settings, run};
pub use world::{Sabotage, Stats};
