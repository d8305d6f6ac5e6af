//! A tenant that does its worst meanwhile: documents as long as may be, written again and again, and pages that it does not read.
//! It is no part of the books: it moves no stock.

use super::clients::Balancer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use twh_tests::Tenant;
use uuid::Uuid;

/// Pages that are asked for and not read, at once.
const UNREAD: usize = 40;
/// Commands in a request, the most first: what is too much is refused.
const AT_ONCE: [usize; 3] = [1_000, 100, 20];
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

pub(crate) struct Hostile {
    tenant: Tenant,
    balancer: Arc<Balancer>,
    rng: StdRng,
    closing: Arc<AtomicBool>,
    item: String,
    unread: VecDeque<TcpStream>,
    taken: usize,
}

impl Hostile {
    pub(crate) async fn new(tenant: Tenant, balancer: Arc<Balancer>, seed: u64, closing: Arc<AtomicBool>) -> Self {
        let item = tenant.done("/v1/items", json!({ "sku": "LONG" })).await.unwrap().id().to_owned();
        tenant.done("/v1/locations", json!({ "code": "MAIN" })).await.unwrap();
        let rng = StdRng::seed_from_u64(seed);
        Self { tenant, balancer, rng, closing, item, unread: VecDeque::new(), taken: 0 }
    }

    /// Goes on until the doors close; says how many commands were taken. That something is refused, or that nobody answers, is
    /// what it is there for.
    pub(crate) async fn run(mut self) -> usize {
        while !self.closing.load(Ordering::Acquire) {
            for count in AT_ONCE {
                self.change(count).await;
                self.order(count / 100).await;
            }
            self.ask_and_not_read().await;
            sleep(Duration::from_millis(20)).await;
        }
        self.taken
    }

    async fn send(&mut self, commands: Vec<Value>) {
        let (key, count) = (Uuid::new_v4().to_string(), commands.len());
        let headers =
            [("idempotency-key", key.as_str()), ("content-type", "application/json"), ("prefer", "respond-async")];
        let body = json!({ "commands": commands }).to_string().into_bytes();
        let tenant = self.tenant.at(self.balancer.any(&mut self.rng));
        let sent = tenant.send(reqwest::Method::POST, "/v1/commands:batch", &headers, Some(body)).await;
        self.taken += sent.map_or(0, |answer| if answer.status.is_success() { count } else { 0 });
    }

    /// Makes an item long, and writes it so many times.
    async fn change(&mut self, count: usize) {
        let text = "\u{1}".repeat(500);
        let long: serde_json::Map<_, _> = (0..50).map(|key| (format!("key-{key}"), json!(text))).collect();
        let command = |change: usize| {
            let body = if change == 0 { json!({ "metadata": long }) } else { json!({ "name": format!("{change}") }) };
            json!({ "type": "item.update", "id": self.item, "if_match": "*", "idempotency_key": Uuid::new_v4(), "body": body })
        };
        self.send((0..count).map(command).collect()).await;
    }

    /// Orders of as many lines as there may be.
    async fn order(&mut self, count: usize) {
        let lines = vec![json!({ "sku": "LONG", "quantity": 1 }); 1_000];
        let body = json!({ "location_code": "MAIN", "lines": lines });
        let command = |_| json!({ "type": "purchase_order.create", "idempotency_key": Uuid::new_v4(), "body": body });
        self.send((0..count).map(command).collect()).await;
    }

    async fn ask_and_not_read(&mut self) {
        let address = self.balancer.any(&mut self.rng).trim_start_matches("http://").to_owned();
        let head = format!(
            "GET /v1/audit?limit=1000 HTTP/1.1\r\nHost: twh\r\nAuthorization: Bearer {}\r\n\r\n",
            self.tenant.key
        );
        let Ok(Ok(mut stream)) = timeout(CONNECTS_WITHIN, TcpStream::connect(address)).await else { return };
        if stream.write_all(head.as_bytes()).await.is_ok() {
            self.unread.push_back(stream);
        }
        if self.unread.len() > UNREAD {
            self.unread.pop_front();
        }
    }
}
