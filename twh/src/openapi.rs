//! The description of the whole API, whichever of it a process serves.

use twh_edge::openapi::Document;
use twh_edge::routes::Routes;

/// The description of all routes.
pub(crate) fn document() -> Document {
    let routes = Routes::new().merge(twh_ingest::routes()).merge(twh_api::routes()).merge(twh_accounts::routes());
    Document::of(&routes, env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;
    use twh_edge::access::ENDPOINTS;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

    #[test]
    fn the_committed_description_is_current() {
        let text = document().to_pretty();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(PATH, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(PATH).unwrap_or_default() == text,
            "docs/openapi.json is not current: run the tests with UPDATE_DOCS=1"
        );
    }

    #[test]
    fn every_endpoint_is_described_once() {
        let document = document();
        let paths = document.value()["paths"].as_object().unwrap();
        let described: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, operations)| {
                operations.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let table: BTreeSet<_> = ENDPOINTS.iter().map(|one| (one.method.to_string(), one.path.to_owned())).collect();
        assert_eq!(described, table);
    }

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut found = BTreeSet::new();
        references(document.value(), &mut found);
        for reference in &found {
            assert!(document.value().pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
        }
        for name in document.value()["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(format!("#/components/schemas/{name}").as_str()), "{name} is not used");
        }
    }
}
