//! The whole document: the operations of all routes, what they have in common, and what leads from one to the next.

use super::{INPUTS, OUTPUTS, Operation, Schemas};
use crate::error::{ErrorBody, ErrorCode};
use crate::routes::Routes;
use actix_web::http::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const DESCRIPTION: &str = "Inventory as a ledger. Commands change stock, each under an `Idempotency-Key`; every change is an \
    immutable movement; reads say what is, what was, and prove it. Every error carries a code, what was wrong and where, and a \
    link to what to do about it.";

/// The description of the API.
#[derive(Debug, Clone)]
pub struct Document(Value);

impl Document {
    /// The description of all that some routes serve.
    #[must_use]
    pub fn of(routes: &Routes, version: &str) -> Self {
        let mut schemas = Schemas::default();
        let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for (endpoint, describe) in routes.described() {
            let mut operation = Operation::new(endpoint, &mut schemas);
            describe(&mut operation);
            let method = endpoint.method.as_str().to_ascii_lowercase();
            paths.entry(endpoint.path).or_default().insert(method, operation.into_value());
        }
        let links: Vec<_> = routes.described().filter(|(endpoint, _)| endpoint.path.contains("/{id}")).collect();
        for (path, operations) in &mut paths {
            let below = format!("{path}/{{id}}");
            let to: Map<String, Value> = links
                .iter()
                .filter(|(endpoint, _)| endpoint.path == below || endpoint.path.starts_with(&format!("{below}/")))
                .map(|(endpoint, _)| link(&super::snake_case(endpoint.name), &endpoint.method))
                .collect();
            let made = operations.get_mut("post").and_then(|post| post.pointer_mut("/responses/201"));
            if let Some(made) = made.and_then(Value::as_object_mut).filter(|_| !to.is_empty()) {
                made.insert("links".to_owned(), Value::Object(to));
            }
        }
        let error = schemas.outputs.subschema_for::<ErrorBody>();
        debug_assert!(error.get("$ref").is_some(), "errors are referred to by name");
        let Schemas { mut inputs, mut outputs } = schemas;
        let (inputs, mut outputs) = (inputs.take_definitions(true), outputs.take_definitions(true));
        let mut named: BTreeMap<String, String> = BTreeMap::new();
        for (name, schema) in inputs {
            let own = match outputs.get(&name) {
                Some(other) if !same(other, &schema) => format!("{name}Input"),
                _ => name.clone(),
            };
            outputs.insert(own.clone(), schema);
            named.insert(format!("#{INPUTS}/{name}"), format!("#{OUTPUTS}/{own}"));
        }
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "The Warehouse Hub",
                "version": version,
                "description": DESCRIPTION,
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "servers": [{ "url": "/" }],
            "tags": tags(&paths),
            "paths": paths,
            "components": {
                "securitySchemes": { "bearer": {
                    "type": "http", "scheme": "bearer",
                    "description": "An API key (`twh_live_…`, `twh_test_…`) or the access token of a person who signed in.",
                } },
                "headers": headers(),
                "schemas": outputs,
            },
        });
        rename(&mut document, &named);
        plain_enums(&mut document);
        share_refusals(&mut document);
        Self(document)
    }

    /// It as JSON, with a line for each field.
    #[must_use]
    pub fn to_pretty(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        text.push('\n');
        text
    }

    /// It as a value.
    #[must_use]
    pub const fn value(&self) -> &Value {
        &self.0
    }
}

/// Writes a choice of constants, each with its meaning, as an enum: generators of clients know no other.
fn plain_enums(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let choices = fields.get("oneOf").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let named = |choice: &Value| Some((choice.get("const")?.clone(), choice.get("description").cloned()));
            let constants: Option<Vec<_>> = choices.iter().map(named).collect();
            if let Some(constants) = constants.filter(|constants| !constants.is_empty()) {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let mut lines: Vec<_> = fields.get("description").iter().map(|whole| text(whole)).collect();
                lines.extend(
                    constants
                        .iter()
                        .filter_map(|(name, meaning)| Some(format!("`{}`: {}", text(name), text(meaning.as_ref()?)))),
                );
                fields.remove("oneOf");
                fields.insert("type".to_owned(), json!("string"));
                fields.insert("enum".to_owned(), constants.into_iter().map(|(name, _)| name).collect());
                fields.insert("description".to_owned(), json!(lines.join("\n\n")));
            }
            fields.values_mut().for_each(plain_enums);
        }
        Value::Array(items) => items.iter_mut().for_each(plain_enums),
        _ => {}
    }
}

