//! What clients that were made from a released description rely on.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What of a description clients rely on: without words, examples and headers.
pub(super) fn shape(document: &Value) -> Value {
    match document {
        Value::Object(fields) => {
            let words = ["description", "summary", "examples", "headers", "links", "tags", "info", "security"];
            let kept = fields.iter().filter(|(name, value)| !words.contains(&name.as_str()) || !is_word(value));
            Value::Object(kept.map(|(name, value)| (name.clone(), shape(value))).collect())
        }
        Value::Array(items) => items.iter().map(shape).collect(),
        other => other.clone(),
    }
}

/// A property may have the name of a keyword; then it is a schema with a type.
fn is_word(value: &Value) -> bool {
    !value.is_object() || ["type", "$ref", "anyOf", "oneOf"].iter().all(|key| value.get(key).is_none())
}

/// What of the old no longer holds in the new.
pub(super) fn broken(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = Comparison { old, new, found: Vec::new(), seen: BTreeSet::new() };
    for (path, operations) in entries(old, "/paths") {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let place = format!("{} {path}", method.to_uppercase());
            match new.get("paths").and_then(|paths| paths.get(&path)?.get(method)) {
                Some(now) => comparison.operation(&place, operation, now),
                None => comparison.found.push(format!("{place} is gone")),
            }
        }
    }
    comparison.found
}

fn entries(value: &Value, pointer: &str) -> Vec<(String, Value)> {
    let fields = value.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn names(value: &Value, key: &str) -> BTreeSet<String> {
    let items = value.get(key).and_then(Value::as_array).into_iter().flatten();
    items.map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Taken,
    Answered,
}

struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<String>,
    /// What is compared already, or being compared.
    seen: BTreeSet<(String, String, Way)>,
}

