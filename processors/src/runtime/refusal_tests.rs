//! A store that refuses some records, and never takes anything of a batch with one of them.

use super::partition::{Limits, Seat, run};
use super::standing::Standing;
use super::{
    ApplyError, Claimed, DeadLetters, DecodeError, Decoded, Ended, Group, Loss, Record, Source, Watermarks, Worker,
};
use crate::seams::Log;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use twh_sinks::kafka::{Outgoing, ProduceError, Reached};

#[derive(Default)]
struct Book {
    offsets: Vec<i64>,
    refuses: BTreeSet<i64>,
    applied: Vec<i64>,
    next: i64,
    batches: usize,
    noted: Vec<i64>,
    letters: Vec<String>,
}

/// Everything in one: the log, the store, the group and its worker, which can do without a record or cannot.
#[derive(Clone, Default)]
struct Shared<const LEAVES_OUT: bool> {
    book: Arc<Mutex<Book>>,
    at: i64,
    stop: CancellationToken,
}

impl<const LEAVES_OUT: bool> Shared<LEAVES_OUT> {
    fn over(offsets: impl IntoIterator<Item = i64>, refuses: impl IntoIterator<Item = i64>) -> Self {
        let shared = Self::default();
        shared.book().offsets = offsets.into_iter().collect();
        shared.book().refuses = refuses.into_iter().collect();
        shared
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until all is dealt with, or for so long.
    async fn run(&self, patience: Duration) -> Option<Ended> {
        let seat = Seat {
            group: Arc::new(self.clone()),
            name: "refusals".to_owned(),
            source: self.clone(),
            partition: 0,
            limits: Limits { records_max: 1_000, bytes_max: 1_000_000 },
            dead_letters: DeadLetters::new(self.clone(), String::new(), String::new(), String::new()),
            stop: self.stop.clone(),
            standing: Standing::new("refusals", "refusals", 0),
        };
        tokio::time::timeout(patience, run(seat)).await.ok()
    }
}

impl<const LEAVES_OUT: bool> Source for Shared<LEAVES_OUT> {
    async fn watermarks(&mut self) -> Result<Watermarks, ApplyError> {
        Ok(Watermarks { low: 0, high: i64::MAX })
    }

    async fn seek(&mut self, next_offset: i64) -> Result<(), ApplyError> {
        self.at = next_offset;
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Record, String>> {
        let offset = self.book().offsets.iter().copied().find(|offset| *offset >= self.at)?;
        self.at = offset + 1;
        Some(Ok(Record {
            partition: 0,
            offset,
            timestamp: twh_domain::timestamp::Timestamp::default(),
            key: Some(format!("tenant {}", offset % 7).into_bytes()),
            payload: vec![0],
            headers: Vec::new(),
        }))
    }

    fn disturbed(&mut self) -> bool {
        false
    }

    async fn ready(&mut self) {
        std::future::pending().await
    }

    fn checkpoint(&self, _: i64) {}
}

impl<const LEAVES_OUT: bool> Log for Shared<LEAVES_OUT> {
    async fn append(&self, records: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        let header = |record: &Outgoing<'_>, name: &str| {
            record.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string()).unwrap_or_default()
        };
        let letters = records.iter().map(|one| header(one, "twh-dlq-offset") + ": " + &header(one, "twh-dlq-reason"));
        self.book().letters.extend(letters);
        Ok(())
    }
}

impl<const LEAVES_OUT: bool> Group for Shared<LEAVES_OUT> {
    type Item = i64;
    type Worker = Self;

    async fn claim(&self, _: i32) -> Result<Claimed<Self>, ApplyError> {
        Ok(Claimed { worker: self.clone(), reached: Reached::before(self.book().next) })
    }

    async fn lost(&self, _: &Self, loss: Loss) -> ApplyError {
        ApplyError::Halted(loss.to_string())
    }
}

impl<const LEAVES_OUT: bool> Worker for Shared<LEAVES_OUT> {
    type Item = i64;

    const LEAVES_OUT: bool = LEAVES_OUT;

