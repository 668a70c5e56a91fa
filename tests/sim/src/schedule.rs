//! What happens when: events in the order of their times, and of their making where these are equal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Simulated time: milliseconds since the simulation began. It never steps; clocks of hosts may.
pub(crate) type Ms = u64;

/// The events to come.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    heap: BinaryHeap<Entry<E>>,
    made: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Ms,
    made: u64,
    event: E,
}

impl<E> Schedule<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), made: 0 }
    }

    pub(crate) fn at(&mut self, at: Ms, event: E) {
        self.made += 1;
        self.heap.push(Entry { at, made: self.made, event });
    }

    /// The next event, if it is due by `until`.
    pub(crate) fn next(&mut self, until: Ms) -> Option<(Ms, E)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

// The heap gives the greatest first, and the earliest is wanted.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.made).cmp(&(self.at, self.made))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.made == other.made
    }
}

impl<E> Eq for Entry<E> {}
