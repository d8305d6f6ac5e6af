use super::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use twh_sinks::kafka::{Outgoing, ProduceError};

#[derive(Clone)]
struct Nowhere;

impl Log for Nowhere {
    async fn append(&self, _: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        Ok(())
    }
}

/// A log that cannot be asked the first time.
struct Away {
    asked: u32,
}

impl Source for Away {
    async fn watermarks(&mut self) -> Result<Watermarks, ApplyError> {
        self.asked += 1;
        if self.asked == 1 { Err(ApplyError::unavailable("away")) } else { Ok(Watermarks { low: 0, high: 0 }) }
    }

    async fn seek(&mut self, _: i64) -> Result<(), ApplyError> {
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Record, String>> {
        None
    }

    fn disturbed(&mut self) -> bool {
        false
    }

    async fn ready(&mut self) {
        std::future::pending().await
    }

    fn checkpoint(&self, _: i64) {}
}

#[derive(Default)]
struct Seen {
    claimed: AtomicU32,
    begun: AtomicU32,
    drained: AtomicU32,
    stop: CancellationToken,
}

struct Counts(Arc<Seen>);
struct Counted(Arc<Seen>);

impl Group for Counts {
    type Item = ();
    type Worker = Counted;

    async fn claim(&self, _: i32) -> Result<Claimed<Counted>, ApplyError> {
        self.0.claimed.fetch_add(1, Ordering::Relaxed);
        Ok(Claimed { worker: Counted(Arc::clone(&self.0)), reached: Reached::before(0) })
    }

    async fn lost(&self, _: &Self::Worker, loss: Loss) -> ApplyError {
        ApplyError::Halted(loss.to_string())
    }
}

impl Worker for Counted {
    type Item = ();

    const LEAVES_OUT: bool = false;

    fn begin(&mut self) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.stop.cancel();
    }

    async fn decode(&mut self, _: &Record) -> Result<(), DecodeError> {
        Ok(())
    }

    async fn apply(&mut self, _: Vec<Decoded<()>>, _: Reached) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn written(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }

    fn applied_through(&self) -> i64 {
        0
    }

    async fn drain(self) {
        self.0.drained.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn of_claims_that_are_tried_again_one_begins_and_that_one_is_drained() {
    let seen = Arc::new(Seen::default());
    let seat = Seat {
        group: Arc::new(Counts(Arc::clone(&seen))),
        name: "counts".to_owned(),
        source: Away { asked: 0 },
        partition: 0,
        limits: Limits { records_max: 1, bytes_max: 1 },
        dead_letters: DeadLetters::new(Nowhere, String::new(), String::new(), String::new()),
        standing: Standing::new("tests", "counts", 0),
        stop: seen.stop.clone(),
    };
    assert_eq!(run(seat).await, Ended::Stopped);
    let count = |of: &AtomicU32| of.load(Ordering::Relaxed);
    assert_eq!((count(&seen.claimed), count(&seen.begun), count(&seen.drained)), (2, 1, 1));
}

/// A log of ten records, whose worker panics over some of them.
struct Ten {
    at: i64,
}

impl Source for Ten {
    async fn watermarks(&mut self) -> Result<Watermarks, ApplyError> {
        Ok(Watermarks { low: 0, high: 10 })
    }

    async fn seek(&mut self, next_offset: i64) -> Result<(), ApplyError> {
        self.at = next_offset;
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Record, String>> {
        let offset = self.at;
        self.at += 1;
        let record = Record {
            partition: 0,
            offset,
            timestamp: twh_domain::timestamp::Timestamp::default(),
            key: None,
            payload: vec![0],
            headers: Vec::new(),
        };
        (offset < 10).then_some(Ok(record))
    }

    fn disturbed(&mut self) -> bool {
        false
    }

    async fn ready(&mut self) {
        std::future::pending().await
    }

    fn checkpoint(&self, _: i64) {}
}

#[derive(Default)]
struct Book {
    applied: Vec<i64>,
    next: i64,
    panics_left: BTreeMap<i64, u32>,
    letters: Vec<String>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Book>>, CancellationToken);

impl Shared {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Log for Shared {
    async fn append(&self, records: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        let header = |record: &Outgoing<'_>, name: &str| {
            record.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string()).unwrap_or_default()
        };
        let letters = records.iter().map(|one| header(one, "twh-dlq-offset") + " " + &header(one, "twh-dlq-reason"));
        self.book().letters.extend(letters);
        Ok(())
    }
}

impl Group for Shared {
    type Item = i64;
    type Worker = Self;

    async fn claim(&self, _: i32) -> Result<Claimed<Self>, ApplyError> {
        Ok(Claimed { worker: self.clone(), reached: Reached::before(self.book().next) })
    }

    async fn lost(&self, _: &Self::Worker, loss: Loss) -> ApplyError {
        ApplyError::Halted(loss.to_string())
    }
}

impl Worker for Shared {
    type Item = i64;

    const LEAVES_OUT: bool = false;

    async fn decode(&mut self, record: &Record) -> Result<i64, DecodeError> {
        Ok(record.offset)
    }

    async fn apply(&mut self, batch: Vec<Decoded<i64>>, reached: Reached) -> Result<(), ApplyError> {
        let mut book = self.book();
        for one in &batch {
            if let Some(left) = book.panics_left.get_mut(&one.item)
                && *left > 0
            {
                *left -= 1;
                panic!("over {}", one.item);
            }
        }
        book.applied.extend(batch.iter().map(|one| one.item));
        book.next = reached.next_offset;
        if book.next == 10 {
            self.1.cancel();
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }

    fn applied_through(&self) -> i64 {
        self.book().next
    }

    async fn drain(self) {}
}

async fn over(panics: &[(i64, u32)], patience: Duration) -> (Shared, Option<Ended>) {
    let shared = Shared::default();
    shared.book().panics_left = panics.iter().copied().collect();
    let seat = Seat {
        group: Arc::new(shared.clone()),
        name: "panics".to_owned(),
        source: Ten { at: 0 },
        partition: 0,
        limits: Limits { records_max: 100, bytes_max: 100 },
        dead_letters: DeadLetters::new(shared.clone(), String::new(), String::new(), String::new()),
        standing: Standing::new("tests", "panics", 0),
        stop: shared.1.clone(),
    };
    let ended = tokio::time::timeout(patience, run(seat)).await.ok();
    (shared, ended)
}

#[tokio::test(start_paused = true)]
async fn a_record_that_panics_again_is_set_aside_and_the_others_are_applied_once() {
    let (shared, ended) = over(&[(3, 1_000), (7, 1_000)], Duration::from_secs(60)).await;
    assert_eq!(ended, Some(Ended::Stopped));
    assert_eq!(shared.book().applied, [0, 1, 2, 4, 5, 6, 8, 9]);
    let reason = "it makes the task panic: over";
    assert_eq!(shared.book().letters, [format!("3 {reason} 3"), format!("7 {reason} 7")]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_does_not_come_again_costs_nothing() {
    let (shared, ended) = over(&[(3, 1)], Duration::from_secs(60)).await;
    assert_eq!(ended, Some(Ended::Stopped));
    let book = shared.book();
    assert_eq!((&book.applied, book.letters.len()), (&(0..10).collect(), 0));
}

#[tokio::test(start_paused = true)]
async fn where_record_after_record_panics_the_partition_stands_and_loses_no_more() {
    let all: Vec<_> = (0..10).map(|offset| (offset, 1_000)).collect();
    let (shared, ended) = over(&all, Duration::from_secs(600)).await;
    let book = shared.book();
    assert_eq!((ended, book.letters.len(), book.next), (None, 3, 3));
}
