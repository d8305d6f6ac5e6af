//! What must be left of every item by the file alone, and whether the server agrees.
//!
//! It must never look at the plan that made the commands, only at the rows and at what was received: a mistake in the
//! plan has to show here as a disagreement.

use crate::dataset::Line;
use crate::decimal::Exact;
use crate::kind::is_service;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// An item whose closing figures are not all what the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// Which item.
    pub sku: String,
    /// What the file says is left.
    pub expected: String,
    /// What `GET /v1/stock` says is on hand.
    pub on_hand: String,
    /// What the movements of `GET /v1/movements` add up to.
    pub ledger: String,
    /// What is still reserved; nothing should be.
    pub reserved: String,
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sku, expected, on_hand, ledger, reserved } = self;
        write!(f, "{sku}: expected {expected}, on hand {on_hand}, by the movements {ledger}, reserved {reserved}")
    }
}

/// The closing quantity of every item that holds stock: what was received of it less the sum of its `Quantity`.
#[must_use]
pub fn expected_closing<'a>(lines: &'a [Line], received: &HashMap<String, i64>) -> BTreeMap<&'a str, i64> {
    let mut closing = BTreeMap::new();
    for line in lines.iter().filter(|line| !is_service(&line.stock_code)) {
        let code = line.stock_code.as_str();
        *closing.entry(code).or_insert_with(|| received.get(code).copied().unwrap_or_default()) -= line.quantity;
    }
    closing
}

/// What the server says of one item at the end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Closing {
    pub(crate) on_hand: Exact,
    pub(crate) reserved: Exact,
    pub(crate) ledger: Exact,
}

/// Compares one item; `None` when all agrees.
pub(crate) fn compare(sku: &str, expected: i64, actual: Closing) -> Option<Disagreement> {
    let expected = Exact::whole(expected);
    let agrees = actual.on_hand == expected && actual.ledger == expected && actual.reserved == Exact::ZERO;
    (!agrees).then(|| Disagreement {
        sku: sku.to_owned(),
        expected: expected.to_string(),
        on_hand: actual.on_hand.to_string(),
        ledger: actual.ledger.to_string(),
        reserved: actual.reserved.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Closing, compare, expected_closing};
    use crate::decimal::Exact;
    use crate::generate::{GenerateOptions, generate};
    use crate::kind::is_service;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn the_closing_quantity_is_what_was_received_less_the_sum_of_the_column() {
        let lines = generate(GenerateOptions { lines: 2_000, codes: 50, ..GenerateOptions::default() });
        let codes: HashSet<&str> = lines.iter().map(|line| line.stock_code.as_str()).collect();
        let received: HashMap<String, i64> = codes.iter().map(|code| ((*code).to_owned(), 1_000)).collect();
        let closing = expected_closing(&lines, &received);
        assert_eq!(closing.len(), codes.iter().filter(|code| !is_service(code)).count());
        for (code, left) in closing {
            let sum: i64 = lines.iter().filter(|line| line.stock_code == code).map(|line| line.quantity).sum();
            assert_eq!(left, 1_000 - sum, "{code}");
        }
    }

    #[test]
    fn a_wrong_level_a_wrong_ledger_and_a_forgotten_reservation_each_disagree() {
        let right = Closing { on_hand: Exact::whole(5), reserved: Exact::ZERO, ledger: Exact::whole(5) };
        assert_eq!(compare("100", 5, right), None);
        let wrong = Exact::parse("5.000001").unwrap();
        for actual in [
            Closing { on_hand: wrong, ..right },
            Closing { ledger: wrong, ..right },
            Closing { reserved: Exact::whole(1), ..right },
        ] {
            let disagreement = compare("100", 5, actual).unwrap();
            assert!(disagreement.to_string().starts_with("100: expected 5, on hand 5"), "{disagreement}");
        }
    }
}
