//! Which faults are on.

use crate::action::Class;

/// Faults that dwell does not survive yet, and why. `--with CLASS` switches one on.
pub const SWITCHED_OFF: &[(Class, &str)] = &[
    (Class::Restore, "a restored controller takes away what it has forgotten, without asking"),
    (Class::NameReused, "the host that had the name before is refused, and runs on"),
    (Class::Clone, "two hosts with one identity both run everything"),
];

/// Rules that are not enforced yet, and why. `--enforce RULE` does.
pub const NOT_ENFORCED: &[(&str, &str)] = &[
    (
        "ruled out",
        "what creates or moves an instance gives it the version declared last, even one that failed",
    ),
    (
        "bad news stops",
        "a version without a health check is rolled over all instances before it is known to fail",
    ),
];

/// The classes of faults that are on, with those that somebody wants in addition.
#[must_use]
pub fn classes(with: &[Class]) -> Vec<Class> {
    let is_off = |class: &Class| SWITCHED_OFF.iter().any(|(off, _)| off == class);
    Class::ALL.into_iter().filter(|class| !is_off(class) || with.contains(class)).collect()
}
