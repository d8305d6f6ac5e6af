//! Letters that wait: senders take turns, and a letter that is to be tried again lies aside until then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// How much a queue holds.
pub(super) struct Bounds {
    /// Letters of all senders: those that wait, are put aside or are in flight.
    pub(super) total: usize,
    /// Letters of one sender.
    pub(super) of_one: usize,
    /// Letters of one sender that are in flight.
    pub(super) at_once_of_one: usize,
}

struct Sender<T> {
    waiting: VecDeque<T>,
    under_way: usize,
    /// Those that lie aside, too.
    letters: usize,
}

/// Letters by sender.
pub(super) struct Queue<S, T> {
    bounds: Bounds,
    senders: BTreeMap<S, Sender<T>>,
    /// Whose turn it is: each sender with letters that wait, once.
    turns: VecDeque<S>,
    aside: BTreeMap<(Instant, u64), (S, T)>,
    letters: usize,
    laid_aside: u64,
}

impl<S: Ord + Copy, T> Queue<S, T> {
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            senders: BTreeMap::new(),
            turns: VecDeque::new(),
            aside: BTreeMap::new(),
            letters: 0,
            laid_aside: 0,
        }
    }

    /// Leaves a letter; false where too many wait.
    pub(super) fn leave(&mut self, sender: S, letter: T) -> bool {
        let of_one = self.senders.get(&sender).map_or(0, |known| known.letters);
        if self.letters >= self.bounds.total || of_one >= self.bounds.of_one {
            return false;
        }
        self.letters += 1;
        self.sender(sender).letters += 1;
        self.wait(sender, letter);
        true
    }

    /// The next letter to be sent, and whose it is.
    pub(super) fn next(&mut self, now: Instant) -> Option<(S, T)> {
        while let Some(first) = self.aside.first_entry().filter(|first| first.key().0 <= now) {
            let (sender, letter) = first.remove();
            self.wait(sender, letter);
        }
        for _ in 0..self.turns.len() {
            let sender = self.turns.pop_front()?;
            let at_once = self.bounds.at_once_of_one;
            let known = self.senders.get_mut(&sender)?;
            if known.under_way >= at_once {
                self.turns.push_back(sender);
                continue;
            }
            let letter = known.waiting.pop_front()?;
            known.under_way += 1;
            if !known.waiting.is_empty() {
                self.turns.push_back(sender);
            }
            return Some((sender, letter));
        }
        None
    }

    /// When the first of those that lie aside is to be tried again.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.aside.first_key_value().map(|((at, _), _)| *at)
    }

    /// A letter that was in flight is done with.
    pub(super) fn done(&mut self, sender: S) {
        self.letters = self.letters.saturating_sub(1);
        let Some(known) = self.senders.get_mut(&sender) else { return };
        known.under_way = known.under_way.saturating_sub(1);
        known.letters = known.letters.saturating_sub(1);
        if known.letters == 0 {
            self.senders.remove(&sender);
        }
    }

    /// A letter that was in flight is to be tried again then.
    pub(super) fn again(&mut self, sender: S, letter: T, at: Instant) {
        let known = self.sender(sender);
        known.under_way = known.under_way.saturating_sub(1);
        self.laid_aside += 1;
        self.aside.insert((at, self.laid_aside), (sender, letter));
    }

    fn wait(&mut self, sender: S, letter: T) {
        let known = self.sender(sender);
        known.waiting.push_back(letter);
        if known.waiting.len() == 1 {
            self.turns.push_back(sender);
        }
    }

    fn sender(&mut self, sender: S) -> &mut Sender<T> {
        let new = || Sender { waiting: VecDeque::new(), under_way: 0, letters: 0 };
        self.senders.entry(sender).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queue() -> Queue<u8, u32> {
        Queue::new(Bounds { total: 6, of_one: 4, at_once_of_one: 2 })
    }

    #[test]
    fn one_sender_s_many_letters_hold_up_no_other_s() {
        let mut queue = queue();
        assert_eq!([1, 2, 3, 4, 5].map(|letter| queue.leave(1, letter)), [true, true, true, true, false]);
        assert!(queue.leave(2, 6) && queue.leave(2, 7));
        assert!(!queue.leave(3, 8), "as many wait as may");
        let now = Instant::now();
        let taken: Vec<_> = std::iter::from_fn(|| queue.next(now)).collect();
        assert_eq!(taken, [(1, 1), (2, 6), (1, 2), (2, 7)], "by turns, and two at once of each");
        queue.done(1);
        assert!(queue.leave(3, 8));
        assert_eq!(queue.next(now), Some((1, 3)));
    }

    #[test]
    fn a_letter_that_is_to_be_tried_again_holds_up_nothing_and_comes_when_it_is_time() {
        let mut queue = queue();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        for letter in [1, 2, 3] {
            queue.leave(1, letter);
        }
        for _ in 0..3 {
            let (sender, letter) = queue.next(now).unwrap();
            queue.again(sender, letter, later);
        }
        assert_eq!((queue.next(now), queue.wakes_at()), (None, Some(later)));
        assert!(queue.leave(1, 4) && !queue.leave(1, 5), "what lies aside counts");
        assert_eq!(queue.next(now), Some((1, 4)));
        queue.done(1);
        assert_eq!((queue.next(later), queue.next(later)), (Some((1, 1)), Some((1, 2))));
        queue.done(1);
        assert_eq!(queue.next(later), Some((1, 3)));
        queue.done(1);
        queue.done(1);
        assert!(queue.senders.is_empty() && queue.letters == 0 && queue.turns.is_empty());
    }
}
