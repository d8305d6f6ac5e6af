//! The published form: a workbook of one sheet, alone or inside a zip.

use super::{Line, row::Columns};
use anyhow::{Context, Result, bail};
use calamine::{Data, ExcelDateTime, Reader, Xlsx};
use std::borrow::Cow;
use std::io::{Cursor, Read};

/// Reads a workbook, or the first workbook in a zip.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Line>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).context("the zip is damaged")?;
    if archive.by_name("xl/workbook.xml").is_ok() {
        return sheet(bytes);
    }
    let name = archive.file_names().filter_map(Result::ok).find(|name| name.ends_with(".xlsx"));
    let Some(name) = name.map(Cow::into_owned) else {
        bail!("the zip holds no .xlsx");
    };
    let mut workbook = Vec::new();
    archive
        .by_name(&name)
        .map_err(anyhow::Error::from)
        .and_then(|mut file| Ok(file.read_to_end(&mut workbook)?))
        .with_context(|| format!("cannot unpack {name}"))?;
    sheet(&workbook)
}

fn sheet(bytes: &[u8]) -> Result<Vec<Line>> {
    let mut workbook: Xlsx<_> = Xlsx::new(Cursor::new(bytes)).context("the workbook is damaged")?;
    let range = workbook.worksheet_range_at(0).context("the workbook has no sheet")?.context("the sheet is damaged")?;
    let first = range.start().map_or(1, |(row, _)| row.saturating_add(1));
    let mut rows = (first..).zip(range.rows());
    let (_, headings) = rows.next().context("the sheet is empty")?;
    let columns = Columns::find(&texts(headings))?;
    rows.filter(|(_, cells)| cells.iter().any(|cell| *cell != Data::Empty))
        .map(|(number, cells)| columns.line(&texts(cells)).with_context(|| format!("row {number}")))
        .collect()
}

fn texts(cells: &[Data]) -> Vec<String> {
    cells.iter().map(text).collect()
}

fn text(cell: &Data) -> String {
    match cell {
        Data::Empty | Data::Error(_) => String::new(),
        Data::String(text) | Data::DateTimeIso(text) | Data::DurationIso(text) => text.clone(),
        Data::Int(number) => number.to_string(),
        Data::Float(number) => float(*number),
        Data::Bool(truth) => truth.to_string(),
        Data::DateTime(moment) => date_and_time(moment),
    }
}

/// Every number of a workbook is a float, codes and quantities too. The four decimals that a price may have are all
/// that such a float means; trailing zeros go, so that the code 71053 does not become 71053.0000.
fn float(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A date is a count of days as a float; whoever reads the text rounds it to the second.
fn date_and_time(moment: &ExcelDateTime) -> String {
    let (year, month, day, hour, minute, second, milli) = moment.to_ymd_hms_milli();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}")
}
