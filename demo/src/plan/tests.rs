use super::{Document, Plan, Quantity, Step};
use crate::dataset::{self, Line};
use crate::generate::{GenerateOptions, generate};
use crate::kind::{Kind, is_service};
use crate::reconcile::expected_closing;
use crate::summary::Counts;
use std::collections::{HashMap, HashSet};

/// What a server would hold: applies a plan's documents as the API's rules have it, and refuses what they refuse.
struct Model {
    on_hand: HashMap<String, i64>,
    /// By step and order line: what may still come back.
    shipped: HashMap<(usize, usize), (String, i64)>,
}

impl Model {
    fn opened(plan: &Plan) -> Self {
        Self { on_hand: plan.opening.iter().cloned().collect(), shipped: HashMap::new() }
    }

    fn change(&mut self, sku: &str, by: i64) {
        if !is_service(sku) {
            let on_hand = self.on_hand.get_mut(sku).unwrap();
            *on_hand += by;
            assert!(*on_hand >= 0, "{sku} went short");
        }
    }

    fn apply(&mut self, nth: usize, step: &Step) {
        assert!((1..=1_000).contains(&step.line_count()));
        match &step.document {
            Document::Order { lines } => {
                for (index, line) in lines.iter().enumerate() {
                    assert!(line.quantity > 0);
                    self.change(&line.sku, -line.quantity);
                    self.shipped.insert((nth, index + 1), (line.sku.clone(), line.quantity));
                }
            }
            Document::Return { order, lines } => {
                for line in lines {
                    let (sku, left) = self.shipped.get_mut(&(*order, line.order_line)).unwrap();
                    *left -= line.quantity;
                    assert!(line.quantity > 0 && *left >= 0, "more of {sku} came back than was shipped");
                    let sku = sku.clone();
                    self.change(&sku, line.quantity);
                }
            }
            Document::BlindReturn { lines } => {
                for Quantity { sku, quantity } in lines {
                    assert!(*quantity > 0);
                    self.change(sku, *quantity);
                }
            }
            Document::Adjustment { reason, lines } => {
                assert!(!reason.trim().is_empty());
                for Quantity { sku, quantity } in lines {
                    assert!(*quantity != 0 && !is_service(sku));
                    self.change(sku, *quantity);
                }
            }
        }
    }
}

/// Ways in which a server may take documents in flight: in order, and with all that brings stock back at the end.
fn orders_of(steps: &[Step]) -> Vec<Vec<usize>> {
    let in_order: Vec<usize> = (0..steps.len()).collect();
    let mut returns_last = in_order.clone();
    returns_last.sort_by_key(|nth| !matches!(steps[*nth].document, Document::Order { .. }));
    vec![in_order, returns_last]
}

fn holds(lines: &[Line]) {
    let plan = Plan::of(lines);
    let received: HashMap<String, i64> = plan.opening.iter().cloned().collect();
    for order in orders_of(&plan.steps) {
        let mut model = Model::opened(&plan);
        for nth in order {
            model.apply(nth, &plan.steps[nth]);
        }
        for (sku, expected) in expected_closing(lines, &received) {
            assert_eq!(model.on_hand[sku], expected, "{sku}");
        }
    }
    let planned: usize = plan.steps.iter().map(Step::line_count).sum();
    let skipped = lines.iter().filter(|line| Kind::of(line) == Kind::Nothing).count();
    assert_eq!(planned + skipped, lines.len(), "a row is played once");
    let codes: HashSet<&str> = lines.iter().map(|line| line.stock_code.as_str()).collect();
    assert_eq!(plan.items.len(), codes.len());
    assert_eq!(plan.opening.len(), plan.items.iter().filter(|item| !item.service).count());
    assert!(plan.items.iter().all(|item| !item.name.is_empty() && !item.name.contains(char::is_control)));
    let mut numbers = HashSet::new();
    for step in &plan.steps {
        let kind = match step.document {
            Document::Order { .. } => "order",
            Document::Return { .. } | Document::BlindReturn { .. } => "return",
            Document::Adjustment { .. } => "adjustment",
        };
        assert!(numbers.insert((kind, &step.number)), "two of the {kind}s have number {}", step.number);
    }
}

