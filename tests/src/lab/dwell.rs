//! All that the lab knows of dwell's programs: where they are, their configuration, their words.
//!
//! Nothing else in the lab depends on a key of a configuration file or a field of an answer.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use dwell_core::{health::Health, instance::Phase, node::NodeState};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{host::Host, layout::Layout};

/// Overrides where dwell's programs are looked for.
const PROGRAMS_VARIABLE: &str = "DWELL_BIN_DIR";

/// The controller's port for agents, on the machine's address in the lab.
const CONTROLLER_PORT: u16 = 7443;

/// What `dwell ps -o json` answers, as far as tests look at it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Ps {
    /// All workloads of the fleet.
    #[serde(default)]
    pub workloads: Vec<WorkloadRow>,
    /// All instances of the fleet.
    pub instances: Vec<InstanceRow>,
}

/// A workload as `dwell ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkloadRow {
    /// Its name.
    pub name: String,
    /// What it waits for, for people; empty if all is as declared.
    #[serde(default, deserialize_with = "or_empty")]
    pub message: String,
}

/// An instance as `dwell ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct InstanceRow {
    /// Its name, such as `web-0`.
    pub name: String,
    /// The workload it is a copy of.
    pub workload: String,
    /// The node it is placed on; empty while there is none.
    #[serde(default, deserialize_with = "or_empty")]
    pub node: String,
    /// Its IP address; empty while there is none.
    #[serde(default, deserialize_with = "or_empty")]
    pub address: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// What its health check says.
    #[serde(default)]
    pub health: Health,
    /// What its readiness check says.
    #[serde(default)]
    pub readiness: Health,
    /// The engine's id of its container; empty while there is none.
    #[serde(default, deserialize_with = "or_empty")]
    pub container_id: String,
    /// When its container started, in whatever form it is shown.
    #[serde(default)]
    pub started_at: Value,
    /// How often it was restarted.
    #[serde(default)]
    pub restarts: u64,
    /// Why it is as it is, for people.
    #[serde(default, deserialize_with = "or_empty")]
    pub message: String,
}

impl Ps {
    /// The instances that are running.
    pub fn running(&self) -> impl Iterator<Item = &InstanceRow> {
        self.instances.iter().filter(|instance| instance.phase == Phase::Running)
    }

    /// The instances of `workload`, in order of their ordinals.
    #[must_use]
    pub fn of(&self, workload: &str) -> Vec<InstanceRow> {
        let instances = self.instances.iter().filter(|instance| instance.workload == workload);
        let mut instances: Vec<_> = instances.cloned().collect();
        instances.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        instances
    }
}

impl InstanceRow {
    /// Whether it runs and every check that it has is content.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.phase == Phase::Running && self.health.is_good() && self.readiness.is_good()
    }

    /// Where it listens on `port`.
    ///
    /// # Errors
    /// If it has no address yet.
    pub fn at(&self, port: u16) -> Result<SocketAddr> {
        let address: IpAddr = self
            .address
            .parse()
            .with_context(|| format!("{} has no address but {:?}", self.name, self.address))?;
        Ok((address, port).into())
    }
}

/// What `dwell audit -o json` answers, as far as tests look at it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Audit {
    /// Where layers disagree.
    pub findings: Vec<AuditRow>,
}

/// Two claims that cannot both be true, as `dwell audit` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AuditRow {
    /// `person`, `repair` or `repaired`.
    pub remedy: String,
    /// The node it is on; empty if it is the controller's.
    pub node: String,
    /// Which kind of disagreement.
    pub kind: String,
    /// The thing.
    pub subject: String,
    /// What is claimed, as it is.
    pub claims: Value,
    /// What to do about it.
    pub next: String,
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
    /// How sure the controller is of it.
    pub state: NodeState,
    /// Its block of instance addresses, such as `10.80.3.0/24`.
    #[serde(default, deserialize_with = "or_empty")]
    pub block: String,
    /// What there is to say of it.
    pub message: String,
}

/// What `dwell route ls -o json` answers, as far as tests look at it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Routes {
    /// All routes of the fleet.
    pub routes: Vec<RouteRow>,
}

/// A route as `dwell route ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RouteRow {
    /// A node's block, or a moved instance's /32.
    pub prefix: String,
    /// The node it leads to.
    pub node: String,
    /// That node's address in the hosts' network.
    pub via: String,
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

/// Where a test has put what it wants otherwise in the controller's configuration.
fn controller_settings(layout: &Layout) -> PathBuf {
    layout.dir().join("controller.settings.json")
}

/// Has these keys of the controller's configuration be as in `settings`, whenever it is written.
pub(crate) fn set_controller(layout: &Layout, settings: &Value) -> Result<()> {
    write(&controller_settings(layout), settings).map(drop)
}

/// Writes the controller's configuration; its path.
pub(crate) fn write_controller_config(layout: &Layout) -> Result<PathBuf> {
    let mut config = json!({
        "data_dir": layout.dir().join("controller"),
        "listen": controller_address(layout),
        "advertise": [controller_address(layout)],
        "socket": controller_socket(layout),
        "cluster": { "cidr": layout.cluster_cidr(), "node_prefix": 24 },
        "nodes": { "heartbeat": "1s", "unreachable_after": "5s", "down_after": "15s" },
        "zone": "dwell",
    });
    if let Ok(settings) = fs::read(controller_settings(layout)) {
        let settings: BTreeMap<String, Value> = serde_json::from_slice(&settings)?;
        settings.into_iter().for_each(|(key, value)| config[key] = value);
    }
    write(&layout.dir().join("controller.yaml"), &config)
}

/// Writes a host's agent's configuration; its path.
pub(crate) fn write_agent_config(host: &Host) -> Result<PathBuf> {
    let tap = host.tap_socket();
    let socket = if tap.exists() { tap } else { host.docker_socket() };
    let mut config = json!({
        "name": host.name(),
        "data_dir": host.dir().join("agent"),
        "run_dir": run_dir(host),
        "address": host.address(),
        "controller": controller_address(host.layout()),
        "docker": { "socket": socket },
        "allow_binds": [host.shared_dir()],
    });
    if let Ok(settings) = fs::read(agent_settings(host)) {
        let settings: BTreeMap<String, Value> = serde_json::from_slice(&settings)?;
        settings.into_iter().for_each(|(key, value)| config[key] = value);
    }
    write(&agent_config(host), &config)
}

/// Has these keys of a host's agent's configuration be as in `settings`, from its next start on.
pub(crate) fn set_agent(host: &Host, settings: &Value) -> Result<()> {
    write(&agent_settings(host), settings)?;
    write_agent_config(host).map(drop)
}

fn agent_settings(host: &Host) -> PathBuf {
    host.dir().join("agent.settings.json")
}

/// The path of a host's agent's configuration.
pub(crate) fn agent_config(host: &Host) -> PathBuf {
    host.dir().join("agent.yaml")
}

pub(crate) fn run_dir(host: &Host) -> PathBuf {
    host.dir().join("run")
}

/// JSON is YAML too.
fn write(path: &Path, config: &impl Serialize) -> Result<PathBuf> {
    fs::write(path, serde_json::to_vec_pretty(config)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

/// Reads what is absent, and shown as `null`, as empty.
fn or_empty<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}
