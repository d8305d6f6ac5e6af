//! Headers that commands and reads are steered by.

use crate::error::{ApiError, ErrorCode};
use actix_web::HttpRequest;
use actix_web::http::header::{ETAG, HeaderMap, IF_MATCH, IF_NONE_MATCH};
use std::time::Duration;
use twh_domain::commands::SYSTEM_KEY_PREFIX;
use twh_schemas::headers::is_traceparent;

const KEY_LENGTH_MAX: usize = 255;
/// Longest wait that a client may prefer, in seconds; what is asked beyond it is cut down to it.
const WAIT_SECONDS_MAX: u64 = 3_600;

/// The request's Idempotency-Key; every request that changes something has one.
pub fn idempotency_key(request: &HttpRequest) -> Result<String, ApiError> {
    let Some(value) = request.headers().get("idempotency-key") else {
        return Err(ApiError::new(ErrorCode::IdempotencyKeyRequired, "send an Idempotency-Key"));
    };
    check_idempotency_key(value.to_str().unwrap_or_default()).map(str::to_owned)
}

/// A key that a client may use.
pub fn check_idempotency_key(key: &str) -> Result<&str, ApiError> {
    let sound = (1..=KEY_LENGTH_MAX).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_graphic())
        && !key.starts_with(SYSTEM_KEY_PREFIX);
    let invalid = || {
        ApiError::new(
            ErrorCode::IdempotencyKeyInvalid,
            format!(
                "an Idempotency-Key is 1 to {KEY_LENGTH_MAX} visible ASCII characters and does not begin with {SYSTEM_KEY_PREFIX}"
            ),
        )
    };
    if sound { Ok(key) } else { Err(invalid()) }
}

/// The version in `If-Match`: one strong ETag of ours. `*` sets no condition.
pub fn if_match(request: &HttpRequest) -> Result<Option<i64>, ApiError> {
    let mut values = request.headers().get_all(IF_MATCH);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse_if_match(value.to_str().unwrap_or_default()),
        (Some(_), Some(_)) => Err(invalid_if_match()),
    }
}

fn invalid_if_match() -> ApiError {
    ApiError::new(ErrorCode::InvalidIfMatch, "If-Match takes one strong ETag as we send them, such as \"3\"")
}

/// The version in the text of an `If-Match`.
pub fn parse_if_match(text: &str) -> Result<Option<i64>, ApiError> {
    if text.trim() == "*" {
        return Ok(None);
    }
    let inner = text.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let version = inner.and_then(|version| version.parse::<i64>().ok());
    // ETags are compared byte for byte (RFC 9110, 8.8.3.2): "+3" and "03" are none of ours.
    match version.filter(|version| inner == Some(version.to_string().as_str())) {
        Some(version) => Ok(Some(version)),
        None => Err(invalid_if_match()),
    }
}

/// Says that a request must name the version that it is meant for.
#[must_use]
pub fn if_match_missing() -> ApiError {
    ApiError::new(ErrorCode::PreconditionRequired, "send If-Match with the resource's ETag")
}

/// The ETag of a version.
#[must_use]
pub fn etag(version: i64) -> (actix_web::http::header::HeaderName, String) {
    (ETAG, format!("\"{version}\""))
}

/// True when the client has this version already (`If-None-Match`).
#[must_use]
pub fn has_version(request: &HttpRequest, version: i64) -> bool {
    let tag = format!("\"{version}\"");
    let names = |text: &str| text.split(',').any(|one| one.trim().trim_start_matches("W/") == tag || one.trim() == "*");
    request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(names)
}

/// What the client prefers (RFC 7240).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefer {
    /// Answer with 202 as soon as the command is durable.
    pub respond_async: bool,
    /// Answer with 202 after waiting this long.
    pub wait: Option<Duration>,
}

impl Prefer {
    /// What a request prefers; what it does not understand it passes over, as the RFC says.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let texts = headers.get_all("prefer").filter_map(|value| value.to_str().ok());
        for preference in texts.flat_map(|text| text.split(',')) {
            // A preference may have parameters after `;`: none of ours has.
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            // The first of a kind counts (RFC 7240, section 2).
            if name.eq_ignore_ascii_case("respond-async") {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && prefer.wait.is_none() {
                prefer.wait = value.parse().ok().map(|seconds: u64| Duration::from_secs(seconds.min(WAIT_SECONDS_MAX)));
            }
        }
        prefer
    }
}

/// A W3C `traceparent` that is sound, to be carried on.
#[must_use]
pub fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    is_traceparent(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    #[test]
    fn only_a_strong_etag_of_ours_is_a_condition() {
        assert_eq!(parse_if_match("\"3\"").unwrap(), Some(3));
        assert_eq!(parse_if_match("*").unwrap(), None);
        for bad in
            ["3", "W/\"3\"", "\"3\", \"4\"", "\"\"", "\"x\"", "", "\"+3\"", "\"03\"", "\"", "\"9223372036854775808\""]
        {
            assert_eq!(parse_if_match(bad).unwrap_err().code(), ErrorCode::InvalidIfMatch, "{bad}");
        }
    }

    #[test]
    fn a_preference_is_read_as_the_rfc_spells_it_and_bounded() {
        let prefer = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HeaderName::from_static("prefer"), HeaderValue::from_str(value).unwrap());
            }
            let prefer = Prefer::of(&headers);
            (prefer.respond_async, prefer.wait.map(|wait| wait.as_secs()))
        };
        assert_eq!(prefer(&[]), (false, None));
        assert_eq!(prefer(&["Respond-Async; a=b, wait=5"]), (true, Some(5)));
        assert_eq!(prefer(&["WAIT = \"7\"", "wait=9, return=minimal"]), (false, Some(7)));
        assert_eq!(prefer(&["wait=-1, wait=x"]), (false, None));
        // A deadline this far away would overflow the clock of whoever adds it to now.
        assert_eq!(prefer(&["wait=18446744073709551615"]), (false, Some(WAIT_SECONDS_MAX)));
    }

    #[test]
    fn the_platforms_own_keys_are_not_for_clients() {
        for bad in ["", "a b", "system/expire/1", "é", &"x".repeat(256)] {
            assert!(check_idempotency_key(bad).is_err(), "{bad}");
        }
        assert!(check_idempotency_key("0193-a").is_ok());
    }
}
