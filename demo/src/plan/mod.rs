//! From the rows to what a client sends: the items, the opening stock and, in time order, each invoice's documents.
//!
//! Pure: the same rows give the same plan. It must never make a plan that can run out of stock or return what was not
//! shipped, in whatever order documents in flight are taken.

use crate::dataset::{Line, Price};
use crate::kind::{Kind, is_service, stock_change};
use std::collections::{BTreeMap, HashMap, HashSet};
use time::{Duration, PrimitiveDateTime};

/// Most lines that the API takes in one document.
const LINES_MAX: usize = 1_000;
/// Longest name and reason that the API takes, in characters.
const TEXT_LENGTH_MAX: usize = 255;
/// Received beyond what trade takes out: a tenth, and at least this many.
const MARGIN_MIN: i64 = 10;
/// Goods arrive this long before the first invoice.
const OPENED_BEFORE: Duration = Duration::DAY;
/// Why stock was corrected, where the row does not say.
const DEFAULT_REASON: &str = "stock correction";

/// All that a run sends.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Every code of the file, in the order of its first row.
    pub(crate) items: Vec<Item>,
    /// What is received of each item that holds stock.
    pub(crate) opening: Vec<(String, i64)>,
    /// When it is received.
    pub(crate) opened_at: Option<PrimitiveDateTime>,
    /// Documents in time order.
    pub(crate) steps: Vec<Step>,
}

/// An item to create.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) service: bool,
    pub(crate) sale_price: Option<Price>,
}

/// One document.
#[derive(Debug)]
pub(crate) struct Step {
    /// Its number: the invoice's, and a count from 2 where the invoice needs several of one kind.
    pub(crate) number: String,
    pub(crate) customer: Option<String>,
    pub(crate) occurred_at: PrimitiveDateTime,
    pub(crate) document: Document,
}

/// What a document is.
#[derive(Debug)]
pub(crate) enum Document {
    /// A sales order: created, allocated and shipped.
    Order { lines: Vec<OrderLine> },
    /// A return of what the step at `order` shipped.
    Return { order: usize, lines: Vec<ReturnLine> },
    /// A return of goods whose sale the file does not show.
    BlindReturn { lines: Vec<Quantity> },
    /// A correction; its quantities are signed.
    Adjustment { reason: String, lines: Vec<Quantity> },
}

#[derive(Debug)]
pub(crate) struct OrderLine {
    pub(crate) sku: String,
    pub(crate) quantity: i64,
    pub(crate) unit_price: Price,
}

#[derive(Debug)]
pub(crate) struct ReturnLine {
    /// From 1.
    pub(crate) order_line: usize,
    pub(crate) quantity: i64,
}

#[derive(Debug)]
pub(crate) struct Quantity {
    pub(crate) sku: String,
    pub(crate) quantity: i64,
}

impl Step {
    /// How many rows of the file it stands for.
    pub(crate) fn line_count(&self) -> usize {
        match &self.document {
            Document::Order { lines } => lines.len(),
            Document::Return { lines, .. } => lines.len(),
            Document::BlindReturn { lines } | Document::Adjustment { lines, .. } => lines.len(),
        }
    }
}

impl Plan {
    /// Plans the whole file.
    pub(crate) fn of(lines: &[Line]) -> Self {
        let names = Names::of(lines);
        let items = items(lines, &names);
        let opening = opening(lines, &items);
        let mut trade = Trade { names: &names, sold: HashMap::new(), steps: Vec::new() };
        for (number, rows) in invoices(lines) {
            trade.invoice(number, &rows);
        }
        let opened_at = lines.iter().map(|line| line.invoice_date).min().map(|first| first - OPENED_BEFORE);
        Self { items, opening, opened_at, steps: trade.steps }
    }
}

/// The rows of each invoice, the invoices in the order of their first row's time.
fn invoices(lines: &[Line]) -> Vec<(&str, Vec<&Line>)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut invoices: Vec<(&str, Vec<&Line>)> = Vec::new();
    for line in lines {
        let place = *places.entry(&line.invoice).or_insert(invoices.len());
        match invoices.get_mut(place) {
            Some((_, rows)) => rows.push(line),
            None => invoices.push((&line.invoice, vec![line])),
        }
    }
    invoices.sort_by_key(|(_, rows)| rows.first().map(|line| line.invoice_date));
    invoices
}

