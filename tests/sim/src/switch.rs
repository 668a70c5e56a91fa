//! Which faults are on.

use crate::action::Class;

/// Faults that are not brought yet, and why. `--with CLASS` switches one on.
pub const SWITCHED_OFF: &[(Class, &str)] = &[
    (Class::Restore, "the operator of the simulation does not confirm a restore yet"),
    (
        Class::NameReused,
        "the empty assignment for a host of an earlier enrolment is not simulated yet",
    ),
    (Class::Clone, "the operator of the simulation does not decide between two hosts yet"),
];

/// Rules that are not enforced yet, and why. `--enforce RULE` does.
pub const NOT_ENFORCED: &[(&str, &str)] = &[
    (
        "ruled out",
        "what creates or moves an instance gives it the version declared last, even one that failed",
    ),
    ("bad news stops", "a few seeds still roll a second bad version over instances that served"),
];

/// The classes of faults that are on, with those that somebody wants in addition.
#[must_use]
pub fn classes(with: &[Class]) -> Vec<Class> {
    let is_off = |class: &Class| SWITCHED_OFF.iter().any(|(off, _)| off == class);
    Class::ALL.into_iter().filter(|class| !is_off(class) || with.contains(class)).collect()
}
