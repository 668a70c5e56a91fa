//! The contract of the runtime wrapper `dwell-oci`: with `dwell-agent`, which container belongs into which sandbox, and
//! with `dwell-ssh`, which bundle a container was made of.
//!
//! The agent writes a [`Mapping`] between creating and starting a container; the wrapper reads it
//! each time the engine starts that container. Both use this one type, so that they cannot
//! disagree about names, places and format. What the wrapper does with it is told in its `main.rs`.

pub mod bundle;
pub mod cgroups;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod mapping;

pub use mapping::{Bind, Copied, Mapping, MappingError, Root};

/// State directory of a node, unless `--dwell-state-dir` names another.
pub const DEFAULT_STATE_DIR: &str = "/run/dwell";
