//! Records that may have made a partition's task panic. After a panic they are taken on one at a time, and the one that panics
//! alone goes to the dead letters: a record that nobody foresaw costs its own command, and not the partition.

/// So many in a row are no matter of single records any more: the partition stands until somebody looks.
const GUILTY_MAX: u32 = 3;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Up to where records were taken on.
    taken_through: i64,
    /// Records before this are taken on one at a time.
    alone_before: i64,
    /// The one that was taken on alone, until it is written.
    in_hand: Option<i64>,
    /// The one that panicked alone, and what it said.
    guilty: Option<(i64, String)>,
    in_a_row: u32,
}

impl Suspects {
    /// True when the record at an offset is taken on alone.
    pub(super) const fn alone(&self, offset: i64) -> bool {
        offset < self.alone_before
    }

    /// A batch is taken on.
    pub(super) fn taken(&mut self, first: i64, through: i64) {
        self.taken_through = through;
        self.in_hand = self.alone(first).then_some(first);
    }

    /// Everything before an offset is written.
    pub(super) fn written(&mut self, through: i64) {
        if through < self.taken_through {
            return;
        }
        self.in_hand = None;
        if self.guilty.as_ref().is_none_or(|(offset, _)| offset + 1 != through) {
            self.in_a_row = 0;
        }
    }

    /// The task has panicked. True when no single record is to blame any more.
    pub(super) fn panicked(&mut self, said: &str) -> bool {
        self.alone_before = self.alone_before.max(self.taken_through);
        let Some(offset) = self.in_hand.take() else { return false };
        if self.in_a_row >= GUILTY_MAX {
            return true;
        }
        self.in_a_row += 1;
        self.guilty = Some((offset, said.to_owned()));
        false
    }

    /// What the record at an offset is guilty of.
    pub(super) fn guilt(&self, offset: i64) -> Option<&str> {
        self.guilty.as_ref().filter(|(guilty, _)| *guilty == offset).map(|(_, said)| said.as_str())
    }
}
