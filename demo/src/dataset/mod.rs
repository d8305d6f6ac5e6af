//! Reads a trade file in the columns of *Online Retail*: CSV, the same gzipped, the published workbook (`.xlsx`) or
//! the zip that holds it. What it is, the first bytes say, not the name.
//!
//! Reading never guesses: a missing column or a row that does not parse is an error that names the column or the line.
//!
//! Source of the data: Chen, D. (2015), *Online Retail*, UCI Machine Learning Repository, doi:10.24432/C5BW33,
//! licence CC BY 4.0.

mod price;
mod row;
mod workbook;

pub use price::Price;

use anyhow::{Context, Result};
use std::io::Read;
use std::path::Path;
use time::PrimitiveDateTime;

/// One row of the file, its texts without surrounding blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The invoice's number; one that begins with `C` is a cancellation.
    pub invoice: String,
    /// The product's code. Case tells codes apart: `85123A` and `85123a` are two.
    pub stock_code: String,
    /// What the row says about the product or about itself; often empty.
    pub description: String,
    /// How many units left the stock; fewer than nothing when they came back. Within ±10^12.
    pub quantity: i64,
    /// When the invoice was written; the file names no zone, and it is taken as UTC.
    pub invoice_date: PrimitiveDateTime,
    /// Price of one unit in pounds sterling.
    pub unit_price: Price,
    /// The customer's number, where there is one.
    pub customer_id: Option<String>,
    /// Where the customer lives.
    pub country: String,
}

/// Reads the file at `path`.
///
/// # Errors
/// When it cannot be read, is none of the known forms, lacks a column, or a row does not parse.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("cannot make sense of {}", path.display()))
}

/// Reads a file's contents.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8]) -> Result<Vec<Line>> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).context("the gzip stream is damaged")?;
        return parse_csv(&plain);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return workbook::parse(bytes);
    }
    parse_csv(bytes)
}

fn parse_csv(bytes: &[u8]) -> Result<Vec<Line>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
    let mut records = reader.byte_records();
    let header = records.next().context("the file is empty")?.context("the header does not parse")?;
    let columns = row::Columns::find(&texts(&header))?;
    records
        .map(|record| {
            let record = record?;
            let number = record.position().map_or(0, csv::Position::line);
            columns.line(&texts(&record)).with_context(|| format!("line {number}"))
        })
        .collect()
}

fn texts(record: &csv::ByteRecord) -> Vec<String> {
    record.iter().map(text).collect()
}

/// UTF-8, or else Latin-1, in which the file also circulates (its vouchers carry a pound sign).
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().copied().map(char::from).collect(), str::to_owned)
}

#[cfg(test)]
mod tests;
