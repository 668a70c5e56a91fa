//! The program: arguments, log, runtime, systemd; everything else is in the library.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use dwell_controller::config::Config;
use dwell_controller::controller::Controller;
use dwell_core::clock::SystemClock;
use dwell_daemon::{logging, memory, readiness};
use tokio::signal::unix::{SignalKind, signal};

/// How many threads serve connections, beside those of the owner and the store.
const WORKERS: usize = 2;

/// The controller of dwell: holds what is declared, decides where it runs, tells the nodes.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file; without it /etc/dwell/controller.yaml if that is there, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only say whether the configuration is valid.
    #[arg(long)]
    check: bool,
    /// What to log: a level or a filter such as `info,dwell_controller=debug`.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    log: String,
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
    let config = Config::load(arguments.config.as_deref())?;
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
