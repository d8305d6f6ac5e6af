//! Plays a file through the API and checks what is left.
//!
//! Documents are sent in the file's order, many of them in flight at once. The order in which the server takes those
//! in flight does not matter: the opening stock covers all that leaves, and a return waits until its order has shipped.

use crate::client::{BatchEntry, Client};
use crate::dataset::{Line, Price};
use crate::decimal::Exact;
use crate::plan::{Document, Item, OrderLine, Plan, Quantity, ReturnLine, Step};
use crate::progress::Progress;
use crate::reconcile::{self, Closing, expected_closing};
use crate::summary::{Counts, Summary};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::PrimitiveDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Items in one batch of creations, and lines on one purchase order.
const CHUNK: usize = 500;
/// Rows of one page of a list.
const PAGE: &str = "1000";
const LOCATION: &str = "MAIN";
const SUPPLIER: &str = "OPENING";
const CURRENCY: &str = "GBP";

/// What to play, and where.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where the API answers, such as `http://127.0.0.1:8080`.
    pub base_url: String,
    /// A key of a tenant without items, locations and documents.
    pub api_key: String,
    /// The file.
    pub lines: Vec<Line>,
    /// Plays only the file's first lines, so many.
    pub limit: Option<usize>,
    /// Documents in flight at once.
    pub concurrency: usize,
    /// Whether to tell on stderr how far it is.
    pub progress: bool,
    /// How long one request is sent again before the run gives up.
    pub retry_for: Duration,
    /// Begins every `Idempotency-Key`: the same run played again is answered from the server's memory.
    pub run_id: String,
}

impl RunOptions {
    /// The whole file, 32 documents in flight, two minutes of patience, under a new run id.
    #[must_use]
    pub fn new(base_url: impl Into<String>, api_key: impl Into<String>, lines: Vec<Line>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: api_key.into(),
            lines,
            limit: None,
            concurrency: 32,
            progress: true,
            retry_for: Duration::from_secs(120),
            run_id: Uuid::now_v7().to_string(),
        }
    }
}

/// Plays the file and checks every closing quantity. That some do not agree is no error: the summary says so.
///
/// # Errors
/// When a request is refused, or not answered for as long as there is patience.
pub async fn run(mut options: RunOptions) -> Result<Summary> {
    options.lines.truncate(options.limit.unwrap_or(usize::MAX));
    ensure!(!options.lines.is_empty(), "there are no lines to play");
    let plan = Plan::of(&options.lines);
    let total = u64::try_from(options.lines.len())?;
    let progress = Arc::new(Progress::new(total, options.progress));
    let client = Client::new(&options.base_url, &options.api_key, options.retry_for, Arc::clone(&progress))?;
    let shipped = plan.steps.iter().map(|_| watch::Sender::new(None)).collect();
    let concurrency = options.concurrency.max(1);
    let run = Arc::new(Run { client, plan, shipped, progress, run_id: options.run_id, concurrency });
    let summary = run.play(&options.lines).await;
    run.progress.finish();
    summary
}

struct Run {
    client: Client,
    plan: Plan,
    /// For each step that is an order: its id, once it has shipped.
    shipped: Vec<watch::Sender<Option<String>>>,
    progress: Arc<Progress>,
    run_id: String,
    concurrency: usize,
}

impl Run {
    async fn play(self: &Arc<Self>, lines: &[Line]) -> Result<Summary> {
        let started = Instant::now();
        self.progress.stage("creating items");
        let item_ids = self.create_items().await?;
        self.progress.stage("receiving the opening stock");
        let purchase_orders = self.receive_opening_stock().await?;
        self.progress.stage("trading");
        self.trade(lines.len()).await?;
        let elapsed = started.elapsed();
        self.progress.stage("checking every closing quantity");
        let (closing, movements) = self.closing().await?;

        let received: HashMap<String, i64> = self.plan.opening.iter().cloned().collect();
        let expected = expected_closing(lines, &received);
        let mut disagreements = Vec::new();
        for (sku, expected) in &expected {
            let item_id = item_ids.get(*sku).with_context(|| format!("{sku} was never created"))?;
            let actual = closing.get(item_id).copied().unwrap_or_default();
            disagreements.extend(reconcile::compare(sku, *expected, actual));
        }
        let mut counts = Counts::of(lines, &self.plan);
        counts.purchase_orders = purchase_orders;
        counts.sent_again = self.client.resent();
        let commands = self.progress.commands();
        Ok(Summary::new(lines.len(), commands, expected.len(), disagreements, movements, elapsed, counts))
    }

    /// Runs tasks in their order, so many at once. The first failure ends all.
    async fn in_flight<T>(&self, tasks: impl Iterator<Item = T>) -> Result<()>
    where
        T: Future<Output = Result<()>> + Send + 'static,
    {
        let mut flying = JoinSet::new();
        for task in tasks {
            if flying.len() >= self.concurrency
                && let Some(landed) = flying.join_next().await
            {
                landed??;
            }
            flying.spawn(task);
        }
        while let Some(landed) = flying.join_next().await {
            landed??;
        }
        Ok(())
    }

