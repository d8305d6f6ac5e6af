//! The contract of the topics: Avro schemas (`avro/*.avsc`), their Rust records, the wire format, the registry, and the
//! catalogue from which topics are made and documented.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests stop at the first surprise"
    )
)]

pub mod catalogue;
pub mod codec;
pub mod headers;
mod markdown;
pub mod partition;
pub mod records;
pub mod registry;
mod says;
mod topics;

pub use registry::Schemas;
