//! What may be wrong with a host, looked for one by one: `dwell-agent doctor`, and the answer to a controller that
//! asks for a diagnosis.
//!
//! Each group of checks is a file with two halves: a collector, which reads `/proc` and asks programs, and a
//! pure judgement of what was collected, which tables of tests go through.
//!
//! | file | what |
//! |---|---|
//! | `doctor/forwarding.rs` | whether the kernel lets packets through |
//! | `doctor/firewall.rs` | whether the firewalls do, and whether instances get at names |
//! | `doctor/ipv6.rs` | whether instances can have IPv6 where the cluster has it |
//! | `doctor/connections.rs` | whether an instance has more connections than it may |
//! | `doctor/host_access.rs` | whether instances tried to reach what is closed to them |
//! | `doctor/overlap.rs` | addresses and routes of others within the cluster's range |
//! | `doctor/networkd.rs` | systemd-networkd removing what it does not know |
//! | `doctor/names.rs` | who has port 53 |
//! | `doctor/peers.rs` | whether the other nodes answer, also to large packets |
//! | `doctor/engine.rs` | Docker and its runtime `dwell` |
//! | `doctor/kernel.rs` | features of the kernel |
//! | `doctor/programs.rs` | programs that are needed, and services of dwell that are to run |
//! | `doctor/standing.rs` | the certificate and the clock |
//! | `doctor/room.rs` | disks and tables that may be full |
//! | `doctor/reading.rs` | how all of them read files and run programs |
//!
//! Invariants: nothing of the host's is changed; every group has a bounded time, and one that takes longer is a finding,
//! too; programs are started here and nowhere on the way of an instance.

mod connections;
mod engine;
pub(crate) mod firewall;
mod forwarding;
mod host_access;
mod ipv6;
mod kernel;
mod names;
mod networkd;
mod overlap;
mod peers;
mod programs;
mod reading;
pub mod report;
mod room;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use dwell_core::session::Assignment;
use tokio::time::timeout;

use crate::assignment::cache;
use crate::config::Config;
use dwell_docker::{DockerConfig, DockerEngine, Runtime};
use dwell_engine::SharedEngine;
use dwell_network::Network;
use dwell_network::linux::{LinuxConfig, LinuxNetwork};

/// How long one group of checks may take.
const GROUP_LIMIT: Duration = Duration::from_secs(8);

/// A host that is looked over.
#[derive(Clone)]
pub struct Host {
    /// How its agent is configured.
    pub config: Arc<Config>,
    /// What runs its instances; a routes-only node has nothing.
    pub engine: Option<SharedEngine>,
    /// Knows and tries routes; `None` if the network cannot be worked with, as for want of rights.
    pub network: Option<Arc<dyn Network>>,
    /// What it is to do, as far as that is known here.
    pub assignment: Option<Arc<Assignment>>,
    /// Whether it is its agent that looks.
    pub is_agent: bool,
}

impl Host {
    /// The host that this process runs on, beside its agent or without one.
    #[must_use]
    pub fn local(config: Config) -> Self {
        let assignment = cache::peek(&config.data_dir).map(Arc::new);
        let linux = LinuxConfig { run_dir: config.run_dir.clone(), ..LinuxConfig::default() };
        // Without peers there is nothing to try.
        let network = assignment.as_ref().and_then(|_| LinuxNetwork::new(&linux).ok());
        let docker = DockerConfig {
            socket: config.docker.socket.clone(),
            // Docker is asked only about itself, which a host that has not joined wants to know, too.
            cluster: String::new(),
            data_dir: config.data_dir.clone(),
            run_dir: config.run_dir.clone(),
            allowed: dwell_docker::Allowed::default(),
            runtime: Runtime::Dwell,
            registries: dwell_docker::credentials::Registries::default(),
            names: None,
        };
        Self {
            engine: (!config.routes_only)
                .then(|| Arc::new(DockerEngine::new(docker)) as SharedEngine),
            network: network.map(|network| Arc::new(network) as Arc<dyn Network>),
            config: Arc::new(config),
            assignment,
            is_agent: false,
        }
    }
}

/// One check and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A stable word for programs, such as `ip-forward`.
    pub check: &'static str,
    /// How bad it is.
    pub outcome: Outcome,
    /// What was found, naming the thing and its value.
    pub message: String,
    /// The command that puts it right; empty if nothing is wrong or no command can.
    pub fix: String,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Something does not work because of it.
    Problem,
    /// It works, but may not always.
    Warning,
    /// It could not be found out.
    Unknown,
    /// All is well.
    Ok,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Ok, message: message.into(), fix: String::new() }
    }

    fn warning(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Warning, message: message.into(), fix: fix.into() }
    }

    fn problem(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Problem, message: message.into(), fix: fix.into() }
    }

    fn unknown(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Unknown, message: message.into(), fix: String::new() }
    }
}

/// Looks a host over, all groups side by side; what is wrong comes first.
pub async fn examine(host: &Host) -> Vec<Finding> {
    let groups = tokio::join!(
        limited("forwarding", forwarding::findings(host)),
        limited("overlap", overlap::findings(host)),
        limited("networkd", networkd::findings()),
        limited("port-53", names::findings(host)),
        limited("peers", peers::findings(host)),
        limited("docker", engine::findings(host)),
        limited("kernel", kernel::findings()),
        limited("programs", programs::findings(host)),
        limited("standing", standing::findings(host)),
        limited("room", room::findings(host)),
        limited("host-access", host_access::findings(host)),
        limited("connections", connections::findings(host)),
    );
    let (a, b, c, d, e, f, g, h, i, j, k, l) = groups;
    let mut all = [a, b, c, d, e, f, g, h, i, j, k, l].concat();
    // Stable: within an outcome, in the order of the groups.
    all.sort_by_key(|finding| finding.outcome);
    all
}

async fn limited(
    check: &'static str,
    group: impl Future<Output = Vec<Finding>> + Send,
) -> Vec<Finding> {
    let late = |_| {
        let seconds = GROUP_LIMIT.as_secs();
        vec![Finding::unknown(check, format!("could not be found out within {seconds} s"))]
    };
    // Each is a large future.
    timeout(GROUP_LIMIT, Box::pin(group)).await.unwrap_or_else(late)
}
