//! What a process can be: any set of these.

use clap::ValueEnum;

/// A role of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The write side of the API: commands onto the log.
    Ingest,
    /// The read side of the API.
    Api,
    /// Tenants, people, sessions and API keys.
    Accounts,
    /// The consumer group that turns commands into movements and publishes what came of them.
    Ledger,
    /// Lets go of reservations whose time has come.
    Expiry,
    /// Keeps the hashes that make proofs of inclusion quick.
    Sealing,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: &[Self] =
        &[Self::Ingest, Self::Api, Self::Accounts, Self::Ledger, Self::Expiry, Self::Sealing];

    /// The stable name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Api => "api",
            Self::Accounts => "accounts",
            Self::Ledger => "ledger",
            Self::Expiry => "expiry",
            Self::Sealing => "sealing",
        }
    }
}
