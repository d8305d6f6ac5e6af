//! Bounds by bytes on what stands on the log and on what a command writes. A record that no topic takes must never come to be, and
//! what one command makes must not keep the others of its partition waiting.

/// The longest record batch that the topics take (`max.message.bytes`), and that producers send (`message.max.bytes`).
pub const MESSAGE_BYTES_MAX: i32 = 4 * 1024 * 1024;
/// The longest value that fits a message together with its key, its headers and the framing.
pub const VALUE_BYTES_MAX: usize = 4_000_000;

/// The longest document that a command makes: the most lines that there may be, with the longest SKUs, and some metadata. One that is
/// changed may have twice as much: what is shipped, received or returned of a
/// line is added to it later, and a document that may not grow could never be closed.
pub const DOCUMENT_BYTES_MAX: usize = 384 * 1024;
/// The most that all documents together have which one command writes. It has to fit a value, as the command's outcome.
pub const OUTPUT_BYTES_MAX: usize = 3 * 1024 * 1024;
/// The most problems that a refusal names; it says how many more there are.
pub const PROBLEMS_MAX: usize = 100;
/// The rules since which the bounds on documents, outputs and problems hold: commands of before are decided as they were.
pub const BOUNDED_SINCE: i32 = 2;
