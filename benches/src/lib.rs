//! How fast the whole system is, beside its baselines, measured in the same run: what `twh bench` runs.
#![allow(
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures of a measurement, not quantities of stock"
)]

mod apply;
mod bare;
mod environment;
mod http;
mod load;
mod naive;
mod naive_http;
mod workload;

use anyhow::Result;
use environment::Environment;
pub use environment::Parts;
use load::{Load, closed_loop, post, step};
pub use naive_http::serve_baseline;
use std::time::Duration;
use workload::{Catalogue, Spread, adjustment_body};

/// So many in so much time, a second.
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Runs it.
pub async fn run(parts: &Parts, count: usize) -> Result<()> {
    let environment = Environment::prepare(parts).await?;
    let result = scenarios(&environment, count).await;
    environment.end().await?;
    result
}

async fn scenarios(environment: &Environment, count: usize) -> Result<()> {
    let tenants = environment.tenants(8).await?;
    let keys: Vec<String> = tenants.iter().map(|tenant| tenant.api_key.clone()).collect();
    let catalogue = Catalogue::new(tenants.iter().map(|tenant| tenant.tenant_id).collect(), 125);
    naive::prepare(&environment.pool, &catalogue).await?;
    let which = std::env::var("SCENARIO").unwrap_or_default();
    if which.is_empty() {
        for spread in Spread::BOTH {
            let rate = naive::drive(&environment.pool, &catalogue, spread, 32, Duration::from_secs(5)).await?;
            eprintln!("naive {}: {rate:.0}", spread.name());
        }
        let tenants: Vec<_> = environment.tenants(6).await?.iter().map(|tenant| tenant.tenant_id).collect();
        let bare = bare::drive(
            &environment.pool,
            &environment.schemas,
            &mut Catalogue::new(tenants, 125),
            count / 2,
            1000,
            1000,
        )
        .await?;
        eprintln!("bare: {bare:.0}");
    }
    apply::backlog(environment, catalogue.opening()?.into_iter().map(Ok)).await?;
    if which.is_empty() {
        for spread in Spread::BOTH {
            let mut work = catalogue.clone();
            let drained = apply::backlog(environment, (0..count).map(|_| work.adjustment(spread))).await?;
            eprintln!("apply {}: {:.0}, {} MB", spread.name(), drained.per_second, drained.memory_peak_mb);
        }
    }
    if which == "http" {
        let time = Duration::from_secs(std::env::var("SECS").map_or(4, |c| c.parse().unwrap()));
        if std::env::var("CONNS").is_err() {
            let baseline = environment.start_baseline().await?;
            for connections in [64] {
                let load = singles(&baseline.address, &catalogue, &keys, connections, time).await?;
                eprintln!("naive http {load:?}");
            }
            baseline.stop().await?;
        }
        let server = environment.start(&["serve"], &[]).await?;
        for connections in std::env::var("CONNS").map_or(vec![1, 8, 32, 64, 256], |c| vec![c.parse().unwrap()]) {
            let load = singles(&server.address, &catalogue, &keys, connections, time).await?;
            eprintln!("http {load:?}");
        }
        for connections in [1, 8, 32] {
            let load = batches(&server.address, &catalogue, &keys, connections, time).await?;
            eprintln!("batch {load:?} {} MB", server.memory_mb());
        }
        server.stop().await?;
    }
    Ok(())
}

/// One movement a request.
async fn singles(
    address: &str,
    catalogue: &Catalogue,
    keys: &[String],
    connections: usize,
    time: Duration,
) -> Result<Load> {
    closed_loop(address, connections, time, |number| {
        let (mut catalogue, keys) = (catalogue.seeded(number), keys.to_vec());
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

const BATCH: u64 = 100;

/// A hundred movements a request.
async fn batches(
    address: &str,
    catalogue: &Catalogue,
    keys: &[String],
    connections: usize,
    time: Duration,
) -> Result<Load> {
    closed_loop(address, connections, time, |number| {
        let (mut catalogue, keys) = (catalogue.seeded(number), keys.to_vec());
        move |mut connection| {
            let (tenant, _) = catalogue.draw(Spread::Uniform);
            let key = keys.get(tenant).cloned().unwrap_or_default();
            let commands: Vec<String> = (0..BATCH)
                .map(|_| {
                    let (_, item) = catalogue.draw(Spread::Uniform);
                    let key = uuid::Uuid::new_v4();
                    format!(
                        r#"{{"type":"adjustment.create","idempotency_key":"{key}","body":{}}}"#,
                        adjustment_body(item)
                    )
                })
                .collect();
            let body = format!(r#"{{"commands":[{}]}}"#, commands.join(","));
            async move {
                let reply = post(&mut connection, &key, "/v1/commands:batch", body).await?;
                Ok((connection, step(&reply, BATCH)?))
            }
        }
    })
    .await
}
