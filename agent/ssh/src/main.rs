//! `dwell-ssh`: the SSH server of a node's instances.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use dwell_ssh::{daemon, enter};

/// Serves SSH on port 22 inside every instance of this node that the agent names.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The agent's run directory
    #[arg(long, value_name = "DIR", default_value = "/run/dwell")]
    run_dir: PathBuf,
    /// What is logged: a level, also by module, such as `info,dwell_ssh=debug`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    // Before anything else, arguments included: this process may be one that goes into a container.
    if let Some(code) = enter::helper_main() {
        return code;
    }
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if even that cannot be written.
            drop(writeln!(std::io::stderr(), "dwell-ssh: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    dwell_daemon::logging::start(&cli.log)?;
    dwell_daemon::memory::keep_given_back().context("cannot start a thread")?;
    // Two threads: one connection that encrypts as fast as it can keeps no other waiting.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Those who go into containers leave this directory.
    let run_dir = std::path::absolute(&cli.run_dir).context("--run-dir")?;
    let ended = runtime.block_on(daemon::run(&run_dir));
    runtime.shutdown_background();
    ended.map_err(Into::into)
}
