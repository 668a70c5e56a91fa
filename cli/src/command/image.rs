//! `dwell image`: the images that nodes have.

mod ls;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Fleet;
use crate::failure::Failure;

/// Images on nodes
///
/// Nodes have images because instances need them or needed them, and because people put them there. The controller
/// keeps no list of them: nodes are asked.
#[derive(Args, Debug)]
pub(crate) struct Image {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Ls),
}

impl Image {
    pub(super) async fn run(self, fleet: Fleet) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Ls(ls) => ls.run(fleet).await,
        }
    }
}
