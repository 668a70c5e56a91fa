//! Makes what runs on the node equal to what is desired: observes, plans, carries out.
//!
//! What is decided is decided by the core ([`dwell_agent_core`]), which has no I/O. This is the shell around it:
//! one task owns the core, tells it what happens, and carries out what it says, each call as a task of its own.
//!
//! ```text
//!   engine's events (follow) ──┐                     ┌──▶ calls to engine, network, disk (tools, journals)
//!   deaths, health (guards) ───┼──▶ owner ─▶ Core ───┼──▶ guards
//!   ends of calls, time ───────┘                     └──▶ statuses, sightings, state of the engine
//! ```
//!
//! Stopping it touches no instance.

mod follow;
mod guards;
mod journals;
mod last_words;
mod owner;
mod sightings;
mod tools;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dwell_agent_core::{Core, Settings};
use dwell_core::clock::Clock;
use dwell_core::session::Statuses;
use dwell_network::Network;
use dwell_planner::{Desired, EngineState, Leases};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::journals::Journals;
use self::owner::{Owner, Told};
use self::sightings::Publisher;
pub use self::sightings::{Sighting, Sightings};
use self::tools::Tools;
use crate::host_network::Prepared;
use crate::images::Ledger;
use crate::isolation::Settled;
use crate::tunnel::volumes::Copies;
use dwell_engine::SharedEngine;
use dwell_engine::death::{self, Processes};

/// What a reconciler is told at its start.
#[derive(Clone)]
pub struct Config {
    /// Directory of the instances' journals; made if it is not there. Must survive a reboot.
    pub journals: PathBuf,
    /// How many calls that cost the engine processor time are made side by side, at least 1.
    pub calls_max: usize,
    /// How often everything is looked at although nothing was told.
    pub backstop: Duration,
    /// Which instances may get a sandbox: those that are in each of these; all of them without any.
    pub settled: Vec<Settled>,
    /// What is lent to the node; nothing has a lease without.
    pub leases: Option<watch::Receiver<Leases>>,
    /// How far the host is prepared for sandboxes; wholly without it.
    pub prepared: Option<watch::Receiver<Prepared>>,
    /// Notes which images were fetched; nobody does without it.
    pub ledger: Option<Ledger>,
    /// Who tells of the ends of processes.
    pub processes: Arc<dyn Processes>,
    /// Goes up when everything is to be looked at.
    pub recheck: watch::Receiver<u64>,
}

impl Config {
    /// The default: two calls for each processor, a look every ten minutes, no isolation, and the
    /// kernel of this host.
    #[must_use]
    pub fn new(journals: PathBuf) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            journals,
            calls_max: 2 * processors,
            backstop: Duration::from_secs(600),
            settled: Vec::new(),
            leases: None,
            prepared: None,
            ledger: None,
            processes: Arc::new(death::Kernel),
            recheck: watch::Sender::new(0).subscribe(),
        }
    }
}

/// A running reconciler. Dropping it stops it at once.
#[derive(Debug)]
pub struct Reconciler {
    statuses: watch::Receiver<Option<Arc<Statuses>>>,
    engine: watch::Receiver<EngineState>,
    sightings: watch::Receiver<Option<Arc<Sightings>>>,
    stop: CancellationToken,
    task: Option<JoinHandle<Option<()>>>,
}

impl Reconciler {
    /// Starts it. `desired` is `None` until a complete desired state has arrived, and until then
    /// nothing is touched. The network's host part is to be prepared by others
    /// ([`Network::ensure_host`]); steps that come too early are tried again.
    ///
    /// # Errors
    /// The directory of the journals cannot be made or read.
    pub fn spawn(
        config: Config,
        engine: SharedEngine,
        network: Arc<dyn Network>,
        clock: Arc<dyn Clock>,
        desired: watch::Receiver<Option<Arc<Desired>>>,
    ) -> io::Result<Self> {
        let journals = Journals::new(config.journals.clone());
        let known = journals.read_all()?;
        let settings = Settings { calls_max: config.calls_max, backstop: config.backstop };
        let core = Core::new(settings, known, clock.now());
        let Config { settled, leases, prepared, processes, recheck, ledger, .. } = config;
        let tools = Tools {
            engine,
            network,
            processes,
            settled,
            prepared,
            clock,
            journals,
            ledger,
            copies: Copies::default(),
        };
        let stop = CancellationToken::new();
        let (publisher, sightings) = Publisher::new();
        let told = Told { desired, leases, recheck };
        let (owner, statuses, engine) = Owner::new(core, tools, publisher, told);
        let task = tokio::spawn(stop.clone().run_until_cancelled_owned(owner.run()));
        Ok(Self { statuses, engine, sightings, stop, task: Some(task) })
    }

    /// What was last seen of the instances; `None` until the node was looked at.
    #[must_use]
    pub fn statuses(&self) -> watch::Receiver<Option<Arc<Statuses>>> {
        self.statuses.clone()
    }

    /// Whether the engine answers. Each time it becomes [`EngineState::Ready`] it may be a new daemon,
    /// which may have changed the host's firewall.
    #[must_use]
    pub fn engine(&self) -> watch::Receiver<EngineState> {
        self.engine.clone()
    }

    /// What SSH needs to know of the instances; `None` until the node was looked at.
    #[must_use]
    pub fn sightings(&self) -> watch::Receiver<Option<Arc<Sightings>>> {
        self.sightings.clone()
    }

    /// Stops it and waits until it has. Steps under way are abandoned; a reconciler started later
    /// carries on from whatever they did.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It ends without a result; a panic in it was reported when it happened.
            drop(task.await);
        }
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests;
