//! Makes what runs on the node equal to what is desired: observes, plans, carries out.
//!
//! One task owns everything known about the node ([`Observed`]). Whatever happens comes to it as
//! [`News`] or as the end of a task; then it plans, starts a task for each step, and publishes.
//!
//! ```text
//!   desired state ──┐                                      ┌──▶ steps, as tasks ──┐
//!   engine events ──┤                                      │                      │
//!   deaths, health ─┼──▶ owner: observed ──▶ plan() ───────┼──▶ looks, pulls ─────┤
//!   a pause ends ───┤                                      │                      │
//!   outcomes ◀──────┼──────────────────────────────────────┼──────────────────────┘
//!                   │                                      └──▶ statuses
//! ```
//!
//! How sure it is of the engine:
//!
//! ```text
//!   Unknown ──▶ connected, everything looked at ──▶ Ready ──▶ lost, or a call without answer ──▶ Away ──┐
//!                         ▲                                                                          │
//!                         └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - nothing is planned before a desired state and a first complete look;
//! - an event is a hint: it makes the owner look, and what it sees then is what counts;
//! - while a step of an instance is under way, or what is known of it is in doubt, none is started;
//! - nothing polls; a complete look every [`Config::backstop`] catches what nobody told;
//! - stopping it touches no instance.

mod doubts;
mod follow;
mod guards;
mod journals;
mod look;
mod owner;
mod publish;
mod sightings;
mod tools;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::health::Health;
use dwell_core::id::InstanceName;
use dwell_core::session::Statuses;
use dwell_planner::{ContainerId, Desired, EngineState, Observed};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::journals::Journals;
use self::owner::Owner;
use self::sightings::Sights;
pub use self::sightings::{Sighting, Sightings};
use self::tools::Tools;
use crate::engine::{self, SharedEngine};
use crate::isolation::Settled;
use dwell_network::Network;

/// What a reconciler is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of the instances' journals; made if it is not there. Must survive a reboot.
    pub journals: PathBuf,
    /// How many calls that cost the engine processor time are made side by side, at least 1.
    pub calls_max: usize,
    /// How often everything is looked at although nothing was told.
    pub backstop: Duration,
    /// Which instances may get a sandbox; all of them without it.
    pub settled: Option<Settled>,
}

impl Config {
    /// The default: two calls for each processor, a look every ten minutes, and no isolation.
    #[must_use]
    pub fn new(journals: PathBuf) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            journals,
            calls_max: 2 * processors,
            backstop: Duration::from_secs(600),
            settled: None,
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

/// Something that was told.
#[derive(Debug)]
enum News {
    /// The engine's events arrive from now on.
    Connected,
    /// They do not any more.
    Lost { reason: String },
    /// Something happened to a container.
    Event(engine::Event),
    /// A main process has ended, and the engine knows it.
    Ended { instance: InstanceName, container: ContainerId },
    /// The health of a run has changed.
    Health {
        instance: InstanceName,
        container: ContainerId,
        started_at: Timestamp,
        health: Health,
        complaint: String,
    },
    /// A pull has come further.
    Progress { image: String, text: String },
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
        let mut observed = Observed::default();
        for (name, journal) in journals.read_all()? {
            observed.instances.entry(name).or_default().remember(journal);
        }
        let tools = Tools { engine, network, settled: config.settled.clone(), clock, journals };
        let stop = CancellationToken::new();
        let (sights, sightings) = Sights::new();
        let (owner, statuses, engine) = Owner::new(config, tools, observed, sights, desired);
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
