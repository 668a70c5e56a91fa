//! Which controller is meant.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::context::{self, Context};
use crate::failure::Failure;

/// Where a controller on this machine listens.
const DEFAULT_SOCKET: &str = "/run/dwell/controller.sock";

/// A controller.
#[derive(Debug)]
pub(crate) enum Target {
    /// On this machine.
    Socket(PathBuf),
    /// Anywhere, with a certificate.
    Context(Box<Context>),
}

/// Which controller to use.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TargetArgs {
    /// Unix socket of a controller on this machine [env: DWELL_SOCKET] [default: /run/dwell/controller.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        conflicts_with = "context",
        help_heading = "Controller"
    )]
    socket: Option<PathBuf>,
    /// Context file of a controller anywhere, or its name in ~/.config/dwell/contexts [env: DWELL_CONTEXT]
    #[arg(long, global = true, value_name = "FILE|NAME", help_heading = "Controller")]
    context: Option<String>,
}

impl TargetArgs {
    /// The controller that is meant: what is said here goes before what the environment says.
    ///
    /// # Errors
    /// If a context's file cannot be used.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        match self.choice()? {
            Choice::Socket(path) => Ok(Target::Socket(path)),
            Choice::Context(text) => Ok(Target::Context(Box::new(Context::load(&text)?))),
        }
    }

    /// Arguments that mean the same controller in any directory and environment.
    ///
    /// # Errors
    /// As [`Self::target`], or if the current directory is gone.
    pub(crate) fn arguments(&self) -> Result<[OsString; 2], Failure> {
        let whole = |path: &Path| {
            std::path::absolute(path).map(PathBuf::into_os_string).map_err(|error| {
                Failure::Usage(format!("cannot tell where {} is: {error}", path.display()))
            })
        };
        Ok(match self.choice()? {
            Choice::Socket(path) => ["--socket".into(), whole(&path)?],
            Choice::Context(text) if context::is_file(&text) => {
                ["--context".into(), whole(Path::new(&text))?]
            }
            Choice::Context(name) => ["--context".into(), name.into()],
        })
    }

    fn choice(&self) -> Result<Choice, Failure> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = &self.socket {
            return Ok(Choice::Socket(path.clone()));
        }
        if let Some(context) = &self.context {
            return Ok(Choice::Context(context.clone()));
        }
        match (set("DWELL_SOCKET"), set("DWELL_CONTEXT")) {
            (Some(_), Some(_)) => Err(Failure::Usage(
                "DWELL_SOCKET and DWELL_CONTEXT are both set; unset one of them".into(),
            )),
            (Some(path), None) => Ok(Choice::Socket(path.into())),
            (None, Some(context)) => Ok(Choice::Context(context.to_string_lossy().into_owned())),
            (None, None) => Ok(Choice::Socket(DEFAULT_SOCKET.into())),
        }
    }
}

/// What was said, by arguments or the environment.
enum Choice {
    Socket(PathBuf),
    Context(String),
}
