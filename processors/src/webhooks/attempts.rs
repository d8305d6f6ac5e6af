//! One attempt: what is sent with it, and what is kept of it.

use super::now;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::webhooks::deliveries::Waiting;
use twh_sinks::tasks::guarded;
use twh_sinks::webhook::{Attempt, Endpoint, Message};

twh_sinks::metrics! {
    ATTEMPTS: IntCounterVec = "twh_webhook_attempts_total", "Attempts to deliver: 2xx, 3xx, 4xx, 5xx or unreachable.", labels ["outcome"];
    SECONDS: HistogramVec = "twh_webhook_attempt_seconds", "Time of an attempt, in seconds.", labels ["outcome"], buckets [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    DELAY: Histogram = "twh_webhook_delivery_seconds", "Time from the ledger's record of an event to its delivery, in seconds; replays are not counted.", buckets [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 86_400.0];
}

/// An attempt as it is kept.
#[derive(Serialize)]
struct Kept<'a> {
    at: Timestamp,
    took_ms: u64,
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    body: &'a str,
}

/// Sends a delivery once.
pub(super) async fn send(endpoint: &Endpoint, waiting: &Waiting) -> Attempt {
    let event = &waiting.event;
    let mut headers = vec![
        ("x-twh-event", event.event_type.clone()),
        ("x-twh-delivery", waiting.id.to_string()),
        ("x-twh-attempt", (waiting.attempts + 1).to_string()),
    ];
    if let Some(sequence) = event.sequence {
        headers.push(("x-twh-sequence", sequence.to_string()));
    }
    if let Some(replay) = waiting.replay {
        headers.push(("x-twh-replay", replay.to_string()));
    }
    let id = event.id.to_string();
    let timestamp = now().micros().div_euclid(1_000_000);
    let (begun, message) = (Instant::now(), Message { id: &id, timestamp, body: &event.body, headers: &headers });
    // What one subscriber answers must not end the work for others.
    let attempt = guarded("webhook_attempt", endpoint.post(message)).await.unwrap_or_else(|_| Attempt {
        status: None,
        error: Some("a defect of the sender".to_owned()),
        took: begun.elapsed(),
        ..Attempt::default()
    });
    count(waiting, &attempt);
    attempt
}

fn count(waiting: &Waiting, attempt: &Attempt) {
    let outcome = match attempt.status {
        Some(200..=299) => "2xx",
        Some(300..=399) => "3xx",
        Some(400..=499) => "4xx",
        Some(_) => "5xx",
        None => "unreachable",
    };
    ATTEMPTS.with_label_values(&[outcome]).inc();
    SECONDS.with_label_values(&[outcome]).observe(attempt.took.as_secs_f64());
    if attempt.is_success() && waiting.replay.is_none() {
        let micros = now().micros().saturating_sub(waiting.event.recorded_at.micros());
        DELAY.observe(std::time::Duration::from_micros(u64::try_from(micros).unwrap_or_default()).as_secs_f64());
    }
}

/// What is kept of an attempt, as a JSON object.
pub(super) fn kept(attempt: &Attempt, at: Timestamp) -> String {
    let kept = Kept {
        at,
        took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
        status: attempt.status,
        error: attempt.error.as_deref(),
        headers: attempt.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        body: &attempt.body,
    };
    serde_json::to_string(&kept).unwrap_or_else(|_| "{}".to_owned())
}
