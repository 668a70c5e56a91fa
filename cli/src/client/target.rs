//! Which controller is meant.

use std::env;
use std::path::PathBuf;

use clap::Args;

use super::context::Context;
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
#[derive(Args, Clone, Debug)]
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
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        if let Some(path) = &self.socket {
            return Ok(Target::Socket(path.clone()));
        }
        if let Some(context) = &self.context {
            return Context::load(context).map(|context| Target::Context(Box::new(context)));
        }
        match (set("DWELL_SOCKET"), set("DWELL_CONTEXT")) {
            (Some(_), Some(_)) => Err(Failure::Usage(
                "DWELL_SOCKET and DWELL_CONTEXT are both set; unset one of them".into(),
            )),
            (Some(path), None) => Ok(Target::Socket(path.into())),
            (None, Some(context)) => {
                Context::load(&text(context)).map(|context| Target::Context(Box::new(context)))
            }
            (None, None) => Ok(Target::Socket(DEFAULT_SOCKET.into())),
        }
    }
}