#[test]
fn trade_never_goes_short_and_closes_as_the_file_says() {
    for seed in 0..30 {
        holds(&generate(GenerateOptions { seed, days: 5, lines: 1_000, codes: 30 }));
    }
    holds(&generate(GenerateOptions::default()));
}

fn file(rows: &str) -> Vec<Line> {
    let header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
    dataset::parse(format!("{header}{rows}").as_bytes()).unwrap()
}

/// Each step as a few words.
fn told(plan: &Plan) -> Vec<String> {
    let quantities = |lines: &[Quantity]| -> Vec<String> {
        lines.iter().map(|line| format!("{} {}", line.sku, line.quantity)).collect()
    };
    plan.steps
        .iter()
        .map(|step| {
            let what = match &step.document {
                Document::Order { lines } => {
                    let lines: Vec<_> = lines.iter().map(|l| format!("{} {}", l.sku, l.quantity)).collect();
                    format!("order {lines:?}")
                }
                Document::Return { order, lines } => {
                    let lines: Vec<_> = lines.iter().map(|l| format!("{} {}", l.order_line, l.quantity)).collect();
                    format!("return of {order} {lines:?}")
                }
                Document::BlindReturn { lines } => format!("blind return {:?}", quantities(lines)),
                Document::Adjustment { reason, lines } => format!("{reason}: {:?}", quantities(lines)),
            };
            format!("{} {what}", step.number)
        })
        .collect()
}

#[test]
fn rows_become_the_documents_that_they_are() {
    let lines = file(
        "1,100,RED MUG,6,2010-12-01 09:00:00,2.5,7,UK\n\
         1,100,RED MUG,2,2010-12-01 09:00:00,2.5,7,UK\n\
         1,POST,POSTAGE,1,2010-12-01 09:00:00,18,7,UK\n\
         2,100,RED MUG,3,2010-12-01 10:00:00,0,7,UK\n\
         C3,100,RED MUG,-5,2010-12-02 09:00:00,2.5,7,UK\n\
         C3,100,RED MUG,-3,2010-12-02 09:00:00,2.5,7,UK\n\
         C3,100,RED MUG,-2,2010-12-02 09:00:00,2.5,7,UK\n\
         C3,100,RED MUG,-2,2010-12-02 09:00:00,2.5,7,UK\n\
         C3,D,Discount,-1,2010-12-02 09:00:00,9,7,UK\n\
         4,100,,-4,2010-12-03 09:00:00,0,,UK\n\
         5,100,damages,-1,2010-12-03 10:00:00,0,,UK\n\
         6,100,RED MUG,9,2010-12-03 11:00:00,0,,UK\n\
         6,100,,1,2010-12-03 11:00:00,0,,UK\n\
         6,DOT,DOTCOM POSTAGE,1,2010-12-03 11:00:00,40,,UK\n\
         7,100,RED MUG,-1,2010-12-04 09:00:00,2.5,7,UK\n\
         8,100,RED MUG,0,2010-12-04 10:00:00,2.5,7,UK\n\
         A9,B,Adjust bad debt,1,2010-12-04 11:00:00,-11062.06,,UK\n\
         C10,100,RED MUG,-1,2010-12-04 12:00:00,2.5,8,UK\n",
    );
    let plan = Plan::of(&lines);
    let expected = [
        r#"1 order ["100 6", "100 2", "POST 1"]"#,
        r#"2 order ["100 3"]"#,
        r#"C3 return of 0 ["1 5", "2 2"]"#,
        r#"C3-2 return of 1 ["1 3"]"#,
        r#"C3-3 blind return ["100 2", "D 1"]"#,
        r#"4 stock correction: ["100 4"]"#,
        r#"5 damages: ["100 1"]"#,
        r#"6 order ["DOT 1"]"#,
        r#"6 stock correction: ["100 -9", "100 -1"]"#,
        r#"7 stock correction: ["100 1"]"#,
        r#"A9 order ["B 1"]"#,
        r#"C10 blind return ["100 1"]"#,
    ];
    assert_eq!(told(&plan), expected);
    // 6 + 2 + 3 sold and 9 + 1 corrected leave; the margin is the least there is.
    assert_eq!(plan.opening, [("100".to_owned(), 21 + 10)]);
    assert_eq!(plan.opened_at.unwrap().to_string(), "2010-11-30 9:00:00.0");
    let item = &plan.items[0];
    assert_eq!((item.name.as_str(), item.sale_price.unwrap().to_string().as_str()), ("RED MUG", "2.5"));
    holds(&lines);
}

