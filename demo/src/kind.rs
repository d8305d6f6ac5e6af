//! How a row of the file reads as inventory.

use crate::dataset::Line;

/// Codes that are not goods: postage, carriage, discounts, fees, samples, bad debt and corrections by hand. They are
/// those of the published year (and `C3`, `ADJUST` and `ADJUST2` of its later edition); `PADS` are cushion pads and so
/// goods.
const SERVICES: [&str; 14] =
    ["ADJUST", "ADJUST2", "AMAZONFEE", "B", "BANK CHARGES", "C2", "C3", "CRUK", "D", "DOT", "M", "POST", "S", "m"];

/// Gift vouchers are `gift_0001_10`, `gift_0001_20`, …
const VOUCHER_PREFIX: &str = "gift_0001_";

/// Whether a code is not goods, and so holds no stock.
#[must_use]
pub fn is_service(stock_code: &str) -> bool {
    SERVICES.contains(&stock_code) || stock_code.starts_with(VOUCHER_PREFIX)
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sold: a line of a sales order. A price of nothing to a named customer is a sale too.
    Sale,
    /// Cancelled or brought back: a line of a return.
    Return,
    /// Fewer than nothing, without a cancellation, a price or a customer: a line of an adjustment.
    WriteOff,
    /// More than nothing, without a price or a customer: a line of an adjustment.
    Find,
    /// Any other row whose sign does not fit its invoice: a line of an adjustment.
    Correction,
    /// A quantity of 0: nothing happened.
    Nothing,
}

impl Kind {
    /// Reads a row.
    #[must_use]
    pub fn of(line: &Line) -> Self {
        let cancelled = line.invoice.starts_with('C');
        let nameless = line.unit_price.is_zero() && line.customer_id.is_none();
        // An adjustment cannot hold a service, so that the sign alone decides there.
        let service = is_service(&line.stock_code);
        match line.quantity {
            0 => Self::Nothing,
            1.. if service => Self::Sale,
            1.. if cancelled => Self::Correction,
            1.. if nameless => Self::Find,
            1.. => Self::Sale,
            _ if service || cancelled => Self::Return,
            _ if nameless => Self::WriteOff,
            _ => Self::Correction,
        }
    }
}

/// By how much a row changes the stock on hand: the opposite of its `Quantity`, on corrections as on sales.
///
/// The file does not say which way its corrections go. Reading the column the same way on every row, as what left,
/// is the one reading under which the closing quantity is the opening less `SUM(Quantity)`, which anyone can compute.
pub(crate) fn stock_change(line: &Line) -> i64 {
    if is_service(&line.stock_code) { 0 } else { -line.quantity }
}
