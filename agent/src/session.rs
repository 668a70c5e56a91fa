//! The connection to the controller: one stream at a time, for as long as the agent runs.
//!
//! ```text
//!            connected           Hello sent, Welcome came
//!   Waiting ───────────▶ Attaching ─────────────▶ Attached ──▶ assignments in, statuses out
//!      ▲                     │                       │
//!      │ full jitter,        │ refused, lost         │ lost, lost count, silent
//!      │ 0.1 s to 30 s       ▼                       ▼
//!      └─────────────────────┴───────────────────────┘        (certificate renewed: again at once)
//! ```
//!
//! The session owns the node's [`Assignment`] and its certificate. What it knows it publishes on watch
//! channels; nobody waits for it, and nothing is stopped because there is no controller.

mod backoff;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwell_core::clock::Clock;
use dwell_core::host_mark::HostMark;
use dwell_core::id::Position;
use dwell_core::node::Capacity;
use dwell_core::session::{
    Assignment, AssignmentChange, Boot, MergeError, RebootFailed, RebootOrder, Statuses,
};
use dwell_planner::Leases;
use dwell_planner::session::{Holding, OnDisk};
use tokio::sync::watch;
use tonic::transport::Channel;

use self::backoff::Backoff;
pub use self::stream::StreamError;
use crate::directory::HeldDirectory;
use crate::enroll::{self, EnrollError};
use crate::identity::{Identity, wall_clock};
use crate::link::{self, LinkError};
use crate::ssh::events::EventQueue;
use crate::trust;
use crate::tunnel::Tunnels;
use crate::volumes::Volumes;
use dwell_daemon::Causes;

/// How often to look for a lost connection until the controller has said how often it wants to hear.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(2);

/// The least time between a renewal and the next one that the controller asks for by naming other CAs.
const RENEW_PAUSE: Duration = Duration::from_secs(10);

/// What a session needs of the rest of the agent.
pub struct Session {
    /// Where a renewed identity is stored.
    pub data_dir: PathBuf,
    /// Who this node is.
    pub identity: Identity,
    /// `HOST:PORT` of the controller.
    pub controller: String,
    /// The machine it is on, if that can be told.
    pub host_mark: Option<HostMark>,
    /// The node's address in the underlay, for the controller to tell the others.
    pub address: watch::Receiver<std::net::Ipv4Addr>,
    /// What the node is to do. Nobody else publishes here.
    pub assignment: watch::Sender<Option<Arc<Assignment>>>,
    /// Who is where in the cluster. Nobody else publishes here either.
    pub directory: HeldDirectory,
    /// What of the assignment is on disk.
    pub stored: watch::Receiver<OnDisk>,
    /// Up to where the kernel knows its leases.
    pub fenced: watch::Receiver<Position>,
    /// What of it is lent to the node. Nobody else publishes here.
    pub leases: watch::Sender<Leases>,
    /// The one that leases are measured with.
    pub clock: Arc<dyn Clock>,
    /// What was seen of the instances; `None` until the node has been looked at.
    pub statuses: watch::Receiver<Option<Arc<Statuses>>>,
    /// Which volumes there are; `None` until somebody has looked.
    pub volumes: watch::Receiver<Option<Arc<Volumes>>>,
    /// What `dwell-ssh` reported. Nobody else takes from it.
    pub ssh_events: EventQueue,
    /// Which boot of the host this is, and whether the controller may end it.
    pub boot: Boot,
    /// What the controller ordered last to reboot. Nobody else publishes here.
    pub reboot_orders: watch::Sender<Option<RebootOrder>>,
    /// The order to reboot that has failed.
    pub reboot_failed: watch::Receiver<Option<RebootFailed>>,
    /// What the host has.
    pub capacity: watch::Receiver<Arc<Capacity>>,
    /// Who serves logs and commands.
    pub tunnels: Tunnels,
}

/// Why a stream ended without anything having gone wrong.
enum Ended {
    /// There is a new certificate to connect with.
    Renewed(Box<Identity>),
    /// The node has another address, which is said when a stream begins.
    Readdressed,
}

/// Why a stream ended, or did not come about.
#[derive(Debug, thiserror::Error)]
enum Loss {
    #[error("cannot use this node's identity: {0}; join again with `dwell-agent join --force`")]
    Identity(String),
    #[error("this node's certificate has expired, and could not be renewed")]
    Expired(#[source] EnrollError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl Session {
    /// Keeps the stream up until the task is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut heartbeat = FIRST_HEARTBEAT;
        let mut last_loss = String::new();
        // That the controller names other CAs is no reason to renew again and again.
        let mut renewed_at = None;
        loop {
            let begun = Instant::now();
            let loss = match self.attach(&mut heartbeat, renewed_at).await {
                Ok(Ended::Renewed(identity)) => {
                    tracing::info!("the certificate was renewed; connecting with the new one");
                    self.identity = *identity;
                    renewed_at = Some(Instant::now());
                    continue;
                }
                Ok(Ended::Readdressed) => {
                    tracing::info!("connecting again to tell the address of this host");
                    continue;
                }
                Err(loss) => Causes(&loss).to_string(),
            };
            let held = begun.elapsed();
            let wait = backoff.after(held, self.holding().has_leases(), random());
            let retry_ms = wait.as_millis();
            // An absence of hours is one line, not thousands.
            if loss == last_loss && held < backoff::SUCCESS {
                tracing::debug!(
                    controller = self.controller,
                    reason = loss,
                    retry_ms,
                    "no controller"
                );
            } else {
                tracing::warn!(
                    controller = self.controller,
                    reason = loss,
                    retry_ms,
                    "no connection to the controller; instances run on, trying again"
                );
            }
            last_loss = loss;
            tokio::time::sleep(wait).await;
        }
    }

    /// What the node holds, and what of that it has taken in: it is on its disk, and the kernel knows the leases.
    fn holding(&self) -> Holding {
        let (on_disk, fenced) = (self.stored.borrow().clone(), *self.fenced.borrow());
        let stored = on_disk.position();
        let taken_in = std::cmp::min_by_key(stored, fenced, |position| position.revision);
        Holding::of(self.assignment.borrow().clone(), on_disk, taken_in)
    }

    /// Merges a change and tells everybody.
    fn merge(&self, change: AssignmentChange) -> Result<(), MergeError> {
        let merged = self.holding().merge(change)?;
        self.assignment.send_replace(Some(merged));
        Ok(())
    }

    /// One connection and one stream, until it ends.
    async fn attach(
        &mut self,
        heartbeat: &mut Duration,
        renewed_at: Option<Instant>,
    ) -> Result<Ended, Loss> {
        let validity = self.identity.validity().map_err(Loss::Identity)?;
        if validity.is_over(wall_clock()) {
            // The controller or this host was away for long; the key still proves whose the instances are.
            let renewed =
                enroll::renew_expired(&self.data_dir, &self.identity, &self.controller).await;
            return renewed.map(Box::new).map(Ended::Renewed).map_err(Loss::Expired);
        }
        let tls = trust::by_identity(&self.identity).map_err(Loss::Identity)?;
        let channel: Channel = link::connect(&self.controller, Arc::new(tls), *heartbeat).await?;
        let not_before = renewed_at.map(|at| at + RENEW_PAUSE);
        Ok(stream::serve(self, channel, (validity, not_before), heartbeat).await?)
    }
}

/// A random number from 0 to 1, for jitter. A process id and a clock would be the same on cloned machines
/// that were started together, hence the hasher's keys, which are the kernel's randomness.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(0);
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
