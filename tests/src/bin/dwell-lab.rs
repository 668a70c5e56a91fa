//! `dwell-lab`: brings up several hosts on this machine, with Docker engines and dwell's real
//! processes on them, shows what they do together, and removes every trace.

#![expect(clippy::print_stderr, reason = "a command line program prints")]

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use dwell_tests::{
    churn::Churn,
    demo,
    lab::{self, Lab, LabConfig, prerequisites},
};

/// Several dwell hosts on this one machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the lab needs and this machine lacks.
    Setup {
        /// And what only the tests need.
        #[arg(long)]
        tests: bool,
        /// Or what virtual machines need.
        #[arg(long, conflicts_with = "tests")]
        vm: bool,
    },
    /// Bring up hosts with a Docker engine each, and nothing of dwell.
    Up(Up),
    /// Bring up a fleet, apply the examples and prove that they can be reached; leave it up.
    Demo(Up),
    /// Prove again that every instance of a demo can be reached.
    Prove(Name),
    /// Say how to reach a lab, for `eval`.
    Env(Name),
    /// List the labs of this machine and what runs in them.
    Status,
    /// Let instances be born, change and die at random while everything fails, and look whether all is as declared.
    Churn(Births),
    /// Remove every trace of a lab.
    Down(Name),
}

#[derive(Args)]
struct Name {
    /// Which lab.
    #[arg(long, default_value = "demo")]
    name: String,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    lab: Name,
    /// How many hosts.
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// Let containers outlive their dockerd.
    #[arg(long)]
    live_restore: bool,
}

#[derive(Args)]
struct Births {
    /// How many containers are to be born, at least.
    #[arg(long, default_value_t = 1000)]
    births: usize,
    /// What decides everything that is random here; without it, any.
    #[arg(long)]
    seed: Option<u64>,
    /// How many hosts.
    #[arg(long, default_value_t = 3)]
    hosts: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dwell-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup { vm: true, .. } => setup(&prerequisites::missing_for_machines()).await,
        Command::Setup { tests: true, .. } => setup(&prerequisites::missing_for_tests()).await,
        Command::Setup { .. } => setup(&prerequisites::missing_packages()).await,
        Command::Up(up) => {
            open_or_up(&up).await?.leave_up();
            status()
        }
        Command::Demo(up) => {
            setup(&prerequisites::missing_packages()).await?;
            let lab = open_or_up(&up).await?;
            let shown = demo::show(&lab, say).await;
            let shown = shown.with_context(|| format!("the logs end so:\n{}", lab.log_tails()));
            // Also if it failed: somebody will want to look.
            lab.leave_up();
            shown
        }
        Command::Prove(Name { name }) => demo::prove(&Lab::open(&name)?, say).await,
        Command::Env(Name { name }) => {
            let lab = Lab::open(&name)?;
            say(&format!("export DWELL_SOCKET={}", lab.controller_socket().display()));
            for host in lab.hosts() {
                let (name, socket) = (host.name().to_uppercase(), host.docker_socket());
                say(&format!("export {name}_DOCKER_HOST=unix://{}", socket.display()));
            }
            Ok(())
        }
        Command::Churn(Births { births, seed, hosts }) => {
            setup(&prerequisites::missing_for_tests()).await?;
            let seed = seed.unwrap_or_else(|| rand::random::<u32>().into());
            say(&format!("seed {seed}"));
            Churn { births, seed, hosts }.run(say).await?;
            Ok(())
        }
        Command::Status => status(),
        Command::Down(Name { name }) => {
            lab::down(&name).await?;
            say(&format!("nothing is left of the lab {name}"));
            Ok(())
        }
    }
}

async fn setup(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}, which the lab needs and this machine lacks", missing.join(", ")));
    prerequisites::install(missing).await
}

async fn open_or_up(up: &Up) -> Result<Lab> {
    let name = &up.lab.name;
    if let Ok(lab) = Lab::open(name) {
        if lab.hosts().iter().all(|host| host.dockerd().is_running()) {
            ensure!(
                lab.hosts().len() == up.hosts,
                "the lab {name} is up with {} hosts, not {}; bring it down first: \
                 dwell-lab down --name {name}",
                lab.hosts().len(),
                up.hosts
            );
            say(&format!("the lab {name} is up already"));
            return Ok(lab);
        }
        say(&format!("the lab {name} is not whole; replacing it"));
    }
    let config = LabConfig::new(name).hosts(up.hosts).live_restore(up.live_restore);
    Lab::up(config.say(say)).await
}

fn status() -> Result<()> {
    let names = lab::names();
    if names.is_empty() {
        say("no lab is up");
    }
    for name in names {
        let Ok(lab) = Lab::open(&name) else {
            say(&format!("{name}: broken; remove it with dwell-lab down --name {name}"));
            continue;
        };
        say(&format!("{name}: controller {}", running(lab.controller())));
        for host in lab.hosts() {
            say(&format!(
                "  {:4} {:12} dockerd {:8} agent {:8} {}",
                host.name(),
                host.address(),
                running(host.dockerd()),
                running(host.agent()),
                host.dir().display()
            ));
        }
    }
    Ok(())
}

fn running(process: &lab::Process) -> String {
    process.pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}

/// Prints a line. Whoever reads them may have gone, as in `dwell-lab status | head -1`.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}
