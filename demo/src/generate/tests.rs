use super::{GenerateOptions, generate, write_csv};
use crate::dataset::{self, Line};
use crate::kind::{Kind, is_service};
use std::collections::{HashMap, HashSet};

fn small(seed: u64) -> GenerateOptions {
    GenerateOptions { seed, days: 5, lines: 400, codes: 40 }
}

#[test]
fn the_same_seed_makes_the_same_file() {
    assert_eq!(generate(small(7)), generate(small(7)));
    assert_ne!(generate(small(7)), generate(small(8)));
}

#[test]
fn what_is_written_reads_back() {
    let lines = generate(small(3));
    let mut csv = Vec::new();
    write_csv(&lines, &mut csv).unwrap();
    assert_eq!(dataset::parse(&csv).unwrap(), lines);
}

/// How many rows of each kind of dirt there are.
fn dirt(lines: &[Line]) -> HashMap<&'static str, usize> {
    let mut found: HashMap<&str, usize> = HashMap::new();
    let mut on_invoice = HashSet::new();
    let mut codes: HashSet<String> = HashSet::new();
    for line in lines {
        let kind = Kind::of(line);
        let service = is_service(&line.stock_code);
        let twice = !on_invoice.insert((&line.invoice, &line.stock_code));
        codes.insert(line.stock_code.clone());
        for (dirt, there) in [
            ("cancellation", line.invoice.starts_with('C')),
            ("write-off", kind == Kind::WriteOff),
            ("find", kind == Kind::Find),
            ("service", service),
            ("code twice on an invoice", twice),
            ("no description", line.description.is_empty()),
            ("no customer", line.customer_id.is_none()),
            ("sold to no one", kind == Kind::Sale && line.customer_id.is_none()),
        ] {
            *found.entry(dirt).or_default() += usize::from(there);
        }
    }
    found
}

#[test]
fn every_kind_of_dirt_is_there_even_in_a_small_file() {
    for seed in 0..50 {
        let lines = generate(GenerateOptions { lines: 300, ..small(seed) });
        assert_eq!(lines.len(), 300);
        for (dirt, count) in dirt(&lines) {
            assert!(count > 0, "seed {seed}: no {dirt}");
        }
    }
}

#[test]
fn the_default_is_like_the_published_month() {
    let lines = generate(GenerateOptions::default());
    assert_eq!(lines.len(), 42_000);
    let invoices: HashSet<&str> = lines.iter().map(|line| line.invoice.as_str()).collect();
    assert!((1_700..2_400).contains(&invoices.len()), "{} invoices", invoices.len());
    let goods: HashSet<&str> =
        lines.iter().map(|line| line.stock_code.as_str()).filter(|code| !is_service(code)).collect();
    assert_eq!(goods.len(), 2_800);
    let dirt = dirt(&lines);
    for (kind, range) in [
        ("cancellation", 500..1_000),
        ("write-off", 50..100),
        ("find", 50..100),
        ("service", 100..300),
        ("no description", 80..250),
        ("no customer", 10_000..20_000),
    ] {
        assert!(range.contains(&dirt[kind]), "{kind}: {}", dirt[kind]);
    }
    let gifts = lines.iter().filter(|line| line.customer_id.is_some() && line.unit_price.is_zero());
    assert!(gifts.count() > 0);
    let mut by_code: HashMap<&str, usize> = HashMap::new();
    for line in &lines {
        *by_code.entry(&line.stock_code).or_default() += 1;
    }
    let most = by_code.values().max().unwrap();
    assert!((200..1_000).contains(most), "the most wanted product has {most} rows");
    assert!(lines.is_sorted_by_key(|line| line.invoice_date));
    assert!(lines.iter().all(|line| (8..20).contains(&line.invoice_date.hour())));
    let lower: HashSet<String> = goods.iter().map(|code| code.to_lowercase()).collect();
    assert!(lower.len() < goods.len(), "no two codes differ only in case");
}
