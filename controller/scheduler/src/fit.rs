//! Whether a bin is one that a group may go to, leaving room aside.

use std::collections::BTreeMap;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::workload::{Constraint, Placement};

use crate::problem::Bin;
use crate::reason::Misfit;

/// Why the rules of a workload do not allow a node, if it does not.
#[must_use]
pub fn misfit(bin: &Bin<'_>, rules: &Placement) -> Option<Misfit> {
    if let Some(wanted) = &rules.pool
        && bin.pool != Some(wanted)
    {
        return Some(Misfit::Pool { wanted: PoolName::clone(wanted) });
    }
    rules
        .constraints
        .iter()
        .find(|constraint| !holds(constraint, bin.name, bin.arch, bin.labels))
        .map(|constraint| Misfit::Constraint(constraint.to_string()))
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
