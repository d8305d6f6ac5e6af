//! A caller grants only what it has, and takes away no more: the one rule of every place that gives a role.

use twh_edge::access::{Role, Scopes};
use twh_edge::auth::Identity;
use twh_edge::error::{ApiError, ErrorCode};

/// Refuses to give a role, or to take one away, that has scopes which the caller lacks.
pub(crate) fn may_grant(caller: &Identity, role: &str) -> Result<(), ApiError> {
    let role = Role::from_name(role).ok_or_else(|| ApiError::internal(format!("the role {role:?} is not known")))?;
    let lacking = Scopes::of_role(role).without(caller.scopes);
    if lacking.is_empty() {
        return Ok(());
    }
    let lacking = lacking.names().join(", ");
    let message = format!("only who has all of {}'s scopes gives or takes that role; you lack {lacking}", role.name());
    Err(ApiError::new(ErrorCode::Forbidden, message))
}
