//! What documents with lines have in common: which lines an action takes, and how much of each.

use crate::commands::body::bodies;
use crate::decimal::Quantity;
use crate::rejection::Rejection;
use crate::validate::Problems;
use std::collections::BTreeSet;

bodies! {
    /// How much of one line of the document acted upon.
    LineQuantity {
        /// The line's number in the document, from 1.
        #[schemars(range(min = 1))]
        line: i32,
        /// How much of it.
        quantity: Quantity,
    }
}

/// Lines of the document acted upon: at least one, each once, more than nothing of each.
pub(crate) fn check_line_quantities(problems: &mut Problems, lines: Option<&[LineQuantity]>) {
    let Some(lines) = lines else { return };
    problems.lines(lines.len());
    let mut seen = BTreeSet::new();
    for (index, line) in lines.iter().enumerate() {
        problems.positive(format!("lines[{index}].quantity"), line.quantity);
        if line.line < 1 {
            problems.add(format!("lines[{index}].line"), "must be 1 or more");
        } else if !seen.insert(line.line) {
            problems.add(format!("lines[{index}].line"), "names a line that stands there already");
        }
    }
}

/// The index of line number `line` (from 1) among `count` lines.
pub(crate) fn index(line: i32, count: usize) -> Result<usize, Rejection> {
    usize::try_from(line)
        .ok()
        .and_then(|number| number.checked_sub(1))
        .filter(|index| *index < count)
        .ok_or(Rejection::UnknownLine { line })
}

/// The number of the line at `index`.
pub(crate) fn number(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX).saturating_add(1)
}

/// What the action takes, as (index, quantity): the lines named, or all that is outstanding of each.
pub(crate) fn taken(
    named: Option<&[LineQuantity]>,
    outstanding: &[Quantity],
) -> Result<Vec<(usize, Quantity)>, Rejection> {
    let Some(named) = named else {
        return Ok(outstanding.iter().copied().enumerate().filter(|(_, quantity)| quantity.is_positive()).collect());
    };
    named.iter().map(|line| Ok((index(line.line, outstanding.len())?, line.quantity))).collect()
}

/// The sum of a running total and what is added, within `limit`.
pub(crate) fn within(line: i32, taken: Quantity, limit: Quantity) -> Result<(), Rejection> {
    if taken > limit { Err(Rejection::QuantityExceeded { line, requested: taken, limit }) } else { Ok(()) }
}
