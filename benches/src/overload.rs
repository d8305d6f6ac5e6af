//! Far more than the server can do, for a while: it turns away what is too much, stays quick with what it takes, and is
//! itself again as soon as the load falls.

use crate::load::{Load, Step, closed_loop, post, step};
use crate::workload::{Catalogue, Spread, adjustment_body};
use anyhow::Result;
use std::time::Duration;

/// What a client waits after it was turned away; `Retry-After` asks for a second, this one is rude.
const IMPATIENCE: Duration = Duration::from_millis(100);

/// One movement a request.
pub(crate) async fn singles(
    address: &str,
    catalogue: &Catalogue,
    keys: &[String],
    connections: usize,
    time: Duration,
) -> Result<Load> {
    closed_loop(address, connections, None, time, |number| {
        let (mut catalogue, keys) = (catalogue.seeded(number), keys.to_vec());
        move |mut connection| {
            let (tenant, item) = catalogue.draw(Spread::Uniform);
            let key = keys.get(tenant).cloned().unwrap_or_default();
            async move {
                let reply = post(&mut connection, &key, "/v1/adjustments", adjustment_body(item)).await?;
                let stepped = step(&reply, 1)?;
                if matches!(stepped, Step::Shed) {
                    tokio::time::sleep(IMPATIENCE).await;
                }
                Ok((connection, stepped))
            }
        }
    })
    .await
}
