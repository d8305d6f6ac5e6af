//! Tenants that send the worst that they may, as fast as they are let, and a neighbour on their partition: what the neighbour waits,
//! and what memory the server takes.

use crate::environment::Environment;
use crate::http::Connection;
use crate::load::{IMPATIENCE, Load, Step, closed_loop, post, step};
use crate::report::{Bar, Report, Row};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use twh_accounts::provision::{NewTenant, set_plan};
use twh_schemas::partition::partition_of;

/// As many lines as an order may have, of the longest SKU that there may be: each shipment of a little writes it whole.
const LINES: usize = 1_000;
const ORDERS: usize = 4;
/// Shipments in a request, the most first: what is too much is refused.
const SHIPMENTS: [usize; 4] = [1_000, 100, 20, 1];
/// Changes of an item in a request: the first makes it long, and each of the others writes it again.
const CHANGES: usize = 1_000;
const CONNECTIONS: usize = 16;
const NEIGHBOUR_CONNECTIONS: usize = 4;
const NEIGHBOUR_RATE: f64 = 100.0;
const WAIT_MS: f64 = 1_000.0;
const MEMORY_MB: f64 = 1_000.0;
/// As `TWH_TOPIC_PARTITIONS` has it where it is not set.
const PARTITIONS: i32 = 6;
/// After which running servers hold a tenant to another plan.
const PLAN_HOLDS_AFTER: Duration = Duration::from_secs(6);

/// The whole scenario, for so many hostile tenants of a plan.
pub(crate) async fn measure(
    environment: &Environment,
    report: &mut Report,
    (plan, count): (&str, usize),
    time: Duration,
) -> Result<()> {
    let neighbour = environment.tenant("enterprise").await?;
    let server = environment.start(&["serve"], &[]).await?;
    let address = server.address.as_str();
    prepare_neighbour(address, &neighbour.api_key).await?;
    let mut hostile = Vec::with_capacity(count);
    for _ in 0..count {
        let tenant = beside(environment, &neighbour).await?;
        let orders = Arc::new(prepare_orders(address, &tenant.api_key).await?);
        set_plan(&environment.pool, tenant.tenant_id, plan).await?;
        hostile.push((tenant.api_key, orders));
    }
    tokio::time::sleep(PLAN_HOLDS_AFTER).await;
    let calm = write(address, &neighbour.api_key, Duration::from_secs(3)).await?;
    let attack = Arc::new(Attack::default());
    let mut clients = Vec::new();
    for number in 0..CONNECTIONS.max(count) {
        let (key, orders) = hostile.get(number % count).cloned().context("there is a hostile tenant")?;
        let (attack, address) = (Arc::clone(&attack), address.to_owned());
        clients.push(tokio::spawn(async move { attack.run(&address, &key, &orders, number).await }));
    }
    let during = write(address, &neighbour.api_key, time).await?;
    attack.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    let taken = attack.taken.load(Ordering::Relaxed);
    let row = |what: &str, value, unit| Row::new(format!("hostile tenants ({count} {plan}): {what}"), value, unit);
    report.add(row("commands taken", taken as f64 / time.as_secs_f64(), "a second"));
    report.add(row("neighbour before them, p99", calm.p99_ms, "ms"));
    report.add(row("neighbour, p50", during.p50_ms, "ms"));
    report.add(row("neighbour, p99", during.p99_ms, "ms").bar(Bar::Below(WAIT_MS)));
    let memory = server.memory_peak_mb() as f64;
    report.add(row("server's memory at most", memory, "MB").bar(Bar::Below(MEMORY_MB)));
    server.stop().await
}

/// A tenant on the same partition.
async fn beside(environment: &Environment, of: &NewTenant) -> Result<NewTenant> {
    let partition = |tenant: &NewTenant| partition_of(tenant.tenant_id.to_string().as_bytes(), PARTITIONS);
    loop {
        let tenant = environment.tenant("enterprise").await?;
        if partition(&tenant) == partition(of) {
            return Ok(tenant);
        }
    }
}

async fn done(connection: &mut Connection, key: &str, path: &str, body: Value) -> Result<Value> {
    let reply = post(connection, key, path, body.to_string()).await?;
    match reply.status {
        200 | 201 => Ok(serde_json::from_slice(&reply.body)?),
        status => bail!("POST {path} is answered with {status}: {}", String::from_utf8_lossy(&reply.body)),
    }
}

async fn prepare_neighbour(address: &str, key: &str) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    done(&mut connection, key, "/v1/locations", json!({ "code": "MAIN" })).await?;
    done(&mut connection, key, "/v1/items", json!({ "sku": "WIDGET" })).await?;
    Ok(())
}

