//! The decision: greedy, one group after the other, one item after the other.
//!
//! The bins a group may go to are sorted once into a heap; placing an item changes the score of one
//! bin only, which is put back with its new score. So a group of `k` items on `n` bins costs
//! `n + k log n`, not `k * n`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dwell_core::workload::Resources;

use crate::fit::misfit;
use crate::problem::{Answer, Bin, Group, Placement, Problem, Solution};
use crate::reason::{Misfit, Reason};

/// Gives every item a bin, or a reason why it has none.
///
/// What `previous` has placed stays where it is, even if the bin has been closed or has shrunk: moving
/// what runs is another decision.
#[must_use]
pub fn solve(problem: &Problem<'_>, previous: &Placement) -> Solution {
    let mut room = Room::of(problem, previous);
    let groups = problem.groups.iter().map(|group| place(problem, group, &mut room)).collect();
    Solution { groups }
}

/// Why one more item of a group cannot go into a bin as it is, with so many of its spread there; `None` if it can.
#[must_use]
pub fn refusal(bin: &Bin<'_>, group: &Group<'_>, siblings: u32) -> Option<Misfit> {
    Left::of(bin).misfit(bin, group, siblings)
}

fn place(problem: &Problem<'_>, group: &Group<'_>, room: &mut Room) -> Answer {
    let mut answer = Answer::default();
    if group.wanted == 0 {
        return answer;
    }
    let mut candidates: BinaryHeap<_> = (0..problem.bins.len())
        .filter(|&bin| room.misfit(&problem.bins[bin], bin, group).is_none())
        .map(|bin| room.score(&problem.bins[bin], bin, group))
        .collect();
    while answer.bins.len() < group.wanted {
        let Some(best) = candidates.pop() else {
            answer.reason = Some(room.reason(problem, group));
            return answer;
        };
        let bin = best.bin.0;
        room.take(bin, group);
        answer.bins.push(bin);
        if room.misfit(&problem.bins[bin], bin, group).is_none() {
            candidates.push(room.score(&problem.bins[bin], bin, group));
        }
    }
    answer
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
    siblings: Placement,
}

struct Left {
    room: Resources,
    addresses: u32,
    items: usize,
}

impl Left {
    fn of(bin: &Bin<'_>) -> Self {
        Self { room: bin.capacity.minus(bin.used), addresses: bin.addresses, items: bin.items }
    }

    /// Why one more item of a group cannot go there; what is least likely to change first.
    fn misfit(&self, bin: &Bin<'_>, group: &Group<'_>, siblings: u32) -> Option<Misfit> {
        let asked = group.request;
        misfit(bin, group.rules).or(bin.closed.map(Misfit::Closed)).or({
            if group.rules.one_per_node && siblings > 0 {
                Some(Misfit::HasOne)
            } else if group.carries && !bin.carries {
                Some(Misfit::CarriesNothing)
            } else if let Some(skill) = bin.skills.lacking(group.needs) {
                Some(Misfit::Lacks(skill))
            } else if group.avoids.contains(&bin.name) {
                Some(Misfit::NoImage)
            } else if self.room.cpu < asked.cpu {
                Some(Misfit::Cpu { free: self.room.cpu, asked: asked.cpu })
            } else if self.room.memory < asked.memory {
                Some(Misfit::Memory { free: self.room.memory, asked: asked.memory })
            } else if group.takes_address && self.addresses == 0 {
                Some(Misfit::Addresses)
            } else {
                None
            }
        })
    }
}

impl Room {
    fn of(problem: &Problem<'_>, previous: &Placement) -> Self {
        Self { bins: problem.bins.iter().map(Left::of).collect(), siblings: previous.clone() }
    }

    fn take(&mut self, bin: usize, group: &Group<'_>) {
        let left = &mut self.bins[bin];
        left.room = left.room.minus(group.request);
        left.addresses = left.addresses.saturating_sub(u32::from(group.takes_address));
        left.items += 1;
        *self.siblings.entry((group.spread, bin)).or_default() += 1;
    }

    fn misfit(&self, bin: &Bin<'_>, index: usize, group: &Group<'_>) -> Option<Misfit> {
        self.bins[index].misfit(bin, group, self.siblings(index, group))
    }

    fn siblings(&self, index: usize, group: &Group<'_>) -> u32 {
        self.siblings.get(&(group.spread, index)).copied().unwrap_or(0)
    }

    fn score(&self, bin: &Bin<'_>, index: usize, group: &Group<'_>) -> Score {
        let left = &self.bins[index];
        Score {
            siblings: Reverse(self.siblings(index, group)),
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
