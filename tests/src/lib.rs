//! What whole-system tests stand on: a server that they share, or an environment of their own (database, topics, port), on the
//! real parts; and a client.
//!
//! The parts are those that `./dev env` names; the server is the built binary. Nothing is mocked.

pub mod database;
mod faults;
pub mod mail;
mod parts;
mod places;
pub mod proxy;
pub mod redis;
pub mod registry;
mod server;
pub mod shared;
mod tenant;
pub mod topics;
mod world;

pub use parts::search_engine;
pub use places::{binary, free_address, npm_packages, python, root};
pub use server::Server;
pub use shared::Shared;
pub use tenant::{Answer, Tenant};
pub use world::{GROUP_SESSION, World};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Begins the names of what tests leave on the parts: databases, topics, subjects.
pub const TEST_NAMES: &str = "twh_test_";

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until a count that others raise is at least so much.
pub async fn enough(count: &AtomicUsize, least: usize) {
    let begun = Instant::now();
    while count.load(Ordering::Relaxed) < least {
        let counted = count.load(Ordering::Relaxed);
        assert!(begun.elapsed() < REQUEST_TIMEOUT, "{counted} of {least} within {REQUEST_TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A client for servers without TLS: it does not read the system's certificates, which takes longer than most requests.
pub(crate) fn http_client(timeout: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().timeout(timeout).tls_certs_only([]).build()
}
