//! `dwell image`: the images that nodes have.

mod ls;
mod pull;
mod push;
mod remove;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use dwell_core::id::{NodeName, PoolName};

use super::{Fleet, PROBLEMS};
use crate::complete;
use crate::failure::Failure;
use crate::output::say;
use crate::output::view::ProblemView;

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
    Pull(pull::Pull),
    Push(push::Push),
    Rm(remove::Rm),
    Prune(remove::Prune),
}

impl Image {
    pub(super) async fn run(self, fleet: Fleet) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Ls(ls) => ls.run(fleet).await,
            Command::Pull(pull) => pull.run(fleet).await,
            Command::Push(push) => push.run(fleet).await,
            Command::Rm(rm) => rm.run(fleet).await,
            Command::Prune(prune) => prune.run(fleet).await,
        }
    }
}

/// The nodes that are meant.
#[derive(Args, Debug)]
struct Nodes {
    /// Only on this node
    #[arg(long, add = complete::node(), conflicts_with = "pool")]
    node: Option<NodeName>,
    /// Only on the nodes of this pool
    #[arg(long, add = complete::pool())]
    pool: Option<PoolName>,
}

impl Nodes {
    /// For a request, which has empty names for all.
    fn into_names(self) -> (String, String) {
        (text(self.node.as_ref()), text(self.pool.as_ref()))
    }
}

fn text(name: Option<&impl ToString>) -> String {
    name.map(ToString::to_string).unwrap_or_default()
}

/// Tells what went wrong where; the exit code that says whether anything did.
fn told(problems: &[ProblemView]) -> ExitCode {
    for one in problems {
        say(&format!("dwell: node {}: {}", one.node, one.problem));
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { PROBLEMS }
}
