//! All that the lab knows of dwell's programs: where they are, their configuration, their words.
//!
//! Nothing else in the lab depends on a key of a configuration file or a field of an answer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{host::Host, layout::Layout};

/// Overrides where dwell's programs are looked for.
const PROGRAMS_VARIABLE: &str = "DWELL_BIN_DIR";

/// The controller's port for agents, on the machine's address in the lab.
const CONTROLLER_PORT: u16 = 7443;

/// What `dwell ps -o json` answers, as far as tests look at it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Ps {
    /// All instances of the fleet.
    pub instances: Vec<InstanceRow>,
}

/// An instance as `dwell ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct InstanceRow {
    /// Its name, such as `web-0`.
    pub name: String,
    /// The workload it is a copy of.
    pub workload: String,
    /// The node it is placed on; empty while there is none.
    #[serde(default)]
    pub node: String,
    /// Its IP address; empty while there is none.
    #[serde(default)]
    pub address: String,
    /// Where it is in its life, such as `running`.
    pub phase: String,
    /// What its health check says, such as `healthy`.
    #[serde(default)]
    pub health: String,
    /// The engine's id of its container; empty while there is none.
    #[serde(default)]
    pub container_id: String,
    /// When its container started; empty while there is none.
    #[serde(default)]
    pub started_at: String,
    /// How often it was restarted.
    #[serde(default)]
    pub restarts: u64,
    /// Why it is as it is, for people.
    #[serde(default)]
    pub message: String,
}

impl Ps {
    /// The instances that are running.
    pub fn running(&self) -> impl Iterator<Item = &InstanceRow> {
        self.instances.iter().filter(|instance| instance.is_running())
    }

    /// The instances of `workload`, in order of their names.
    #[must_use]
    pub fn of(&self, workload: &str) -> Vec<InstanceRow> {
        let instances = self.instances.iter().filter(|instance| instance.workload == workload);
        let mut instances: Vec<_> = instances.cloned().collect();
        instances.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        instances
    }
}

impl InstanceRow {
    /// Whether it is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == "running"
    }

    /// Whether its health check is content.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.health == "healthy"
    }
}

/// What `dwell node ls -o json` answers, as far as tests look at it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Nodes {
    /// All nodes of the fleet.
    pub nodes: Vec<NodeRow>,
}

/// A node as `dwell node ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its address in the hosts' network.
    #[serde(default)]
    pub address: String,
    /// The block that its instances get their addresses from.
    #[serde(default)]
    pub block: String,
    /// `ready`, `unreachable` or `down`.
    pub state: String,
}

/// What `dwell node token -o json` answers.
#[derive(Deserialize)]
pub(crate) struct JoinToken {
    pub(crate) token: String,
}

/// The directory with dwell's programs: beside the running one, which cargo built with them.
pub(crate) fn find_programs() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(PROGRAMS_VARIABLE) {
        return Ok(dir.into());
    }
    let me = std::env::current_exe().context("cannot find the running program")?;
    let dir = me.parent().context("the running program is in no directory")?;
    // Test programs are one level deeper.
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// The path of one of dwell's programs.
pub(crate) fn program(programs: &Path, name: &str) -> Result<PathBuf> {
    let path = programs.join(name);
    ensure!(
        path.is_file(),
        "{} does not exist; build it with `cargo build`, or set {PROGRAMS_VARIABLE}",
        path.display()
    );
    Ok(path)
}

/// The OCI runtime for a host's `daemon.json`: its path and arguments.
pub(crate) fn runtime(host: &Host) -> (PathBuf, Vec<String>) {
    let arg = format!("--dwell-state-dir={}", run_dir(host).display());
    (host.programs().join("dwell-oci"), vec![arg])
}

/// The socket of the controller that the command line uses.
pub(crate) fn controller_socket(layout: &Layout) -> PathBuf {
    layout.dir().join("controller.sock")
}

/// The controller's address for agents.
pub(crate) fn controller_address(layout: &Layout) -> String {
    format!("{}:{CONTROLLER_PORT}", layout.machine_address())
}

/// Writes the controller's configuration; its path.
pub(crate) fn write_controller_config(layout: &Layout) -> Result<PathBuf> {
    let config = json!({
        "data_dir": layout.dir().join("controller"),
        "listen": controller_address(layout),
        "advertise": controller_address(layout),
        "socket": controller_socket(layout),
        "cluster": { "cidr": layout.cluster_cidr(), "node_prefix": 24 },
        "nodes": { "heartbeat": "1s", "unreachable_after": "5s", "down_after": "15s" },
        "zone": "dwell",
    });
    write(&layout.dir().join("controller.yaml"), &config)
}

/// Writes a host's agent's configuration; its path.
pub(crate) fn write_agent_config(host: &Host) -> Result<PathBuf> {
    let config = json!({
        "name": host.name(),
        "data_dir": host.dir().join("agent"),
        "run_dir": run_dir(host),
        "address": host.address(),
        "controller": controller_address(host.layout()),
        "docker": { "socket": host.docker_socket() },
    });
    write(&agent_config(host), &config)
}

/// The path of a host's agent's configuration.
pub(crate) fn agent_config(host: &Host) -> PathBuf {
    host.dir().join("agent.yaml")
}

fn run_dir(host: &Host) -> PathBuf {
    host.dir().join("run")
}

/// JSON is YAML too.
fn write(path: &Path, config: &impl Serialize) -> Result<PathBuf> {
    fs::write(path, serde_json::to_vec_pretty(config)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}
