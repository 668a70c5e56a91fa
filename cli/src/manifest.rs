//! The file in which a person declares workloads: from YAML to [`WorkloadSpec`].
//!
//! ```text
//!   bytes ──read──▶ file::File ──lower──▶ WorkloadSpec ──check──▶ what is sent
//!          (YAML, types, positions)  (shorthands of Compose)  (rules of core)
//! ```
//!
//! The types in [`file`] are the format; the JSON Schema is made from them. Whatever is wrong is said
//! with its line and column. Pure: text and variables go in, specifications or problems come out.

mod access;
mod file;
mod flag;
mod lower;
mod problem;
mod schema;
mod shared;
mod shorthand;
mod value;
mod variables;

use std::collections::HashMap;

use dwell_core::workload::WorkloadSpec;
use serde_saphyr::options::PropertySyntax;

pub(crate) use flag::{allow_rule, constraint, environment, mount, port, restart, ssh};
pub(crate) use problem::{ManifestError, Problem};
pub(crate) use schema::schema;
pub(crate) use shared::warnings;

/// The largest file that is read, in bytes.
pub(crate) const SIZE_MAX: usize = 1 << 20;

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
) -> Result<Vec<WorkloadSpec>, ManifestError> {
    parse(bytes, variables).map_err(|problems| ManifestError::new(name, problems))
}

fn parse(bytes: &[u8], variables: &Variables) -> Result<Vec<WorkloadSpec>, Vec<Problem>> {
    let whole = |message: String| vec![Problem { position: None, message }];
    if bytes.len() > SIZE_MAX {
        return Err(whole(format!("is larger than the {SIZE_MAX} bytes that are read")));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| whole(format!("is not UTF-8 text: {error}")))?;
    let unset = variables::unset(text, variables);
    if !unset.is_empty() {
        return Err(unset);
    }
    let options = serde_saphyr::options! {
        // `restart: no` and `ssh: off` are words.
        strict_booleans: true,
        with_snippet: false,
        property_syntax: PropertySyntax::DockerCompose,
    }
    .with_properties(variables.clone());
    let file: file::File = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| vec![Problem::of_yaml(&error)])?;
    lower::lower(file, variables)
}

#[cfg(test)]
mod tests;
