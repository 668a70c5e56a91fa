//! What can be wrong with a file, in words for the one who wrote it.

use std::cmp::Reverse;
use std::fmt;

use dwell_core::instance::sanitize;
use serde_saphyr::{Error, Location, MessageFormatter, UserMessageFormatter};

/// The longest message of one problem, in bytes.
const MESSAGE_MAX: usize = 500;
/// The most problems that are shown of one file.
const PROBLEMS_MAX: usize = 100;

/// A file that cannot be used, and everything that is known to be wrong with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ManifestError {
    file: String,
    problems: Vec<Problem>,
}

impl ManifestError {
    pub(super) fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.position);
        Self { file: sanitize(file, MESSAGE_MAX), problems }
    }
}

impl fmt::Display for ManifestError {
    /// One line for each problem: `FILE:LINE:COLUMN: MESSAGE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().take(PROBLEMS_MAX).enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}{problem}", self.file)?;
        }
        match self.problems.len().saturating_sub(PROBLEMS_MAX) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.file),
        }
    }
}

/// One thing that is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Line and column, both from 1; `None` if it is about the whole file.
    pub(super) position: Option<(u64, u64)>,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn at(location: Location, message: impl fmt::Display) -> Self {
        let known = location != Location::UNKNOWN;
        Self {
            position: known.then(|| (location.line(), location.column())),
            message: sanitize(&message.to_string(), MESSAGE_MAX),
        }
    }

    /// What the YAML reader refused.
    pub(super) fn of_yaml(error: &Error) -> Self {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        Self::at(location, explain(error))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}: {}", self.message),
            None => write!(f, ": {}", self.message),
        }
    }
}

/// A line for each message, however often it holds: `FILE:LINE:COLUMN: MESSAGE`.
pub(super) fn together(file: &str, mut problems: Vec<Problem>) -> impl Iterator<Item = String> {
    let file = sanitize(file, MESSAGE_MAX);
    problems.sort_by_key(|problem| problem.position);
    let mut lines: Vec<(Problem, usize)> = Vec::new();
    for problem in problems {
        match lines.iter_mut().find(|(first, _)| first.message == problem.message) {
            Some((_, times)) => *times += 1,
            None => lines.push((problem, 1)),
        }
    }
    lines.into_iter().map(move |(problem, times)| match times {
        1 => format!("{file}{problem}"),
        _ => format!("{file}{problem} ({times} times in the file)"),
    })
}

fn explain(error: &Error) -> String {
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => explain(error),
        Error::Message { msg, .. } => msg.clone(),
        Error::SerdeMissingField { field, .. } => format!("key {field:?} is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("key {key:?} is given twice; keep one of them")
        }
        Error::Eof { .. } => "is empty; declare at least one workload under \"workloads:\"".into(),
        Error::MultipleDocuments { .. } => {
            "has a second document after \"---\"; write one document per file".into()
        }
        Error::PropertyRequiredButUnset { name, message, .. }
        | Error::PropertyRequiredButEmpty { name, message, .. } => {
            format!("variable {name:?} is not set: {message}")
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "is nested too deeply or repeats too much; write it with fewer levels and aliases"
                .into()
        }
        Error::InvalidScalar { ty, .. } if ty.starts_with(['u', 'i']) => {
            "this is not a whole number that fits here; write one".into()
        }
        Error::InvalidBooleanStrict { .. } => "write true or false".into(),
        Error::Unexpected { expected: "string scalar", .. } => {
            "write a single value here, such as a text or a number".into()
        }
        Error::NullIntoString { .. } => {
            "a text is missing here; write one, or remove the key".into()
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("this is {unexpected}; write {expected}")
        }
        other => UserMessageFormatter.format_message(other).into_owned(),
    }
}

/// What is said of a key that is neither one of those known in its place nor Compose's.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let key = sanitize(key, 60);
    let near = known
        .iter()
        .map(|candidate| {
            // Of two that are as far, the one that begins alike is meant.
            let alike = key.chars().zip(candidate.chars()).take_while(|(a, b)| a == b).count();
            (strsim::damerau_levenshtein(&key, candidate), Reverse(alike), *candidate)
        })
        .filter(|(distance, _, candidate)| *distance <= candidate.len().max(key.len()) / 3 + 1)
        .min();
    match near {
        Some((_, _, candidate)) => format!("unknown key {key:?}; did you mean {candidate:?}?"),
        None => format!("unknown key {key:?}; known here are {}", known.join(", ")),
    }
}
