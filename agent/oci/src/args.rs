//! The command line: our own settings in front, runc's behind them.
//!
//! Only one thing must be known about runc's part: whether it makes a container, and if so which
//! one from which bundle. Misreading it would verify one bundle and start another, so the parser
//! is strict exactly there: where `create`, `run` or `restore` occurs, every flag before and after
//! it must be known. A command line without these words needs no understanding.
//!
//! Spelling is that of the Go `flag` package (`-x` and `--x` are the same, `--x V` or `--x=V`,
//! the last one counts, `--` ends the flags), with flags before or after the container id; crun and
//! youki accept what containerd sends in this spelling.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use dwell_oci::DEFAULT_STATE_DIR;

/// Flags with a value, before the command.
const GLOBAL_VALUES: &[&str] =
    &["cgroup-manager", "criu", "log", "log-format", "log-level", "root", "rootless"];
/// Flags without a value, before the command.
const GLOBAL_SWITCHES: &[&str] = &["debug", "systemd-cgroup"];
/// Flags with a value, of `create` and `run`.
const CREATE_VALUES: &[&str] =
    &["b", "bundle", "console-socket", "pid-file", "pidfd-socket", "preserve-fds"];
/// Flags without a value, of `create` and `run`.
const CREATE_SWITCHES: &[&str] =
    &["d", "detach", "keep", "no-new-keyring", "no-pivot", "no-subreaper"];

/// The wrapper's own settings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where the agent writes the mappings.
    pub(crate) state_dir: PathBuf,
    /// The real runtime: a name to be found in `PATH`, or a path.
    pub(crate) runtime: OsString,
}

impl Settings {
    /// Takes the leading `--dwell-*` arguments; the rest is for the real runtime.
    pub(crate) fn split(args: &[OsString]) -> Result<(Self, &[OsString]), ArgumentError> {
        let mut settings =
            Self { state_dir: DEFAULT_STATE_DIR.into(), runtime: OsString::from("runc") };
        let mut rest = args;
        while let [first, tail @ ..] = rest {
            let text = first.to_string_lossy();
            let Some(setting) = text.strip_prefix("--dwell-") else { break };
            match setting.split_once('=') {
                Some(("state-dir", value)) if value.starts_with('/') => {
                    settings.state_dir = value.into();
                }
                Some(("runtime", value)) if !value.is_empty() => settings.runtime = value.into(),
                _ => return Err(ArgumentError::Setting(first.clone())),
            }
            rest = tail;
        }
        Ok((settings, rest))
    }
}

/// A command that makes a container: `create` or `run`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Creation<'a> {
    /// The container, as the engine calls it; not yet validated.
    pub(crate) container_id: &'a str,
    /// The directory with its `config.json`.
    pub(crate) bundle: &'a Path,
}

impl<'a> Creation<'a> {
    /// What the runtime's arguments create; `None` if they create nothing.
    pub(crate) fn find(args: &'a [OsString]) -> Result<Option<Self>, ArgumentError> {
        if !args.iter().any(|arg| arg == "create" || arg == "run" || arg == "restore") {
            return Ok(None);
        }
        let mut words = Words { rest: args.iter() };
        let command = loop {
            match words.next(GLOBAL_VALUES, GLOBAL_SWITCHES)? {
                None => return Ok(None),
                Some(Word::Flag { .. } | Word::EndOfFlags) => {}
                Some(Word::Plain(command)) => break command,
            }
        };
        match command {
            "create" | "run" => Self::parse(command, words).map(Some),
            "restore" => Err(ArgumentError::Restore),
            _ => Ok(None),
        }
    }

