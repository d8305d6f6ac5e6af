//! A price as the file has it: exact, never a float.

use crate::decimal::{parse_scaled, write_scaled};
use std::fmt;

/// The published file has prices down to a tenth of a penny.
const DECIMALS: usize = 4;
const UNITS_PER_PENNY: i64 = 100;

/// An exact amount in ten-thousandths of a pound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Price(i64);

impl Price {
    /// Nothing: the row has no price.
    pub const ZERO: Self = Self(0);

    /// Of an amount in pence.
    #[must_use]
    pub fn from_pence(pence: i32) -> Self {
        Self(i64::from(pence) * UNITS_PER_PENNY)
    }

    /// Reads a decimal such as `2.55` or `-11062.06`, of at most four decimals (zeros at its end do not count); `None`
    /// when it is anything else or too large.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse_scaled(text, DECIMALS).and_then(|units| i64::try_from(units).ok()).map(Self)
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

    /// Whether it is less than nothing, as on bad debt written off.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, i128::from(self.0), DECIMALS)
    }
}
