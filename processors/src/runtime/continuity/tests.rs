use super::*;
use crate::runtime::standing::Standing;
use crate::runtime::{
    Claimed, DeadLetters, DecodeError, Decoded, Ended, Group, Limits, Record, Seat, Worker, run_partition,
};
use crate::seams::Log;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use twh_domain::timestamp::Timestamp;
use twh_sinks::kafka::{Outgoing, ProduceError};

const LOG: Watermarks = Watermarks { low: 10, high: 20 };

fn mark(offset: i64, value: &[u8]) -> Mark {
    Mark::of(offset, Timestamp::default(), None, value)
}

#[test]
fn what_is_to_be_read_next_is_on_the_log_or_next_to_come() {
    let at = |next_offset| within(Reached::before(next_offset), LOG, false);
    assert_eq!(at(9), Err(Loss::Beginning { next_offset: 9, low: 10 }));
    assert_eq!((at(10), at(15), at(20)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(at(21), Err(Loss::End { next_offset: 21, high: 20 }));
    // An empty log is the beginning of a ledger, and the end of one that has begun.
    let empty = Watermarks { low: 0, high: 0 };
    assert_eq!(within(Reached::before(0), empty, false), Ok(()));
    assert_eq!(within(Reached::before(1), empty, false), Err(Loss::End { next_offset: 1, high: 0 }));
}

#[test]
fn only_who_has_read_nothing_may_begin_late() {
    assert_eq!(within(Reached::before(0), LOG, true), Ok(()));
    assert!(within(Reached::before(0), LOG, false).is_err());
    assert!(within(Reached::before(9), LOG, true).is_err());
}

#[test]
fn what_retention_has_taken_or_a_hand_has_passed_is_not_compared() {
    assert_eq!(comparable(Reached::from(mark(15, b"")), LOG), Some(mark(15, b"")));
    assert_eq!(comparable(Reached::from(mark(9, b"")), LOG), None);
    assert_eq!(comparable(Reached { next_offset: 12, last: Some(mark(15, b"")) }, LOG), None);
    assert_eq!(comparable(Reached::before(15), LOG), None);
}

#[test]
fn another_record_in_the_same_place_is_a_loss() {
    assert_eq!(same(mark(15, b"a"), mark(15, b"a")), Ok(()));
    for found in [mark(15, b"b"), mark(16, b"a")] {
        let loss = same(mark(15, b"a"), found).unwrap_err();
        assert_eq!(loss, Loss::Replaced { read: mark(15, b"a"), found });
        assert!(loss.expected() != loss.found());
    }
}

/// What happens to the log once half of it is applied.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// Nothing, but the client is sent back.
    SentBack,
    /// The connection breaks, and nothing else.
    Disturbed,
    /// It loses its last records and gets others in their place; the client is sent back.
    ReplacedAndSentBack,
    /// The same, and grows on; the client goes on where it was after its connection broke.
    ReplacedAndDisturbed,
    /// It loses what is to be read next.
    LosesBeginning,
}

const HALF: i64 = 5;
const ALL: i64 = 10;

/// The log, what is kept of it, and what was said.
struct State {
    happens: Option<Happens>,
    low: i64,
    values: Vec<u8>,
    next: i64,
    disturbed: bool,
    reached: Reached,
    applied: Vec<u8>,
    losses: Vec<Loss>,
}

#[derive(Clone)]
struct Run(Arc<Mutex<State>>, CancellationToken);

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn happen(&mut self) {
        let replace = |values: &mut Vec<u8>| {
            values.truncate(3);
            values.extend(103..120);
        };
        match self.happens.take() {
            Some(Happens::SentBack) => self.next = 2,
            Some(Happens::Disturbed) => self.disturbed = true,
            Some(Happens::ReplacedAndSentBack) => {
                replace(&mut self.values);
                self.next = 3;
            }
            Some(Happens::ReplacedAndDisturbed) => {
                replace(&mut self.values);
                self.disturbed = true;
            }
            Some(Happens::LosesBeginning) => {
                self.low = 8;
                self.next = 8;
            }
            None => {}
        }
    }
}

impl Source for Run {
    async fn watermarks(&mut self) -> Result<Watermarks, ApplyError> {
        let state = self.state();
        Ok(Watermarks { low: state.low, high: i64::try_from(state.values.len()).unwrap() })
    }

