//! Why a command was refused: a decision of the rules, recorded like any other, never an exception.

use crate::decimal::Quantity;
use crate::entity::EntityKind;
use crate::id::{ItemId, LocationId};
use crate::validate::Problem;
use serde::{Deserialize, Serialize};

/// What was short, one a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The line of the document, from 1.
    pub line: i32,
    /// Of what.
    pub item_id: ItemId,
    /// Of what.
    pub sku: String,
    /// Where.
    pub location_id: LocationId,
    /// How much was asked for.
    pub requested: Quantity,
    /// How much there was to give.
    pub available: Quantity,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The body's shape is wrong; the edge catches this first, unless a command came by another way.
    #[error("the command is not valid")]
    Invalid(Vec<Problem>),
    /// The thing acted upon is not there.
    #[error("there is no such {}", .0.noun())]
    NotFound(EntityKind),
    /// A thing named in the body is not there.
    #[error("the command names what does not exist: {field}")]
    UnknownReference {
        /// Path of the field.
        field: String,
        /// What it should have named.
        kind: EntityKind,
    },
    /// A line number that the document does not have.
    #[error("the document has no line {line}")]
    UnknownLine {
        /// The number.
        line: i32,
    },
    /// A code, number or barcode that is taken.
    #[error("there is a {} with this {field} already: {value}", .kind.noun())]
    Duplicate {
        /// Of which kind.
        kind: EntityKind,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// The document's status does not allow it.
    #[error("a {} that is {status} cannot be {action}", .kind.noun())]
    IllegalTransition {
        /// Of which kind.
        kind: EntityKind,
        /// As it is.
        status: &'static str,
        /// As a past participle: `shipped`.
        action: &'static str,
    },
    /// Not enough available.
    #[error("not enough stock is available")]
    InsufficientStock(Vec<Shortage>),
    /// More than the line has left to ship, receive or return.
    #[error("line {line} has {limit} left, not {requested}")]
    QuantityExceeded {
        /// The line.
        line: i32,
        /// What was asked for.
        requested: Quantity,
        /// What there is.
        limit: Quantity,
    },
    /// A service item holds no stock.
    #[error("{sku} is a service: it holds no stock")]
    NotStocked {
        /// Path of the field.
        field: String,
        /// The item.
        sku: String,
    },
    /// A level or total would not fit eighteen digits.
    #[error("a quantity would be out of range")]
    OutOfRange,
    /// A document would be longer than one may be.
    #[error("the {} would have {bytes} bytes, {most} at most", .kind.noun())]
    DocumentTooLarge {
        /// Of which kind.
        kind: EntityKind,
        /// What it would have.
        bytes: usize,
        /// What it may have.
        most: usize,
    },
    /// The documents that the command writes would have too many bytes together.
    #[error("the command would write more than {most} bytes of documents")]
    OutputTooLarge {
        /// What they may have.
        most: usize,
    },
    /// The thing has changed since the client saw it.
    #[error("it is at version {actual}, not {expected}")]
    VersionMismatch {
        /// What the client saw.
        expected: i64,
        /// What it is.
        actual: i64,
    },
    /// The key was used before, for another request.
    #[error("this Idempotency-Key was used for another request")]
    IdempotencyMismatch,
    /// One of an atomic batch was refused, and with it all.
    #[error("command {index} of the batch was refused: {rejection}")]
    InBatch {
        /// Which, from 0.
        index: usize,
        /// Why.
        rejection: Box<Self>,
    },
}

impl Rejection {
    /// The stable code that clients see.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "VALIDATION_FAILED",
            Self::NotFound(_) => "NOT_FOUND",
            Self::UnknownReference { .. } => "UNKNOWN_REFERENCE",
            Self::UnknownLine { .. } => "UNKNOWN_LINE",
            Self::Duplicate { .. } => "DUPLICATE",
            Self::IllegalTransition { .. } => "ILLEGAL_TRANSITION",
            Self::InsufficientStock(_) => "INSUFFICIENT_STOCK",
            Self::QuantityExceeded { .. } => "QUANTITY_EXCEEDED",
            Self::NotStocked { .. } => "ITEM_NOT_STOCKED",
            Self::OutOfRange => "QUANTITY_OUT_OF_RANGE",
            Self::DocumentTooLarge { .. } => "DOCUMENT_TOO_LARGE",
            Self::OutputTooLarge { .. } => "OUTPUT_TOO_LARGE",
            Self::VersionMismatch { .. } => "PRECONDITION_FAILED",
            Self::IdempotencyMismatch => "IDEMPOTENCY_KEY_MISMATCH",
            Self::InBatch { rejection, .. } => rejection.code(),
        }
    }

    /// What was wrong, where: a JSON array for the `details` of the error.
    #[must_use]
    pub fn details(&self) -> serde_json::Value {
        use serde_json::{Value, json};
        match self {
            Self::Invalid(problems) => json!(problems),
            Self::InsufficientStock(shortages) => json!(shortages),
            Self::NotFound(kind) => json!([{ "kind": kind.noun() }]),
            Self::UnknownReference { field, kind } => {
                json!([{ "field": field, "problem": format!("names no {}", kind.noun()) }])
            }
            Self::UnknownLine { line } => json!([{ "line": line }]),
            Self::Duplicate { field, value, .. } => json!([{ "field": field, "value": value }]),
            Self::IllegalTransition { status, action, .. } => json!([{ "status": status, "action": action }]),
            Self::QuantityExceeded { line, requested, limit } => {
                json!([{ "line": line, "requested": requested, "limit": limit }])
            }
            Self::NotStocked { field, sku } => json!([{ "field": field, "sku": sku }]),
            Self::DocumentTooLarge { kind, bytes, most } => {
                json!([{ "kind": kind.noun(), "bytes": bytes, "bytes_max": most }])
            }
            Self::OutputTooLarge { most } => json!([{ "bytes_max": most }]),
            Self::VersionMismatch { expected, actual } => {
                json!([{ "expected_version": expected, "actual_version": actual }])
            }
            Self::OutOfRange | Self::IdempotencyMismatch => json!([]),
            Self::InBatch { index, rejection } => {
                let Value::Array(mut rows) = rejection.details() else { return json!([{ "index": index }]) };
                if rows.is_empty() {
                    rows.push(json!({}));
                }
                for row in &mut rows {
                    if let Value::Object(row) = row {
                        row.insert("index".to_owned(), json!(index));
                    }
                }
                Value::Array(rows)
            }
        }
    }
}
