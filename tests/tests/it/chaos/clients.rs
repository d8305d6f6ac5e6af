//! Clients that want the same few pieces, ask any server, and do not rest before each command has a final answer. Each keeps
//! a book of what it was told: by these books the ledger is judged.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use twh_tests::{Answer, Tenant};
use uuid::Uuid;

/// Longer than a server waits for an outcome, shorter than it stands still.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a server is avoided that has not answered.
const AVOIDED: Duration = Duration::from_secs(3);
/// More than there ever is of anything.
const TOO_MANY: i64 = 1_000_000;

const DONE: &[u16] = &[201, 200];
const DONE_OR_SHORT: &[u16] = &[201, 200, 409];
const SHORT: &[u16] = &[409];

/// A final answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Final {
    pub(crate) status: u16,
    /// The command that was decided: the first under its key.
    pub(crate) command_id: String,
    /// Without the request's id, which is another one for each try.
    pub(crate) body: Value,
}

impl Final {
    pub(crate) const fn is_accepted(&self) -> bool {
        self.status < 300
    }

    fn new(status: u16, command_id: &str, mut body: Value) -> Self {
        if let Some(body) = body.as_object_mut() {
            body.remove("request_id");
        }
        Self { status, command_id: command_id.to_owned(), body }
    }

    pub(crate) fn id(&self) -> &str {
        self.body["id"].as_str().unwrap_or_default()
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// A key and what was answered under it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tenant: String,
    pub(crate) key: String,
    #[expect(dead_code, reason = "a failed check prints it")]
    pub(crate) path: String,
    pub(crate) told: Final,
}

/// What clients were told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) entries: Vec<Entry>,
    /// What must be on hand of each tenant's SKU, by the answers alone.
    pub(crate) on_hand: BTreeMap<(String, String), i64>,
    /// How long answers took that came while nothing was broken, in milliseconds.
    took: Vec<u64>,
    /// How often what came about: tries, 202, 503, failed connections, repeats.
    counts: BTreeMap<String, u64>,
}

impl Book {
    pub(crate) fn moved(&mut self, tenant: &str, sku: &str, change: i64) {
        *self.on_hand.entry((tenant.to_owned(), sku.to_owned())).or_default() += change;
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// How many answers came while nothing was broken, and within how many milliseconds 99 of 100 of them.
    pub(crate) fn p99(&self) -> (usize, u64) {
        let mut took = self.took.clone();
        took.sort_unstable();
        (took.len(), took.get(took.len() * 99 / 100).copied().unwrap_or_default())
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.took.extend(other.took);
        self.entries.extend(other.entries);
        for ((tenant, sku), change) in other.on_hand {
            self.moved(&tenant, &sku, change);
        }
        for (what, times) in other.counts {
            *self.counts.entry(what).or_default() += times;
        }
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accepted = self.entries.iter().filter(|entry| entry.told.is_accepted()).count();
        let refused = self.entries.len() - accepted;
        write!(f, "{} commands: {accepted} accepted, {refused} refused", self.entries.len())?;
        self.counts.iter().try_for_each(|(what, times)| write!(f, ", {times} {what}"))
    }
}

/// A command as a client sends it, again and again.
struct Request {
    path: String,
    key: String,
    body: Vec<u8>,
    /// Not to wait for the outcome, but to ask for it later.
    asynchronous: bool,
}

/// The servers' addresses, and which of them have lately not answered: what a load balancer knows.
#[derive(Debug)]
pub(crate) struct Balancer {
    servers: Vec<(String, Mutex<Option<Instant>>)>,
    /// Whether nothing is broken, and all went on after what was broken last.
    pub(crate) calm: AtomicBool,
}

impl Balancer {
    pub(crate) fn new(urls: impl IntoIterator<Item = String>) -> Self {
        Self { servers: urls.into_iter().map(|url| (url, Mutex::new(None))).collect(), calm: AtomicBool::new(true) }
    }

