//! A fixed number of seeds finds nothing; the same seed is the same run; and each protection that is taken away is missed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and these say how far they looked"
)]

use twh_simulator::{Sabotage, Settings, Stats, run};

const WISHES: u64 = 25;

fn settings(seed: u64) -> Settings {
    Settings { seed, wishes: WISHES, sabotage: None }
}

/// Two threads, for two cores; a run has a thread to itself.
#[test]
fn no_seed_finds_anything() {
    /// As many as take a few seconds; ./dev nightly runs others, and many more.
    const SEEDS: u64 = 60;
    let half = |odd: u64| {
        std::thread::spawn(move || {
            let mut total = Stats::default();
            for seed in (0..SEEDS / 2).map(|n| 100_000 + 2 * n + odd) {
                let (finding, stats, _) = run(settings(seed)).unwrap();
                if let Some(finding) = finding {
                    let trace = finding.trace.join("\n");
                    panic!("{trace}\nseed {seed}: {}\n./dev simulate --seed {seed} --wishes {WISHES}", finding.what);
                }
                total.add(&stats);
            }
            total
        })
    };
    let mut total = Stats::default();
    for thread in [half(0), half(1)] {
        total.add(&thread.join().unwrap());
    }
    println!("{SEEDS} seeds: {total:?}");
    // A run in which nothing happens finds nothing either.
    assert!(total.commands > 5_000 && total.commits > 2_500, "{total:?}");
    assert!(total.crashes > 250 && total.rebalances > 500 && total.fenced > 100, "{total:?}");
    assert!(total.lost_acknowledgements > 250 && total.failures > 250, "{total:?}");
    assert!(total.lost_ends > 10 && total.cleared > 5, "{total:?}");
    assert!(total.refused > 100 && total.commits_while_refused > 50, "{total:?}");
}

#[test]
fn the_same_seed_is_the_same_run_to_the_byte() {
    for seed in 1..=3 {
        let first = run(settings(seed)).unwrap();
        assert_eq!(first, run(settings(seed)).unwrap(), "seed {seed}");
        assert_ne!(first.2, run(settings(seed + 1_000)).unwrap().2);
    }
}

/// After how many seeds it is noticed, and what is said.
fn noticed(sabotage: Sabotage, within: u64) -> String {
    for seed in 1..=within {
        let (finding, ..) = run(Settings { sabotage: Some(sabotage), ..settings(seed) }).unwrap();
        if let Some(finding) = finding {
            println!("{sabotage:?} is noticed by seed {seed}: {}", finding.what);
            return finding.what;
        }
    }
    panic!("{sabotage:?} is not noticed within {within} seeds");
}

#[test]
fn a_missing_fence_is_noticed() {
    let what = noticed(Sabotage::Fence, 20);
    assert!(what.contains("applied twice") || what.contains("come to") || what.contains("follows"), "{what}");
}

#[test]
fn a_missing_look_at_the_idempotency_key_is_noticed() {
    let what = noticed(Sabotage::Idempotency, 20);
    assert!(what.contains("accepted twice") || what.contains("two ways"), "{what}");
}

#[test]
fn a_record_published_before_its_commit_is_noticed() {
    assert!(noticed(Sabotage::PublishEarly, 20).contains("not committed"));
}

#[test]
fn a_ledger_that_forgets_which_record_was_its_last_is_noticed() {
    assert!(noticed(Sabotage::ForgetLast, 40).contains("was skipped"));
}
