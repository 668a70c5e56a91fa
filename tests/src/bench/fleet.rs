//! A large fleet and one change: the real controller, and agents that only speak the protocol, each over a TLS connection
//! of its own.
//!
//! All agents attach at once, then one request declares all instances. Each agent acknowledges what it is told and
//! reports its instances as running, so that the directory of every node changes while the assignments still go out.
//! It is over when every agent holds its assignment and a directory in which all instances are ready.

mod agent;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dwell_proto::v1::{self, fleet_client::FleetClient};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use self::agent::{Door, FakeAgent};
use super::{
    dwell::api,
    report::{self, Report},
    runner::Runner,
};
use crate::lab::{find_programs, wait_until};

/// How many hosts.
const AGENTS: u32 = 1_000;
/// How many workloads are declared.
const WORKLOADS: u32 = 10;
/// How many instances each of them has.
const REPLICAS: u32 = 1_000;
/// How many instances that makes.
const INSTANCES: usize = (WORKLOADS * REPLICAS) as usize;
/// How many hosts join at the same time; the controller takes a hundred in a second.
const JOINING: usize = 32;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How many files the controller and the agents may have open, each.
const FILES_MIN: u64 = 4_096;

/// Runs it if it is wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    runner.take("fleet-apply", fleet_apply()).await;
}

async fn fleet_apply() -> Result<[Report; 6]> {
    open_more_files()?;
    let controller = Controller::start().await?;
    let door = Arc::new(controller.door()?);
    let joining = (0..AGENTS).map(|number| {
        let (door, api) = (Arc::clone(&door), controller.api.clone());
        async move { agent::join(&door, api, number).await }
    });
    let identities: Vec<_> = stream::iter(joining).buffered(JOINING).try_collect().await?;

    let begun = Instant::now();
    let agents: Vec<FakeAgent> = identities
        .into_iter()
        .map(|identity| FakeAgent::spawn(Arc::clone(&door), identity))
        .collect();
    wait_until("all agents to be attached", LIMIT, async || {
        let attached = agents.iter().filter(|agent| agent.is_attached()).count();
        ensure!(attached == agents.len(), "{attached} are");
        Ok(())
    })
    .await?;
    let attached = begun.elapsed();

    let begun = Instant::now();
    let workloads = (0..WORKLOADS).map(agent::workload).collect();
    let request = v1::ApplyRequest { workloads, ..v1::ApplyRequest::default() };
    controller.api.clone().apply(request).await?;
    let answered = begun.elapsed();
    wait_until("all instances to be assigned", LIMIT, async || {
        let assigned: usize = agents.iter().map(FakeAgent::assigned).sum();
        ensure!(assigned == INSTANCES, "{assigned} are");
        Ok(())
    })
    .await?;
    let assigned = begun.elapsed();
    wait_until("all directories to be complete", LIMIT, async || {
        let complete = agents.iter().filter(|agent| agent.ready() == INSTANCES).count();
        let broken = agents.iter().find_map(FakeAgent::trouble);
        ensure!(complete == agents.len(), "{complete} are; {broken:?}");
        Ok(())
    })
    .await?;
    let complete = begun.elapsed();
    let distinct = agent::distinct(&agents);
    ensure!(distinct == INSTANCES, "{distinct} instances are assigned, some of them twice");

    let broken: usize = agents.iter().map(FakeAgent::broken).sum();
    let peak = controller.peak_mib()?;
    let entry = |unit, value, goal, what| {
        report::against(report::alone("fleet-apply", unit, vec![value], goal), what)
    };
    Ok([
        entry("broken", broken as f64, 0.0, "streams"),
        entry("s", attached.as_secs_f64(), 30.0, "attached"),
        entry("s", answered.as_secs_f64(), 5.0, "answered"),
        entry("s", assigned.as_secs_f64(), 15.0, "assigned"),
        entry("s", complete.as_secs_f64(), 60.0, "directories"),
        entry("MiB", peak, 512.0, "controller, peak"),
    ])
}

/// Raises the limit of open files of this process, and so of the controller that it starts.
fn open_more_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    ensure!(
        maximum.is_none_or(|maximum| maximum >= FILES_MIN),
        "only {maximum:?} files may be open here; raise the hard limit (`ulimit -Hn`) to {FILES_MIN}"
    );
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")
}

/// The program itself, in a directory of its own; it ends with this.
struct Controller {
    process: Child,
    dir: PathBuf,
    endpoint: String,
    api: FleetClient<Channel>,
    _temporary: tempfile::TempDir,
}

impl Controller {
    async fn start() -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        let dir = temporary.path().to_owned();
        // A free port, which nobody else is given for a while.
        let endpoint = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let socket = dir.join("controller.sock");
        let config = format!(
            "data_dir: {data}\nlisten: {endpoint}\nsocket: {socket}\ncluster: {{cidr: 10.0.0.0/8, node_prefix: 24}}\n",
            data = dir.join("data").display(),
            socket = socket.display(),
        );
        let path = dir.join("controller.yaml");
        fs::write(&path, config)?;
        let log = fs::File::create(dir.join("controller.log"))?;
        let program = find_programs()?.join("dwell-controller");
        let process = Command::new(&program)
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let api = api(socket);
        wait_until("the controller to answer", LIMIT, async || {
            api.clone().get_info(v1::GetInfoRequest {}).await?;
            Ok(())
        })
        .await?;
        Ok(Self { process, dir, endpoint, api, _temporary: temporary })
    }

    /// What agents have to know of it.
    fn door(&self) -> Result<Door> {
        let ca: &Path = &self.dir.join("data/pki/ca.pem");
        let ca_pem =
            fs::read_to_string(ca).with_context(|| format!("cannot read {}", ca.display()))?;
        Ok(Door { endpoint: format!("https://{}", self.endpoint), ca_pem })
    }

    /// The most memory that it has had, in MiB.
    fn peak_mib(&self) -> Result<f64> {
        let pid = self.process.id().context("the controller has ended")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u32>().ok());
        kib.map(|kib| f64::from(kib) / 1024.0).context("the kernel does not tell its memory")
    }
}
