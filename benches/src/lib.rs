//! How fast the whole system is, next to its baselines, measured in the same run: what `twh-tools bench` runs.
#![allow(
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "figures of a measurement, not quantities of stock"
)]

mod apply;
mod bare;
mod environment;
mod growth;
mod hostile;
mod http;
mod limits;
mod load;
mod median;
mod mixed;
mod naive;
mod naive_http;
mod report;
mod search;
mod sink;
mod webhooks;
mod workload;

use anyhow::{Context as _, Result, bail};
use environment::Environment;
pub use environment::Parts;
use load::{Load, closed_loop, post, step};
pub use median::median;
pub use naive_http::serve_baseline;
pub use report::Report;
use report::{Bar, Machine, Row};
use std::time::Duration;
use twh_domain::id::TenantId;
use twh_sinks::postgres::sqlx;
use uuid::Uuid;
pub use workload::command;
use workload::{Catalogue, Spread, adjustment_body};

/// A scenario of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// A backlog on Kafka, drained by the ledger, beside a naive transaction a command and beside bare writing.
    Apply,
    /// Single requests and batches over HTTP, beside the naive baseline behind the same server.
    Http,
    /// Orders, receipts, counts and questions.
    Mixed,
    /// Far more than the server can do, for a while: it turns away what is too much, and is itself again at once.
    Overload,
    /// A tenant that sends the worst that it may, and a neighbour on its partition.
    Hostile,
    /// More movements, more tenants.
    Growth,
    /// Deliveries to subscribers, beside a naive dispatcher.
    Webhooks,
    /// Searches among a million items while stock moves, and how indexes are made; needs a search engine.
    Search,
    /// A read with rate limits and without.
    Limits,
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which scenarios, in order.
    pub scenarios: Vec<Scenario>,
    /// Commands of a backlog.
    pub commands: usize,
    /// How long each load lasts.
    pub load: Duration,
    /// Movements in the ledger before work is measured, ascending.
    pub movements: Vec<i64>,
    /// Tenants among whom work is spread, ascending.
    pub tenants: Vec<usize>,
    /// Items among which is searched.
    pub items: usize,
}

impl Options {
    /// Everything, in about half an hour.
    #[must_use]
    pub fn full() -> Self {
        Self {
            scenarios: vec![
                Scenario::Apply,
                Scenario::Http,
                Scenario::Mixed,
                Scenario::Overload,
                Scenario::Hostile,
                Scenario::Growth,
                Scenario::Webhooks,
                Scenario::Search,
                Scenario::Limits,
            ],
            commands: 200_000,
            load: Duration::from_secs(5),
            movements: vec![10_000, 1_000_000, 10_000_000],
            tenants: vec![1, 100, 10_000],
            items: 1_000_000,
        }
    }

    /// The ratios that a defect would spoil, in under two minutes.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            scenarios: vec![Scenario::Apply, Scenario::Http],
            commands: 60_000,
            load: Duration::from_secs(3),
            ..Self::full()
        }
    }
}

/// The roles that do what the naive baseline does, and more: read models and webhooks, of which it has none, are measured apart.
const LIKE_FOR_LIKE: &str = "ingest,api,accounts,ledger,expiry,sealing";
const TENANTS: usize = 8;
const SKUS_A_TENANT: usize = 125;
/// Of the naive baseline; more are slower.
const NAIVE_CONNECTIONS: usize = 32;
const BATCH: u64 = 100;
/// Partitions of the bare writer: beside those of the environment's topics.
const BARE_PARTITIONS: i32 = 1_000;

/// So many in so much time, a second.
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[expect(clippy::print_stderr, reason = "a long measurement shows that it goes on")]
fn progress(text: &str) {
    eprintln!("{text}");
}

/// Measures, in an environment of its own that is gone afterwards.
pub async fn run(parts: &Parts, options: &Options) -> Result<Report> {
    if options.scenarios.contains(&Scenario::Search) && parts.search_url.is_empty() {
        bail!("the scenario search needs TWH_SEARCH_URL: ./dev up search starts an engine");
    }
    let environment = Environment::prepare(parts).await?;
    let measured = Bench::prepare(&environment, options).await;
    let measured = match measured {
        Ok(bench) => bench.run().await,
        Err(error) => Err(error),
    };
    let ended = environment.end().await;
    // What went wrong first is what is told.
    let report = measured?;
    ended?;
    Ok(report)
}

