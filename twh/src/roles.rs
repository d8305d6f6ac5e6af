//! What a process can be: any set of these.

use clap::ValueEnum;

/// A role of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The write side of the API: commands onto the log.
    Ingest,
    /// The read side of the API.
    Api,
    /// Tenants, people, sessions, API keys and webhook subscriptions.
    Accounts,
    /// The consumer group that turns commands into movements and publishes what came of them.
    Ledger,
    /// Lets go of reservations whose time has come.
    Expiry,
    /// Keeps the hashes that make proofs of inclusion quick.
    Sealing,
    /// The consumer group that sends webhooks.
    Webhooks,
    /// The consumer group that makes the index of search, where `TWH_SEARCH_URL` names an engine.
    Projections,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: &[Self] = &[
        Self::Ingest,
        Self::Api,
        Self::Accounts,
        Self::Ledger,
        Self::Expiry,
        Self::Sealing,
        Self::Webhooks,
        Self::Projections,
    ];

    /// True where requests stand on it.
    pub(crate) const fn answers_requests(self) -> bool {
        matches!(self, Self::Ingest | Self::Api | Self::Accounts)
    }

    /// True where it writes to PostgreSQL by the pool that roles share.
    pub(crate) const fn writes_with_the_shared_pool(self) -> bool {
        matches!(self, Self::Accounts | Self::Expiry | Self::Sealing | Self::Webhooks)
    }

    /// The stable name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Api => "api",
            Self::Accounts => "accounts",
            Self::Ledger => "ledger",
            Self::Expiry => "expiry",
            Self::Sealing => "sealing",
            Self::Webhooks => "webhooks",
            Self::Projections => "projections",
        }
    }
}
