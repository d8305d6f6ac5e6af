//! What the shape of a command must be, found all at once: each problem names its field.

use crate::decimal::Quantity;
use crate::limits::PROBLEMS_MAX;
use crate::money::Money;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most lines in one command.
pub const LINES_MAX: usize = 1_000;
/// Longest SKU, code or number, in bytes.
pub const CODE_LENGTH_MAX: usize = 64;
/// What a code looks like, as a regular expression: see [`Problems::code`].
pub const CODE_PATTERN: &str = "^[!-~]([ -~]{0,62}[!-~])?$";
/// Longest one-line text (a name, a reason), in characters.
pub const NAME_LENGTH_MAX: usize = 255;
/// Longest description, in characters.
pub const DESCRIPTION_LENGTH_MAX: usize = 4_000;
/// Most pairs of metadata.
pub const METADATA_ENTRIES_MAX: usize = 50;
const METADATA_KEY_LENGTH_MAX: usize = 64;
const METADATA_VALUE_LENGTH_MAX: usize = 500;
/// Most barcodes of an item.
pub const BARCODES_MAX: usize = 20;

/// Whether something may have this code. What may not is not looked up: it names nothing, and a store may refuse even the question.
pub(crate) fn may_be_code(code: &str) -> bool {
    code.len() <= CODE_LENGTH_MAX && !code.contains('\0')
}

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Path of the field in the request body, such as `lines[3].quantity`.
    pub field: String,
    /// What is wrong, as the end of a sentence that begins with the field's name.
    pub problem: String,
}

/// Longest field path or problem in a refusal, in characters: both may quote what the client sent.
const QUOTE_LENGTH_MAX: usize = 300;

/// As much of a text as a refusal quotes.
#[must_use]
pub fn short(text: &str) -> String {
    text.chars().take(QUOTE_LENGTH_MAX).collect()
}

/// Shortens a list to what a refusal names, and says how many more there are.
pub fn shorten(problems: &mut Vec<Problem>) {
    for Problem { field, problem } in problems.iter_mut() {
        (*field, *problem) = (short(field), short(problem));
    }
    let more = problems.len().saturating_sub(PROBLEMS_MAX);
    if more > 0 {
        problems.truncate(PROBLEMS_MAX);
        let problem = format!("has {more} more problems");
        problems.push(Problem { field: "the body".to_owned(), problem });
    }
}

/// Collects the problems of one body.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Says that `field` is wrong.
    pub fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Problem { field: field.into(), problem: problem.into() });
    }

    /// All that was found.
    #[must_use]
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    /// A code that people and scanners type: visible ASCII, inner spaces allowed.
    pub fn code(&mut self, field: &str, code: &str) {
        if code.is_empty() || code.len() > CODE_LENGTH_MAX {
            self.add(field, format!("must be 1 to {CODE_LENGTH_MAX} characters long"));
        } else if !code.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            self.add(field, "may hold only visible ASCII characters and spaces");
        } else if code.starts_with(' ') || code.ends_with(' ') {
            self.add(field, "must not begin or end with a space");
        }
    }

    /// A text of one or more lines, without control characters (a line break and a tab are allowed in longer texts).
    pub fn text(&mut self, field: &str, text: &str, length_max: usize) {
        let multiline = length_max > NAME_LENGTH_MAX;
        let allowed = |c: char| !c.is_control() || (multiline && (c == '\n' || c == '\t'));
        if text.trim().is_empty() {
            self.add(field, "must not be blank");
        } else if text.chars().count() > length_max {
            self.add(field, format!("must be at most {length_max} characters long"));
        } else if !text.chars().all(allowed) {
            self.add(field, "must not hold control characters");
        }
    }

    /// `text` where there is one.
    pub fn optional_text(&mut self, field: &str, text: Option<&str>, length_max: usize) {
        if let Some(text) = text {
            self.text(field, text, length_max);
        }
    }

    /// `code` where there is one.
    pub fn optional_code(&mut self, field: &str, code: Option<&str>) {
        if let Some(code) = code {
            self.code(field, code);
        }
    }

    /// More than nothing.
    pub fn positive(&mut self, field: impl Into<String>, quantity: Quantity) {
        if !quantity.is_positive() {
            self.add(field, "must be greater than 0");
        }
    }

    /// Nothing or more.
    pub fn not_negative(&mut self, field: impl Into<String>, quantity: Option<Quantity>) {
        if quantity.is_some_and(Quantity::is_negative) {
            self.add(field, "must not be negative");
        }
    }

    /// A price or cost: nothing or more.
    pub fn price(&mut self, field: impl Into<String>, money: Option<Money>) {
        if money.is_some_and(|m| m.amount.is_negative()) {
            self.add(field, "must not be negative");
        }
    }

    /// Between one line and the most that a command takes.
    pub fn lines(&mut self, count: usize) {
        if count == 0 {
            self.add("lines", "must hold at least one line");
        } else if count > LINES_MAX {
            self.add("lines", format!("must hold at most {LINES_MAX} lines"));
        }
    }

    /// Exactly one of two ways to name a thing.
    pub fn exactly_one(&mut self, prefix: &str, first: (&str, bool), second: (&str, bool)) {
        if first.1 == second.1 {
            let problem = if first.1 { "give only one of" } else { "give one of" };
            self.add(
                format!("{prefix}{}", first.0),
                format!("is ambiguous or missing: {problem} {} and {}", first.0, second.0),
            );
        }
    }

    /// Free key-value pairs of the client.
    pub fn metadata(&mut self, metadata: &BTreeMap<String, String>) {
        if metadata.len() > METADATA_ENTRIES_MAX {
            self.add("metadata", format!("must hold at most {METADATA_ENTRIES_MAX} entries"));
        }
        for (key, value) in metadata {
            let field = format!("metadata.{}", key.escape_debug());
            if key.is_empty() || key.chars().count() > METADATA_KEY_LENGTH_MAX || key.chars().any(char::is_control) {
                self.add(
                    &field,
                    format!("needs a key of 1 to {METADATA_KEY_LENGTH_MAX} characters without control characters"),
                );
            }
            if value.chars().count() > METADATA_VALUE_LENGTH_MAX || value.contains('\0') {
                self.add(&field, format!("must be at most {METADATA_VALUE_LENGTH_MAX} characters long, without NUL"));
            }
        }
    }

    /// An item's barcodes: codes, each once.
    pub fn barcodes(&mut self, barcodes: &[String]) {
        if barcodes.len() > BARCODES_MAX {
            self.add("barcodes", format!("must hold at most {BARCODES_MAX} entries"));
            return;
        }
        for (index, barcode) in barcodes.iter().enumerate() {
            let field = format!("barcodes[{index}]");
            self.code(&field, barcode);
            if barcodes.iter().take(index).any(|earlier| earlier == barcode) {
                self.add(field, "stands twice");
            }
        }
    }
}
