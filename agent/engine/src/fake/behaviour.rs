//! How the processes of the fake engine's containers behave.

/// The main process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What it writes to its standard output when it was started.
    pub prints: String,
    /// With which exit code it ends by itself, at once; `None` if it runs on.
    pub ends: Option<i32>,
    /// With which exit code it ends, at once, when asked to; `None` if it has to be killed.
    pub ends_when_asked: Option<i32>,
}

impl Default for Program {
    fn default() -> Self {
        Self { prints: "started\n".to_owned(), ends: None, ends_when_asked: Some(143) }
    }
}

/// A command beside the main process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// What it writes to its standard output.
    pub stdout: String,
    /// What it writes to its standard error.
    pub stderr: String,
    /// With which exit code it ends by itself, at once; `None` if it has to be ended.
    pub ends: Option<i32>,
}