/// A text as the API takes it: one line, no control characters, not too long.
fn clean(text: &str) -> String {
    let visible = text.replace(char::is_control, " ");
    let words: Vec<&str> = visible.split_whitespace().collect();
    words.join(" ").chars().take(TEXT_LENGTH_MAX).collect()
}

/// What each product is called.
struct Names<'a> {
    most_frequent: HashMap<&'a str, &'a str>,
    /// Descriptions on priced rows, which tell the product from a clerk's note ("damages", "?").
    priced: HashSet<(&'a str, &'a str)>,
}

impl<'a> Names<'a> {
    fn of(lines: &'a [Line]) -> Self {
        let mut counts: HashMap<&str, BTreeMap<&str, usize>> = HashMap::new();
        let mut priced = HashSet::new();
        for line in lines.iter().filter(|line| !line.description.is_empty()) {
            let code = line.stock_code.as_str();
            let description = line.description.as_str();
            *counts.entry(code).or_default().entry(description).or_default() += 1;
            if line.unit_price.is_positive() {
                priced.insert((code, description));
            }
        }
        let most_frequent = counts
            .into_iter()
            .filter_map(|(code, counts)| {
                counts.into_iter().max_by_key(|(_, count)| *count).map(|(description, _)| (code, description))
            })
            .collect();
        Self { most_frequent, priced }
    }

    fn name(&self, code: &str) -> String {
        let name = self.most_frequent.get(code).map(|name| clean(name)).unwrap_or_default();
        if name.is_empty() { clean(code) } else { name }
    }

    /// The note on a correction, if its description is one and not the product's name.
    fn reason(&self, line: &Line) -> String {
        let note = clean(&line.description);
        if note.is_empty() || self.priced.contains(&(line.stock_code.as_str(), line.description.as_str())) {
            DEFAULT_REASON.to_owned()
        } else {
            note
        }
    }
}

fn items(lines: &[Line], names: &Names<'_>) -> Vec<Item> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut items: Vec<Item> = Vec::new();
    for line in lines {
        let code = line.stock_code.as_str();
        let price = line.unit_price.is_positive().then_some(line.unit_price);
        let place = *places.entry(code).or_insert(items.len());
        match items.get_mut(place) {
            Some(item) => item.sale_price = item.sale_price.or(price),
            None => items.push(Item {
                sku: code.to_owned(),
                name: names.name(code),
                service: is_service(code),
                sale_price: price,
            }),
        }
    }
    items
}

/// What to receive of each item: all that will ever leave, as if nothing came back, and a margin.
///
/// The deepest running deficit in the file's order would do if documents were taken one by one. With many in flight a
/// return may be taken after a sale that stands behind it in the file, so none of them is counted on.
fn opening(lines: &[Line], items: &[Item]) -> Vec<(String, i64)> {
    let mut leaving: HashMap<&str, i64> = HashMap::new();
    for line in lines {
        *leaving.entry(&line.stock_code).or_default() += (-stock_change(line)).max(0);
    }
    let stocked = items.iter().filter(|item| !item.service);
    stocked
        .map(|item| {
            let leaving = leaving.get(item.sku.as_str()).copied().unwrap_or_default();
            (item.sku.clone(), leaving + (leaving / 10).max(MARGIN_MIN))
        })
        .collect()
}

/// A shipped order line that a later return may refer to.
struct Sold {
    step: usize,
    order_line: usize,
    not_returned: i64,
}

struct Trade<'a> {
    names: &'a Names<'a>,
    /// By customer and code, oldest first.
    sold: HashMap<(String, String), Vec<Sold>>,
    steps: Vec<Step>,
}

