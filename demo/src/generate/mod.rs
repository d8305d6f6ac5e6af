//! Makes a file like the published one, for those who do not have it: the same columns, and the same dirt in about the
//! same measure. The same options make the same file on every machine: the random numbers come from one named
//! algorithm, and nothing is a float.

mod catalogue;

use crate::dataset::{Line, Price};
use anyhow::Result;
use catalogue::{Catalogue, Product};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::io::Write;
use time::{Date, Duration, Month, PrimitiveDateTime, Time, Weekday};

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Decides all that is random.
    pub seed: u64,
    /// Days of trade from 1 December 2010 on; none on Saturdays.
    pub days: u16,
    /// Rows. With 300 or more, every kind of row is there.
    pub lines: usize,
    /// Products, service codes aside. With ten times as many rows, each is sold at least once.
    pub codes: usize,
}

impl Default for GenerateOptions {
    /// As large as the published month.
    fn default() -> Self {
        Self { seed: 1, days: 23, lines: 42_000, codes: 2_800 }
    }
}

/// Which invoices are of a kind, counted from 0: every so many, from this one on.
#[derive(Clone, Copy)]
struct Every {
    nth: usize,
    from: usize,
}

impl Every {
    const fn is(self, invoice: usize) -> bool {
        invoice % self.nth == self.from
    }
}

const CANCELLATION: Every = Every { nth: 6, from: 5 };
const WRITE_OFF: Every = Every { nth: 29, from: 2 };
const FIND: Every = Every { nth: 23, from: 4 };
/// A large order of a web shop, without a customer.
const WEB_SHOP: Every = Every { nth: 97, from: 90 };
/// A sale with a row at a price of nothing for a customer.
const WITH_GIFT: Every = Every { nth: 41, from: 6 };
const ABROAD: Every = Every { nth: 12, from: 1 };
/// About a third of the rest is sold to no one by name.
const NAMELESS: Every = Every { nth: 3, from: 0 };
/// The first invoices are small, so that a small file has one of each kind.
const SMALL_UNTIL: usize = 8;
/// Every so many rows sold, the row before it stands twice.
const TWICE_EVERY: usize = 30;
/// Every so many corrections, the clerk notes why.
const NOTE_EVERY: usize = 6;

const FIRST_INVOICE: usize = 536_365;
const OPENS_AT_MINUTE: u32 = 8 * 60;
const OPEN_MINUTES: u32 = 12 * 60;
const COUNTRIES: [&str; 7] = ["Germany", "France", "EIRE", "Belgium", "Spain", "Norway", "Japan"];
const HOME: &str = "United Kingdom";
const NOTES: [&str; 6] = ["damages", "?", "check", "lost", "faulty", "amazon"];

/// Makes the rows, in time order.
#[must_use]
pub fn generate(options: GenerateOptions) -> Vec<Line> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(options.seed);
    let catalogue = Catalogue::of(&mut rng, options.codes.max(1));
    let days = open_days(options.days.max(1));
    let mut maker = Maker {
        rng,
        untouched: catalogue.shuffled(options.seed),
        // Every so many sold rows one is of a product not sold yet, until all were.
        fresh_every: (options.lines / catalogue.len().saturating_mul(2)).clamp(1, 8),
        catalogue,
        sold: Vec::new(),
        sold_rows: 0,
        corrections: 0,
    };
    let mut invoices = Vec::new();
    let mut rows = 0;
    while rows < options.lines {
        let mut invoice = maker.invoice(invoices.len());
        invoice.rows.truncate(options.lines - rows);
        rows += invoice.rows.len();
        invoices.push(invoice);
    }
    let mut moments: Vec<PrimitiveDateTime> = invoices.iter().map(|_| maker.moment(&days)).collect();
    moments.sort_unstable();
    invoices
        .into_iter()
        .zip(moments)
        .enumerate()
        .flat_map(|(nth, (invoice, moment))| invoice.lines(FIRST_INVOICE + nth, moment))
        .collect()
}

/// Writes rows as CSV in the published columns.
///
/// # Errors
/// When `writer` does.
pub fn write_csv(lines: &[Line], writer: impl Write) -> Result<()> {
    let mut csv = csv::Writer::from_writer(writer);
    csv.write_record([
        "InvoiceNo",
        "StockCode",
        "Description",
        "Quantity",
        "InvoiceDate",
        "UnitPrice",
        "CustomerID",
        "Country",
    ])?;
    for line in lines {
        let date = line.invoice_date.date();
        let (hour, minute, second) = line.invoice_date.as_hms();
        csv.write_record([
            line.invoice.as_str(),
            &line.stock_code,
            &line.description,
            &line.quantity.to_string(),
            &format!("{date} {hour:02}:{minute:02}:{second:02}"),
            &line.unit_price.to_string(),
            line.customer_id.as_deref().unwrap_or_default(),
            &line.country,
        ])?;
    }
    csv.flush()?;
    Ok(())
}

