//! `dwell-bench`: dwell and the alternatives side by side, on this machine.

#![expect(clippy::print_stdout, reason = "a command line program talks on its standard output")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use dwell_tests::bench::{self, Report, benchmarks, write};

/// Times dwell against the alternatives, in turns, and compares the medians.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Which; all if none is named.
    names: Vec<String>,
    /// Only list them.
    #[arg(long)]
    list: bool,
    /// Where each result goes, as NAME.json.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        for (name, about) in benchmarks() {
            println!("{name:22} {about}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", Report::heads());
    let failed = bench::run(&cli.names, |entries| {
        for entry in entries {
            println!("{entry}");
        }
        write(entries, &cli.out)
    })
    .await?;
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}
