//! Commands as bytes of the topic `commands`: a log of them, each led by its length in two bytes.
//!
//! - No bytes make the codec panic.
//! - What decodes is decided without a panic, in its order, on one state.
//! - Whatever was decided, the ledger holds: chains, sequences, levels that are the sums of their movements, nothing oversold.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use twh_domain::commands::Command;
use twh_schemas::catalogue::COMMANDS;
use twh_schemas::codec::{Codec, DecodeError, SchemaSource};

#[allow(dead_code, reason = "tests of the rules use more of it")]
#[path = "../../../domain/tests/book/mod.rs"]
mod book;

use book::Book;

/// A registry that knows no other schema.
struct Nothing;

impl SchemaSource for Nothing {
    async fn fetch(&self, id: u32) -> Result<String, DecodeError> {
        Err(DecodeError::UnknownSchema(id))
    }
}

static CODEC: LazyLock<Codec<Command, Nothing>> = LazyLock::new(|| {
    let schema = COMMANDS.value.expect("commands have a schema").avsc;
    Codec::new(1, schema, Arc::new(Nothing)).expect("the schema is sound")
});

/// The wire format's header, of the schema above.
const HEADER: [u8; 5] = [0, 0, 0, 0, 1];

fuzz_target!(|data: &[u8]| {
    let (mut book, mut rest) = (Book::default(), data);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (datum, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        rest = after;
        let bytes = [&HEADER[..], datum].concat();
        if let Ok(command) = futures::executor::block_on(CODEC.decode(&bytes)) {
            book.apply(std::slice::from_ref(&command));
        }
    }
    book.check();
});
