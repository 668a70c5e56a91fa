//! Why an item has no bin: an answer that names nodes and numbers, of bounded length.

use std::cmp::Reverse;
use std::fmt;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::skill::Skill;

use crate::problem::Closed;

/// How many nodes a reason names; the rest is counted.
pub const REFUSALS_SHOWN: usize = 5;

/// Why no node fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// How many nodes there are.
    pub nodes: usize,
    /// The most telling refusals, nearest miss first; at most [`REFUSALS_SHOWN`].
    pub refusals: Vec<(NodeName, Misfit)>,
}

/// Why one node does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Not enough processor time.
    Cpu {
        /// What is free.
        free: Millicores,
        /// What was asked for.
        asked: Millicores,
    },
    /// Not enough memory.
    Memory {
        /// What is free.
        free: Bytes,
        /// What was asked for.
        asked: Bytes,
    },
    /// No address left in its block.
    Addresses,
    /// It has one of the same already, and is to have no more.
    HasOne,
    /// Nothing new goes there.
    Closed(Closed),
    /// No files are carried over there.
    CarriesNothing,
    /// Something that is declared is not known there.
    Lacks(Skill),
    /// The image could not be had there.
    NoImage,
    /// A constraint does not hold.
    Constraint(String),
    /// It is of another pool.
    Pool {
        /// The pool it would have to be in.
        wanted: PoolName,
    },
}

impl Misfit {
    /// How far the node is from fitting, the nearest first: what freeing a little room could mend
    /// comes before what was declared to be so.
    fn distance(&self) -> (u8, Reverse<u64>) {
        match self {
            Self::Cpu { free, .. } => (0, Reverse(free.0)),
            Self::Memory { free, .. } => (1, Reverse(free.0)),
            Self::Addresses => (2, Reverse(0)),
            Self::Closed(Closed::Cordoned) => (3, Reverse(0)),
            Self::Closed(Closed::Draining) => (4, Reverse(0)),
            Self::Closed(
                Closed::Unreachable | Closed::NoEngine | Closed::DiskFull | Closed::Pressed,
            ) => (5, Reverse(0)),
            Self::Closed(Closed::Down) => (6, Reverse(0)),
            Self::CarriesNothing | Self::Lacks(_) | Self::NoImage => (5, Reverse(0)),
            Self::HasOne => (7, Reverse(0)),
            Self::Constraint(_) => (8, Reverse(0)),
            Self::Pool { .. } => (9, Reverse(0)),
        }
    }
}

impl Reason {
    /// Keeps what tells most of these misfits; nodes in their order where it is the same.
    pub(crate) fn of<'a>(
        nodes: usize,
        misfits: impl Iterator<Item = (&'a NodeName, Misfit)>,
    ) -> Self {
        let mut misfits: Vec<_> = misfits.collect();
        misfits.sort_by_key(|(_, misfit)| misfit.distance());
        misfits.truncate(REFUSALS_SHOWN);
        let refusals = misfits.into_iter().map(|(node, misfit)| (node.clone(), misfit)).collect();
        Self { nodes, refusals }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { free, asked } => write!(f, "has {free} of the {asked} CPU asked for free"),
            Self::Memory { free, asked } => {
                write!(f, "has {free} of the {asked} memory asked for free")
            }
            Self::Addresses => f.write_str("has no free address in its block"),
            Self::HasOne => f.write_str("has its one already"),
            Self::Closed(Closed::Cordoned) => f.write_str("is cordoned"),
            Self::Closed(Closed::Draining) => f.write_str("is draining"),
            Self::Closed(Closed::Unreachable) => f.write_str("is unreachable"),
            Self::Closed(Closed::Down) => f.write_str("is down"),
            Self::Closed(Closed::NoEngine) => f.write_str("has no engine that answers"),
            Self::Closed(Closed::DiskFull) => f.write_str("has a full disk"),
            Self::Closed(Closed::Pressed) => f.write_str("is short of memory"),
            Self::CarriesNothing => {
                f.write_str("has an agent of a version that carries no files over (upgrade it)")
            }
            Self::Lacks(skill) => {
                write!(f, "has an agent of a version that does not know {skill} (upgrade it)")
            }
            Self::NoImage => f.write_str("could not have its image a short while ago"),
            Self::Constraint(constraint) => write!(f, "lacks {constraint}"),
            Self::Pool { wanted } => write!(f, "is not in pool {wanted}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("there are no nodes yet; `dwell node token` lets one join");
        }
        write!(f, "0 of {} nodes fit: ", self.nodes)?;
        for (index, (node, misfit)) in self.refusals.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{node} {misfit}")?;
        }
        match self.nodes.saturating_sub(self.refusals.len()) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}
