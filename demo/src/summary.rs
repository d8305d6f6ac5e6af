//! What a run did, for people and for programs.

use crate::dataset::Line;
use crate::kind::{Kind, is_service};
use crate::plan::{Document, Plan};
use crate::progress::per_second;
use crate::reconcile::Disagreement;
use indicatif::HumanCount;
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

/// Disagreements shown to a person; all of them are in [`Summary::disagreements`].
const DISAGREEMENTS_SHOWN: usize = 20;

/// What a run did. Serialised, it has the fields that are not marked as skipped and no others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Rows of the file.
    pub lines: usize,
    /// Commands that the server acknowledged, each entry of a batch counted.
    pub commands: u64,
    /// Items that hold stock and were compared.
    pub items: usize,
    /// Those of them of which all figures agree.
    pub items_agreeing: usize,
    /// Movements in the tenant's ledger at the end.
    pub movements: u64,
    /// From the first command to the last acknowledgement, to the millisecond. The check is not in it.
    pub seconds: f64,
    /// `commands` by `seconds`, rounded down.
    pub commands_per_second: u64,
    /// Items of which something does not agree.
    #[serde(skip)]
    pub disagreements: Vec<Disagreement>,
    /// Rows and documents by kind.
    #[serde(skip)]
    pub counts: Counts,
}

/// Rows and documents by kind. Each row counts once: as service or nothing, or else by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Invoice numbers.
    pub invoices: usize,
    /// Rows of goods sold.
    pub sale_lines: usize,
    /// Rows of goods returned.
    pub return_lines: usize,
    /// Rows of goods written off.
    pub write_off_lines: usize,
    /// Rows of goods found.
    pub find_lines: usize,
    /// Rows of goods otherwise corrected.
    pub correction_lines: usize,
    /// Rows of services: they stand on orders and returns and hold no stock.
    pub service_lines: usize,
    /// Rows of a quantity of 0, which were skipped.
    pub skipped_lines: usize,
    /// Purchase orders that brought the opening stock.
    pub purchase_orders: usize,
    /// Sales orders created, allocated and shipped.
    pub orders: usize,
    /// Returns that name the order that shipped the goods.
    pub order_returns: usize,
    /// Returns of goods whose sale the file does not show.
    pub blind_returns: usize,
    /// Adjustments.
    pub adjustments: usize,
    /// Requests sent again because they were not answered for good.
    pub sent_again: u64,
}

impl Counts {
    /// Counts a file and the documents made of it.
    pub(crate) fn of(lines: &[Line], plan: &Plan) -> Self {
        let mut counts = Self::default();
        let invoices: HashSet<&str> = lines.iter().map(|line| line.invoice.as_str()).collect();
        counts.invoices = invoices.len();
        for line in lines {
            let count = match Kind::of(line) {
                Kind::Nothing => &mut counts.skipped_lines,
                _ if is_service(&line.stock_code) => &mut counts.service_lines,
                Kind::Sale => &mut counts.sale_lines,
                Kind::Return => &mut counts.return_lines,
                Kind::WriteOff => &mut counts.write_off_lines,
                Kind::Find => &mut counts.find_lines,
                Kind::Correction => &mut counts.correction_lines,
            };
            *count += 1;
        }
        for step in &plan.steps {
            let count = match step.document {
                Document::Order { .. } => &mut counts.orders,
                Document::Return { .. } => &mut counts.order_returns,
                Document::BlindReturn { .. } => &mut counts.blind_returns,
                Document::Adjustment { .. } => &mut counts.adjustments,
            };
            *count += 1;
        }
        counts
    }
}

impl Summary {
    pub(crate) fn new(
        lines: usize,
        commands: u64,
        items: usize,
        disagreements: Vec<Disagreement>,
        movements: u64,
        elapsed: Duration,
        counts: Counts,
    ) -> Self {
        let to_the_millisecond = format!("{}.{:03}", elapsed.as_secs(), elapsed.subsec_millis());
        Self {
            lines,
            commands,
            items,
            items_agreeing: items.saturating_sub(disagreements.len()),
            movements,
            seconds: to_the_millisecond.parse().unwrap_or_default(),
            commands_per_second: per_second(commands, elapsed),
            disagreements,
            counts,
        }
    }

    /// Whether every closing quantity is what the file says, and there was something to compare.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.items > 0 && self.items_agreeing == self.items
    }

    /// One line of JSON for a program.
    #[must_use]
    pub fn json_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn n(count: usize) -> HumanCount {
    HumanCount(u64::try_from(count).unwrap_or(u64::MAX))
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(f, "{} lines of {} invoices, through the REST API:", n(self.lines), n(c.invoices))?;
        writeln!(f, "  opening stock  {} items on {} purchase orders", n(self.items), n(c.purchase_orders))?;
        writeln!(f, "  sales          {} lines on {} orders, allocated and shipped", n(c.sale_lines), n(c.orders))?;
        writeln!(
            f,
            "  returns        {} lines on {} returns of an order and {} blind ones",
            n(c.return_lines),
            n(c.order_returns),
            n(c.blind_returns)
        )?;
        writeln!(
            f,
            "  adjustments    {} write-offs, {} finds and {} other corrections on {} adjustments",
            n(c.write_off_lines),
            n(c.find_lines),
            n(c.correction_lines),
            n(c.adjustments)
        )?;
        writeln!(f, "  non-stock      {} lines of postage, fees and discounts", n(c.service_lines))?;
        if c.skipped_lines > 0 {
            writeln!(f, "  skipped        {} lines of a quantity of 0", n(c.skipped_lines))?;
        }
        write!(
            f,
            "{} commands acknowledged in {:.1} s: {} a second",
            HumanCount(self.commands),
            self.seconds,
            HumanCount(self.commands_per_second)
        )?;
        match c.sent_again {
            0 => writeln!(f, ".")?,
            again => writeln!(f, "; {} requests had to be sent again.", HumanCount(again))?,
        }
        writeln!(f, "The ledger holds {} movements.", HumanCount(self.movements))?;
        write!(f, "{} of {} closing quantities agree", n(self.items_agreeing), n(self.items))?;
        if self.agrees() {
            return write!(
                f,
                ": on hand, the sum of the movements and the file say the same, and nothing is reserved."
            );
        }
        write!(f, ".")?;
        for disagreement in self.disagreements.iter().take(DISAGREEMENTS_SHOWN) {
            write!(f, "\n  {disagreement}")?;
        }
        match self.disagreements.len().saturating_sub(DISAGREEMENTS_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {} more", n(more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Summary};
    use crate::reconcile::Disagreement;
    use std::time::Duration;

    #[test]
    fn programs_read_seven_fields_on_one_line() {
        let wrong = Disagreement {
            sku: "100".to_owned(),
            expected: "5".to_owned(),
            on_hand: "4".to_owned(),
            ledger: "5".to_owned(),
            reserved: "0".to_owned(),
        };
        let summary =
            Summary::new(42_481, 8_000, 2, vec![wrong], 85_000, Duration::from_micros(12_345_678), Counts::default());
        assert_eq!(
            summary.json_line(),
            r#"{"lines":42481,"commands":8000,"items":2,"items_agreeing":1,"movements":85000,"seconds":12.345,"commands_per_second":648}"#
        );
        assert!(!summary.agrees());
        let told = summary.to_string();
        assert!(told.contains("1 of 2 closing quantities agree.\n  100: expected 5, on hand 4"), "{told}");
    }
}
