//! Which rules are enforced.

/// Rules that are not enforced yet, and why. `--enforce RULE` does.
pub const NOT_ENFORCED: &[(&str, &str)] = &[];