#[test]
fn names_fit_the_api() {
    let long = "x".repeat(300);
    let lines = file(&format!(
        "1,100,\"A\tB\u{7}\nC\",1,2010-12-01 09:00:00,1,,UK\n\
         1,101,{long},1,2010-12-01 09:00:00,1,,UK\n\
         1,102,,1,2010-12-01 09:00:00,1,,UK\n\
         1,103,rare,1,2010-12-01 09:00:00,0,,UK\n\
         1,103,USUAL,1,2010-12-01 09:00:00,1,,UK\n\
         1,103,USUAL,1,2010-12-01 09:00:00,3,,UK\n"
    ));
    let names: Vec<String> = Plan::of(&lines).items.into_iter().map(|item| item.name).collect();
    assert_eq!(names, ["A B C".to_owned(), "x".repeat(255), "102".to_owned(), "USUAL".to_owned()]);
}

#[test]
fn a_document_has_no_more_lines_than_the_api_takes() {
    let rows: String = (0..2_500).map(|n| format!("1,{n},X,1,2010-12-01 09:00:00,1,7,UK\n")).collect();
    let back: String = (0..2_500).map(|n| format!("C2,{n},X,-1,2010-12-02 09:00:00,1,7,UK\n")).collect();
    let lines = file(&format!("{rows}{back}"));
    assert_eq!(Plan::of(&lines).steps.len(), 6);
    holds(&lines);
}

/// The published month itself, where `TWH_DEMO_FILE` says where it is.
#[test]
fn the_published_month_reads_as_its_authors_describe_it() {
    let Some(path) = std::env::var_os("TWH_DEMO_FILE") else { return };
    let lines = dataset::read(path.as_ref()).unwrap();
    let invoices: HashSet<&str> = lines.iter().map(|line| line.invoice.as_str()).collect();
    let codes: HashSet<&str> = lines.iter().map(|line| line.stock_code.as_str()).collect();
    let services: HashSet<&str> = codes.iter().copied().filter(|code| is_service(code)).collect();
    let of_kind = |kind: Kind| lines.iter().filter(|line| Kind::of(line) == kind).count();
    assert_eq!((lines.len(), invoices.len(), codes.len()), (42_481, 2_025, 2_822));
    assert_eq!(services.len(), 11, "{services:?}");
    assert_eq!(lines.iter().filter(|line| line.invoice.starts_with('C')).count(), 728);
    assert_eq!(lines.iter().filter(|line| line.description.is_empty()).count(), 125);
    assert_eq!((of_kind(Kind::WriteOff), of_kind(Kind::Find)), (70, 200));
    assert_eq!((of_kind(Kind::Correction), of_kind(Kind::Nothing)), (0, 0));
    holds(&lines);
    let counts = Counts::of(&lines, &Plan::of(&lines));
    assert_eq!((counts.sale_lines, counts.return_lines, counts.service_lines), (41_318, 698, 195));
    assert_eq!((counts.orders, counts.order_returns, counts.blind_returns), (1_559, 161, 195));
    assert_eq!(counts.adjustments, 148);
}
