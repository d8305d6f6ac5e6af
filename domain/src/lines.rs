//! What documents with lines have in common: which lines an action takes, and how much of each.

use crate::command::LineQuantity;
use crate::decimal::Quantity;
use crate::rejection::Rejection;

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
