//! Tenants, people, keys and sessions; and the account of every change to them, written in the change's own transaction.

pub mod attempts;
pub mod audit;
pub mod granted;
pub mod keys;
pub mod people;
pub mod sessions;
pub mod sign_on;
pub mod signing_keys;
pub(super) mod state;
pub mod tenants;
