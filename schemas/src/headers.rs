//! Names of the headers on our records.

/// On a command: the partition of `command.outcomes` where its outcome is awaited.
pub const REPLY_PARTITION: &str = "twh-reply-partition";
/// On a command: the process where its outcome is awaited. A ledger that runs in that process tells it so directly.
pub const REPLY_PROCESS: &str = "twh-reply-process";
/// W3C Trace Context, carried from the request to everything that follows from it.
pub const TRACEPARENT: &str = "traceparent";

/// Whether a text is a `traceparent` as the specification writes it: anything else is carried no further.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    matches!(parts.as_slice(), [version, trace, parent, flags]
        if hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2))
}

/// CloudEvents: the event's id.
pub const CE_ID: &str = "ce_id";
/// CloudEvents: the version of that specification.
pub const CE_SPECVERSION: &str = "ce_specversion";
/// CloudEvents: where the event comes from.
pub const CE_SOURCE: &str = "ce_source";
/// CloudEvents: its type.
pub const CE_TYPE: &str = "ce_type";
/// CloudEvents: when it happened.
pub const CE_TIME: &str = "ce_time";
/// CloudEvents: what it is about.
pub const CE_SUBJECT: &str = "ce_subject";
/// The value's media type.
pub const CONTENT_TYPE: &str = "content-type";
/// Avro in Confluent's wire format.
pub const AVRO: &str = "application/vnd.confluent.avro";
