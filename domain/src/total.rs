//! Sums of quantities: exact, however many there are and however large.

use crate::decimal::{Quantity, SCALE};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};

/// A sum of quantities. It may have more digits than a [`Quantity`]: an `i128` holds the sum of more of the largest quantities
/// than there can be rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Total(i128);

impl Total {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From a whole number of millionths.
    #[must_use]
    pub const fn from_micros(micros: i128) -> Self {
        Self(micros)
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

impl Sum for Total {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_u128.pow(SCALE);
        let (sign, magnitude) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let (whole, fraction) = (magnitude / one, magnitude % one);
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        write!(f, "{sign}{whole}.{}", format!("{fraction:06}").trim_end_matches('0'))
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
            "description": "A sum of quantities, exact: it may have more than twelve digits before the point.",
            "type": "string", "pattern": r"^-?[0-9]{1,33}(\.[0-9]{1,6})?$", "examples": ["2.5"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_the_largest_quantities_is_exact() {
        let largest = Total::from("999999999999.999999".parse::<Quantity>().unwrap());
        let sum: Total = std::iter::repeat_n(largest, 1_000).sum();
        assert_eq!(sum.to_string(), "999999999999999.999");
        assert_eq!((Total::ZERO - sum).to_string(), "-999999999999999.999");
        assert_eq!((sum - sum, Total::from_micros(-2_500_000).to_string()), (Total::ZERO, "-2.5".to_owned()));
    }

    #[test]
    fn a_sum_is_written_as_a_quantity_is() {
        for text in ["0", "-0.000001", "12.5", "999999999999.999999", "-7"] {
            assert_eq!(Total::from(text.parse::<Quantity>().unwrap()).to_string(), text);
        }
    }
}