struct Bench<'a> {
    environment: &'a Environment,
    options: &'a Options,
    catalogue: Catalogue,
    keys: Vec<String>,
    report: Report,
}

impl<'a> Bench<'a> {
    async fn prepare(environment: &'a Environment, options: &'a Options) -> Result<Self> {
        let tenants = environment.tenants(TENANTS).await?;
        let keys = tenants.iter().map(|tenant| tenant.api_key.clone()).collect();
        let catalogue = Catalogue::new(tenants.iter().map(|tenant| tenant.tenant_id).collect(), SKUS_A_TENANT);
        naive::prepare(&environment.pool, &catalogue).await?;
        apply::backlog(environment, catalogue.opening()?.into_iter().map(Ok)).await?;
        let postgres: String = sqlx::query_scalar("show server_version").fetch_one(&environment.pool).await?;
        let report =
            Report { machine: Machine::this(postgres), rows: Vec::new(), loads: Vec::new(), memory: Vec::new() };
        Ok(Self { environment, options, catalogue, keys, report })
    }

    async fn run(mut self) -> Result<Report> {
        for scenario in &self.options.scenarios {
            match scenario {
                Scenario::Apply => self.apply().await.context("apply")?,
                Scenario::Http => self.http().await.context("http")?,
                Scenario::Mixed => self.mixed().await.context("mixed")?,
                Scenario::Overload => self.overload().await.context("overload")?,
                Scenario::Hostile => self.hostile().await.context("hostile")?,
                Scenario::Growth => self.growth().await.context("growth")?,
                Scenario::Webhooks => webhooks::measure(self.environment, &mut self.report, self.options.load)
                    .await
                    .context("webhooks")?,
                Scenario::Search => self.search().await.context("search")?,
                Scenario::Limits => self.limits().await.context("limits")?,
            }
        }
        Ok(self.report)
    }

    async fn search(&mut self) -> Result<()> {
        let Options { items, load, .. } = *self.options;
        search::measure(self.environment, &mut self.report, self.environment.search_url(), items, load).await
    }

    async fn limits(&mut self) -> Result<()> {
        let key = self.keys.first().context("there is no tenant")?;
        limits::measure(self.environment, &mut self.report, key).await
    }

    async fn apply(&mut self) -> Result<()> {
        let (environment, commands) = (self.environment, self.options.commands);
        let mut baselines = Vec::new();
        for spread in Spread::BOTH {
            let time = self.options.load;
            let rate = naive::drive(&environment.pool, &self.catalogue, spread, NAIVE_CONNECTIONS, time).await?;
            self.report.add(Row::new(format!("naive, {}", spread.name()), rate, "commands/s"));
            baselines.push(rate);
        }
        let tenants = (0..TENANTS).map(|_| TenantId(Uuid::now_v7())).collect();
        let mut catalogue = Catalogue::new(tenants, SKUS_A_TENANT);
        let bare = bare::drive(
            &environment.pool,
            &environment.schemas,
            &mut catalogue,
            commands / 2,
            BARE_BATCH,
            BARE_PARTITIONS,
        )
        .await?;
        self.report.add(Row::new("bare writing of the same rows", bare, "commands/s"));
        for ((spread, naive), bar) in Spread::BOTH.into_iter().zip(baselines).zip([8.0, 20.0]) {
            let mut work = self.catalogue.clone();
            let drained = apply::backlog(environment, (0..commands).map(|_| work.adjustment(spread))).await?;
            let name = format!("apply, {}", spread.name());
            let row = Row::new(&name, drained.per_second, "commands/s");
            self.report.add(row.clone().times("naive", naive).bar(Bar::AtLeast(bar)));
            if spread == Spread::Uniform {
                self.report.add(row.times("bare", bare).bar(Bar::AtLeast(0.6)));
                self.report.add(Row::new("apply, memory at most", drained.memory_peak_mb as f64, "MB"));
                self.report.memory = thinned(drained.memory);
            }
        }
        Ok(())
    }

