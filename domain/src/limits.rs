//! Bounds by bytes on what stands on the log. A record that no topic takes must never come to be.

/// The longest record batch that the topics take (`max.message.bytes`), and that producers send (`message.max.bytes`).
pub const MESSAGE_BYTES_MAX: i32 = 4 * 1024 * 1024;
/// The longest value that fits a message together with its key, its headers and the framing.
pub const VALUE_BYTES_MAX: usize = 4_000_000;
