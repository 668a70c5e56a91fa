//! `dwell-vm`: boots virtual machines, installs dwell's packages on them, and looks whether all that must hold does.

#![expect(clippy::print_stderr, reason = "a command line program prints")]

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Parser;
use dwell_tests::vm::{self, Options, Suite};

/// dwell's packages on virtual machines.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The directory with the packages, as `make deb` fills it
    #[arg(long, value_name = "DIRECTORY")]
    packages: PathBuf,
    /// The release of Debian that the guests have, such as forky, by its name in the archive
    #[arg(long, default_value_t)]
    suite: Suite,
    /// How many guests; by default two, with --short one
    #[arg(long)]
    guests: Option<usize>,
    /// Only the installation, the ways to instances, and limits
    #[arg(long)]
    short: bool,
    /// Only this check, and those that all others begin with; may be repeated
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Keep the guests afterwards
    #[arg(long)]
    keep: bool,
    /// Go on with the guests that a run with --keep has left, as they are: only the checks of --only, in that order
    #[arg(long, requires = "only", conflicts_with_all = ["suite", "guests", "short"])]
    kept: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { packages, suite, guests, short, only, keep, kept } = Cli::parse();
    let guests = guests.unwrap_or(if short { 1 } else { 2 });
    match vm::run(&Options { packages, suite, guests, short, only, keep, kept, say }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dwell-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. Whoever reads them may have gone.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}
