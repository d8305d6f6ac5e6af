//! Records that may be what a partition fails at: that make its task panic, or that its store refuses. A record that nobody
//! foresaw costs itself, and not the partition.
//!
//! After a panic records are taken on one at a time, since nobody knows which of them it was. What a store refuses is looked for
//! by halves, so that the rest of a large batch is written in few parts.

use super::Record;
use std::collections::{BTreeSet, VecDeque};

/// So many in a row are no matter of single records any more: the partition stands until somebody looks. What a store refuses
/// counts by tenants, since one that has found such a record can make any number.
const GUILTY_MAX: usize = 3;

/// What a record is guilty of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guilt {
    /// It makes the task panic, which says this.
    Panics(String),
    /// The store refuses it, for this reason.
    Refused(String),
}

/// What a refusal has led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// There are several records that it may be: the next batch has half of them.
    Goes,
    /// It is the record at this offset.
    Found(i64),
    /// It is no record.
    Failed,
}

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Up to where records were taken on.
    taken_through: i64,
    /// Offsets that were taken on and are not written.
    unwritten: VecDeque<i64>,
    /// Records before this are taken on one at a time.
    alone_before: i64,
    /// Offsets that batches end with, the nearest last, while a record that is refused is looked for.
    ends: Vec<i64>,
    /// The one that was taken on alone, until it is written.
    in_hand: Option<i64>,
    guilty: Option<(i64, Guilt)>,
    panics_in_a_row: usize,
    /// Whose records were left out with nothing written between them, by their keys.
    left_out: BTreeSet<Vec<u8>>,
}

impl Suspects {
    /// True when a batch ends with the record at an offset.
    pub(super) fn ends_batch(&self, offset: i64) -> bool {
        self.is_alone(offset) || self.ends.last().is_some_and(|end| offset >= *end)
    }

    /// True when a batch that ends with an offset waits until the one before it is written.
    pub(super) fn waits(&self, offset: i64) -> bool {
        self.is_alone(offset) || !self.ends.is_empty()
    }

    const fn is_alone(&self, offset: i64) -> bool {
        offset < self.alone_before
    }

    /// The first record that was taken on and is not written.
    pub(super) fn first_unwritten(&self) -> Option<i64> {
        self.unwritten.front().copied()
    }

    /// The partition is claimed: what was taken on before is read again.
    pub(super) fn claimed(&mut self) {
        self.unwritten.clear();
    }

    /// A batch is taken on.
    pub(super) fn taken(&mut self, records: &[Record]) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        self.taken_through = last.offset + 1;
        self.in_hand = self.is_alone(first.offset).then_some(first.offset);
        self.unwritten.extend(records.iter().map(|record| record.offset));
    }

    /// Everything before an offset is written.
    pub(super) fn written(&mut self, through: i64) {
        while self.unwritten.front().is_some_and(|offset| *offset < through) {
            self.unwritten.pop_front();
        }
        while self.ends.pop_if(|end| *end < through).is_some() {}
        if through < self.taken_through {
            return;
        }
        self.in_hand = None;
        if self.guilty.as_ref().is_none_or(|(offset, _)| offset + 1 != through) {
            self.panics_in_a_row = 0;
            self.left_out.clear();
        }
    }

    /// The task has panicked. True when no single record is to blame any more.
    pub(super) fn panicked(&mut self, said: &str) -> bool {
        self.alone_before = self.alone_before.max(self.taken_through);
        let Some(offset) = self.in_hand.take() else { return false };
        if self.panics_in_a_row >= GUILTY_MAX {
            return true;
        }
        self.panics_in_a_row += 1;
        self.guilty = Some((offset, Guilt::Panics(said.to_owned())));
        false
    }

    /// The store refuses what was taken on from an offset.
    pub(super) fn refused(&mut self, from: i64) -> Search {
        let offsets: Vec<i64> = self.unwritten.iter().copied().filter(|offset| *offset >= from).collect();
        match offsets.as_slice() {
            [only] if self.guilt(*only).is_none() => Search::Found(*only),
            [] | [_] => Search::Failed,
            [rest @ .., last] => {
                if self.ends.last() != Some(last) {
                    self.ends.push(*last);
                }
                self.ends.extend(rest.get((offsets.len() / 2).saturating_sub(1)));
                Search::Goes
            }
        }
    }

    /// The record at an offset is what the store refuses.
    pub(super) fn blame(&mut self, offset: i64, reason: &str) {
        self.guilty = Some((offset, Guilt::Refused(reason.to_owned())));
    }

    /// A guilty record with this key is to be left out. False when so many tenants' records are refused that it is no matter of
    /// records any more: then it is guilty no longer.
    pub(super) fn may_leave_out(&mut self, key: &[u8]) -> bool {
        if self.left_out.len() >= GUILTY_MAX && !self.left_out.contains(key) {
            self.guilty = None;
            return false;
        }
        self.left_out.insert(key.to_owned());
        true
    }

    /// What the record at an offset is guilty of.
    pub(super) fn guilt(&self, offset: i64) -> Option<&Guilt> {
        self.guilty.as_ref().filter(|(guilty, _)| *guilty == offset).map(|(_, guilt)| guilt)
    }
}
