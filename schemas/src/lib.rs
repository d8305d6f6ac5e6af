//! The contract of the topics: Avro schemas, their Rust records, the wire format, the catalogue.
