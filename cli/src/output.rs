//! What is printed: tables for people, JSON and YAML for programs.

mod size;
mod table;
pub(crate) mod time;
pub(crate) mod view;

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use size::size;
pub(crate) use table::{Style, Table, Tone, or_dash};
pub(crate) use time::{Now, duration, moment};

use crate::failure::Failure;

/// How to print an answer.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// How to print the answer; json and yaml have stable field names
    #[arg(
        short,
        long,
        value_name = "table|json|yaml",
        default_value = "table",
        hide_possible_values = true
    )]
    pub(crate) output: Format,
}

/// The forms of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

impl OutputArgs {
    /// Prints `value` for programs, or what `people` makes of it.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        people: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.output {
            Format::Table => print(&people(value)),
            format => print(&serialized(value, format)?),
        }
    }
}

/// `value` as JSON or YAML, with a final line break.
///
/// # Errors
/// None that is known of: views are plain data.
pub(crate) fn serialized<T: Serialize>(value: &T, format: Format) -> Result<String, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::Other(format!("cannot put the answer into words: {error}"))
    };
    match format {
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| failed(&error)),
        Format::Json | Format::Table => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|error| failed(&error)),
    }
}

/// Prints a text on standard output.
///
/// # Errors
/// If standard output cannot be written.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Prints a line on standard error, for people; nothing is lost if it cannot be read.
pub(crate) fn say(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// One line on standard error that is written over again, if somebody looks at it.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    visible: bool,
    shown: String,
}

impl ProgressLine {
    /// A line, still empty; never shown unless standard error is a terminal.
    pub(crate) fn new() -> Self {
        Self { visible: io::stderr().is_terminal(), shown: String::new() }
    }

    /// Shows a text in place of the last one.
    pub(crate) fn show(&mut self, text: &str) {
        if self.visible && self.shown != text {
            // A longer line would wrap, and only its last row could be written over.
            let cut: String = text.chars().take(terminal_width().saturating_sub(1)).collect();
            drop(write!(io::stderr(), "\r\u{1b}[K{cut}"));
            text.clone_into(&mut self.shown);
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if !self.shown.is_empty() {
            drop(write!(io::stderr(), "\r\u{1b}[K"));
        }
    }
}

fn terminal_width() -> usize {
    crate::terminal::size().map_or(80, |size| usize::try_from(size.columns).unwrap_or(80))
}
