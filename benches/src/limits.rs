//! What rate limits add to a request: the same read of two servers, one of which holds nobody to limits, by turns in short
//! rounds, so that whatever else the machine does meets both.

use crate::environment::{Environment, Process};
use crate::http::{Connection, get};
use crate::median::median;
use crate::report::{Bar, Report, Row};
use anyhow::{Context as _, Result, bail};
use hyper::Method;
use std::time::{Duration, Instant};

const PATH: &str = "/v1/locations?limit=1";
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_secs(1);
/// What limits may add to the median.
const ADDED_MS: f64 = 0.2;
/// Redis is found in the background.
const REDIS_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One of the two, and how long each of its answers took, in milliseconds.
struct Side {
    connection: Connection,
    bearer: String,
    limited: bool,
    times: Vec<f64>,
}

impl Side {
    async fn of(server: &Process, key: &str, limited: bool) -> Result<Self> {
        let connection = Connection::open(&server.address).await?;
        let mut side = Self { connection, bearer: format!("Bearer {key}"), limited, times: Vec::new() };
        // To warm up.
        side.round().await?;
        side.times.clear();
        Ok(side)
    }

    async fn round(&mut self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < ROUND {
            let (sent, headers) = (Instant::now(), [("authorization", self.bearer.as_str())]);
            let reply = self.connection.send(Method::GET, PATH, &headers, String::new()).await?;
            self.times.push(sent.elapsed().as_secs_f64() * 1_000.0);
            if reply.status != 200 || reply.headers.contains_key("ratelimit") != self.limited {
                bail!("{PATH}: {} {:?}", reply.status, reply.headers);
            }
        }
        Ok(())
    }
}

/// Waits until a server's limits are those of Redis: its own cost less, and are none that are shared.
async fn shared(server: &Process) -> Result<()> {
    let begun = Instant::now();
    loop {
        let (_, metrics) = get(&server.ops_address, "/metrics", None).await?;
        if String::from_utf8_lossy(&metrics).lines().any(|line| line == "twh_rate_limit_store_up 1") {
            return Ok(());
        }
        if begun.elapsed() > REDIS_PATIENCE {
            bail!("the limits are not shared: is Redis at TWH_REDIS_URL? ./dev up starts it");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The whole scenario.
pub(crate) async fn measure(environment: &Environment, report: &mut Report, key: &str) -> Result<()> {
    let without = environment.start(&["serve"], &[("TWH_RATE_LIMITS", "off")]).await?;
    // Where Redis is, it has from this process's environment.
    let with = environment.start(&["serve"], &[("TWH_RATE_LIMITS", "on")]).await?;
    shared(&with).await?;
    let (mut free, mut limited) = (Side::of(&without, key, false).await?, Side::of(&with, key, true).await?);
    for _ in 0..ROUNDS {
        free.round().await?;
        limited.round().await?;
    }
    shared(&with).await?;
    let of = |side: Side| median(side.times).context("nothing was answered");
    let (free, limited) = (of(free)?, of(limited)?);
    report.add(Row::new("a read without limits, p50", free, "ms"));
    report.add(Row::new("a read with limits, p50", limited, "ms"));
    report.add(Row::new("what limits add to it", limited - free, "ms").bar(Bar::Below(ADDED_MS)));
    without.stop().await?;
    with.stop().await
}
