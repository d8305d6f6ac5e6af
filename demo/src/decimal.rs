//! Quantities as the API answers them ("12.5"), added up exactly.

use anyhow::{Context, Result};

const DECIMALS: usize = 6;
const SCALE: i128 = 1_000_000;

/// An exact quantity in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Exact(i128);

impl Exact {
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) fn whole(units: i64) -> Self {
        Self(i128::from(units) * SCALE)
    }

    /// Reads what the API answered.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::read(text).with_context(|| format!("the server answered {text:?} where a quantity belongs"))
    }

    fn read(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let only_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        if !only_digits || whole.is_empty() || whole.len() > 18 || fraction.len() > DECIMALS {
            return None;
        }
        let units: i128 = format!("{whole}{fraction:0<DECIMALS$}").parse().ok()?;
        Some(Self(if negative { -units } else { units }))
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl std::fmt::Display for Exact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let units = self.0.unsigned_abs();
        let scale = SCALE.unsigned_abs();
        let fraction = format!("{:0DECIMALS$}", units % scale);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{}", units / scale),
            decimals => write!(f, "{sign}{}.{decimals}", units / scale),
        }
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
        for text in ["", "1e3", "--1", "0.0000001", " 1"] {
            assert!(Exact::parse(text).is_err(), "{text:?}");
        }
    }
}