    /// Any of the servers' addresses.
    pub(crate) fn any(&self, rng: &mut StdRng) -> &str {
        &self.servers[rng.random_range(0..self.servers.len())].0
    }

    /// One of the servers that answer; now and then any, for balancers are late too.
    fn choose(&self, rng: &mut StdRng) -> usize {
        let answers = |index: &usize| self.servers[*index].1.lock().unwrap().is_none_or(|at| at.elapsed() > AVOIDED);
        let mut candidates: Vec<usize> = (0..self.servers.len()).filter(answers).collect();
        if candidates.is_empty() || rng.random_bool(0.02) {
            candidates = (0..self.servers.len()).collect();
        }
        candidates[rng.random_range(0..candidates.len())]
    }

    fn has_not_answered(&self, server: usize) {
        *self.servers[server].1.lock().unwrap() = Some(Instant::now());
    }
}

/// One client of a tenant.
pub(crate) struct Client {
    tenant: Tenant,
    balancer: Arc<Balancer>,
    skus: Vec<String>,
    rng: StdRng,
    closing: Arc<AtomicBool>,
    book: Book,
}

impl Client {
    pub(crate) fn new(
        tenant: &Tenant,
        balancer: Arc<Balancer>,
        skus: Vec<String>,
        seed: u64,
        closing: Arc<AtomicBool>,
    ) -> Self {
        let tenant = tenant.clone().with_timeout(REQUEST_TIMEOUT).unwrap();
        Self { tenant, balancer, skus, rng: StdRng::seed_from_u64(seed), closing, book: Book::default() }
    }

    /// Works until the doors close, and then finishes what it has begun.
    pub(crate) async fn run(mut self) -> Book {
        while !self.closing.load(Ordering::Acquire) {
            match self.rng.random_range(0..100) {
                0..50 => self.order().await,
                50..62 => self.adjust().await,
                62..72 => self.purchase().await,
                72..82 => self.reserve().await,
                82..88 => self.count().await,
                _ => self.oversell().await,
            }
            sleep(Duration::from_millis(self.rng.random_range(0..200))).await;
        }
        self.book
    }

    async fn order(&mut self) {
        let lines = self.lines(1..=4, 1..=6);
        let order = self.post("/v1/sales_orders", at_main("lines", &lines), DONE).await;
        let path = format!("/v1/sales_orders/{}", order.id());
        let allocated = self.post(&format!("{path}/allocate"), json!({}), DONE_OR_SHORT).await;
        if allocated.is_accepted() && self.rng.random_bool(0.6) {
            self.post(&format!("{path}/ship"), json!({}), DONE).await;
            self.lines_moved(&lines, -1);
        } else {
            self.post(&format!("{path}/cancel"), json!({}), DONE).await;
        }
    }

    /// Asks for what cannot be there, alone or beside what can: all of it must be refused.
    async fn oversell(&mut self) {
        let mut lines = self.lines(0..=3, 1..=2);
        lines.push(json!({ "sku": self.sku(), "quantity": TOO_MANY }));
        let order = self.post("/v1/sales_orders", at_main("lines", &lines), DONE).await;
        let refused = self.post(&format!("/v1/sales_orders/{}/allocate", order.id()), json!({}), SHORT).await;
        assert_eq!(refused.code(), "INSUFFICIENT_STOCK", "{refused:?}");
        self.post(&format!("/v1/sales_orders/{}/ship", order.id()), json!({}), SHORT).await;
    }

    async fn adjust(&mut self) {
        let mut lines = self.lines(1..=2, 1..=12);
        let up = self.rng.random_bool(0.5);
        if !up {
            lines.iter_mut().for_each(|line| line["quantity"] = json!(-line["quantity"].as_i64().unwrap()));
        }
        let mut body = at_main("lines", &lines);
        body["reason"] = json!("chaos");
        if self.post("/v1/adjustments", body, if up { DONE } else { DONE_OR_SHORT }).await.is_accepted() {
            self.lines_moved(&lines, 1);
        }
    }

