//! A warehouse's day in a mix: orders of ten lines created, allocated and shipped, purchase orders received, counts, and
//! questions about stock in between.

use crate::http::Connection;
use crate::load::{Load, Step, closed_loop, post};
use crate::workload::{Catalogue, Spread, sku};
use anyhow::{Context as _, Result, bail};
use hyper::Method;
use serde_json::Value;
use std::time::Duration;

const LINES: usize = 10;
/// Orders in one request of a client that sends many.
const ORDERS_A_BATCH: usize = 33;
/// Of so many loops one does everything but orders.
const OTHERS_EVERY: usize = 8;

/// Orders a second, each created, allocated and shipped: one by one, or many in a request.
pub(crate) async fn drive(
    address: &str,
    catalogue: &Catalogue,
    keys: &[String],
    spread: Spread,
    (connections, batched): (usize, bool),
    time: Duration,
) -> Result<Load> {
    closed_loop(address, connections, None, time, |number| {
        let catalogue = catalogue.seeded(number);
        let key = keys.get(number % keys.len()).cloned().unwrap_or_default();
        let mut clerk = Clerk { catalogue, key, spread };
        let others = number % OTHERS_EVERY == OTHERS_EVERY - 1;
        move |mut connection| {
            let mut clerk = clerk.next();
            async move {
                let orders = if others {
                    clerk.others(&mut connection).await?;
                    0
                } else if batched {
                    clerk.many_orders(&mut connection).await?
                } else {
                    clerk.one_order(&mut connection).await?
                };
                Ok((connection, Step::Done(orders)))
            }
        }
    })
    .await
}

struct Clerk {
    catalogue: Catalogue,
    key: String,
    spread: Spread,
}

impl Clerk {
    /// One with the same work to do, and draws of its own.
    fn next(&mut self) -> Self {
        let seed = self.catalogue.seed();
        Self { catalogue: self.catalogue.seeded(seed), key: self.key.clone(), spread: self.spread }
    }

    /// Lines of different SKUs, in the hot mix one of them the same in every other order.
    fn lines(&mut self, quantity: &str) -> String {
        let mut items: Vec<usize> = (0..LINES).map(|_| self.catalogue.draw(Spread::Uniform).1).collect();
        if self.spread == Spread::Hot && self.catalogue.draw(Spread::Hot) == (0, 0) {
            items.insert(0, 0);
            items.truncate(LINES);
        }
        let lines: Vec<_> = items.iter().map(|item| format!(r#"{{"sku":"{}",{quantity}}}"#, sku(*item))).collect();
        lines.join(",")
    }

    fn order(&mut self) -> String {
        format!(
            r#"{{"location_code":"MAIN","customer_reference":"bench","lines":[{}]}}"#,
            self.lines(r#""quantity":1"#)
        )
    }

    async fn ask(&self, connection: &mut Connection, path: &str, body: String) -> Result<Value> {
        let reply = post(connection, &self.key, path, body).await?;
        match reply.status {
            200 | 201 => Ok(serde_json::from_slice(&reply.body)?),
            status => bail!("POST {path} is answered with {status}: {}", String::from_utf8_lossy(&reply.body)),
        }
    }

    async fn one_order(&mut self, connection: &mut Connection) -> Result<u64> {
        let body = self.order();
        let order = self.ask(connection, "/v1/sales_orders", body).await?;
        let id = id(&order)?;
        self.ask(connection, &format!("/v1/sales_orders/{id}/allocate"), "{}".to_owned()).await?;
        self.ask(connection, &format!("/v1/sales_orders/{id}/ship"), "{}".to_owned()).await?;
        Ok(1)
    }

    /// The bodies of the results of a batch, all of which succeeded.
    async fn batch(&self, connection: &mut Connection, commands: Vec<String>) -> Result<Vec<Value>> {
        let body = format!(r#"{{"commands":[{}]}}"#, commands.join(","));
        let answer = self.ask(connection, "/v1/commands:batch", body).await?;
        let results = answer.get("results").and_then(Value::as_array).context("the answer has no results")?;
        results
            .iter()
            .map(|result| match result.get("status").and_then(Value::as_u64) {
                Some(200 | 201) => result.get("body").cloned().context("a result has no body"),
                _ => bail!("a command of a batch failed: {result}"),
            })
            .collect()
    }

    async fn many_orders(&mut self, connection: &mut Connection) -> Result<u64> {
        let create = (0..ORDERS_A_BATCH).map(|_| {
            let key = uuid::Uuid::new_v4();
            format!(r#"{{"type":"sales_order.create","idempotency_key":"{key}","body":{}}}"#, self.order())
        });
        let create = create.collect();
        let orders = self.batch(connection, create).await?;
        let ids = orders.iter().map(id).collect::<Result<Vec<_>>>()?;
        for action in ["sales_order.allocate", "sales_order.ship"] {
            let commands = ids.iter().map(|id| {
                let key = uuid::Uuid::new_v4();
                format!(r#"{{"type":"{action}","id":"{id}","idempotency_key":"{key}","body":{{}}}}"#)
            });
            self.batch(connection, commands.collect()).await?;
        }
        Ok(ORDERS_A_BATCH as u64)
    }

    async fn others(&mut self, connection: &mut Connection) -> Result<()> {
        let lines = self.lines(r#""quantity":100"#);
        let order = format!(r#"{{"location_code":"MAIN","lines":[{lines}]}}"#);
        let purchase = self.ask(connection, "/v1/purchase_orders", order).await?;
        let id = id(&purchase)?;
        self.ask(connection, &format!("/v1/purchase_orders/{id}/order"), "{}".to_owned()).await?;
        self.ask(connection, &format!("/v1/purchase_orders/{id}/receive"), "{}".to_owned()).await?;
        let count = format!(
            r#"{{"location_code":"MAIN","lines":[{{"sku":"{}","quantity_counted":1000000}}]}}"#,
            sku(self.catalogue.draw(Spread::Uniform).1)
        );
        self.ask(connection, "/v1/counts", count).await?;
        for _ in 0..5 {
            let path = format!("/v1/stock?sku={}", sku(self.catalogue.draw(Spread::Uniform).1));
            let bearer = format!("Bearer {}", self.key);
            let reply = connection.send(Method::GET, &path, &[("authorization", &bearer)], String::new()).await?;
            if reply.status != 200 {
                bail!("GET {path} is answered with {}", reply.status);
            }
        }
        Ok(())
    }
}

fn id(document: &Value) -> Result<String> {
    document.get("id").and_then(Value::as_str).map(str::to_owned).context("a document has no id")
}
