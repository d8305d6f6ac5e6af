//! The parts of a command's way that need no other process: deciding it, and hashing what comes of it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark stops at the first surprise"
)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use twh_benches::command;
use twh_domain::commands::Command;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_domain::state::State;
use twh_domain::timestamp::Timestamp;
use twh_domain::{Decision, Needs, Recorded, decide, prefetch};
use uuid::Uuid;

const LINES: usize = 10;

const RECORDED: Recorded = Recorded { position: Position { partition: 0, offset: 1 }, at: Timestamp::from_micros(1) };

/// Loads what a command needs, as if nothing else were there.
fn prepare(state: &mut State, command: &Command) {
    loop {
        let mut needs = Needs::default();
        prefetch(state, command, &mut needs);
        needs.load.append(&mut needs.new_names);
        if needs.load.is_empty() {
            break;
        }
        needs.load.into_iter().for_each(|need| state.load_absent(need));
    }
}

fn settle(state: &mut State, command: &Command) -> Decision {
    prepare(state, command);
    let decision = decide(state, command, RECORDED).unwrap();
    state.evolve(&decision.effects);
    decision
}

fn bench(criterion: &mut Criterion) {
    let tenant = TenantId(Uuid::now_v7());
    let mut state = State::default();
    settle(&mut state, &command(tenant, "location.create", r#"{"code":"MAIN"}"#).unwrap());
    for item in 0..LINES {
        settle(&mut state, &command(tenant, "item.create", &format!(r#"{{"sku":"S{item}"}}"#)).unwrap());
    }
    let lines: Vec<_> = (0..LINES).map(|item| format!(r#"{{"sku":"S{item}","quantity":1}}"#)).collect();
    let one = format!(r#"{{"location_code":"MAIN","reason":"r","lines":[{}]}}"#, lines[0]);
    let ten = format!(r#"{{"location_code":"MAIN","reason":"r","lines":[{}]}}"#, lines.join(","));
    for (name, body) in [("decide, one movement", &one), ("decide, ten movements", &ten)] {
        let command = command(tenant, "adjustment.create", body).unwrap();
        prepare(&mut state, &command);
        criterion.bench_function(name, |bench| bench.iter(|| decide(black_box(&state), &command, RECORDED).unwrap()));
    }
    let adjustment = command(tenant, "adjustment.create", &one).unwrap();
    criterion.bench_function("prefetch, all loaded", |bench| {
        bench.iter_batched(
            Needs::default,
            |mut needs| {
                prefetch(black_box(&state), &adjustment, &mut needs);
                needs
            },
            BatchSize::SmallInput,
        );
    });
    prepare(&mut state, &adjustment);
    let decision = decide(&state, &adjustment, RECORDED).unwrap();
    let (movement, record) = (&decision.effects.movements[0], &decision.effects.audit[0]);
    criterion.bench_function("hash, a movement", |bench| bench.iter(|| movement.chain(black_box(&[7; 32]))));
    criterion.bench_function("hash, an audit record", |bench| bench.iter(|| record.chain(black_box(&[7; 32]))));
}

criterion_group!(benches, bench);
criterion_main!(benches);
