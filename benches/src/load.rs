//! Load: closed loops, each on a connection of its own that sends its next request when the last one is answered.

use crate::http::{Connection, Reply};
use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use hyper::Method;
use serde::Serialize;
use std::future::Future;
use std::time::{Duration, Instant};

/// The time before the clock starts.
const WARM_UP: Duration = Duration::from_millis(700);
/// What a client waits after it was turned away; `Retry-After` asks for a second, this one is rude.
pub(crate) const IMPATIENCE: Duration = Duration::from_millis(100);
/// Latencies beyond this count as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// What a load came to. Latencies are in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    /// Requests that were turned away, all of them with `Retry-After`.
    pub(crate) shed: u64,
}

/// What one step of a loop did: answered so much, or was turned away.
pub(crate) enum Step {
    Done(u64),
    Shed,
}

/// Runs `connections` loops for `time`; `client` makes what takes the turns of the loop of that number. With a rate, turns
/// begin at that many a second together, and their latency counts from when they should have begun.
pub(crate) async fn closed_loop<C, S, F>(
    address: &str,
    connections: usize,
    rate: Option<f64>,
    time: Duration,
    client: C,
) -> Result<Load>
where
    C: Fn(usize) -> S,
    S: FnMut(Connection) -> F + Send + 'static,
    F: Future<Output = Result<(Connection, Step)>> + Send,
{
    let mut loops = Vec::with_capacity(connections);
    let begun = Instant::now();
    let interval = rate.map(|rate| Duration::from_secs_f64(connections as f64 / rate));
    for number in 0..connections {
        let (address, mut step) = (address.to_owned(), client(number));
        loops.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let mut latencies = Histogram::<u64>::new_with_max(LATENCY_MAX.as_micros() as u64, 3)?;
            let (mut done, mut shed) = (0, 0);
            let mut due = begun + interval.unwrap_or_default().mul_f64(number as f64 / connections as f64);
            while begun.elapsed() < WARM_UP + time {
                let sent = match interval {
                    Some(interval) => {
                        tokio::time::sleep_until(due.into()).await;
                        let now_due = due;
                        due += interval;
                        now_due
                    }
                    None => Instant::now(),
                };
                let (again, result) = step(connection).await?;
                connection = again;
                if matches!(result, Step::Shed) {
                    tokio::time::sleep(IMPATIENCE).await;
                }
                if begun.elapsed() < WARM_UP {
                    continue;
                }
                match result {
                    Step::Done(count) => {
                        done += count;
                        latencies.saturating_record(sent.elapsed().as_micros() as u64);
                    }
                    Step::Shed => shed += 1,
                }
            }
            Ok::<_, anyhow::Error>((latencies, done, shed))
        }));
    }
    let mut all = Histogram::<u64>::new_with_max(LATENCY_MAX.as_micros() as u64, 3)?;
    let (mut done, mut shed) = (0, 0);
    for one in loops {
        let (latencies, count, turned_away) = one.await??;
        all.add(latencies)?;
        done += count;
        shed += turned_away;
    }
    let measured = begun.elapsed().saturating_sub(WARM_UP);
    let milliseconds = |quantile| all.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Load {
        connections,
        per_second: crate::per_second(done, measured),
        p50_ms: milliseconds(0.5),
        p95_ms: milliseconds(0.95),
        p99_ms: milliseconds(0.99),
        p999_ms: milliseconds(0.999),
        shed,
    })
}

/// Sends a `POST` with a key of its own.
pub(crate) async fn post(connection: &mut Connection, api_key: &str, path: &str, body: String) -> Result<Reply> {
    let (bearer, key) = (format!("Bearer {api_key}"), uuid::Uuid::new_v4().to_string());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", &key)];
    connection.send(Method::POST, path, &headers, body).await
}

/// A success; anything but that and being turned away ends the benchmark.
pub(crate) fn step(reply: &Reply, count: u64) -> Result<Step> {
    match reply.status {
        200 | 201 => Ok(Step::Done(count)),
        429 | 503 if reply.headers.contains_key("retry-after") => Ok(Step::Shed),
        status => bail!("answered with {status}: {}", String::from_utf8_lossy(&reply.body)),
    }
}