impl Comparison<'_> {
    fn operation(&mut self, place: &str, old: &Value, new: &Value) {
        let parameters = |operation: &Value| -> Map<String, Value> {
            let all = operation.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
            all.into_iter()
                .map(|one| (format!("{} {}", one["in"].as_str().unwrap(), one["name"].as_str().unwrap()), one))
                .collect()
        };
        let (before, now) = (parameters(old), parameters(new));
        for (name, parameter) in &before {
            match now.get(name) {
                Some(now) => self.schema(&format!("{place}: {name}"), &parameter["schema"], &now["schema"], Way::Taken),
                None => self.found.push(format!("{place}: {name} is no longer taken")),
            }
        }
        for (name, parameter) in &now {
            let was_required = before.get(name).is_some_and(|before| before["required"] == json!(true));
            if parameter["required"] == json!(true) && !was_required {
                self.found.push(format!("{place}: {name} is required now"));
            }
        }
        let content = "/content/application~1json/schema";
        if let Some(now) = new.pointer(&format!("/requestBody{content}")) {
            match old.pointer(&format!("/requestBody{content}")) {
                Some(before) => self.schema(&format!("{place}: body"), before, now, Way::Taken),
                None => self.found.push(format!("{place}: takes a body now")),
            }
        }
        let needs_body = |operation: &Value| operation.pointer("/requestBody/required") == Some(&json!(true));
        if needs_body(new) && !needs_body(old) {
            self.found.push(format!("{place}: the body is required now"));
        }
        for (status, before) in entries(old, "/responses").iter().filter(|(status, _)| status.as_str() < "300") {
            let Some(now) = new["responses"].get(status) else {
                self.found.push(format!("{place}: {status} is no longer answered"));
                continue;
            };
            if let (Some(before), Some(now)) = (before.pointer(content), now.pointer(content)) {
                self.schema(&format!("{place}: {status}"), before, now, Way::Answered);
            }
        }
    }

    fn schema(&mut self, place: &str, old: &Value, new: &Value, way: Way) {
        if let Some(reference) = old.get("$ref").and_then(Value::as_str)
            && !self.seen.insert((reference.to_owned(), new.to_string(), way))
        {
            return;
        }
        let (old, new) = (resolved(self.old, old), resolved(self.new, new));
        let types = |schema: &Value| match schema.get("type") {
            Some(Value::String(one)) => BTreeSet::from([one.clone()]),
            _ => names(schema, "type"),
        };
        let (was, is) = (types(&old), types(&new));
        let fits = match way {
            Way::Taken => is.is_superset(&was) || is.is_empty(),
            Way::Answered => is.is_subset(&was) || was.is_empty(),
        };
        if !fits {
            self.found.push(format!("{place}: was {was:?}, is {is:?}"));
        }
        if let (Way::Taken, Some(_)) = (way, new.get("enum")) {
            for value in names(&old, "enum").difference(&names(&new, "enum")) {
                self.found.push(format!("{place}: {value} is no longer taken"));
            }
        }
        let (was, is) = (names(&old, "required"), names(&new, "required"));
        match way {
            Way::Taken => self.found.extend(is.difference(&was).map(|name| format!("{place}.{name} is required now"))),
            Way::Answered => {
                self.found.extend(was.difference(&is).map(|name| format!("{place}.{name} can be missing now")));
            }
        }
        for (name, before) in entries(&old, "/properties") {
            match new.get("properties").and_then(|properties| properties.get(&name)) {
                Some(now) => self.schema(&format!("{place}.{name}"), &before, now, way),
                None => self.found.push(format!("{place}.{name} is gone")),
            }
        }
        if let (Some(before), Some(now)) = (old.get("items"), new.get("items")) {
            self.schema(&format!("{place}[]"), before, now, way);
        }
        if way == Way::Taken {
            self.bounds(place, &old, &new);
        }
        if let (Some(before), Some(now)) = (forms(&old), forms(&new)) {
            // Whoever is told something must find each form of it among those it knows.
            let (told, known) = if way == Way::Taken { (before, now) } else { (now, before) };
            for (number, one) in told.iter().enumerate() {
                let in_order = |other| if way == Way::Taken { (one, other) } else { (other, one) };
                let fits = |other| {
                    let (before, now) = in_order(other);
                    self.fits(before, now, way)
                };
                if known.iter().any(fits) {
                    continue;
                }
                match known.get(number) {
                    Some(other) => {
                        let (before, now) = in_order(other);
                        self.schema(place, before, now, way);
                    }
                    None if way == Way::Taken => self.found.push(format!("{place}: {one} is no longer taken")),
                    None => self.found.push(format!("{place}: {one} is answered now")),
                }
            }
        }
    }

    /// What was let in and is kept out now: by a range, a length or a pattern.
    fn bounds(&mut self, place: &str, old: &Value, new: &Value) {
        let number = |schema: &Value, key: &str| schema.get(key).and_then(Value::as_f64);
        for (key, is_least) in [
            ("minimum", true),
            ("exclusiveMinimum", true),
            ("minLength", true),
            ("minItems", true),
            ("maximum", false),
            ("exclusiveMaximum", false),
            ("maxLength", false),
            ("maxItems", false),
        ] {
            let Some(now) = number(new, key) else { continue };
            let narrowed = |before: f64| if is_least { now > before } else { now < before };
            if number(old, key).is_none_or(narrowed) {
                self.found.push(format!("{place}: {key} is {now} now"));
            }
        }
        if let Some(now) = new.get("pattern").filter(|now| old.get("pattern") != Some(now)) {
            self.found.push(format!("{place}: must look like {now} now"));
        }
    }

    /// Whether nothing breaks that relies on a schema, were it another now.
    fn fits(&self, old: &Value, new: &Value, way: Way) -> bool {
        let mut trial = Comparison { old: self.old, new: self.new, found: Vec::new(), seen: self.seen.clone() };
        trial.schema("", old, new, way);
        trial.found.is_empty()
    }
}

/// The forms that something has one of.
fn forms(schema: &Value) -> Option<&Vec<Value>> {
    ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array())
}

fn resolved(document: &Value, schema: &Value) -> Value {
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema).clone()
}
