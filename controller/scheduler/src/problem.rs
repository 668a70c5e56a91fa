//! The abstract problem: items of groups go into bins.

use std::collections::BTreeMap;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::skill::Skills;
use dwell_core::workload::{self, Resources};

use crate::reason::Reason;

/// Everything there is to decide upon.
#[derive(Clone, Debug, Default)]
pub struct Problem<'a> {
    /// Where items can go. A bin is known by its index.
    pub bins: Vec<Bin<'a>>,
    /// What the items are like, and how many there are of each kind. A group is known by its index.
    pub groups: Vec<Group<'a>>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Bin<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The pool it is in.
    pub pool: Option<&'a PoolName>,
    /// Its processors' architecture; empty if unknown.
    pub arch: &'a str,
    /// What it has.
    pub capacity: Resources,
    /// What of that is promised to what is there.
    pub used: Resources,
    /// How many items are there, whatever their size.
    pub items: usize,
    /// How many addresses it can still give out.
    pub addresses: u32,
    /// Why nothing new goes there, if so.
    pub closed: Option<Closed>,
    /// Whether files are carried over there from a container to its successor.
    pub carries: bool,
    /// What its agent knows of.
    pub skills: Skills,
}

/// Why nothing new goes into a bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// An operator wants it so.
    Cordoned,
    /// It is being emptied.
    Draining,
    /// It has not been heard of for a while.
    Unreachable,
    /// It has not been heard of for long, or never.
    Down,
    /// None of its engines answers.
    NoEngine,
    /// There is no room for another image.
    DiskFull,
    /// What runs there has to wait for memory.
    Pressed,
}

/// Items of one workload that are the same, and want a place.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// What each of them needs.
    pub request: Resources,
    /// Where they may go.
    pub rules: &'a workload::Placement,
    /// Whether each of them, when it is placed, takes an address of its bin.
    pub takes_address: bool,
    /// Groups with the same number are spread as one.
    pub spread: usize,
    /// How many there are.
    pub wanted: usize,
    /// Whether files of theirs are to be carried over.
    pub carries: bool,
    /// What an agent has to know of to run them.
    pub needs: Skills,
    /// Bins in which their image could not be had lately, by name.
    pub avoids: Vec<&'a NodeName>,
}

/// What is placed already: how many items of a spread are in a bin. It stays there, and what it takes
/// is in the bin's `used`.
pub type Placement = BTreeMap<(usize, usize), u32>;

/// What was decided, for each group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Solution {
    /// For each group, its answer.
    pub groups: Vec<Answer>,
}

/// Where the items of one group go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// A bin for each item that has one, the best first.
    pub bins: Vec<usize>,
    /// Why the rest has none; there exactly if there is a rest.
    pub reason: Option<Reason>,
}
