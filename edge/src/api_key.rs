//! API keys as text: `twh_live_` or `twh_test_`, 256 random bits, a checksum; so that a secret scanner knows one when it sees
//! one, and a key that is mistyped or cut short is refused without a look-up.

use std::fmt;

/// Digits of a key: as many characters as fit 256 bits.
const SECRET_LENGTH: usize = 43;
/// Digits that hold a CRC-32.
const CHECKSUM_LENGTH: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of a key that may be shown: the prefix and a few more.
const HINT_LENGTH: usize = 13;

/// What kind of tenant a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Real stock.
    Live,
    /// To try things out.
    Sandbox,
}

impl Environment {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Sandbox => "sandbox",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Live, Self::Sandbox].into_iter().find(|one| one.name() == name)
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Live => "twh_live_",
            Self::Sandbox => "twh_test_",
        }
    }
}

/// A key in the clear. It is shown once and kept nowhere; in logs it is its hint.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key of random bytes.
    #[must_use]
    pub fn new(environment: Environment, random: &[u8; 32]) -> Self {
        let mut text = format!("{}{}", environment.prefix(), base62(random, SECRET_LENGTH));
        text.push_str(&checksum(&text));
        Self(text)
    }

    /// Reads a key; `None` where it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let environment =
            [Environment::Live, Environment::Sandbox].into_iter().find(|one| text.starts_with(one.prefix()))?;
        let digits = text.get(environment.prefix().len()..)?;
        let sound =
            digits.len() == SECRET_LENGTH + CHECKSUM_LENGTH && digits.bytes().all(|b| b.is_ascii_alphanumeric());
        let (body, sum) = text.split_at_checked(text.len().checked_sub(CHECKSUM_LENGTH)?)?;
        (sound && checksum(body) == sum).then(|| Self(text.to_owned()))
    }

    /// The key.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The characters that may be shown.
    #[must_use]
    pub fn hint(&self) -> &str {
        self.0.get(..HINT_LENGTH).unwrap_or_default()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}…)", self.hint())
    }
}

fn checksum(text: &str) -> String {
    base62(&crc32fast::hash(text.as_bytes()).to_be_bytes(), CHECKSUM_LENGTH)
}

/// A number, big-endian, in so many digits; they must be enough.
fn base62(bytes: &[u8], length: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = Vec::with_capacity(length);
    for _ in 0..length {
        let mut remainder = 0_usize;
        for byte in &mut number {
            let value = remainder * 256 + usize::from(*byte);
            // Less than 256, since the remainder before is less than 62.
            *byte = u8::try_from(value / DIGITS.len()).unwrap_or(u8::MAX);
            remainder = value % DIGITS.len();
        }
        digits.push(char::from(*DIGITS.get(remainder).unwrap_or(&b'0')));
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_are_those_of_the_number() {
        assert_eq!(base62(&[0], 2), "00");
        assert_eq!(base62(&[61], 2), "0z");
        assert_eq!(base62(&[62], 2), "10");
        assert_eq!(base62(&u32::MAX.to_be_bytes(), 6), "4gfFC3");
        // The largest number of 256 bits fits.
        assert!(base62(&[255; 32], SECRET_LENGTH + 1).starts_with('0'));
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_made_and_a_slip_is_seen(random: [u8; 32], at in 9_usize..58, to in "[0-9A-Za-z]") {
            let key = ApiKey::new(Environment::Live, &random);
            prop_assert_eq!(ApiKey::parse(key.reveal()), Some(key.clone()));
            let mut slip = key.reveal().to_owned();
            slip.replace_range(at..=at, &to);
            prop_assert_eq!(ApiKey::parse(&slip).is_some(), slip == key.reveal());
            prop_assert!(ApiKey::parse(&key.reveal()[..at]).is_none());
        }

        #[test]
        fn no_text_breaks_the_reading(text in ".*", rest in "twh_(live|test)_.{0,80}") {
            let _ = ApiKey::parse(&text);
            let _ = ApiKey::parse(&rest);
        }
    }
}
