use super::health::{Part, standing};
use super::{guarded, keep, kept_blocking};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

#[tokio::test]
async fn a_task_that_panics_is_not_ready_until_it_goes_on() {
    let (runs, release) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (counted, released) = (Arc::clone(&runs), Arc::clone(&release));
    let task = keep("tests", "once", move || {
        let (run, released) = (counted.fetch_add(1, Ordering::SeqCst), Arc::clone(&released));
        async move {
            assert!(run > 0, "the first time");
            released.notified().await;
            run
        }
    });
    let mut seen_down = false;
    while runs.load(Ordering::SeqCst) < 2 {
        seen_down |= standing("tests").iter().any(|one| one.part == "once");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(seen_down, "the role was not ready while its task was down");
    while !standing("tests").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    release.notify_one();
    assert_eq!(task.await.unwrap(), 1, "the second run goes on to its end");
    let counted = prometheus::gather().into_iter().find(|family| family.name() == "twh_task_panics_total").unwrap();
    assert!(counted.get_metric().iter().any(|metric| metric.get_label()[0].value() == "once"));
}

#[tokio::test]
async fn what_ends_by_a_panic_is_an_error_that_says_what_it_said() {
    assert_eq!(guarded("short", async { 7 }).await, Ok(7));
    let panicked = guarded("short", async { assert!(std::hint::black_box(false), "no {}", "luck") }).await.unwrap_err();
    assert_eq!(panicked.to_string(), "the task short panicked: no luck");
}

#[test]
fn a_thread_goes_on_after_a_panic() {
    let mut runs = 0;
    let ended = kept_blocking("threads", "thread", || {
        runs += 1;
        assert!(runs > 1, "the first time");
        "done"
    });
    assert_eq!((ended, runs), ("done", 2));
}

#[test]
fn parts_of_one_name_stand_each_for_itself_and_are_forgotten_when_dropped() {
    let (one, other) = (Part::new("twins", "worker"), Part::new("twins", "worker"));
    one.stands("away");
    other.stands("away");
    other.stands("still away");
    one.works();
    assert_eq!(standing("twins").len(), 1);
    assert_eq!(standing("twins")[0].reason, "still away");
    drop(other);
    assert!(standing("twins").is_empty());
}
