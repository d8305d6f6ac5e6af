//! JSON Schemas of values that are written as plain strings.

/// Gives types a schema that stands where they are used, not by name.
macro_rules! plain {
    ($($name:ident $doc:literal { $($schema:tt)* })*) => {$(
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut schema = schemars::json_schema!({ $($schema)* });
                schema.insert("description".to_owned(), $doc.into());
                schema
            }
        }
    )*};
}
pub(crate) use plain;