/// An item of a hostile tenant, and orders of it with their stock allocated.
async fn prepare_orders(address: &str, key: &str) -> Result<Vec<String>> {
    let sku = "S".repeat(64);
    let mut connection = Connection::open(address).await?;
    done(&mut connection, key, "/v1/locations", json!({ "code": "MAIN" })).await?;
    let item = done(&mut connection, key, "/v1/items", json!({ "sku": sku })).await?;
    let stock =
        json!({ "location_code": "MAIN", "reason": "x", "lines": [{ "sku": sku, "quantity": LINES * ORDERS }] });
    done(&mut connection, key, "/v1/adjustments", stock).await?;
    let lines = vec![json!({ "sku": sku, "quantity": 1 }); LINES];
    let id_of =
        |document: &Value| document.get("id").and_then(Value::as_str).map(str::to_owned).context("it has an id");
    let mut made = vec![id_of(&item)?];
    for _ in 0..ORDERS {
        let order = json!({ "location_code": "MAIN", "lines": lines });
        let order = done(&mut connection, key, "/v1/sales_orders", order).await?;
        let id = id_of(&order)?;
        done(&mut connection, key, &format!("/v1/sales_orders/{id}/allocate"), json!({})).await?;
        made.push(id);
    }
    Ok(made)
}

/// The neighbour's own writes, at a steady rate.
async fn write(address: &str, key: &str, time: Duration) -> Result<Load> {
    closed_loop(address, NEIGHBOUR_CONNECTIONS, Some(NEIGHBOUR_RATE), time, |_| {
        let key = key.to_owned();
        move |mut connection| {
            let key = key.clone();
            async move {
                let body = r#"{"location_code":"MAIN","reason":"bench","lines":[{"sku":"WIDGET","quantity":1}]}"#;
                let reply = post(&mut connection, &key, "/v1/adjustments", body.to_owned()).await?;
                // Later than it should have been, and not lost: it counts with all the time that it took.
                Ok((connection, if reply.status == 202 { Step::Done(1) } else { step(&reply, 1)? }))
            }
        }
    })
    .await
}

#[derive(Default)]
struct Attack {
    over: AtomicBool,
    taken: AtomicU64,
}

impl Attack {
    /// Ships next to nothing of a long order, again and again, many times in a request that nobody waits for; what is refused
    /// is tried with fewer. In between it makes an item long and changes it many times over.
    async fn run(&self, address: &str, key: &str, orders: &[String], number: usize) -> Result<()> {
        let mut connection = Connection::open(address).await?;
        let order = orders.get(1 + number % ORDERS).context("there is an order")?;
        let item = orders.first().context("there is an item")?;
        while !self.over.load(Ordering::Relaxed) {
            for count in SHIPMENTS {
                // A request that is refused before its body is read ends its connection.
                let Ok(status) = ship(&mut connection, key, order, count).await else {
                    tokio::time::sleep(IMPATIENCE).await;
                    connection = Connection::open(address).await?;
                    continue;
                };
                self.count(status, count).await?;
            }
            match send(&mut connection, key, made(changes, item, CHANGES).await?).await {
                Ok(status) => self.count(status, CHANGES).await?,
                Err(_) => connection = Connection::open(address).await?,
            }
        }
        Ok(())
    }
}

impl Attack {
    async fn count(&self, status: u16, commands: usize) -> Result<()> {
        match status {
            200 => _ = self.taken.fetch_add(commands as u64, Ordering::Relaxed),
            422 | 429 | 503 => tokio::time::sleep(IMPATIENCE).await,
            _ => bail!("{commands} commands in a request are answered with {status}"),
        }
        Ok(())
    }
}

async fn ship(connection: &mut Connection, key: &str, order: &str, count: usize) -> Result<u16> {
    let commands = made(shipments, order, count).await?;
    send(connection, key, commands).await
}

/// A request's body, made where it keeps nobody else waiting: the neighbour is measured in this process.
async fn made(commands: fn(&str, usize) -> Vec<Value>, document: &str, count: usize) -> Result<String> {
    let document = document.to_owned();
    let body = move || json!({ "commands": commands(&document, count) }).to_string();
    Ok(tokio::task::spawn_blocking(body).await?)
}

/// Shipments of next to nothing of a long order.
fn shipments(order: &str, count: usize) -> Vec<Value> {
    let command = |_| {
        json!({
            "type": "sales_order.ship",
            "id": order,
            "idempotency_key": uuid::Uuid::new_v4(),
            "body": { "lines": [{ "line": 1, "quantity": "0.000001" }] },
        })
    };
    (0..count).map(command).collect()
}

/// Changes of an item: the first makes it long, and each of the others writes it again.
fn changes(item: &str, count: usize) -> Vec<Value> {
    let command = |change| {
        let long = || (0..50).map(|key| (key.to_string(), "\u{1}".repeat(500).into())).collect();
        let body = if change == 0 { json!({ "metadata": Value::Object(long()) }) } else { json!({ "name": "x" }) };
        let key = uuid::Uuid::new_v4();
        json!({ "type": "item.update", "id": item, "if_match": "*", "idempotency_key": key, "body": body })
    };
    (0..count).map(command).collect()
}

/// Sends commands that nobody waits for.
async fn send(connection: &mut Connection, key: &str, body: String) -> Result<u16> {
    let bearer = format!("Bearer {key}");
    let request = uuid::Uuid::new_v4().to_string();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", &request),
        ("prefer", "respond-async"),
    ];
    let reply = connection.send(hyper::Method::POST, "/v1/commands:batch", &headers, body).await?;
    Ok(reply.status)
}
