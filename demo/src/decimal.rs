//! Exact decimals: texts to whole numbers of the smallest unit and back. Never a float.

use anyhow::{Context, Result};
use std::fmt;

/// Digits before the point that a quantity or a price may have.
const WHOLE_DIGITS_MAX: usize = 18;

/// Reads `-12.5` as a whole number of units of which 10^`decimals` are one; `None` when it is not a plain decimal
/// with at most so many decimals, zeros at its end not counted.
pub(crate) fn parse_scaled(text: &str, decimals: usize) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let only_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !only_digits || whole.is_empty() || whole.len() > WHOLE_DIGITS_MAX || fraction.len() > decimals {
        return None;
    }
    let units: i128 = format!("{whole}{fraction:0<decimals$}").parse().ok()?;
    Some(if negative { -units } else { units })
}

/// Writes what [`parse_scaled`] reads, without zeros at its end.
pub(crate) fn write_scaled(f: &mut fmt::Formatter<'_>, units: i128, decimals: usize) -> fmt::Result {
    let sign = if units < 0 { "-" } else { "" };
    // One digit more than the decimals, so that there is one before the point.
    let digits = format!("{:0width$}", units.unsigned_abs(), width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => write!(f, "{sign}{whole}"),
        fraction => write!(f, "{sign}{whole}.{fraction}"),
    }
}

/// The API's quantities have at most six decimals.
const QUANTITY_DECIMALS: usize = 6;

/// A quantity as the API answers it ("12.5"), in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Exact(i128);

impl Exact {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) fn whole(units: i64) -> Self {
        Self(i128::from(units) * 1_000_000)
    }

    /// Reads what the API answered.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        parse_scaled(text, QUANTITY_DECIMALS)
            .map(Self)
            .with_context(|| format!("the server answered {text:?} where a quantity belongs"))
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, QUANTITY_DECIMALS)
    }
}

#[cfg(test)]
mod tests {
    use super::Exact;

    #[test]
    fn quantities_add_up_exactly() {
        let mut sum = Exact::ZERO;
        for text in ["0.1", "0.2", "-12.5", "6", "0.000001"] {
            sum.add(Exact::parse(text).unwrap());
        }
        assert_eq!(sum.to_string(), "-6.199999");
        assert_eq!(Exact::parse("6.000000").unwrap(), Exact::whole(6));
        assert_eq!(Exact::parse("-0.05").unwrap().to_string(), "-0.05");
        for text in ["", "1e3", "--1", "0.0000001", " 1"] {
            assert!(Exact::parse(text).is_err(), "{text:?}");
        }
    }
}
