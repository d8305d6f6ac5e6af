//! The whole system, as its users meet it: the built programs on the real parts. One executable, a module a subject.
//!
//! A test that only needs a tenant shares a server ([`twh_tests::Shared`]); others have an environment of their own
//! ([`twh_tests::World`]). They run next to one another. One that stops parts has a set of its own
//! ([`World::with_own_parts`](twh_tests::World::with_own_parts)).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::float_arithmetic,
    reason = "tests stop at the first surprise, and say what they ran on and counted"
)]

mod access;
mod chaos;
mod commands;
mod contention;
mod control;
mod granting;
mod hygiene;
mod ledger;
mod limits;
mod lost_log;
mod mails;
mod month;
mod newcomer;
mod openapi;
mod proof;
mod readiness;
mod refused;
mod search;
mod search_engine;
mod speed;
mod sso;
mod strangers;
mod supply;
mod tenancy;
mod webhooks;
