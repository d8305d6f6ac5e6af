//! What is wrong with a body; all of it is told at once.

use crate::error::{ApiError, ErrorCode};
use serde_json::{Value, json};

/// Longest name, in characters.
const NAME_LENGTH_MAX: usize = 200;

/// What is wrong with a body so far.
#[derive(Debug, Default)]
pub struct Problems(Vec<Value>);

impl Problems {
    /// Adds what is wrong with a field.
    pub fn add(&mut self, field: &str, problem: impl Into<String>) {
        self.0.push(json!({ "field": field, "problem": problem.into() }));
    }

    /// Adds what is wrong with something that people call a thing.
    pub fn name(&mut self, field: &str, value: &str) {
        let length = value.trim().chars().count();
        if !(1..=NAME_LENGTH_MAX).contains(&length) || value.chars().any(char::is_control) {
            self.add(field, format!("must have 1 to {NAME_LENGTH_MAX} characters, none of them a control character"));
        }
    }

    /// Adds a problem with a number that is not within bounds.
    pub fn within(&mut self, field: &str, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.add(field, format!("must be {low} to {high}"));
        }
    }

    /// Refuses the body where something is wrong with it.
    pub fn none(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let message = "the body is not what this endpoint takes";
        Err(ApiError::new(ErrorCode::ValidationFailed, message).details(Value::Array(self.0)))
    }
}
