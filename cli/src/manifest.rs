//! The file in which a person declares workloads: from YAML to [`WorkloadSpec`].
//!
//! ```text
//!   bytes ──extends──▶ text ──shape──▶ file::File ──lower──▶ WorkloadSpec ──check──▶ what is sent
//!     (services written out) (keys and kinds)  (shorthands of Compose)  (rules of core)
//! ```
//!
//! The types in [`file`] are the format; the JSON Schema is made from them, and [`shape`] compares a file
//! with it. Whatever is wrong is said with its line and column, as much as possible at once. Pure but for the files
//! that a file names: text and [`Surroundings`] go in, specifications or problems come out.

mod access;
mod beside;
mod compose;
mod env_file;
mod export;
mod extends;
mod file;
mod files;
mod flag;
mod format;
mod held;
mod import;
mod lower;
mod machine;
mod problem;
mod schema;
mod shape;
mod shared;
mod shorthand;
mod tree;
mod value;
mod variables;

use std::collections::HashMap;

use dwell_core::workload::WorkloadSpec;
use serde::{Deserialize, Serialize};
use serde_saphyr::options::PropertySyntax;

pub(crate) use export::export;
#[cfg(any(test, fuzzing))]
pub(crate) use files::Nowhere;
pub(crate) use files::{Beside, Files};
pub(crate) use flag::{allow_rule, constraint, environment, mount, port, restart, ssh};
pub(crate) use import::import;
pub(crate) use lower::restart_of;
pub(crate) use problem::{ManifestError, Problem};
pub(crate) use schema::schema;

/// The largest file that is read, in bytes.
pub(crate) const SIZE_MAX: usize = 1 << 20;

/// What a file says.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The workloads it declares, in its order.
    pub(crate) declared: Vec<Declared>,
    /// What whoever wrote it might expect and does not get, a sentence each.
    pub(crate) warnings: Vec<String>,
}

/// A workload that a file declares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    /// What it says, with defaults for the rest.
    pub(crate) spec: WorkloadSpec,
    /// Whether it says how many instances there are. If not, a workload that exists keeps its number.
    pub(crate) says_replicas: bool,
}

/// The variables that `$NAME` and `${NAME}` in a file stand for.
pub(crate) type Variables = HashMap<String, String>;

/// What a file is read in.
pub(crate) struct Surroundings<'a> {
    /// What `$NAME` and `${NAME}` stand for.
    pub(crate) variables: &'a Variables,
    /// The files that it names.
    pub(crate) files: &'a dyn Files,
    /// Which workloads with profiles are meant; `*` for all.
    pub(crate) profiles: &'a [String],
}

#[cfg(any(test, fuzzing))]
impl<'a> Surroundings<'a> {
    /// Without files and profiles.
    pub(crate) fn of(variables: &'a Variables) -> Self {
        Self { variables, files: &Nowhere, profiles: &[] }
    }
}

/// What makes a workload's instances machines, without further words.
pub(crate) fn machine() -> Option<dwell_core::workload::Machine> {
    machine::usual()
}

/// Reads a file.
///
/// # Errors
/// All that is wrong with it, as far as that can be said at once; `name` is what the file is called there.
pub(crate) fn read(
    name: &str,
    bytes: &[u8],
    surroundings: &Surroundings<'_>,
) -> Result<Manifest, ManifestError> {
    let (declared, ignored) =
        parse(bytes, surroundings).map_err(|problems| ManifestError::new(name, problems))?;
    let warnings = problem::together(name, ignored).chain(shared::warnings(&declared)).collect();
    Ok(Manifest { declared, warnings })
}

/// What a file declares, and what of it is ignored.
fn parse(
    bytes: &[u8],
    surroundings: &Surroundings<'_>,
) -> Result<(Vec<Declared>, Vec<Problem>), Vec<Problem>> {
    let text = text(bytes).map_err(|problem| vec![problem])?;
    // What is not YAML is said below.
    let Ok(tree) = tree_of(text) else { return parse_text(text, surroundings) };
    if !extends::is_used(&tree) {
        return parse_text(text, surroundings);
    }
    let written = tree::Written::of(&extends::resolve(tree, surroundings.files)?);
    let here = |problems: Vec<Problem>| {
        problems.into_iter().map(|problem| written.origin_of(problem)).collect()
    };
    match parse_text(&written.text, surroundings) {
        Ok((declared, warnings)) => Ok((declared, here(warnings))),
        Err(problems) => Err(here(problems)),
    }
}

fn text(bytes: &[u8]) -> Result<&str, Problem> {
    let whole = |message: String| Problem { position: None, message };
    if bytes.len() > SIZE_MAX {
        return Err(whole(format!("is larger than the {SIZE_MAX} bytes that are read")));
    }
    std::str::from_utf8(bytes).map_err(|error| whole(format!("is not UTF-8 text: {error}")))
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // `restart: no` and `ssh: off` are words.
        strict_booleans: true,
        with_snippet: false,
        property_syntax: PropertySyntax::DockerCompose,
    }
}

/// A file as a tree, with variables as they are written.
fn tree_of(text: &str) -> Result<tree::Item, Problem> {
    // Without variables and what escapes them: it is as it is written.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let node = serde_saphyr::from_str_with_options(text, options);
    node.map(|node| tree::Item::of(&node, text)).map_err(|error| Problem::of_yaml(&error))
}

fn parse_text(
    text: &str,
    surroundings: &Surroundings<'_>,
) -> Result<(Vec<Declared>, Vec<Problem>), Vec<Problem>> {
    let unset = variables::unset(text, surroundings.variables);
    let shape::Found { mut problems, mut warnings } =
        shape::compare(text, &schema::value(), options())
            .map_err(|error| vec![Problem::of_yaml(&error)])?;
    if !unset.is_empty() {
        // What a value would be is not known.
        problems.extend(unset);
        return Err(problems);
    }
    let options = options().with_properties(surroundings.variables.clone());
    let file: Result<file::File, _> = serde_saphyr::from_str_with_options(text, options);
    let declared = file
        .map_err(|error| vec![Problem::of_yaml(&error)])
        .and_then(|file| lower::lower(file, surroundings));
    match declared {
        Ok((declared, more)) if problems.is_empty() => {
            warnings.extend(more);
            Ok((declared, warnings))
        }
        Ok(_) => Err(problems),
        Err(more) => {
            // The reader stops at what has been named already, or says more.
            let is_new = |new: &Problem| {
                let is_other =
                    |old: &Problem| old.position != new.position && old.message != new.message;
                problems.iter().all(is_other)
            };
            let more: Vec<Problem> = more.into_iter().filter(is_new).collect();
            problems.extend(more);
            Err(problems)
        }
    }
}

#[cfg(test)]
mod tests;
