//! Fields that only people have.

use crate::password;
use twh_edge::problems::Problems;

/// Longest address (RFC 5321, section 4.5.3.1.3, less its angle brackets).
const EMAIL_LENGTH_MAX: usize = 254;

/// Checks an address as people have them; whether it exists only a mail can tell.
pub(crate) fn email(problems: &mut Problems, field: &str, value: &str) {
    let sound = value.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && domain.len() >= 3 && !domain.contains('@') && domain.contains('.')
    });
    let plain = !value.chars().any(|c| c.is_control() || c.is_whitespace());
    if !sound || !plain || value.len() > EMAIL_LENGTH_MAX {
        problems.add(field, "must be an address such as ada@example.com");
    }
}

/// Checks a password that is to be set.
pub(crate) fn password(problems: &mut Problems, field: &str, value: &str) {
    if !password::LENGTH.contains(&value.chars().count()) {
        problems.add(field, format!("must have {} to {} characters", password::LENGTH.start(), password::LENGTH.end()));
    }
}