    async fn http(&mut self) -> Result<()> {
        let time = self.options.load;
        let baseline = self.environment.start_baseline().await?;
        let naive = self.singles(&baseline.address, 64, None, time).await?.per_second;
        baseline.stop().await?;
        self.report.add(Row::new("naive over HTTP, 64 connections", naive, "requests/s"));
        let server = self.environment.start(&["serve", "--roles", LIKE_FOR_LIKE], &[]).await?;
        let address = server.address.as_str();
        self.singles(address, 8, None, Duration::from_secs(1)).await?;
        let mut at_64 = 0.0;
        for connections in [1, 8, 32, 64, 256] {
            let load = self.singles(address, connections, None, time).await?;
            let row = Row::new(format!("HTTP, {connections} connections"), load.per_second, "requests/s");
            let row = row.times("naive", naive);
            if connections == 64 {
                at_64 = load.per_second;
                self.report.add(row.bar(Bar::AtLeast(2.0)));
            } else {
                self.report.add(row);
            }
            for (name, value) in [("p50", load.p50_ms), ("p99", load.p99_ms), ("p99.9", load.p999_ms)] {
                let row = Row::new(format!("HTTP, {connections} connections, {name}"), value, "ms");
                let lone = connections == 1 && name == "p50";
                self.report.add(if lone { row.bar(Bar::Below(6.0)) } else { row });
            }
            self.report.loads.push(load);
        }
        let top = self.report.loads.iter().map(|load| load.per_second).fold(0.0, f64::max);
        let half = self.singles(address, 256, Some(top / 2.0), time).await?;
        self.report.add(Row::new("HTTP, at half of the top rate", half.per_second, "requests/s"));
        self.report.add(Row::new("HTTP, at half of the top rate, p99", half.p99_ms, "ms").bar(Bar::Below(25.0)));
        let mut best = 0.0_f64;
        for connections in [1, 8, 32] {
            let load = self.batches(address, connections, time).await?;
            let row = Row::new(format!("batches of {BATCH}, {connections} connections"), load.per_second, "commands/s");
            self.report.add(row);
            best = best.max(load.per_second);
        }
        let row = Row::new(format!("batches of {BATCH}, at best"), best, "commands/s");
        self.report.add(row.times("HTTP, 64 connections", at_64).bar(Bar::AtLeast(5.0)));
        self.report.add(Row::new("server's memory after it all", server.memory_mb() as f64, "MB"));
        server.stop().await?;
        let all = self.environment.start(&["serve"], &[]).await?;
        self.singles(&all.address, 8, None, Duration::from_secs(1)).await?;
        let load = self.singles(&all.address, 64, None, time).await?;
        let row =
            Row::new("HTTP, 64 connections, read models kept up on the same cores", load.per_second, "requests/s");
        self.report.add(row.times("naive", naive));
        all.stop().await
    }

    async fn mixed(&mut self) -> Result<()> {
        apply::backlog(self.environment, self.catalogue.stock()?.into_iter().map(Ok)).await?;
        let server = self.environment.start(&["serve"], &[]).await?;
        let address = server.address.as_str();
        self.singles(address, 8, None, Duration::from_secs(1)).await?;
        for spread in Spread::BOTH {
            for (connections, batched, name) in [(64, false, "one by one"), (16, true, "33 in a request")] {
                let shape = (connections, batched);
                let load = mixed::drive(address, &self.catalogue, &self.keys, spread, shape, self.options.load).await?;
                let row = Row::new(format!("mixed, {}, orders {name}", spread.name()), load.per_second, "orders/s");
                self.report.add(if batched { row.bar(Bar::AtLeast(1_000.0)) } else { row });
            }
        }
        server.stop().await
    }

