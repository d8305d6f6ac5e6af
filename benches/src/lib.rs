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
mod naive;
mod workload;

use anyhow::Result;
use environment::Environment;
pub use environment::Parts;
use std::time::Duration;
use workload::{Catalogue, Spread};

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
    let tenants: Vec<_> = environment.tenants(8).await?.iter().map(|tenant| tenant.tenant_id).collect();
    let catalogue = Catalogue::new(tenants, 125);
    naive::prepare(&environment.pool, &catalogue).await?;
    if std::env::var("BARE1").is_err() { for spread in Spread::BOTH {
        let rate = naive::drive(&environment.pool, &catalogue, spread, 32, Duration::from_secs(5)).await?;
        eprintln!("naive {}: {rate:.0}", spread.name());
    } }
    if std::env::var("BARE1").is_ok() {
        let tenants: Vec<_> = environment.tenants(1).await?.iter().map(|tenant| tenant.tenant_id).collect();
        let bare = bare::drive(&environment.pool, &environment.schemas, &mut Catalogue::new(tenants, 1000), count / 2, 1000, 1000).await?;
        eprintln!("bare 1: {bare:.0}");
        return Ok(());
    }
    let tenants: Vec<_> = environment.tenants(6).await?.iter().map(|tenant| tenant.tenant_id).collect();
    let bare =
        bare::drive(&environment.pool, &environment.schemas, &mut Catalogue::new(tenants, 125), count / 2, 1000, 1000)
            .await?;
    eprintln!("bare: {bare:.0}");
    apply::backlog(environment, catalogue.opening()?.into_iter().map(Ok)).await?;
    for spread in Spread::BOTH {
        let mut work = catalogue.clone();
        let drained = apply::backlog(environment, (0..count).map(|_| work.adjustment(spread))).await?;
        eprintln!("apply {}: {:.0}, {} MB", spread.name(), drained.per_second, drained.memory_peak_mb);
    }
    Ok(())
}
