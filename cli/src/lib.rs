//! `dwell`: the command line.
//!
//! ```text
//!   main ─▶ command/*  one file per command: its arguments and what it does
//!              ├─▶ manifest   the file of workloads, pure
//!              ├─▶ client     the connection to a controller
//!              ├─▶ names      what a name means
//!              ├─▶ tunnel     a connection into an instance
//!              ├─▶ openssh    stock ssh and scp, over tunnels (public_key)
//!              ├─▶ complete   names at the shell's prompt
//!              ├─▶ archive    images that `docker save` wrote
//!              ├─▶ wait       until it is done, by watching (watch)
//!              └─▶ output     tables, JSON, YAML
//! ```
//!
//! Every failure is a [`failure::Failure`], printed here and nowhere else.

mod archive;
mod client;
mod command;
mod complete;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod lists;
mod manifest;
mod names;
mod openssh;
mod output;
mod private_file;
mod public_key;
mod terminal;
mod tunnel;
mod wait;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use failure::Failure;

/// Containers that live at an address, on a fleet of Linux hosts
#[derive(Debug, Parser)]
#[command(
    name = "dwell",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "`dwell COMMAND --help` has examples, `dwell --help` the exit codes.",
    after_long_help = EXIT_CODES
)]
struct Dwell {
    #[command(flatten)]
    target: client::TargetArgs,
    #[command(subcommand)]
    command: command::Command,
}

const EXIT_CODES: &str = "\
Names of workloads, instances and nodes are written out: no command guesses what a part of one means.

Exit codes:
  0    done, or accepted
  1    it failed, what was waited for cannot be reached any more, or what was checked has problems
  2    the arguments or a file are wrong; nothing was changed
  3    what it is about does not exist
  4    refused: not in this state, taken, or not for you
  5    the controller, or the node that is needed, does not answer
  6    --timeout has passed; what was asked for goes on
  7    `dwell plan --exit-code`: something would change
  125  `dwell exec`: it could not be run; any other code is the command's own
  255  `dwell ssh`: it came to no session; any other code is the command's own

`dwell cp` ends with scp's exit code. `dwell audit` ends with 0, 1 or 2; its help says when.";

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    complete::answer_shell();
    let arguments = Dwell::parse();
    // One connection and one command: threads would only cost time to start.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return report(&Failure::Other(format!("cannot start: {error}")));
        }
    };
    let result = runtime.block_on(command::run(arguments.command, &arguments.target));
    // A thread may still sit in a read of standard input.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    if *failure != Failure::OutputClosed {
        output::say(&format!("dwell: {failure}"));
    }
    failure.exit_code().into()
}

#[cfg(test)]
mod tests;