    fn key(&self, what: &str) -> String {
        format!("{}-{what}", self.run_id)
    }

    /// Creates every item, in batches; their ids by SKU.
    async fn create_items(&self) -> Result<HashMap<&str, String>> {
        let mut ids = HashMap::new();
        for (batch, items) in self.plan.items.chunks(CHUNK).enumerate() {
            let entries: Vec<BatchEntry> = items
                .iter()
                .enumerate()
                .map(|(nth, item)| BatchEntry {
                    kind: "item.create",
                    key: self.key(&format!("item-{}", batch * CHUNK + nth + 1)),
                    body: item_body(item),
                })
                .collect();
            let created = self.client.batch(&entries).await?;
            for (item, created) in items.iter().zip(created) {
                ids.insert(item.sku.as_str(), id_of(&created)?);
            }
        }
        Ok(ids)
    }

    /// Orders and receives what trade will need; how many purchase orders that took.
    async fn receive_opening_stock(self: &Arc<Self>) -> Result<usize> {
        let location = json!({"code": LOCATION, "name": "Main warehouse"});
        self.client.command("/v1/locations", &self.key("location"), &location).await?;
        let supplier = json!({"code": SUPPLIER, "name": "Opening stock"});
        let supplier = self.client.command("/v1/suppliers", &self.key("supplier"), &supplier).await?;
        let supplier_id = id_of(&supplier)?;
        let count = self.plan.opening.len().div_ceil(CHUNK);
        self.in_flight((0..count).map(|nth| Arc::clone(self).receive(nth, supplier_id.clone()))).await?;
        Ok(count)
    }

    async fn receive(self: Arc<Self>, nth: usize, supplier_id: String) -> Result<()> {
        let number = format!("{SUPPLIER}-{}", nth + 1);
        let lines: Vec<Value> = self
            .plan
            .opening
            .iter()
            .skip(nth * CHUNK)
            .take(CHUNK)
            .map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity.to_string()}))
            .collect();
        let body = json!({"number": number, "supplier_id": supplier_id, "location_code": LOCATION, "lines": lines});
        let created = self.client.command("/v1/purchase_orders", &self.key(&format!("{number}-create")), &body).await?;
        let path = format!("/v1/purchase_orders/{}", id_of(&created)?);
        let key = self.key(&format!("{number}-order"));
        self.client.command(&format!("{path}/order"), &key, &json!({})).await?;
        let occurred_at = self.plan.opened_at.map(rfc3339);
        let key = self.key(&format!("{number}-receive"));
        self.client.command(&format!("{path}/receive"), &key, &json!({"occurred_at": occurred_at})).await?;
        Ok(())
    }

    /// Sends every document of a file of so many lines, in order, so many at once.
    async fn trade(self: &Arc<Self>, lines: usize) -> Result<()> {
        let planned: usize = self.plan.steps.iter().map(Step::line_count).sum();
        self.progress.advance(lines.saturating_sub(planned));
        self.in_flight((0..self.plan.steps.len()).map(|nth| Arc::clone(self).step(nth))).await
    }

    async fn step(self: Arc<Self>, nth: usize) -> Result<()> {
        let step = self.plan.steps.get(nth).context("there is no such step")?;
        // The number tells a reader of the log which invoice it is; the count makes it one of a kind.
        let visible: String =
            step.number.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).take(64).collect();
        let key = self.key(&format!("{}-{visible}", nth + 1));
        match &step.document {
            Document::Order { lines } => {
                let id = self.ship_order(&key, step, lines).await?;
                self.shipped.get(nth).context("an order stands outside the plan")?.send_replace(Some(id));
            }
            Document::Return { order, lines } => {
                let order = self.shipped.get(*order).context("a return names an order outside the plan")?;
                // Its order stands earlier in the plan and so is under way; should it fail, the whole run stops.
                let order_id = order.subscribe().wait_for(Option::is_some).await?.clone();
                let body = return_body(step, order_id.as_deref(), lines.iter().map(order_return_line).collect());
                self.client.command("/v1/returns", &key, &body).await?;
            }
            Document::BlindReturn { lines } => {
                let body = return_body(step, None, lines.iter().map(blind_return_line).collect());
                self.client.command("/v1/returns", &key, &body).await?;
            }
            Document::Adjustment { reason, lines } => {
                let lines: Vec<Value> = lines.iter().map(quantity_line).collect();
                let body = json!({
                    "number": step.number,
                    "location_code": LOCATION,
                    "reason": reason,
                    "lines": lines,
                    "occurred_at": rfc3339(step.occurred_at),
                });
                self.client.command("/v1/adjustments", &key, &body).await?;
            }
        }
        self.progress.advance(step.line_count());
        Ok(())
    }

    /// Creates, allocates and ships an order; its id.
    async fn ship_order(&self, key: &str, step: &Step, lines: &[OrderLine]) -> Result<String> {
        let occurred_at = rfc3339(step.occurred_at);
        let lines: Vec<Value> = lines.iter().map(order_line).collect();
        let mut body = json!({
            "number": step.number,
            "location_code": LOCATION,
            "lines": lines,
            "occurred_at": occurred_at,
        });
        set(&mut body, "customer_reference", step.customer.clone().map(Value::String));
        let order = self.client.command("/v1/sales_orders", &format!("{key}-create"), &body).await?;
        let id = id_of(&order)?;
        for action in ["allocate", "ship"] {
            let path = format!("/v1/sales_orders/{id}/{action}");
            self.client.command(&path, &format!("{key}-{action}"), &json!({"occurred_at": occurred_at})).await?;
        }
        Ok(id)
    }

    /// What the server says of every item at the end, and how many movements its ledger holds.
    async fn closing(&self) -> Result<(HashMap<String, Closing>, u64)> {
        let mut closing: HashMap<String, Closing> = HashMap::new();
        let levels = self.pages("/v1/stock", |level: Level| {
            let item = closing.entry(level.item_id).or_default();
            item.on_hand.add(Exact::parse(&level.qty_on_hand)?);
            item.reserved.add(Exact::parse(&level.qty_reserved)?);
            Ok(())
        });
        levels.await?;
        let mut movements: u64 = 0;
        let ledger = self.pages("/v1/movements", |movement: Movement| {
            movements += 1;
            closing.entry(movement.item_id).or_default().ledger.add(Exact::parse(&movement.change_on_hand)?);
            Ok(())
        });
        ledger.await?;
        Ok((closing, movements))
    }

    /// Reads a list to its end.
    async fn pages<T: DeserializeOwned>(&self, path: &str, mut each: impl FnMut(T) -> Result<()>) -> Result<()> {
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("limit", PAGE)];
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page: Page<T> = self.client.get(path, &query).await?;
            page.data.into_iter().try_for_each(&mut each)?;
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Level {
    item_id: String,
    qty_on_hand: String,
    qty_reserved: String,
}

