//! Life cycles as types: a status enum with its stable names.

/// Declares a status enum: its variants, their names in JSON and in rejections. The first is where a life begins.
macro_rules! status {
    ($(#[$doc:meta])* $name:ident { $(#[$first_doc:meta])* $first:ident = $first_text:literal, $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name { $(#[$first_doc])* #[default] #[serde(rename = $first_text)] $first, $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { Self::$first => $first_text, $(Self::$variant => $text,)* }
            }
        }
    };
}
pub(crate) use status;
