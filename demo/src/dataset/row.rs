//! From the texts of a row to a [`Line`]. The same for CSV and for workbooks.

use super::{Line, Price};
use anyhow::{Context, Result, bail, ensure};
use time::{Date, Duration, Month, PrimitiveDateTime, Time};

/// More units than this on one row is a slip of the pen, and the API would refuse it.
const QUANTITY_MAX: i64 = 999_999_999_999;

/// Each column's names: the published one, and the one of the later edition of the data.
const COLUMNS: [(&str, &str); 8] = [
    ("InvoiceNo", "Invoice"),
    ("StockCode", "StockCode"),
    ("Description", "Description"),
    ("Quantity", "Quantity"),
    ("InvoiceDate", "InvoiceDate"),
    ("UnitPrice", "Price"),
    ("CustomerID", "Customer ID"),
    ("Country", "Country"),
];

/// Where each column stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    invoice: usize,
    stock_code: usize,
    description: usize,
    quantity: usize,
    invoice_date: usize,
    unit_price: usize,
    customer_id: usize,
    country: usize,
}

/// A heading without case, blanks, punctuation and byte order mark.
fn bare(heading: &str) -> String {
    heading.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

impl Columns {
    /// Finds the columns by their headings, in any order, beside any others.
    pub(super) fn find(headings: &[String]) -> Result<Self> {
        let headings: Vec<String> = headings.iter().map(|heading| bare(heading)).collect();
        let at = |name: &str| headings.iter().position(|heading| *heading == bare(name));
        let found = COLUMNS.map(|(name, other)| at(name).or_else(|| at(other)));
        let [
            Some(invoice),
            Some(stock_code),
            Some(description),
            Some(quantity),
            Some(invoice_date),
            Some(unit_price),
            Some(customer_id),
            Some(country),
        ] = found
        else {
            let missing: Vec<&str> =
                COLUMNS.iter().zip(found).filter(|(_, at)| at.is_none()).map(|((name, _), _)| *name).collect();
            bail!("the file has no column {}", missing.join(", "));
        };
        Ok(Self { invoice, stock_code, description, quantity, invoice_date, unit_price, customer_id, country })
    }

    /// Reads one row.
    pub(super) fn line(&self, cells: &[String]) -> Result<Line> {
        let cell = |column: usize| cells.get(column).map_or("", |text| text.trim());
        let invoice = cell(self.invoice);
        ensure!(!invoice.is_empty(), "InvoiceNo is empty");
        let stock_code = cell(self.stock_code);
        ensure!(!stock_code.is_empty(), "StockCode is empty");
        let quantity = cell(self.quantity);
        let date = cell(self.invoice_date);
        let price = cell(self.unit_price);
        Ok(Line {
            invoice: invoice.to_owned(),
            stock_code: stock_code.to_owned(),
            description: cell(self.description).to_owned(),
            quantity: whole_number(quantity)
                .with_context(|| format!("Quantity {quantity:?} is not a whole number within ±10^12"))?,
            invoice_date: date_and_time(date)
                .with_context(|| format!("InvoiceDate {date:?} is not a date and time such as 2010-12-01 08:26:00"))?,
            unit_price: Price::parse(price)
                .with_context(|| format!("UnitPrice {price:?} is not a decimal of at most four decimals"))?,
            customer_id: customer(cell(self.customer_id)),
            country: cell(self.country).to_owned(),
        })
    }
}

fn whole_number(text: &str) -> Option<i64> {
    let quantity: i64 = without_zero_fraction(text).parse().ok()?;
    (-QUANTITY_MAX..=QUANTITY_MAX).contains(&quantity).then_some(quantity)
}

/// Tools that keep numbers as floats write 17850 as `17850.0`.
fn without_zero_fraction(text: &str) -> &str {
    match text.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|byte| byte == b'0') => whole,
        _ => text,
    }
}

fn customer(text: &str) -> Option<String> {
    let number = without_zero_fraction(text);
    (!number.is_empty()).then(|| number.to_owned())
}

/// Year first (`2010-12-01 08:26:00`, `2010-12-01T08:26:00`), or month first as in the published CSV
/// (`12/1/2010 8:26`). Rounded to the second: a workbook keeps 08:26:00 as a float that is a little less.
fn date_and_time(text: &str) -> Option<PrimitiveDateTime> {
    let separators = ['-', '/', ' ', 'T', ':', '.', 'Z'];
    let parts: Vec<&str> = text.split(separators).filter(|part| !part.is_empty()).collect();
    let (date, clock) = parts.split_at_checked(3)?;
    let &[first, second, third] = date else { return None };
    let (year, month, day) = if first.len() == 4 { (first, second, third) } else { (third, first, second) };
    let (hour, minute, second, fraction) = match *clock {
        [] => ("0", "0", "0", ""),
        [hour, minute] => (hour, minute, "0", ""),
        [hour, minute, second] => (hour, minute, second, ""),
        [hour, minute, second, fraction] => (hour, minute, second, fraction),
        _ => return None,
    };
    let number = |part: &str| part.parse::<u8>().ok();
    let month = Month::try_from(number(month)?).ok()?;
    let date = Date::from_calendar_date(full_year(year)?, month, number(day)?).ok()?;
    let moment = PrimitiveDateTime::new(date, Time::from_hms(number(hour)?, number(minute)?, number(second)?).ok()?);
    let rounding = if fraction.starts_with(['5', '6', '7', '8', '9']) { 1 } else { 0 };
    moment.checked_add(Duration::seconds(rounding))
}

/// `10` is 2010.
fn full_year(text: &str) -> Option<i32> {
    let year: u16 = text.parse().ok()?;
    Some(i32::from(if text.len() == 2 { year.checked_add(2000)? } else { year }))
}