#[derive(Deserialize)]
struct Movement {
    item_id: String,
    change_on_hand: String,
}

fn id_of(resource: &Value) -> Result<String> {
    let id = resource.get("id").and_then(Value::as_str).context("the server answered a resource without an id")?;
    Ok(id.to_owned())
}

fn rfc3339(moment: PrimitiveDateTime) -> String {
    let (year, month, day) = (moment.year(), u8::from(moment.month()), moment.day());
    let (hour, minute, second) = moment.as_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn money(price: Price) -> Value {
    json!({"amount": price.to_string(), "currency": CURRENCY})
}

/// Sets a field that may be absent.
fn set(body: &mut Value, field: &str, value: Option<Value>) {
    if let (Some(fields), Some(value)) = (body.as_object_mut(), value) {
        fields.insert(field.to_owned(), value);
    }
}

fn item_body(item: &Item) -> Value {
    let item_type = if item.service { "service" } else { "stock" };
    let mut body = json!({"sku": item.sku, "name": item.name, "type": item_type});
    set(&mut body, "sale_price", item.sale_price.map(money));
    body
}

fn quantity_line(line: &Quantity) -> Value {
    json!({"sku": line.sku, "quantity": line.quantity.to_string()})
}

fn order_line(line: &OrderLine) -> Value {
    let mut body = json!({"sku": line.sku, "quantity": line.quantity.to_string()});
    // Bad debt has a price below nothing, which is no price to sell at.
    set(&mut body, "unit_price", (!line.unit_price.is_negative()).then(|| money(line.unit_price)));
    body
}

fn order_return_line(line: &ReturnLine) -> Value {
    json!({"order_line": line.order_line, "quantity": line.quantity.to_string(), "disposition": "restock"})
}

fn blind_return_line(line: &Quantity) -> Value {
    json!({"sku": line.sku, "quantity": line.quantity.to_string(), "disposition": "restock"})
}

fn return_body(step: &Step, order_id: Option<&str>, lines: Vec<Value>) -> Value {
    let mut body = json!({
        "number": step.number,
        "location_code": LOCATION,
        "lines": lines,
        "occurred_at": rfc3339(step.occurred_at),
    });
    set(&mut body, "sales_order_id", order_id.map(Value::from));
    body
}

#[cfg(test)]
mod tests {
    use super::{RunOptions, run};
    use crate::generate::{GenerateOptions, generate};
    use std::time::Duration;

    /// A caller may play several tenants at once, each on a task of its own.
    #[test]
    fn a_run_may_move_between_threads() {
        fn moves<T: Send>(_: T) {}
        moves(run(RunOptions::new("http://127.0.0.1:1", "key", Vec::new())));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_tried_again_and_then_named() {
        let lines = generate(GenerateOptions { lines: 10, ..GenerateOptions::default() });
        let mut options = RunOptions::new("http://127.0.0.1:1", "key", lines);
        options.progress = false;
        options.retry_for = Duration::from_millis(150);
        let error = run(options).await.unwrap_err().to_string();
        assert!(
            error.starts_with("POST /v1/commands:batch: given up after 150ms of trying: Connection refused"),
            "{error}"
        );
    }
}
