//! The abstract problem: items of groups go into bins.

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::workload::{self, Resources};

use crate::reason::Reason;

/// Everything there is to decide upon.
#[derive(Clone, Debug, Default)]
pub struct Problem<'a> {
    /// Where items can go. A bin is known by its index.
    pub bins: Vec<Bin<'a>>,
    /// What the items are like. A group is known by its index.
    pub groups: Vec<Group<'a>>,
    /// The group of each item. An item is known by its index.
    pub items: Vec<usize>,
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
    /// What of that is promised to items outside this problem.
    pub used: Resources,
    /// How many items outside this problem are there, whatever their size.
    pub items: usize,
    /// How many addresses it can still give out.
    pub addresses: u32,
    /// Why nothing new goes there, if so.
    pub closed: Option<Closed>,
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
}

/// What items of one workload have in common.
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
}

/// The bin of each item that has one: item to bin.
pub type Placement = BTreeMap<usize, usize>;

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Solution {
    /// The bin of each item that has one, the previous ones among them.
    pub placed: Placement,
    /// Why the others have none. Items of one group share their reason.
    pub unplaced: BTreeMap<usize, Arc<Reason>>,
}