impl Trade<'_> {
    fn invoice(&mut self, number: &str, rows: &[&Line]) {
        let Some(first) = rows.first() else { return };
        let paper = Paper {
            number,
            customer: rows.iter().find_map(|row| row.customer_id.clone()),
            occurred_at: first.invoice_date,
        };
        let of_kind = |kinds: &[Kind]| -> Vec<&Line> {
            rows.iter().copied().filter(|row| kinds.contains(&Kind::of(row))).collect()
        };
        self.orders(&paper, &of_kind(&[Kind::Sale]));
        self.returns(&paper, &of_kind(&[Kind::Return]));
        self.adjustments(&paper, &of_kind(&[Kind::WriteOff, Kind::Find, Kind::Correction]));
    }

    fn orders(&mut self, paper: &Paper<'_>, rows: &[&Line]) {
        for (nth, rows) in rows.chunks(LINES_MAX).enumerate() {
            let step = self.steps.len();
            for (index, row) in rows.iter().enumerate() {
                if let Some(customer) = &paper.customer {
                    let sold = Sold { step, order_line: index + 1, not_returned: row.quantity };
                    self.sold.entry((customer.clone(), row.stock_code.clone())).or_default().push(sold);
                }
            }
            let lines = rows
                .iter()
                .map(|row| OrderLine {
                    sku: row.stock_code.clone(),
                    quantity: row.quantity,
                    unit_price: row.unit_price,
                })
                .collect();
            self.steps.push(paper.step(nth, Document::Order { lines }));
        }
    }

    /// One return for each order that goods come back from, and one for goods of unknown origin.
    fn returns(&mut self, paper: &Paper<'_>, rows: &[&Line]) {
        let mut matched: BTreeMap<usize, Vec<ReturnLine>> = BTreeMap::new();
        let mut blind = Vec::new();
        for row in rows {
            let quantity = -row.quantity;
            match self.take_back(paper.customer.as_ref(), &row.stock_code, quantity) {
                Some((order, order_line)) => {
                    matched.entry(order).or_default().push(ReturnLine { order_line, quantity });
                }
                None => blind.push(Quantity { sku: row.stock_code.clone(), quantity }),
            }
        }
        let mut documents = Vec::new();
        for (order, lines) in matched {
            documents.extend(chunked(lines).map(|lines| Document::Return { order, lines }));
        }
        documents.extend(chunked(blind).map(|lines| Document::BlindReturn { lines }));
        for (nth, document) in documents.into_iter().enumerate() {
            self.steps.push(paper.step(nth, document));
        }
    }

    /// The latest earlier order line of the customer that shipped so many of the code and has not had them back.
    fn take_back(&mut self, customer: Option<&String>, code: &str, quantity: i64) -> Option<(usize, usize)> {
        let sold = self.sold.get_mut(&(customer?.clone(), code.to_owned()))?;
        let line = sold.iter_mut().rev().find(|line| line.not_returned >= quantity)?;
        line.not_returned -= quantity;
        Some((line.step, line.order_line))
    }

    fn adjustments(&mut self, paper: &Paper<'_>, rows: &[&Line]) {
        let mut by_reason: BTreeMap<String, Vec<Quantity>> = BTreeMap::new();
        for row in rows {
            let line = Quantity { sku: row.stock_code.clone(), quantity: stock_change(row) };
            by_reason.entry(self.names.reason(row)).or_default().push(line);
        }
        let mut nth = 0;
        for (reason, lines) in by_reason {
            for lines in chunked(lines) {
                self.steps.push(paper.step(nth, Document::Adjustment { reason: reason.clone(), lines }));
                nth += 1;
            }
        }
    }
}

/// What all documents of an invoice share.
struct Paper<'a> {
    number: &'a str,
    customer: Option<String>,
    occurred_at: PrimitiveDateTime,
}

impl Paper<'_> {
    fn step(&self, nth: usize, document: Document) -> Step {
        let number = if nth == 0 { self.number.to_owned() } else { format!("{}-{}", self.number, nth + 1) };
        Step { number, customer: self.customer.clone(), occurred_at: self.occurred_at, document }
    }
}

fn chunked<T>(lines: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut rest = lines.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = rest.by_ref().take(LINES_MAX).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests;