    async fn decode(&mut self, record: &Record) -> Result<i64, DecodeError> {
        Ok(record.offset)
    }

    async fn apply(&mut self, batch: Vec<Decoded<i64>>, reached: Reached) -> Result<(), ApplyError> {
        let next = reached.next_offset;
        let mut book = self.book();
        book.batches += 1;
        if batch.iter().any(|one| book.refuses.contains(&one.item)) {
            return Err(ApplyError::Refused("SQLSTATE 22003".to_owned()));
        }
        book.applied.extend(batch.iter().map(|one| one.item));
        book.next = next;
        if book.offsets.last().is_some_and(|last| *last < next) {
            self.stop.cancel();
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn leave_out(&mut self, item: &i64, _: &str) -> Result<(), ApplyError> {
        self.book().noted.push(*item);
        Ok(())
    }

    fn applied_through(&self) -> i64 {
        self.book().next
    }

    async fn drain(self) {}
}

/// All but these are applied once, in order, and these are the dead letters; in so many batches at most.
async fn are_left_out(offsets: Vec<i64>, refused: &[i64], batches_max: usize) {
    let shared: Shared<true> = Shared::over(offsets.iter().copied(), refused.iter().copied());
    assert_eq!(shared.run(Duration::from_secs(60)).await, Some(Ended::Stopped), "{refused:?}");
    let book = shared.book();
    let others: Vec<_> = offsets.iter().copied().filter(|offset| !refused.contains(offset)).collect();
    let letters: Vec<_> =
        refused.iter().map(|offset| format!("{offset}: the store refuses it: SQLSTATE 22003")).collect();
    assert_eq!((&book.applied, &book.letters), (&others, &letters));
    assert_eq!(book.noted, refused, "readers are told of each");
    assert!(book.batches <= batches_max, "{} batches for {refused:?}", book.batches);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_the_store_refuses_is_left_out_and_the_others_are_applied_once() {
    for refused in [0, 1, 41, 50, 98, 99] {
        are_left_out((0..100).collect(), &[refused], 20).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_that_the_store_refuses_each_is_found() {
    for refused in [[3, 4], [0, 99], [49, 50], [10, 90]] {
        are_left_out((0..100).collect(), &refused, 40).await;
    }
    // One tenant can make as many as it likes.
    are_left_out((0..100).collect(), &[7, 14, 21, 28, 35, 42, 49], 80).await;
    let of_one_tenant: Vec<i64> = (0..10).map(|number| number * 7).collect();
    are_left_out(of_one_tenant.clone(), &of_one_tenant, 80).await;
}

#[tokio::test(start_paused = true)]
async fn offsets_that_are_missing_mislead_nobody() {
    let offsets: Vec<i64> = (0..40).chain(90..130).chain([500]).collect();
    for refused in [39, 90, 129, 500] {
        are_left_out(offsets.clone(), &[refused], 20).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_do_without_no_record_stands_there_and_goes_on_once_the_store_takes_it() {
    let shared: Shared<false> = Shared::over(0..100, [41]);
    assert_eq!(shared.run(Duration::from_secs(600)).await, None);
    let all_before: Vec<_> = (0..41).collect();
    assert_eq!(shared.book().applied, all_before);
    assert_eq!(shared.book().letters, [""; 0]);
    shared.book().refuses.clear();
    assert_eq!(shared.run(Duration::from_secs(60)).await, Some(Ended::Stopped));
    assert_eq!(shared.book().applied, (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn where_every_tenants_records_are_refused_the_partition_stands_and_loses_no_more() {
    let shared: Shared<true> = Shared::over(0..100, 0..100);
    assert_eq!(shared.run(Duration::from_secs(600)).await, None);
    assert_eq!(shared.book().letters.len(), 3);
    assert_eq!(shared.book().next, 3);
    shared.book().refuses.clear();
    assert_eq!(shared.run(Duration::from_secs(60)).await, Some(Ended::Stopped));
    assert_eq!(shared.book().applied, (3..100).collect::<Vec<_>>());
}
