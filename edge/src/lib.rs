//! What every HTTP request passes: request id, authentication, errors, rate limits, ETag and Idempotency-Key, bodies
//! and queries.

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

pub mod access;
pub mod answer;
pub mod api_key;
pub mod auth;
pub mod body;
pub mod control;
pub mod cursor;
pub mod error;
pub mod grant;
pub mod guard;
pub mod headers;
mod held;
mod known;
pub mod limits;
pub mod openapi;
pub mod ops;
pub mod problems;
pub mod query;
pub mod reference;
pub mod request;
pub mod results;
pub mod room;
pub mod routes;
pub mod shares;
pub mod strangers;
pub mod tokens;
