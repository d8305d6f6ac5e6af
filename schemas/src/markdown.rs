//! The catalogue as a page for data teams: written from the table and the schemas, so that it cannot say anything else.

use crate::catalogue::{Partitions, Retention, TOPICS, Topic};
use serde_json::Value;
use std::fmt::Write as _;

const HEAD: &str = "# Topics

For data teams: what stands on the topics and how to read it. Written from the catalogue and the schemas (`twh topics --markdown`).

Values are Avro in Confluent's wire format: a zero byte, the schema's id (4 bytes, big endian), the datum. Any Kafka client with a
schema registry reads them; `tests/consumer/rebuild.py` is an example in Python that rebuilds all stock from them. Keys are UTF-8.
Quantities and amounts are exact decimals (18 digits, 6 after the point) in the item's unit; times are in UTC. Kinds (`type`,
`reference_type`, …) are strings, not Avro enums, for a new symbol would break old readers: pass over a kind that you do not know.

Delivery is at least once and in order for each tenant. A repeat carries the same sequence (or event id, or version): drop what you
have seen. Every subject stays compatible with its past as named below; a schema that is not is refused when the platform starts.

The platform makes the topics that are missing, with the settings named below (`min.insync.replicas` only with 3 replicas or more).
It never changes one that is there, and does not start on one whose `cleanup.policy` or `message.timestamp.type` is another. A key's
partition is the one that any Java client's default partitioner (murmur2) gives it; where there is an explicit one, it is said.

Headers: `traceparent` (W3C Trace Context) where the request had one; on `domain.events` the CloudEvents attributes `ce_id`,
`ce_specversion`, `ce_source`, `ce_type`, `ce_time`, `ce_subject` and `content-type`.
";

/// Enough replicas for every setting to show.
const REPLICATION_SHOWN: i32 = 3;

/// The page.
#[must_use]
pub fn to_markdown() -> String {
    let mut page = String::from(HEAD);
    for topic in TOPICS {
        // Writing to a string cannot fail.
        let _ = section(&mut page, topic);
    }
    page
}

fn section(page: &mut String, topic: &Topic) -> std::fmt::Result {
    let partitions = match topic.partitions {
        Partitions::Configured => "`TWH_TOPIC_PARTITIONS`".to_owned(),
        Partitions::Fixed(count) => count.to_string(),
    };
    let retention = match topic.retention {
        Retention::Forever => "deleted never".to_owned(),
        Retention::Hours(hours) => format!("deleted after {hours} h"),
        Retention::Compacted => "compacted: the newest of each key stays".to_owned(),
    };
    writeln!(page, "\n## {}\n\n{}\n", topic.name, topic.about)?;
    writeln!(page, "- key: {}\n- partitions: {partitions}\n- records are {retention}", topic.key)?;
    let settings: Vec<_> =
        topic.settings(REPLICATION_SHOWN).iter().map(|(key, value)| format!("`{key}={value}`")).collect();
    writeln!(page, "- settings: {}", settings.join(", "))?;
    let Some(value) = topic.value else { return writeln!(page, "- value: as it came, no schema") };
    writeln!(page, "- schema: subject `{}`, {}", topic.subject(""), value.compatibility.name())?;
    let Ok(schema) = serde_json::from_str::<Value>(value.avsc) else { return Ok(()) };
    let mut later = Vec::new();
    record(page, &schema, &mut later)?;
    while !later.is_empty() {
        for nested in std::mem::take(&mut later) {
            record(page, &nested, &mut later)?;
        }
    }
    Ok(())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn record(page: &mut String, schema: &Value, later: &mut Vec<Value>) -> std::fmt::Result {
    writeln!(page, "\n`{}`: {}\n", text(schema, "name"), text(schema, "doc"))?;
    let fields = schema.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if fields.is_empty() {
        return writeln!(page, "(no fields)");
    }
    writeln!(page, "| field | type | what it is |\n|---|---|---|")?;
    for field in fields {
        let kind = field.get("type").map_or_else(String::new, |kind| type_name(kind, later));
        writeln!(page, "| `{}` | {kind} | {} |", text(field, "name"), text(field, "doc"))?;
    }
    Ok(())
}

fn type_name(kind: &Value, later: &mut Vec<Value>) -> String {
    match kind {
        Value::String(name) => name.clone(),
        Value::Array(branches) => {
            branches.iter().map(|branch| type_name(branch, later)).collect::<Vec<_>>().join(" or ")
        }
        Value::Object(_) => match (text(kind, "type"), text(kind, "logicalType")) {
            ("record", _) => {
                later.push(kind.clone());
                text(kind, "name").to_owned()
            }
            ("array", _) => {
                format!("array of {}", kind.get("items").map_or_else(String::new, |items| type_name(items, later)))
            }
            ("map", _) => format!("map of {}", text(kind, "values")),
            (_, "decimal") => "decimal(18, 6)".to_owned(),
            (name, "") => name.to_owned(),
            (name, logical) => format!("{logical} ({name})"),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_for_data_teams_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/topics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, super::to_markdown()).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == super::to_markdown(),
            "docs/topics.md is not current: run the tests with UPDATE_DOCS=1"
        );
    }
}
