//! The file in which a person declares workloads: from YAML to [`WorkloadSpec`].
//!
//! ```text
//!   bytes ──shape──▶ file::File ──lower──▶ WorkloadSpec ──check──▶ what is sent
//!         (keys and kinds)    (shorthands of Compose)   (rules of core)
//! ```
//!
//! The types in [`file`] are the format; the JSON Schema is made from them, and [`shape`] compares a file
//! with it. Whatever is wrong is said with its line and column, as much as possible at once. Pure: text and
//! variables go in, specifications or problems come out.

mod access;
mod export;
mod file;
mod flag;
mod lower;
mod problem;
mod schema;
mod shape;
mod shared;
mod shorthand;
mod value;
mod variables;

use std::collections::HashMap;

use dwell_core::workload::WorkloadSpec;
use serde_saphyr::options::PropertySyntax;

pub(crate) use export::export;
pub(crate) use flag::{allow_rule, constraint, environment, mount, port, restart, ssh};
pub(crate) use problem::{ManifestError, Problem};
pub(crate) use schema::schema;
pub(crate) use shared::warnings;

/// The largest file that is read, in bytes.
pub(crate) const SIZE_MAX: usize = 1 << 20;

/// A workload that a file declares.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Declared {
    /// What it says, with defaults for the rest.
    pub(crate) spec: WorkloadSpec,
    /// Whether it says how many instances there are. If not, a workload that exists keeps its number.
    pub(crate) says_replicas: bool,
}

/// The variables that `$NAME` and `${NAME}` in a file stand for.
pub(crate) type Variables = HashMap<String, String>;

/// Reads the workloads a file declares, in its order.
///
/// # Errors
/// All that is wrong with it, as far as that can be said at once; `name` is what the file is called there.
pub(crate) fn read(
    name: &str,
    bytes: &[u8],
    variables: &Variables,
) -> Result<Vec<Declared>, ManifestError> {
    parse(bytes, variables).map_err(|problems| ManifestError::new(name, problems))
}

fn parse(bytes: &[u8], variables: &Variables) -> Result<Vec<Declared>, Vec<Problem>> {
    let whole = |message: String| vec![Problem { position: None, message }];
    if bytes.len() > SIZE_MAX {
        return Err(whole(format!("is larger than the {SIZE_MAX} bytes that are read")));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| whole(format!("is not UTF-8 text: {error}")))?;
    let options = serde_saphyr::options! {
        // `restart: no` and `ssh: off` are words.
        strict_booleans: true,
        with_snippet: false,
        property_syntax: PropertySyntax::DockerCompose,
    };
    let of_yaml = |error: &serde_saphyr::Error| vec![Problem::of_yaml(error)];
    let schema = schema::value();
    let mut problems = variables::unset(text, variables);
    problems
        .extend(shape::problems(text, &schema, options.clone()).map_err(|error| of_yaml(&error))?);
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.position);
        return Err(problems);
    }
    let options = options.with_properties(variables.clone());
    let file: file::File =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| of_yaml(&error))?;
    lower::lower(file, variables)
}

#[cfg(test)]
mod tests;
