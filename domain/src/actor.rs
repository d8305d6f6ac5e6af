//! Who asked.

use serde::{Deserialize, Serialize};

/// Who asked, from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// `api_key`, `user` or `system`.
    pub kind: String,
    /// The key's or user's id.
    pub id: String,
    /// The client's address, as the edge saw it.
    pub ip: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
}
