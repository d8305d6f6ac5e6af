use super::{Line, Price, parse};
use std::io::{Cursor, Write};
use time::{Date, Month, PrimitiveDateTime, Time};
use zip::write::{SimpleFileOptions, ZipWriter};

const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

fn at(hour: u8, minute: u8) -> PrimitiveDateTime {
    PrimitiveDateTime::new(
        Date::from_calendar_date(2010, Month::December, 1).unwrap(),
        Time::from_hms(hour, minute, 0).unwrap(),
    )
}

fn first_line() -> Line {
    Line {
        invoice: "536365".to_owned(),
        stock_code: "71053".to_owned(),
        description: "WHITE METAL LANTERN".to_owned(),
        quantity: 6,
        invoice_date: at(8, 26),
        unit_price: Price::parse("3.39").unwrap(),
        customer_id: Some("17850".to_owned()),
        country: "United Kingdom".to_owned(),
    }
}

const FIRST: &str = "536365,71053,WHITE METAL LANTERN,6,2010-12-01 08:26:00,3.39,17850.0,United Kingdom\n";

fn error(text: &str) -> String {
    format!("{:#}", parse(text.as_bytes()).unwrap_err())
}

#[test]
fn a_row_reads_the_same_from_every_form_of_csv() {
    let gzipped = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let plain = format!("{HEADER}{FIRST}");
    let other_order = "\u{feff}Country,Price,Customer ID,InvoiceDate,Extra,Quantity,Description,StockCode,Invoice\r\n\
         United Kingdom,3.3900,17850,12/1/2010 8:26,x,6.0,\" WHITE METAL LANTERN \",71053,536365\r\n";
    let iso = plain.replace("01 08:26:00", "01T08:26:00Z").replace("17850.0", "17850");
    let forms = [plain.clone().into_bytes(), gzipped(&plain), other_order.as_bytes().to_vec(), iso.into_bytes()];
    for form in forms {
        assert_eq!(parse(&form).unwrap(), [first_line()]);
    }
}

#[test]
fn latin_1_texts_are_read() {
    let mut bytes = format!("{HEADER}{}", FIRST.replace("LANTERN", "VOUCHER #5")).into_bytes();
    let pound = bytes.iter().position(|byte| *byte == b'#').unwrap();
    *bytes.get_mut(pound).unwrap() = 0xa3;
    assert_eq!(parse(&bytes).unwrap().first().unwrap().description, "WHITE METAL VOUCHER £5");
}

#[test]
fn missing_columns_are_named() {
    let message = error("StockCode,Description,Quantity,UnitPrice,CustomerID,Country\n");
    assert!(message.contains("no column InvoiceNo, InvoiceDate"), "{message}");
    assert!(error("").contains("empty"));
}

#[test]
fn a_bad_row_is_an_error_with_its_line() {
    for (good, bad, named) in [
        (",6,", ",six,", "Quantity \"six\""),
        (",6,", ",6.5,", "Quantity \"6.5\""),
        (",6,", ",1000000000000,", "Quantity"),
        ("2010-12-01", "2010-13-01", "InvoiceDate"),
        ("2010-12-01", "soon", "InvoiceDate"),
        ("3.39", "3.39001", "UnitPrice"),
        ("3.39", "", "UnitPrice"),
        ("536365", "", "InvoiceNo is empty"),
        ("71053", " ", "StockCode is empty"),
        (",United Kingdom", "", "line: 3"),
    ] {
        let message = error(&format!("{HEADER}{FIRST}{}", FIRST.replacen(good, bad, 1)));
        assert!(message.contains(named) && message.contains("line"), "{bad:?}: {message}");
        assert!(message.contains('3'), "{message}");
    }
}

#[test]
fn prices_are_exact() {
    for (text, shown) in [("2.55", "2.55"), ("18.0", "18"), ("-11062.06", "-11062.06"), ("0.001", "0.001"), ("0", "0")]
    {
        assert_eq!(Price::parse(text).unwrap().to_string(), shown);
    }
    for text in ["", "-", ".5", "1e3", "1.00001", "+1", "1,5", "1.-5", "999999999999999"] {
        assert_eq!(Price::parse(text), None, "{text:?}");
    }
    assert_eq!(Price::from_pence(255), Price::parse("2.55").unwrap());
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, contents) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(contents).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The least that is a workbook: numbers where Excel has numbers, one style that makes a number a date.
fn workbook() -> Vec<u8> {
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    let relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let package = "http://schemas.openxmlformats.org/package/2006";
    let word = |text: &str| format!(r#"<c t="inlineStr"><is><t>{text}</t></is></c>"#);
    let headings: String = HEADER.trim().split(',').map(word).collect();
    // 40513 is 2010-12-01 and 0.351388… of a day is 08:26, a hair early as floats have it.
    let cells = format!(
        r#"<c><v>536365</v></c><c><v>71053</v></c>{}<c><v>6</v></c><c s="1"><v>40513.351388888885</v></c><c><v>3.3900000000000001</v></c><c><v>17850</v></c>{}"#,
        word("WHITE METAL LANTERN"),
        word("United Kingdom")
    );
    zipped(&[
        (
            "[Content_Types].xml",
            format!(r#"<Types xmlns="{package}/content-types"><Default Extension="xml" ContentType="application/xml"/></Types>"#).as_bytes(),
        ),
        (
            "_rels/.rels",
            format!(r#"<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>"#).as_bytes(),
        ),
        (
            "xl/workbook.xml",
            format!(r#"<workbook xmlns="{main}" xmlns:r="{relations}"><sheets><sheet name="Online Retail" sheetId="1" r:id="rId1"/></sheets></workbook>"#).as_bytes(),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            format!(r#"<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" Type="{relations}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>"#).as_bytes(),
        ),
        (
            "xl/styles.xml",
            format!(r#"<styleSheet xmlns="{main}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="22"/></cellXfs></styleSheet>"#).as_bytes(),
        ),
        (
            "xl/worksheets/sheet1.xml",
            format!(r#"<worksheet xmlns="{main}"><sheetData><row r="1">{headings}</row><row r="2">{cells}</row></sheetData></worksheet>"#).as_bytes(),
        ),
    ])
}

#[test]
fn the_workbook_reads_alone_and_from_its_zip() {
    let workbook = workbook();
    assert_eq!(parse(&workbook).unwrap(), [first_line()]);
    assert_eq!(parse(&zipped(&[("Online Retail.xlsx", &workbook)])).unwrap(), [first_line()]);
    let message = format!("{:#}", parse(&zipped(&[("notes.txt", b"no")])).unwrap_err());
    assert!(message.contains("holds no .xlsx"), "{message}");
}