/// Refusals that many operations have in common stand once.
fn share_refusals(document: &mut Value) {
    let mut shared: BTreeMap<String, (String, Value)> = BTreeMap::new();
    let operations = document.get_mut("paths").and_then(Value::as_object_mut).into_iter().flatten();
    for (_, operation) in operations.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten()) {
        let answers = operation.get_mut("responses").and_then(Value::as_object_mut);
        for (status, answer) in answers.into_iter().flatten().filter(|(status, _)| status.as_str() >= "400") {
            let alike = shared.values().filter(|(name, _)| name.starts_with(&format!("Status{status}"))).count();
            let (name, _) = shared.entry(answer.to_string()).or_insert_with(|| {
                let name =
                    if alike == 0 { format!("Status{status}") } else { format!("Status{status}No{}", alike + 1) };
                (name, answer.clone())
            });
            *answer = json!({ "$ref": format!("#/components/responses/{name}") });
        }
    }
    let responses: Map<String, Value> = shared.into_values().collect();
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("responses".to_owned(), Value::Object(responses));
    }
}

/// Equal but for where their references lead.
fn same(one: &Value, other: &Value) -> bool {
    one.to_string().replace(INPUTS, OUTPUTS) == other.to_string().replace(INPUTS, OUTPUTS)
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match field {
                    Value::String(text) if key == "$ref" => {
                        if let Some(name) = names.get(text.as_str()) {
                            *text = name.clone();
                        }
                    }
                    other => rename(other, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// From what was made to what can be done with it.
fn link(operation: &str, method: &Method) -> (String, Value) {
    let mut parameters = json!({ "id": "$response.body#/id" });
    if *method != Method::GET
        && let Some(parameters) = parameters.as_object_mut()
    {
        parameters.insert("header.If-Match".to_owned(), json!("$response.header.ETag"));
    }
    (operation.to_owned(), json!({ "operationId": operation, "parameters": parameters }))
}

fn tags(paths: &BTreeMap<&str, Map<String, Value>>) -> Vec<Value> {
    let mut names: Vec<_> = paths.keys().map(|path| super::tag(path)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| json!({ "name": name })).collect()
}

fn headers() -> Value {
    let text = |description: &str, example: &str| json!({ "description": description, "schema": { "type": "string", "examples": [example] } });
    json!({
        "X-Request-Id": text("The request's id: yours, where you sent one. Errors carry it too.", "0193…"),
        "ETag": text("The version of what is answered.", "\"3\""),
        "Location": text("Where it is.", "/v1/items/0193…"),
        "X-TWH-Position": text("The command's place in the log; send it as X-TWH-At-Least with a read that must see it.", "3-1042"),
        "X-TWH-Reflects": text("The last command that the answer reflects; it may reflect more.", "3-1042"),
        "X-TWH-Incomplete": text("How many of your events the read model leaves out, since they cannot be stored in it; absent where it has all.", "1"),
        "X-TWH-Search": text("What answered: `postgres` or `elasticsearch`.", "postgres"),
        "X-TWH-Command-Id": text("The command; movements carry it.", "0193…"),
        "Idempotent-Replayed": text("`true` where this answer was given before.", "true"),
        "Retry-After": { "description": "Seconds after which a retry makes sense.", "schema": { "type": "integer", "minimum": 0 } },
        "RateLimit": text("What is left of the limits (draft-ietf-httpapi-ratelimit-headers).", "\"key\";r=99;t=1"),
        "RateLimit-Policy": text("The limits.", "\"key\";q=100;w=1"),
    })
}

/// What an error's code can be.
pub(crate) fn code_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    schemars::json_schema!({ "type": "string", "enum": names, "description": "Stable: what to branch on." })
}
