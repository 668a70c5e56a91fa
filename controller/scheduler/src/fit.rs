//! Whether a bin is one that a group may go to, leaving room aside.

use std::collections::BTreeMap;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::workload::{Constraint, Placement};

use crate::problem::Bin;
use crate::reason::Misfit;

/// Why a placement does not allow a node, if it does not.
#[must_use]
pub fn misfit(bin: &Bin<'_>, placement: &Placement) -> Option<Misfit> {
    if let Some(wanted) = &placement.pool
        && bin.pool != Some(wanted)
    {
        return Some(Misfit::Pool { wanted: PoolName::clone(wanted) });
    }
    placement
        .constraints
        .iter()
        .find(|constraint| !holds(constraint, bin.name, bin.arch, bin.labels))
        .map(Misfit::constraint)
}

/// A label that is not there differs from every value.
fn holds(
    constraint: &Constraint,
    name: &NodeName,
    arch: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let value = match constraint.key.as_str() {
        "node.name" => Some(name.as_str()),
        "node.arch" => Some(arch),
        key => labels.get(key).map(String::as_str),
    };
    (value == Some(constraint.value.as_str())) == constraint.equal
}
