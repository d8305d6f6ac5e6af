//! Points in time, to the microsecond: what Postgres and Avro hold without loss. Read from a clock elsewhere, never here.

use crate::schema::plain;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }
    /// From milliseconds since the Unix epoch, as Kafka stamps its records.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }
    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }
    /// Whether it lies in the years that can be written down (0 to 9999): what is not checked when it is made of a number.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 >= FIRST_MICROS && self.0 <= LAST_MICROS
    }
    /// As a calendar time; the epoch for a value outside the years that can be written down (0 to 9999).
    #[must_use]
    pub fn datetime(self) -> OffsetDateTime {
        let datetime = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000).ok();
        datetime.filter(|datetime| YEARS.contains(&datetime.year())).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// The first and the last microsecond of these years.
const FIRST_MICROS: i64 = -62_167_219_200_000_000;
const LAST_MICROS: i64 = 253_402_300_799_999_999;
/// The years that RFC 3339 can write.
const YEARS: std::ops::RangeInclusive<i32> = 0..=9999;

/// Why a text is no [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTimestamp;

impl std::fmt::Display for NoTimestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("must be an RFC 3339 time such as 2026-03-01T09:30:00Z, in UTC not before year 0 nor after 9999")
    }
}

impl std::error::Error for NoTimestamp {}

plain! {
    Timestamp "RFC 3339, to the microsecond." { "type": "string", "format": "date-time", "examples": ["2026-03-01T09:30:00Z"] }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(datetime: OffsetDateTime) -> Self {
        Self(i64::try_from(datetime.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or_default())
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.datetime().format(&Rfc3339).map_err(|_| std::fmt::Error)?)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = NoTimestamp;
    /// What is read can be written: an offset may carry a time over the years that RFC 3339 has.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| NoTimestamp)?;
        let utc = read.checked_to_offset(time::UtcOffset::UTC).ok_or(NoTimestamp)?;
        if YEARS.contains(&utc.year()) { Ok(Self::from(utc)) } else { Err(NoTimestamp) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an RFC 3339 time such as \"2026-03-01T09:30:00Z\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_can_be_written() {
        for refused in ["0000-01-01T00:00:00+23:59", "9999-12-31T23:59:59-00:01", "10000-01-01T00:00:00Z", "soon", ""] {
            assert_eq!(refused.parse::<Timestamp>(), Err(NoTimestamp), "{refused}");
        }
        for (read, written) in [
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
            ("0000-01-01T23:59:00+23:59", "0000-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(read.parse::<Timestamp>().map(|time| time.to_string()), Ok(written.to_owned()));
        }
        for micros in [i64::MIN, -62_167_219_200_000_001, 253_402_300_800_000_000, i64::MAX] {
            assert_eq!(Timestamp::from_micros(micros).to_string(), "1970-01-01T00:00:00Z", "{micros}");
            assert!(!Timestamp::from_micros(micros).is_writable(), "{micros}");
        }
        for micros in [FIRST_MICROS, 0, LAST_MICROS] {
            assert!(Timestamp::from_micros(micros).is_writable(), "{micros}");
        }
    }
}
