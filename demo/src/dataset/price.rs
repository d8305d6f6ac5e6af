//! A price as the file has it: exact, never a float.

use std::fmt;

const DECIMALS: usize = 4;
const SCALE: i64 = 10_000;

/// An exact amount in ten-thousandths of a pound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Price(i64);

impl Price {
    /// Nothing: the row has no price.
    pub const ZERO: Self = Self(0);

    /// Of an amount in pence.
    #[must_use]
    pub const fn from_pence(pence: i32) -> Self {
        // Widening, which `i64::from` cannot do in a const fn.
        #[expect(clippy::as_conversions, clippy::cast_lossless, reason = "i32 to i64 never loses")]
        Self(pence as i64 * (SCALE / 100))
    }

    /// Reads a decimal such as `2.55` or `-11062.06`, of at most four decimals (zeros behind them do not count) and
    /// less than 10^12; `None` when it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction = fraction.trim_end_matches('0');
        let only_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        if !only_digits || whole.is_empty() || whole.len() > 12 || fraction.len() > DECIMALS {
            return None;
        }
        let units: i64 = format!("{whole}{fraction:0<DECIMALS$}").parse().ok()?;
        Some(Self(if negative { -units } else { units }))
    }

    /// Whether the row has no price.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it is more than nothing.
    #[must_use]
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Whether it is less than nothing.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
