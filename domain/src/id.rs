//! Identifiers: one newtype for each thing that has one, so that no id is ever passed for another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(pub Uuid);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )*};
}

ids! {
    /// A customer of the platform; every record belongs to exactly one.
    TenantId
    /// A command, fixed at the edge (UUID version 7, so ids sort by time).
    CommandId
    /// An item of the catalogue.
    ItemId
    /// A place that holds stock.
    LocationId
    /// A party that goods are bought from.
    SupplierId
    /// A sales order.
    SalesOrderId
    /// A published event; derived from the command, so a repeat carries the same id.
    EventId
}

/// The id of the `index`-th event of a command: the same command always yields the same ids.
#[must_use]
pub fn event_id(command: CommandId, index: u32) -> EventId {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    hasher.update(b"twh.event.v1");
    hasher.update(command.0.as_bytes());
    hasher.update(index.to_be_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    EventId(Uuid::new_v8(bytes))
}
