//! Exact decimals: a quantity or an amount is a whole number of millionths. Never a float.
//!
//! Eighteen digits, six of them after the point, fit an `i64` and Avro's `decimal(18, 6)`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// Digits after the decimal point.
pub const SCALE: u32 = 6;
const ONE: i64 = 1_000_000;
/// The largest magnitude, in millionths: eighteen nines.
const MAX: i64 = 999_999_999_999_999_999;
/// A float is taken at its word only below this: there, six digits after the point make at most fifteen in all, which a
/// float (IEEE 754 binary64) carries unharmed.
const FLOAT_MAX: f64 = 1_000_000_000.0;

/// Why a text or number is not a decimal of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not of the form `-12.345`.
    #[error("is not a decimal number such as \"12.5\"")]
    Malformed,
    /// More than six digits after the point.
    #[error("has more than 6 digits after the decimal point")]
    TooPrecise,
    /// Twelve digits before the point are the most.
    #[error("is out of range: at most 12 digits before the decimal point")]
    OutOfRange,
    /// A JSON number with a fraction, or out of range, too large to be exact.
    #[error("is too large for a JSON number to be exact: send it as a string")]
    Inexact,
}

fn parse(text: &str) -> Result<i64, DecimalError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(DecimalError::Malformed);
    }
    let fraction = fraction.trim_end_matches('0');
    let whole = whole.trim_start_matches('0');
    if fraction.len() > 6 {
        return Err(DecimalError::TooPrecise);
    }
    if whole.len() > 12 {
        return Err(DecimalError::OutOfRange);
    }
    let mut value: i64 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        value = value * 10 + i64::from(digit - b'0');
    }
    for _ in fraction.len()..6 {
        value *= 10;
    }
    Ok(if negative { -value } else { value })
}

/// Writes a number of millionths as a decimal.
pub(crate) fn write_micros(value: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (magnitude, one) = (value.unsigned_abs(), u128::from(ONE.unsigned_abs()));
    let (whole, fraction) = (magnitude / one, magnitude % one);
    let sign = if value < 0 { "-" } else { "" };
    if fraction == 0 {
        return write!(f, "{sign}{whole}");
    }
    let fraction = format!("{fraction:06}");
    write!(f, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a decimal number, as a string or a JSON number")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        parse(text).map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        value.checked_mul(ONE).filter(|v| v.abs() <= MAX).ok_or_else(|| E::custom(DecimalError::OutOfRange))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        let value = i64::try_from(value).map_err(|_| E::custom(DecimalError::OutOfRange))?;
        self.visit_i64(value)
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<i64, E> {
        // Rust prints the shortest decimal that reads back as the same float, without an exponent.
        if value.abs() < FLOAT_MAX {
            parse(&value.to_string()).map_err(E::custom)
        } else {
            Err(E::custom(DecimalError::Inexact))
        }
    }
}

/// What a decimal is written as, and, taken from a client, may be besides.
fn schema(schemas: &SchemaGenerator, doc: &str) -> Schema {
    let pattern = r"^-?[0-9]{1,12}(\.[0-9]{1,6})?$";
    if schemas.contract().is_serialize() {
        return json_schema!({ "description": doc, "type": "string", "pattern": pattern, "examples": ["2.5"] });
    }
    json_schema!({
        "description": format!("{doc} A string, or a number below 1,000,000,000 where it has a fraction; six decimals at most."),
        "type": ["string", "number"], "pattern": pattern, "minimum": -999_999_999_999_i64, "maximum": 999_999_999_999_i64,
        "examples": ["2.5"],
    })
}

macro_rules! decimals {
    ($($name:ident $doc:literal)*) => {$(
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(i64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);
            /// The largest there is.
            pub const MAX: Self = Self(MAX);
            /// The least there is.
            pub const MIN: Self = Self(-MAX);

            /// From a whole number of millionths; `None` beyond eighteen digits.
            #[must_use]
            pub fn from_micros(micros: i64) -> Option<Self> {
                (-MAX..=MAX).contains(&micros).then_some(Self(micros))
            }
            /// The value in millionths.
            #[must_use]
            pub const fn micros(self) -> i64 {
                self.0
            }
            /// The sum, or `None` when it has more than eighteen digits.
            #[must_use]
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).and_then(Self::from_micros)
            }
            /// The difference, or `None` when it has more than eighteen digits.
            #[must_use]
            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).and_then(Self::from_micros)
            }
            /// More than nothing.
            #[must_use]
            pub const fn is_positive(self) -> bool {
                self.0 > 0
            }
            /// Less than nothing.
            #[must_use]
            pub const fn is_negative(self) -> bool {
                self.0 < 0
            }
            /// Exactly nothing.
            #[must_use]
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(schemas: &mut SchemaGenerator) -> Schema {
                schema(schemas, $doc)
            }
        }

        impl std::ops::Neg for $name {
            type Output = Self;
            fn neg(self) -> Self {
                Self(-self.0)
            }
        }

        impl FromStr for $name {
            type Err = DecimalError;
            fn from_str(text: &str) -> Result<Self, DecimalError> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_micros(self.0.into(), f)
            }
        }

        // A string in JSON (a number there is a float to most readers) and in Avro's decimal alike.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Visitor).map(Self)
            }
        }
    )*};
}

decimals! {
    Quantity "How much of an item, in the item's unit."
    Amount "How much money, in a currency's main unit."
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_an_exact_decimal_is_refused() {
        for (text, error) in [
            ("", DecimalError::Malformed),
            ("1.", DecimalError::Malformed),
            (".5", DecimalError::Malformed),
            ("+1", DecimalError::Malformed),
            ("1e3", DecimalError::Malformed),
            ("--1", DecimalError::Malformed),
            ("١", DecimalError::Malformed),
            ("0.0000001", DecimalError::TooPrecise),
            ("1000000000000", DecimalError::OutOfRange),
            ("1234567890123456789012345678901234567890", DecimalError::OutOfRange),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_json_number_is_taken_only_when_it_is_exact() {
        let read = |json: &str| serde_json::from_str::<Quantity>(json);
        assert_eq!(read("2.55").unwrap().to_string(), "2.55");
        assert_eq!(read("-7").unwrap().to_string(), "-7");
        assert_eq!(read("\"999999999999.999999\"").unwrap().micros(), MAX);
        assert!(read("999999999999.999999").unwrap_err().to_string().contains("string"));
        assert!(read("1e40").is_err());
        assert!(read("null").is_err());
    }

    proptest! {
        #[test]
        fn text_and_value_agree_both_ways(micros in -MAX..=MAX) {
            let quantity = Quantity::from_micros(micros).unwrap();
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
            let json = serde_json::to_string(&quantity).unwrap();
            prop_assert_eq!(serde_json::from_str::<Quantity>(&json).unwrap(), quantity);
        }

        #[test]
        fn hostile_text_never_panics(text in "\\PC*") {
            let _ = text.parse::<Quantity>();
            let _ = serde_json::from_str::<Quantity>(&text);
        }
    }
}
