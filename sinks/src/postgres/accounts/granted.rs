//! What a change gives or takes, once it is known that it may.

use std::ops::Deref;

/// Something that may be given or taken. What writes roles, keys, identity providers, invitations or subscriptions takes no other,
/// so that a place that forgot to ask does not compile.
#[derive(Debug, Clone, Copy)]
pub struct Granted<T>(T);

impl<T> Granted<T> {
    /// By the one rule, of callers: for what holds a caller against it.
    pub const fn by_rule(what: T) -> Self {
        Self(what)
    }

    /// Without a caller who would have to have it: by whoever runs the platform, to who signs up, or by the groups of an identity
    /// provider, which the rule was asked about when they were set.
    pub const fn outright(what: T) -> Self {
        Self(what)
    }
}

impl<T> Deref for Granted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