/// The days on which there is trade.
fn open_days(days: u16) -> Vec<Date> {
    let first = PrimitiveDateTime::new(first_day(), Time::MIDNIGHT);
    let mut open: Vec<Date> = (0..days)
        .map(|day| (first + Duration::days(i64::from(day))).date())
        .filter(|date| date.weekday() != Weekday::Saturday)
        .collect();
    if open.is_empty() {
        open.push(first_day());
    }
    open
}

fn first_day() -> Date {
    Date::from_calendar_date(2010, Month::December, 1).unwrap_or(Date::MIN)
}

struct Maker {
    rng: Xoshiro256PlusPlus,
    catalogue: Catalogue,
    /// Products not sold yet.
    untouched: Vec<usize>,
    fresh_every: usize,
    /// What customers bought, to be cancelled later.
    sold: Vec<Bought>,
    sold_rows: usize,
    corrections: usize,
}

#[derive(Clone)]
struct Bought {
    customer: u32,
    country: &'static str,
    row: Row,
}

#[derive(Clone)]
struct Row {
    code: String,
    description: String,
    quantity: i64,
    price: Price,
}

struct Invoice {
    cancellation: bool,
    customer: Option<u32>,
    country: &'static str,
    rows: Vec<Row>,
}

impl Invoice {
    /// A sale, a correction or the like to no one.
    fn nameless(rows: Vec<Row>) -> Self {
        Self { cancellation: false, customer: None, country: HOME, rows }
    }

    fn lines(self, number: usize, moment: PrimitiveDateTime) -> impl Iterator<Item = Line> {
        let invoice = if self.cancellation { format!("C{number}") } else { number.to_string() };
        self.rows.into_iter().map(move |row| Line {
            invoice: invoice.clone(),
            stock_code: row.code,
            description: row.description,
            quantity: row.quantity,
            invoice_date: moment,
            unit_price: row.price,
            customer_id: self.customer.map(|customer| customer.to_string()),
            country: self.country.to_owned(),
        })
    }
}

impl Maker {
    fn invoice(&mut self, nth: usize) -> Invoice {
        if WRITE_OFF.is(nth) {
            return Invoice::nameless(vec![negated(self.correction())]);
        }
        if FIND.is(nth) {
            return Invoice::nameless(vec![self.correction()]);
        }
        if CANCELLATION.is(nth) {
            return self.cancellation();
        }
        if WEB_SHOP.is(nth) {
            return self.web_shop_order();
        }
        self.sale(nth)
    }

