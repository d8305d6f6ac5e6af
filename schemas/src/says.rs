//! What records of a schema can say: by it a record of a newer version is told from one of a known version with wrong data.

use serde_avro_fast::schema::{RegularType, SchemaKey, SchemaMut};
use std::collections::BTreeSet;

/// Every field with each type that it may have, and every symbol, by their names.
pub(crate) fn says(schema: &SchemaMut) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for node in schema.nodes() {
        match &node.type_ {
            RegularType::Record(record) => {
                for field in &record.fields {
                    let place = format!("{}.{}", record.name.name(), field.name);
                    add_types(schema, field.type_, &place, &mut all);
                }
            }
            RegularType::Enum(symbols) => {
                all.extend(symbols.symbols.iter().map(|symbol| format!("{} = {symbol}", symbols.name.name())));
            }
            _ => {}
        }
    }
    all
}

/// Adds the types that may stand at a place. Of a named type only the name: its own node has the rest.
fn add_types(schema: &SchemaMut, key: SchemaKey, place: &str, all: &mut BTreeSet<String>) {
    let Some(node) = schema.get(key) else { return };
    match &node.type_ {
        RegularType::Union(union) => union.variants.iter().for_each(|one| add_types(schema, *one, place, all)),
        RegularType::Array(array) => add_types(schema, array.items, &format!("{place}[]"), all),
        RegularType::Map(map) => add_types(schema, map.values, &format!("{place}{{}}"), all),
        plain => {
            let kind = plain.name().map_or_else(|| format!("{plain:?}"), |name| name.name().to_owned());
            all.insert(format!("{place}: {kind} {:?}", node.logical_type));
        }
    }
}