    async fn purchase(&mut self) {
        let lines = self.lines(1..=3, 5..=25);
        let order = self.post("/v1/purchase_orders", at_main("lines", &lines), DONE).await;
        let path = format!("/v1/purchase_orders/{}", order.id());
        self.post(&format!("{path}/order"), json!({}), DONE).await;
        self.post(&format!("{path}/receive"), json!({}), DONE).await;
        self.lines_moved(&lines, 1);
    }

    /// A reservation that the client lets go, or that is left to lapse: in the end none holds anything.
    async fn reserve(&mut self) {
        let mut body = json!({ "sku": self.sku(), "location_code": "MAIN", "quantity": self.rng.random_range(1..=5) });
        let lapses = self.rng.random_bool(0.5);
        if lapses {
            body["expires_at"] = json!(in_seconds(self.rng.random_range(1..=4)));
        }
        let reservation = self.post("/v1/reservations", body, DONE_OR_SHORT).await;
        if reservation.is_accepted() && !(lapses && self.rng.random_bool(0.7)) {
            let path = format!("/v1/reservations/{}/release", reservation.id());
            // One that lapses may have lapsed by now.
            self.post(&path, json!({}), if lapses { DONE_OR_SHORT } else { DONE }).await;
        }
    }

    async fn count(&mut self) {
        let counted = self.rng.random_range(20..=60);
        let sku = self.sku();
        let lines = [json!({ "sku": sku, "quantity_counted": counted })];
        let count = self.post("/v1/counts", at_main("lines", &lines), DONE_OR_SHORT).await;
        if count.is_accepted() {
            let expected: i64 = count.body["lines"][0]["quantity_expected"].as_str().unwrap().parse().unwrap();
            self.moved(&sku, counted - expected);
        }
    }

    fn sku(&mut self) -> String {
        let index = self.rng.random_range(0..self.skus.len());
        self.skus[index].clone()
    }

    fn lines(&mut self, count: std::ops::RangeInclusive<usize>, each: std::ops::RangeInclusive<i64>) -> Vec<Value> {
        let count = self.rng.random_range(count);
        (0..count).map(|_| json!({ "sku": self.sku(), "quantity": self.rng.random_range(each.clone()) })).collect()
    }

    fn moved(&mut self, sku: &str, change: i64) {
        let tenant = self.tenant.id.clone();
        self.book.moved(&tenant, sku, change);
    }

    fn lines_moved(&mut self, lines: &[Value], sign: i64) {
        for line in lines {
            self.moved(line["sku"].as_str().unwrap(), sign * line["quantity"].as_i64().unwrap());
        }
    }

    /// A command of its own key, until its final answer, which must have one of these statuses. Some are sent twice at once
    /// and some once more afterwards: every answer under a key must be the same.
    async fn post(&mut self, path: &str, body: Value, statuses: &[u16]) -> Final {
        let key = Uuid::from_u128(self.rng.random()).to_string();
        let request = Request {
            path: path.to_owned(),
            key: key.clone(),
            body: body.to_string().into_bytes(),
            asynchronous: self.rng.random_bool(0.1),
        };
        let told = if self.rng.random_bool(0.15) {
            let (one, other) = tokio::join!(self.sender().settle(&request), self.sender().settle(&request));
            self.same(&request, one, other)
        } else {
            let one = self.sender().settle(&request).await;
            self.told(one)
        };
        if self.rng.random_bool(0.1) {
            let again = self.sender().settle(&request).await;
            self.same(&request, (told.clone(), Book::default()), again);
        }
        assert!(statuses.contains(&told.status), "POST {path} ({key}) {body}: {told:?}");
        let tenant = self.tenant.id.clone();
        self.book.entries.push(Entry { tenant, key, path: request.path, told: told.clone() });
        told
    }

