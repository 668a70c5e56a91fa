//! The program: arguments, log, runtime, systemd; everything else is in the library.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use dwell_controller::backup::{self, BackupError, Target};
use dwell_controller::config::Config;
use dwell_controller::controller::Controller;
use dwell_core::clock::SystemClock;
use dwell_daemon::{logging, memory, readiness};
use tokio::signal::unix::{SignalKind, signal};

/// How many threads serve connections, beside those of the owner and the store.
const WORKERS: usize = 2;

/// The controller of dwell: holds what is declared, decides where it runs, tells the nodes.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    configuration: Configuration,
    /// Only say whether the configuration is valid.
    #[arg(long)]
    check: bool,
    /// What to log: a level or a filter such as `info,dwell_controller=debug`.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    log: String,
}

/// What can be done instead of running a controller.
#[derive(Debug, Subcommand)]
enum Action {
    /// Write everything that the controller is into one file, while it runs
    ///
    /// The store, the CA and what SSH is trusted by, as of one moment and read back. It holds every key of the cluster:
    /// keep it as safe as the controller itself.
    #[command(after_long_help = "\
Examples:
  dwell-controller backup /srv/backup/dwell-$(date +%F).tar
  dwell-controller backup - | age -r KEY > dwell.tar.age")]
    Backup {
        /// The file, which must not be there yet; `-` is the standard output
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Put a backup in the place of what the controller is
    ///
    /// The controller must not run. What is there is moved aside, and not removed. The controller notices at its next start
    /// that it knows less than its nodes, and changes nothing until `dwell restore confirm`.
    #[command(after_long_help = "\
Examples:
  systemctl stop dwell-controller
  dwell-controller restore /srv/backup/dwell-2031-05-01.tar
  systemctl start dwell-controller; dwell restore status")]
    Restore {
        /// The file that `dwell-controller backup` wrote; `-` is the standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        configuration: Configuration,
    },
}

/// Which controller.
#[derive(Debug, clap::Args)]
struct Configuration {
    /// Configuration file; without it /etc/dwell/controller.yaml if that is there, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Configuration {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref())?)
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up, and a person may be looking.
            drop(writeln!(std::io::stderr(), "dwell-controller: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.action {
        Some(Action::Backup { file, configuration }) => {
            return backup(&configuration.load()?, file);
        }
        Some(Action::Restore { file, configuration }) => {
            return restore(&configuration.load()?, file);
        }
        None => {}
    }
    let config = arguments.configuration.load()?;
    if arguments.check {
        writeln!(std::io::stdout(), "the configuration is valid")?;
        return Ok(());
    }
    logging::start(&arguments.log).context("--log")?;
    memory::keep_given_back().context("cannot start a thread")?;
    // TLS, messages and pings are served while the owner works, which has a thread of its own.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(serve(&config))
}

fn backup(config: &Config, file: &Path) -> anyhow::Result<()> {
    let target = match file.as_os_str() == "-" {
        true => Target::Output,
        false => Target::File(file.to_owned()),
    };
    let summary = backup::backup(&config.data_dir, &target)?;
    // The backup itself may be on the standard output.
    let mut terminal = std::io::stderr();
    writeln!(terminal, "backed up, as of revision {}: {}", summary.revision, file.display())?;
    writeln!(terminal, "every key of the cluster is in it: keep it as safe as the controller")?;
    Ok(())
}

fn restore(config: &Config, file: &Path) -> anyhow::Result<()> {
    let restored = if file.as_os_str() == "-" {
        let input = std::io::stdin();
        anyhow::ensure!(!input.is_terminal(), BackupError::Terminal);
        backup::restore(config, input.lock(), "the standard input")?
    } else {
        let name = file.display().to_string();
        let opened = File::open(file).with_context(|| format!("cannot read {name}"))?;
        backup::restore(config, opened, &name)?
    };
    let mut output = std::io::stdout();
    let summary = &restored.summary;
    writeln!(output, "restored, as of revision {} (dwell {})", summary.revision, summary.dwell)?;
    if let Some(before) = &restored.before {
        writeln!(output, "what was there before is in {}", before.display())?;
    }
    writeln!(output, "next: start the controller, then `dwell restore status`")?;
    Ok(())
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut controller = Controller::start(config, Arc::new(SystemClock::new())).await?;
    readiness::ready();
    let watchdog = tokio::spawn(feed_watchdog(controller.owner().clone()));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("asked to end by SIGTERM"),
        _ = interrupt.recv() => tracing::info!("asked to end by SIGINT"),
        () = controller.broken() => anyhow::bail!("a part of the controller has ended; the log says which"),
    }
    readiness::stopping();
    watchdog.abort();
    controller.stop().await;
    Ok(())
}

/// Tells systemd that the controller lives, as long as the model's owner answers.
async fn feed_watchdog(owner: dwell_controller::owner::Handle) {
    let Some(limit) = readiness::watchdog_limit() else { return };
    let mut interval = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    loop {
        interval.tick().await;
        if owner.read(|_| ()).await.is_err() {
            return;
        }
        readiness::alive();
    }
}