    fn parse(command: &str, mut words: Words<'a>) -> Result<Self, ArgumentError> {
        let mut bundle = "";
        let mut ids = Vec::new();
        while let Some(word) = words.next(CREATE_VALUES, CREATE_SWITCHES)? {
            match word {
                Word::Flag { name: "b" | "bundle", value } => bundle = value,
                Word::Flag { .. } => {}
                Word::Plain(id) => ids.push(id),
                Word::EndOfFlags => {
                    ids.extend(
                        words.rest.by_ref().map(|id| utf8(id)).collect::<Result<Vec<_>, _>>()?,
                    );
                }
            }
        }
        let [container_id] = ids[..] else {
            return Err(ArgumentError::Ids { command: command.to_owned(), count: ids.len() });
        };
        // runc takes an empty path for the working directory, too.
        let bundle = Path::new(if bundle.is_empty() { "." } else { bundle });
        Ok(Self { container_id, bundle })
    }
}

/// Why a command line was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ArgumentError {
    #[error(
        "cannot use the setting {0:?}: \
         there are `--dwell-state-dir=/ABSOLUTE/DIR` and `--dwell-runtime=PROGRAM`"
    )]
    Setting(OsString),

    #[error("the argument {0:?} is not UTF-8, so the container cannot be told from it")]
    NotUtf8(OsString),

    #[error(
        "the flag {0:?} is unknown, so the container and its bundle cannot be told; \
         this dwell is older than the engine: upgrade it"
    )]
    UnknownFlag(String),

    #[error("the flag {0:?} lacks its value")]
    ValueMissing(String),

    #[error("`{command}` needs one container id and got {count}")]
    Ids { command: String, count: usize },

    #[error("`restore` is not supported: a checkpoint cannot be put into a sandbox")]
    Restore,
}

/// The arguments, word by word.
struct Words<'a> {
    rest: std::slice::Iter<'a, OsString>,
}

enum Word<'a> {
    /// A flag without its dashes; the value is empty for a switch.
    Flag { name: &'a str, value: &'a str },
    /// `--`
    EndOfFlags,
    /// A command or a container id.
    Plain(&'a str),
}

impl<'a> Words<'a> {
    fn next(
        &mut self,
        values: &[&str],
        switches: &[&str],
    ) -> Result<Option<Word<'a>>, ArgumentError> {
        let Some(word) = self.rest.next() else { return Ok(None) };
        let word = utf8(word)?;
        if word == "--" {
            return Ok(Some(Word::EndOfFlags));
        }
        let Some(flag) = flag(word) else { return Ok(Some(Word::Plain(word))) };
        let (name, attached) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let value = match (attached, values.contains(&name), switches.contains(&name)) {
            (Some(value), true, _) => value,
            (None, true, _) => {
                let next = self.rest.next();
                utf8(next.ok_or_else(|| ArgumentError::ValueMissing(word.to_owned()))?)?
            }
            (_, _, true) => "",
            _ => return Err(ArgumentError::UnknownFlag(word.to_owned())),
        };
        Ok(Some(Word::Flag { name, value }))
    }
}

/// Where runc would log, if it logs as JSON.
///
/// For reporting a failure, perhaps of the parser itself; so this looks for the two flags and
/// overlooks what it does not understand.
pub(crate) fn json_log(args: &[OsString]) -> Option<&Path> {
    let value_of = |wanted: &str| {
        args.iter().enumerate().find_map(|(at, arg)| {
            let flag = flag(arg.to_str()?)?;
            match flag.split_once('=') {
                Some((name, value)) => (name == wanted).then_some(OsStr::new(value)),
                None => (flag == wanted).then(|| args.get(at + 1))?.map(OsString::as_os_str),
            }
        })
    };
    (value_of("log-format")? == "json").then(|| value_of("log").map(Path::new))?
}

/// The flag in a word, without its dashes.
fn flag(word: &str) -> Option<&str> {
    let flag = word.strip_prefix('-')?;
    let flag = flag.strip_prefix('-').unwrap_or(flag);
    (!flag.is_empty()).then_some(flag)
}

fn utf8(word: &OsStr) -> Result<&str, ArgumentError> {
    word.to_str().ok_or_else(|| ArgumentError::NotUtf8(word.to_owned()))
}

#[cfg(test)]
mod tests;
