//! The decision: greedy, one group after the other, one item after the other.
//!
//! The bins a group may go to are sorted once into a heap; placing an item changes the score of one
//! bin only, which is put back with its new score. So a group of `k` items on `n` bins costs
//! `n + k log n`, not `k * n`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use dwell_core::workload::Resources;

use crate::fit::misfit;
use crate::problem::{Bin, Group, Placement, Problem, Solution};
use crate::reason::{Misfit, Reason};

/// Gives every item a bin, or a reason why it has none.
///
/// An item that `previous` has in a bin stays there, even if the bin has been closed or has shrunk:
/// moving what runs is another decision. Entries of `previous` that name no item or no bin count for
/// nothing.
#[must_use]
pub fn solve(problem: &Problem<'_>, previous: &Placement) -> Solution {
    let mut room = Room::of(problem);
    let mut solution = Solution::default();
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); problem.groups.len()];
    for (item, &number) in problem.items.iter().enumerate() {
        let Some(group) = problem.groups.get(number) else { continue };
        match previous.get(&item).filter(|&&bin| bin < problem.bins.len()) {
            Some(&bin) => {
                // Its address is not counted in `addresses`: it is not free.
                room.take(bin, group, false);
                solution.placed.insert(item, bin);
            }
            None => waiting[number].push(item),
        }
    }
    for (group, items) in problem.groups.iter().zip(&waiting) {
        if !items.is_empty() {
            place(problem, group, items, &mut room, &mut solution);
        }
    }
    solution
}

fn place(
    problem: &Problem<'_>,
    group: &Group<'_>,
    items: &[usize],
    room: &mut Room,
    solution: &mut Solution,
) {
    let mut candidates: BinaryHeap<_> = (0..problem.bins.len())
        .filter(|&bin| room.misfit(&problem.bins[bin], bin, group).is_none())
        .map(|bin| room.score(&problem.bins[bin], bin, group))
        .collect();
    let mut reason = None;
    for &item in items {
        let Some(best) = candidates.pop() else {
            let reason = reason.get_or_insert_with(|| Arc::new(room.reason(problem, group)));
            solution.unplaced.insert(item, Arc::clone(reason));
            continue;
        };
        let bin = best.bin.0;
        room.take(bin, group, group.takes_address);
        solution.placed.insert(item, bin);
        if room.misfit(&problem.bins[bin], bin, group).is_none() {
            candidates.push(room.score(&problem.bins[bin], bin, group));
        }
    }
}

/// How good a bin is; the greatest is the best, fields in the order of their weight.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Fewest of the same group there.
    siblings: Reverse<u32>,
    /// The largest share left of what is scarcer there, in millionths.
    share: u64,
    /// Fewest items there, which tells bins apart for items that ask for nothing.
    items: Reverse<usize>,
    /// The first.
    bin: Reverse<usize>,
}

/// What is left in each bin.
struct Room {
    bins: Vec<Left>,
    /// Items by spread and bin.
    siblings: BTreeMap<(usize, usize), u32>,
}

struct Left {
    room: Resources,
    addresses: u32,
    items: usize,
}

impl Room {
    fn of(problem: &Problem<'_>) -> Self {
        let left = |bin: &Bin<'_>| Left {
            room: bin.capacity.minus(bin.used),
            addresses: bin.addresses,
            items: bin.items,
        };
        Self { bins: problem.bins.iter().map(left).collect(), siblings: BTreeMap::new() }
    }

    fn take(&mut self, bin: usize, group: &Group<'_>, address: bool) {
        let left = &mut self.bins[bin];
        // What stays may be more than a shrunken bin has.
        left.room = left.room.minus(group.request);
        left.addresses = left.addresses.saturating_sub(u32::from(address));
        left.items += 1;
        *self.siblings.entry((group.spread, bin)).or_default() += 1;
    }

    /// Why one more item of a group cannot go into a bin; what is least likely to change first.
    fn misfit(&self, bin: &Bin<'_>, index: usize, group: &Group<'_>) -> Option<Misfit> {
        let (left, asked) = (&self.bins[index], group.request);
        misfit(bin, group.rules).or(bin.closed.map(Misfit::Closed)).or({
            if left.room.cpu < asked.cpu {
                Some(Misfit::Cpu { free: left.room.cpu, asked: asked.cpu })
            } else if left.room.memory < asked.memory {
                Some(Misfit::Memory { free: left.room.memory, asked: asked.memory })
            } else if group.takes_address && left.addresses == 0 {
                Some(Misfit::Addresses)
            } else {
                None
            }
        })
    }

    fn score(&self, bin: &Bin<'_>, index: usize, group: &Group<'_>) -> Score {
        let left = &self.bins[index];
        let siblings = self.siblings.get(&(group.spread, index)).copied().unwrap_or(0);
        Score {
            siblings: Reverse(siblings),
            share: left.room.minus(group.request).share_of(bin.capacity),
            items: Reverse(left.items),
            bin: Reverse(index),
        }
    }

    fn reason(&self, problem: &Problem<'_>, group: &Group<'_>) -> Reason {
        let misfits = problem
            .bins
            .iter()
            .enumerate()
            .filter_map(|(index, bin)| Some((bin.name, self.misfit(bin, index, group)?)));
        Reason::of(problem.bins.len(), misfits)
    }
}

#[cfg(test)]
mod tests;
