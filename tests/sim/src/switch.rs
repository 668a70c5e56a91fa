//! Which rules are enforced.

/// Rules that are not enforced yet, and why. `--enforce RULE` does.
pub const NOT_ENFORCED: &[(&str, &str)] = &[
    (
        "ruled out",
        "what creates or moves an instance gives it the version declared last, even one that failed",
    ),
    ("bad news stops", "a few seeds still roll a second bad version over instances that served"),
];