    async fn overload(&mut self) -> Result<()> {
        let time = self.options.load;
        let server = self.environment.start(&["serve"], &[("TWH_COMMANDS_IN_FLIGHT", "256")]).await?;
        let address = server.address.as_str();
        self.singles(address, 8, None, Duration::from_secs(1)).await?;
        let before = self.singles(address, 64, None, time).await?;
        let during = self.singles(address, 2_000, None, time).await?;
        let after = self.singles(address, 64, None, Duration::from_secs(1)).await?;
        self.report.add(Row::new("before overload, p99", before.p99_ms, "ms"));
        self.report.add(Row::new("overload, 2,000 connections: answered", during.per_second, "requests/s"));
        let shed = during.shed as f64 / time.as_secs_f64();
        self.report.add(Row::new("overload: turned away with Retry-After", shed, "requests/s"));
        self.report.add(Row::new("overload: p99 of what is answered", during.p99_ms, "ms"));
        let row = Row::new("the second after it, p99", after.p99_ms, "ms");
        self.report.add(row.times("before", before.p99_ms).bar(Bar::Below(2.0)));
        self.report.add(Row::new("server's memory after overload", server.memory_mb() as f64, "MB"));
        server.stop().await
    }

    async fn hostile(&mut self) -> Result<()> {
        for hostile in [("free", 1), ("free", 20), ("scale", 1)] {
            hostile::measure(self.environment, &mut self.report, hostile, 4 * self.options.load).await?;
        }
        Ok(())
    }

    async fn growth(&mut self) -> Result<()> {
        let environment = self.environment;
        let commands = self.options.commands / 2;
        let mut first = None;
        for tenants in &self.options.tenants {
            let catalogue = growth::tenants(environment, *tenants, if *tenants > 1_000 { 2 } else { 20 }).await?;
            let rate = growth::measure(environment, &catalogue, commands).await?;
            let row = Row::new(format!("apply, {tenants} tenants"), rate, "commands/s");
            let base = *first.get_or_insert(rate);
            self.report.add(row.times("one tenant", base));
        }
        let older = TenantId(Uuid::now_v7());
        let (mut from, mut first) = (0, None);
        for movements in &self.options.movements {
            growth::fill(environment, older, from, *movements).await?;
            from = *movements;
            let rate = growth::measure(environment, &self.catalogue, commands).await?;
            let row = Row::new(format!("apply, {movements} movements before"), rate, "commands/s");
            let base = *first.get_or_insert(rate);
            self.report.add(row.times("the first", base).bar(Bar::AtLeast(0.8)));
        }
        Ok(())
    }

    /// One movement a request.
    async fn singles(&self, address: &str, connections: usize, rate: Option<f64>, time: Duration) -> Result<Load> {
        closed_loop(address, connections, rate, time, |number| {
            let (mut catalogue, keys) = (self.catalogue.seeded(number), self.keys.clone());
            move |mut connection| {
                let (tenant, item) = catalogue.draw(Spread::Uniform);
                let key = keys.get(tenant).cloned().unwrap_or_default();
                async move {
                    let reply = post(&mut connection, &key, "/v1/adjustments", adjustment_body(item)).await?;
                    Ok((connection, step(&reply, 1)?))
                }
            }
        })
        .await
    }

    /// A hundred movements a request, each with its own outcome.
    async fn batches(&self, address: &str, connections: usize, time: Duration) -> Result<Load> {
        closed_loop(address, connections, None, time, |number| {
            let (mut catalogue, keys) = (self.catalogue.seeded(number), self.keys.clone());
            move |mut connection| {
                let key = keys.get(catalogue.draw(Spread::Uniform).0).cloned().unwrap_or_default();
                let body = batch_body(&mut catalogue);
                async move {
                    let reply = post(&mut connection, &key, "/v1/commands:batch", body).await?;
                    Ok((connection, step(&reply, BATCH)?))
                }
            }
        })
        .await
    }
}

/// What the bare writer writes in one transaction.
const BARE_BATCH: usize = 1_000;

fn batch_body(catalogue: &mut Catalogue) -> String {
    let commands: Vec<String> = (0..BATCH)
        .map(|_| {
            let (key, body) = (Uuid::new_v4(), adjustment_body(catalogue.draw(Spread::Uniform).1));
            format!(r#"{{"type":"adjustment.create","idempotency_key":"{key}","body":{body}}}"#)
        })
        .collect();
    format!(r#"{{"commands":[{}]}}"#, commands.join(","))
}

/// So few points of a curve that a person can read them.
fn thinned(curve: Vec<(i64, u64)>) -> Vec<(i64, u64)> {
    const POINTS: usize = 40;
    let every = curve.len().div_ceil(POINTS).max(1);
    curve.into_iter().step_by(every).collect()
}
