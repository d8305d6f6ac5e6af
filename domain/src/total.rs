//! Sums of quantities: exact, however many are added and however large they are.

use crate::decimal::{Quantity, write_micros};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};

/// A sum of quantities, in millionths. More summands than there are millionths in a quantity would still fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Total(i128);

impl Total {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From a whole number of millionths.
    #[must_use]
    pub const fn from_micros(micros: i128) -> Self {
        Self(micros)
    }

    /// The value in millionths.
    #[must_use]
    pub const fn micros(self) -> i128 {
        self.0
    }

    /// The nearest quantity, for a field that has eighteen digits and no more.
    #[must_use]
    pub fn nearest_quantity(self) -> Quantity {
        let clamped = self.0.clamp(Quantity::MIN.micros().into(), Quantity::MAX.micros().into());
        i64::try_from(clamped).ok().and_then(Quantity::from_micros).unwrap_or_default()
    }
}

impl From<Quantity> for Total {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.micros().into())
    }
}

impl Add for Total {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Total {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Total {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Total {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_micros(self.0, f)
    }
}

impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Total {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Total".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A sum of quantities, exact: it may have more digits than a quantity.",
            "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,6})?$", "examples": ["2.5"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_the_largest_is_exact_and_its_nearest_quantity_is_the_largest() {
        let sum: Total = std::iter::repeat_n(Total::from(Quantity::MAX), 1_000).sum();
        assert_eq!(sum.to_string(), "999999999999999.999");
        assert_eq!((Total::ZERO - sum).to_string(), "-999999999999999.999");
        assert_eq!((sum.nearest_quantity(), (Total::ZERO - sum).nearest_quantity()), (Quantity::MAX, Quantity::MIN));
        assert_eq!(Total::from_micros(-2_500_000).nearest_quantity().to_string(), "-2.5");
    }
}