    fn same(&mut self, request: &Request, one: (Final, Book), other: (Final, Book)) -> Final {
        let (one, other) = (self.told(one), self.told(other));
        assert_eq!(one, other, "two answers under one key: POST {} ({})", request.path, request.key);
        self.book.count("repeats");
        one
    }

    fn told(&mut self, (told, book): (Final, Book)) -> Final {
        self.book.add(book);
        told
    }

    fn sender(&mut self) -> Sender {
        Sender {
            tenant: self.tenant.clone(),
            balancer: Arc::clone(&self.balancer),
            rng: StdRng::seed_from_u64(self.rng.next_u64()),
            book: Book::default(),
        }
    }
}

/// Sends one command until it has a final answer.
struct Sender {
    tenant: Tenant,
    balancer: Arc<Balancer>,
    rng: StdRng,
    book: Book,
}

impl Sender {
    async fn settle(mut self, request: &Request) -> (Final, Book) {
        loop {
            if let Some(told) = self.attempt(request).await {
                return (told, self.book);
            }
            sleep(Duration::from_millis(self.rng.random_range(50..400))).await;
        }
    }

    /// Sends a request to some server; what came back, unless it says nothing final.
    async fn send(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let server = self.balancer.choose(&mut self.rng);
        let tenant = self.tenant.at(&self.balancer.servers[server].0);
        let Ok(answer) = tenant.send(method, path, headers, Some(body.to_vec())).await else {
            self.balancer.has_not_answered(server);
            self.book.count("failed connections");
            return None;
        };
        // 408: a server that stood still read the request too late, and says nothing of it.
        if answer.status.is_server_error() || answer.status == StatusCode::REQUEST_TIMEOUT {
            self.book.count(answer.status.as_str());
            return None;
        }
        Some(answer)
    }

    async fn attempt(&mut self, request: &Request) -> Option<Final> {
        let mut headers = vec![
            ("idempotency-key", request.key.as_str()),
            ("content-type", "application/json"),
            // Cancelling asks for a condition; these clients set none.
            ("if-match", "*"),
        ];
        if request.asynchronous {
            headers.push(("prefer", "respond-async"));
        }
        self.book.count("tries");
        let (begun, calm) = (Instant::now(), self.balancer.calm.load(Ordering::Acquire));
        let answer = self.send(Method::POST, &request.path, &headers, &request.body).await?;
        if calm && self.balancer.calm.load(Ordering::Acquire) {
            self.book.took.push(u64::try_from(begun.elapsed().as_millis()).unwrap());
        }
        if answer.status.as_u16() == 202 {
            self.book.count("202");
            return self.follow(&answer).await;
        }
        Some(Final::new(answer.status.as_u16(), answer.header("x-twh-command-id"), answer.body.clone()))
    }

    /// Asks what became of a command, any server, until that is known; sometimes loses its patience and sends it again.
    async fn follow(&mut self, pending: &Answer) -> Option<Final> {
        while self.rng.random_bool(0.9) {
            let asked = self.send(Method::GET, pending.header("location"), &[], &[]).await;
            if let Some(Answer { status, body, .. }) = asked
                && body["status"] != "pending"
            {
                // The log has it: a 404 would be a loss. It is told as it is, and no command expects it.
                let id = body["command_id"].as_str().unwrap_or_else(|| pending.header("x-twh-command-id"));
                let status = body["http_status"].as_u64().map_or(status.as_u16(), |status| status.try_into().unwrap());
                return Some(Final::new(status, id, body["body"].clone()));
            }
            sleep(Duration::from_millis(self.rng.random_range(100..600))).await;
        }
        None
    }
}

fn at_main(name: &str, lines: &[Value]) -> Value {
    json!({ "location_code": "MAIN", name: lines })
}

/// So many seconds from now, as RFC 3339.
fn in_seconds(seconds: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let micros = i64::try_from(now.as_micros()).unwrap() + seconds * 1_000_000;
    twh_domain::timestamp::Timestamp::from_micros(micros).to_string()
}