    fn one_in(&mut self, every: u32) -> bool {
        self.rng.random_range(0..every) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T], or: T) -> T {
        let at = self.rng.random_range(0..from.len().max(1));
        from.get(at).copied().unwrap_or(or)
    }

    /// Within trading hours, most often around the middle of the day.
    fn moment(&mut self, days: &[Date]) -> PrimitiveDateTime {
        let date = self.pick(days, first_day());
        let half = OPEN_MINUTES / 2;
        let minute = OPENS_AT_MINUTE + self.rng.random_range(0..half) + self.rng.random_range(0..half);
        PrimitiveDateTime::new(date, Time::MIDNIGHT) + Duration::minutes(i64::from(minute))
    }

    /// By demand, or one that has not been sold yet.
    fn product(&mut self) -> Product {
        let fresh = if self.sold_rows.is_multiple_of(self.fresh_every) { self.untouched.pop() } else { None };
        match fresh {
            Some(product) => self.catalogue.get(product),
            None => self.catalogue.by_demand(&mut self.rng),
        }
    }

    /// Small numbers most often, dozens and grosses now and then.
    fn quantity(&mut self) -> i64 {
        match self.rng.random_range(0..20) {
            0..9 => self.rng.random_range(1..=4),
            9..17 => self.pick(&[6, 6, 8, 10, 12, 12, 24], 12),
            17..19 => self.pick(&[25, 36, 48, 60, 72], 48),
            _ => self.pick(&[96, 100, 144, 240], 144),
        }
    }

    fn goods(&mut self) -> Row {
        let product = self.product();
        let quantity = self.quantity();
        Row { code: product.code, description: product.name, quantity, price: product.price }
    }

    /// So many rows of goods; now and then a code stands twice.
    fn basket(&mut self, size: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::with_capacity(size);
        for _ in 0..size {
            self.sold_rows += 1;
            let row = match rows.last() {
                Some(earlier) if self.sold_rows.is_multiple_of(TWICE_EVERY) => {
                    Row { quantity: self.quantity(), ..earlier.clone() }
                }
                _ => self.goods(),
            };
            rows.push(row);
        }
        rows
    }

    fn sale(&mut self, nth: usize) -> Invoice {
        let most = if nth < SMALL_UNTIL { 20 } else { self.pick(&[6, 15, 30, 60, 120], 20) };
        let size = self.rng.random_range(1..=most);
        let mut rows = self.basket(size);
        let abroad = ABROAD.is(nth);
        let with_gift = WITH_GIFT.is(nth);
        let country = if abroad { self.pick(&COUNTRIES, HOME) } else { HOME };
        if abroad {
            rows.push(service("POST", "POSTAGE", self.rng.random_range(1..=3), 1_800));
        } else if self.one_in(25) {
            rows.push(match self.rng.random_range(0..4) {
                0 => service("C2", "CARRIAGE", 1, 5_000),
                1 => service("AMAZONFEE", "AMAZON FEE", 1, 1_354_133),
                2 => service("BANK CHARGES", "Bank Charges", 1, 1_500),
                _ => service("M", "Manual", 1, 255),
            });
        }
        let nameless = NAMELESS.is(nth) && !with_gift;
        let customer = (!nameless).then(|| self.rng.random_range(12_346..=18_287));
        if with_gift && let Some(first) = rows.first_mut() {
            first.price = Price::ZERO;
        }
        if let Some(customer) = customer {
            let bought = rows.iter().map(|row| Bought { customer, country, row: row.clone() });
            self.sold.extend(bought);
        }
        Invoice { cancellation: false, customer, country, rows }
    }

    fn web_shop_order(&mut self) -> Invoice {
        let size = self.rng.random_range(100..=400);
        let mut rows = self.basket(size);
        rows.push(service("gift_0001_40", "Dotcomgiftshop Gift Voucher £40.00", 1, 3_404));
        rows.push(service("DOT", "DOTCOM POSTAGE", 1, 56_977));
        Invoice::nameless(rows)
    }

    /// Takes back some or all of what a customer bought, or what no row shows, or gives a discount.
    fn cancellation(&mut self) -> Invoice {
        let place = self.rng.random_range(0..self.sold.len().max(1));
        let origin = self.sold.get(place).cloned();
        let known = !self.one_in(4);
        let (Some(origin), true) = (origin, known) else {
            let row = if self.one_in(3) { service("D", "Discount", 1, 2_750) } else { self.goods() };
            let customer = Some(self.rng.random_range(12_346..=18_287));
            return Invoice { cancellation: true, customer, country: HOME, rows: vec![negated(row)] };
        };
        let count = self.rng.random_range(1..=4);
        let basket = self.sold.iter().skip(place).take(count).filter(|bought| bought.customer == origin.customer);
        let mut rows: Vec<Row> = basket.map(|bought| negated(bought.row.clone())).collect();
        if self.one_in(2)
            && let Some(row) = rows.first_mut()
        {
            row.quantity = (row.quantity / 2).min(-1);
        }
        Invoice { cancellation: true, customer: Some(origin.customer), country: origin.country, rows }
    }

    /// What a clerk writes on a correction: mostly nothing.
    fn note(&mut self) -> String {
        self.corrections += 1;
        if self.corrections.is_multiple_of(NOTE_EVERY) { self.pick(&NOTES, "?").to_owned() } else { String::new() }
    }

    fn correction(&mut self) -> Row {
        let quantity = self.quantity();
        Row {
            code: self.catalogue.by_demand(&mut self.rng).code,
            description: self.note(),
            quantity,
            price: Price::ZERO,
        }
    }
}

fn service(code: &str, description: &str, quantity: i64, pence: i32) -> Row {
    Row { code: code.to_owned(), description: description.to_owned(), quantity, price: Price::from_pence(pence) }
}

fn negated(row: Row) -> Row {
    Row { quantity: -row.quantity, ..row }
}

#[cfg(test)]
mod tests;
