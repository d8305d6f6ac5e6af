//! Fields of bodies, checked; all that is wrong is told at once.

use crate::password;
use serde_json::{Value, json};
use twh_edge::error::{ApiError, ErrorCode};

/// Longest name, in characters.
const NAME_LENGTH_MAX: usize = 200;
/// Longest address (RFC 5321, section 4.5.3.1.3, less its angle brackets).
const EMAIL_LENGTH_MAX: usize = 254;

/// What is wrong with a body so far.
#[derive(Default)]
pub(crate) struct Problems(Vec<Value>);

impl Problems {
    pub(crate) fn add(&mut self, field: &str, problem: impl Into<String>) {
        self.0.push(json!({ "field": field, "problem": problem.into() }));
    }

    pub(crate) fn name(&mut self, field: &str, value: &str) {
        let length = value.trim().chars().count();
        if !(1..=NAME_LENGTH_MAX).contains(&length) || value.chars().any(char::is_control) {
            self.add(field, format!("must have 1 to {NAME_LENGTH_MAX} characters, none of them a control character"));
        }
    }

    /// An address as people have them; whether it exists only a mail can tell.
    pub(crate) fn email(&mut self, field: &str, value: &str) {
        let sound = value.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.len() >= 3 && !domain.contains('@') && domain.contains('.')
        });
        let plain = !value.chars().any(|c| c.is_control() || c.is_whitespace());
        if !sound || !plain || value.len() > EMAIL_LENGTH_MAX {
            self.add(field, "must be an address such as ada@example.com");
        }
    }

    pub(crate) fn password(&mut self, field: &str, value: &str) {
        if !password::LENGTH.contains(&value.chars().count()) {
            self.add(field, format!("must have {} to {} characters", password::LENGTH.start(), password::LENGTH.end()));
        }
    }

    /// Refuses the body where something is wrong with it.
    pub(crate) fn none(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let message = "the body is not what this endpoint takes";
        Err(ApiError::new(ErrorCode::ValidationFailed, message).details(Value::Array(self.0)))
    }
}
