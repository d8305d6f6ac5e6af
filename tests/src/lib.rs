//! What whole-system tests stand on: an environment of their own (database, topics, port) on the real parts, and a client.
//!
//! The parts are those that `./dev env` names; the server is the built binary. Nothing is mocked.

pub mod database;
pub mod mail;
mod parts;
mod places;
pub mod proxy;
pub mod redis;
mod server;
mod tenant;
mod world;

pub use parts::{crash, dev};
pub use places::{binary, brokers, free_address, npm_packages, python, registry, root, search_engine};
pub use server::Server;
pub use tenant::{Answer, Tenant};
pub use world::World;

use std::time::Duration;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A client for servers without TLS: it does not read the system's certificates, which takes longer than most requests.
pub(crate) fn http_client(timeout: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().timeout(timeout).tls_certs_only([]).build()
}
