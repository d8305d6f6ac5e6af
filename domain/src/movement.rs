//! Movements: the immutable lines of the ledger, each chained to the one before it by a hash.

use crate::decimal::Quantity;
use crate::entity::EntityKind;
use crate::id::{CommandId, ItemId, LocationId, TenantId};
use crate::outcome::Position;
use crate::timestamp::Timestamp;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use uuid::Uuid;

/// A link of a hash chain: SHA-256.
pub type Hash = [u8; 32];

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why stock changed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum MovementKind { $($(#[$doc])* $variant,)* }

        impl MovementKind {
            /// The stable names of all kinds.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// The kind with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Goods of a purchase order came in.
    Receive = "RECEIVE",
    /// Goods of a sales order went out, and with them their reservation.
    Sale = "SALE",
    /// Stock was promised.
    Reserve = "RESERVE",
    /// A promise was let go.
    Release = "RELEASE",
    /// A correction, with its reason.
    Adjust = "ADJUST",
    /// Goods left for another location.
    TransferOut = "TRANSFER_OUT",
    /// Goods came from another location.
    TransferIn = "TRANSFER_IN",
    /// Goods came back from a buyer.
    Return = "RETURN",
    /// A physical count set what is there.
    Count = "COUNT",
}

/// One line of a tenant's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Whose.
    pub tenant: TenantId,
    /// Its place in the tenant's ledger: 1, 2, 3, … without a gap.
    pub sequence: i64,
    /// Of what.
    pub item: ItemId,
    /// Where.
    pub location: LocationId,
    /// Why.
    pub kind: MovementKind,
    /// Its place among the movements of its item at its location: 1, 2, 3, … without a gap.
    pub level_version: i64,
    /// Change of what is there.
    pub on_hand_change: Quantity,
    /// Change of what is promised.
    pub reserved_change: Quantity,
    /// What is there after it.
    pub on_hand_after: Quantity,
    /// What is promised after it.
    pub reserved_after: Quantity,
    /// The kind of the document behind it.
    pub reference_kind: EntityKind,
    /// The document behind it.
    pub reference: Uuid,
    /// The document's line, from 1.
    pub reference_line: i32,
    /// In words, where the document gives them.
    pub reason: Option<Arc<str>>,
    /// The command that made it.
    pub command: CommandId,
    /// Where that command stands in the log.
    pub position: Position,
    /// When it happened, by the client's word.
    pub occurred_at: Timestamp,
    /// When the ledger took it; never altered, monotonic for a tenant.
    pub recorded_at: Timestamp,
    /// SHA-256 over the hash before it and all of the above: see [`Movement::chain`].
    pub hash: Hash,
}

/// Feeds a hash with fields, each of fixed length or led by its length, so that no two rows feed it alike.
pub(crate) struct Chain(Sha256);

impl Chain {
    pub(crate) fn after(previous: &Hash) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(previous);
        Self(hasher)
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }
    pub(crate) fn uuid(&mut self, id: Uuid) -> &mut Self {
        self.bytes(id.as_bytes())
    }
    pub(crate) fn int(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.int(i64::try_from(text.len()).unwrap_or(i64::MAX)).bytes(text.as_bytes())
    }
    /// An absent text is led by −1, so that it differs from an empty one.
    pub(crate) fn optional(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.int(-1),
        }
    }
    pub(crate) fn finish(self) -> Hash {
        self.0.finalize().into()
    }
}

/// The hash before a tenant's first row of a chain.
#[must_use]
pub fn genesis(chain: &str, tenant: TenantId) -> Hash {
    let mut hash = Chain::after(&[0; 32]);
    hash.text(chain).uuid(tenant.0);
    hash.finish()
}

/// The name of the movements' chain, part of its genesis.
pub const MOVEMENT_CHAIN: &str = "twh.movements.v1";

impl Movement {
    /// The hash that this movement must carry after a given one.
    #[must_use]
    pub fn chain(&self, previous: &Hash) -> Hash {
        let mut hash = Chain::after(previous);
        hash.uuid(self.tenant.0)
            .int(self.sequence)
            .uuid(self.item.0)
            .uuid(self.location.0)
            .text(self.kind.name())
            .int(self.on_hand_change.micros())
            .int(self.reserved_change.micros())
            .int(self.on_hand_after.micros())
            .int(self.reserved_after.micros())
            .text(self.reference_kind.name())
            .uuid(self.reference)
            .int(i64::from(self.reference_line))
            .optional(self.reason.as_deref())
            .uuid(self.command.0)
            .int(self.occurred_at.micros())
            .int(self.recorded_at.micros())
            .int(self.level_version)
            .int(i64::from(self.position.partition))
            .int(self.position.offset);
        hash.finish()
    }
}