    async fn seek(&mut self, next_offset: i64) -> Result<(), ApplyError> {
        let mut state = self.state();
        state.next = next_offset.max(state.low);
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Record, String>> {
        let mut state = self.state();
        let offset = state.next;
        let value = *state.values.get(usize::try_from(offset).unwrap())?;
        state.next += 1;
        let timestamp = Timestamp::default();
        Some(Ok(Record { partition: 0, offset, timestamp, key: None, payload: vec![value], headers: Vec::new() }))
    }

    fn disturbed(&mut self) -> bool {
        std::mem::take(&mut self.state().disturbed)
    }

    async fn ready(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn checkpoint(&self, _: i64) {}
}

impl Group for Run {
    type Item = u8;
    type Worker = Self;

    async fn claim(&self, _: i32) -> Result<Claimed<Self>, ApplyError> {
        let reached = self.state().reached;
        Ok(Claimed { worker: self.clone(), reached })
    }

    async fn lost(&self, _: &Self, loss: Loss) -> ApplyError {
        self.state().losses.push(loss);
        self.1.cancel();
        ApplyError::Halted(loss.to_string())
    }
}

impl Worker for Run {
    type Item = u8;

    const LEAVES_OUT: bool = false;

    async fn decode(&mut self, record: &Record) -> Result<u8, DecodeError> {
        Ok(record.payload.first().copied().unwrap_or_default())
    }

    async fn apply(&mut self, batch: Vec<Decoded<u8>>, reached: Reached) -> Result<(), ApplyError> {
        let mut state = self.state();
        state.applied.extend(batch.iter().map(|decoded| decoded.item));
        state.reached = reached;
        if reached.next_offset == HALF {
            state.happen();
        }
        if reached.next_offset == ALL {
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
        self.state().reached.next_offset
    }

    async fn drain(self) {}
}

impl Log for Run {
    async fn append(&self, _: &[Outgoing<'_>]) -> Result<(), ProduceError> {
        Ok(())
    }
}

/// What was applied of a log to which something happens half-way, and what was lost.
async fn work_while(happens: Happens) -> (Vec<u8>, Vec<Loss>) {
    let state = State {
        happens: Some(happens),
        low: 0,
        values: (0..10).collect(),
        next: 0,
        disturbed: false,
        reached: Reached::before(0),
        applied: Vec::new(),
        losses: Vec::new(),
    };
    let run = Run(Arc::new(Mutex::new(state)), CancellationToken::new());
    let seat = Seat {
        group: Arc::new(run.clone()),
        name: "continuity".to_owned(),
        source: run.clone(),
        partition: 0,
        limits: Limits { records_max: 1, bytes_max: 100 },
        dead_letters: DeadLetters::new(run.clone(), String::new(), String::new(), String::new()),
        stop: run.1.clone(),
        standing: Standing::new("tests", "continuity", 0),
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), run_partition(seat)).await.unwrap();
    assert_eq!(ended, Ended::Stopped);
    let state = run.state();
    (state.applied.clone(), state.losses.clone())
}

#[tokio::test(start_paused = true)]
async fn on_the_same_log_a_client_that_is_sent_back_or_disturbed_costs_nothing() {
    for happens in [Happens::SentBack, Happens::Disturbed] {
        assert_eq!(work_while(happens).await, ((0..10).collect(), Vec::new()), "{happens:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_replaced_at_work_is_lost_and_nothing_of_it_is_skipped() {
    for happens in [Happens::ReplacedAndSentBack, Happens::ReplacedAndDisturbed] {
        let (applied, losses) = work_while(happens).await;
        assert_eq!(applied, (0..5).collect::<Vec<_>>(), "{happens:?}");
        assert_eq!(losses, [Loss::Replaced { read: mark(4, &[4]), found: mark(4, &[104]) }], "{happens:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_loses_at_work_what_is_to_be_read_next_is_lost() {
    let (applied, losses) = work_while(Happens::LosesBeginning).await;
    assert_eq!(applied, (0..5).collect::<Vec<_>>());
    assert_eq!(losses, [Loss::Beginning { next_offset: 5, low: 8 }]);
}
