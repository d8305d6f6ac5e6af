//! Texts to look for.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// A text that PostgreSQL can hold: without NUL.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(transparent, inline)]
pub(crate) struct Text(String);

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains('\0') { Err(de::Error::custom("must not hold NUL")) } else { Ok(Self(text)) }
    }
}
