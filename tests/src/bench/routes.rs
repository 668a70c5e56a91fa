//! Routes to other nodes: dwell's agent code, `ip -batch` and a bare netlink loop, in turns, in a network
//! namespace of their own.
//!
//! All three make the same routes: one nexthop object per node, and 100,000 routes that name one. The bare
//! loop has its messages ready before the clock starts; what it takes is the kernel's time.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use dwell_agent::{
    assignment::HostChoices,
    config::{OverlayChoice, OverlayMode},
    host_network::{HostNetwork, Prepared},
};
use dwell_core::{
    id::{NodeName, Revision},
    session::{Assignment, NodeNetwork, NodePeer},
};
use dwell_network::{
    Exception, Network, Peer, RouteReport, RouteTable,
    linux::{LinuxConfig, LinuxNetwork},
};
use dwell_planner::EngineState;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tokio::{sync::watch, time::timeout};

use super::{
    bare::{Bare, Monitor},
    report::{self, Report, Samples},
    runner::Runner,
};

const NODES: usize = 1_000;
const ROUTES: usize = 100_000;
/// How often the slow ones are repeated.
const RUNS: usize = 5;
/// How many routes are deleted by somebody else, one after the other.
const DELETIONS: usize = 300;
/// The time between two of them.
const DELETION_PAUSE: Duration = Duration::from_millis(25);
/// How long one repair may take before the benchmark gives up.
const REPAIR_LIMIT: Duration = Duration::from_secs(10);

const TABLES: [&str; 4] =
    ["routes-install", "routes-remove", "routes-install-raw", "routes-resync"];

/// Runs those that are wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if runner.wants_any(&TABLES) {
        match apart(async |dir: &Path| whole_tables(dir).await) {
            Ok(reports) => {
                for report in reports {
                    runner.take(report.name, async { Ok([report]) }).await;
                }
            }
            Err(error) => runner.note(&TABLES, Err(error)),
        }
    }
    let repair = async { Ok([apart(async |dir: &Path| repairs(dir).await)?]) };
    runner.take("route-repair", repair).await;
}

/// Does something on a thread that has a network namespace of its own.
fn apart<T: Send + 'static>(
    work: impl AsyncFnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = thread::spawn(move || -> Result<T> {
        let dir = scratch()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work(dir.path()))
    });
    done.join().map_err(|_| anyhow::anyhow!("the routes' thread panicked"))?
}

/// Puts the calling thread into a namespace with one uplink, `172.16.0.1/12`.
fn scratch() -> Result<tempfile::TempDir> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make a namespace; run this as root")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    for line in [
        "link set lo up",
        "link add uplink type veth peer name far",
        "link set far up",
        "address add 172.16.0.1/12 dev uplink",
        "link set uplink up",
    ] {
        let status = Command::new("ip").args(line.split(' ')).status()?;
        ensure!(status.success(), "`ip {line}` failed");
    }
    Ok(tempfile::tempdir()?)
}

async fn whole_tables(dir: &Path) -> Result<Vec<Report>> {
    let network =
        LinuxNetwork::new(&LinuxConfig { run_dir: dir.to_owned(), ..LinuxConfig::default() })?;
    let table = table();
    let script = Script::write(dir)?;
    let bare = Bare::new((0..NODES).map(gateway), &destinations())?;
    let [mut install, mut remove, mut raw] =
        [Samples::default(), Samples::default(), Samples::default()];
    let mut resync = Vec::new();
    for turn in 0..=RUNS {
        let (ours, report) = sync(&network, &table).await?;
        ensure!(report.added == ROUTES && report.is_clean(), "not all were added: {report:?}");
        let (again, report) = sync(&network, &table).await?;
        ensure!(report.in_place == ROUTES && report.added == 0, "not all were there: {report:?}");
        let (ours_gone, report) = sync(&network, &RouteTable::default()).await?;
        ensure!(report.removed == ROUTES, "not all were removed: {report:?}");
        let other = script.run(&script.add)?;
        let other_gone = script.run(&script.delete)?;
        let bottom = bare.install()?;
        bare.remove()?;
        install.add(turn, ours, other);
        remove.add(turn, ours_gone, other_gone);
        raw.add(turn, ours, bottom);
        if turn > 0 {
            resync.push(again.as_secs_f64() * 1e3);
        }
    }
    Ok(vec![
        install.report("routes-install", 0.5),
        remove.report("routes-remove", 0.5),
        raw.report("routes-install-raw", 1.2),
        report::alone("routes-resync", "ms", resync, 150.0),
    ])
}

async fn sync(network: &LinuxNetwork, table: &RouteTable) -> Result<(Duration, RouteReport)> {
    let started = Instant::now();
    let report = network.sync_routes(table).await?;
    Ok((started.elapsed(), report))
}

/// From the kernel's notice that a peer's route is gone to its notice that it is back, with the agent's
/// own task that keeps the host's network.
async fn repairs(dir: &Path) -> Result<Report> {
    let network = Arc::new(LinuxNetwork::new(&LinuxConfig {
        run_dir: dir.to_owned(),
        ..LinuxConfig::default()
    })?);
    let peers: BTreeMap<NodeName, NodePeer> = table()
        .peers
        .into_iter()
        .map(|peer| {
            (
                peer.node,
                NodePeer {
                    address: peer.via,
                    block: peer.blocks.first().copied(),
                    more_blocks: Vec::new(),
                },
            )
        })
        .collect();
    let cluster = ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8);
    let known = NodeNetwork { peers, ..NodeNetwork::of_cluster(cluster.into()) };
    let assignment = Assignment { revision: Revision(1), ..Assignment::empty(known) };
    let (_assignments, assignment) = watch::channel(Some(Arc::new(assignment)));
    let (_engines, engine) = watch::channel(EngineState::Ready);
    let prepared = watch::Sender::new(Prepared::NotYet);
    let mut ready = prepared.subscribe();
    let recheck = watch::Sender::new(0).subscribe();
    let keeper = HostNetwork {
        network,
        choices: HostChoices {
            masquerade: false,
            host_access: Vec::new(),
            answers_names: true,
            untracked: true,
            connections_max: None,
            overlay: OverlayChoice { mode: OverlayMode::Never, port: 4789 },
        },
        address: watch::Sender::new(Ipv4Addr::UNSPECIFIED).subscribe(),
        assignment,
        engine,
        awaits_engine: false,
        recheck,
        prepared,
    };
    let keeper = tokio::spawn(keeper.keep());
    timeout(REPAIR_LIMIT, ready.wait_for(|ready| *ready == Prepared::Whole))
        .await
        .context("the host is not prepared in time")??;

    let monitor = Monitor::open()?;
    let mut taken = Vec::new();
    for deletion in 0..=DELETIONS {
        let prefix = format!("{}/24", block(deletion % NODES).network());
        // Somebody deletes a route now and then; one who does it all the time is repaired every 10 ms.
        tokio::time::sleep(DELETION_PAUSE).await;
        // On a thread of its own: this one runs the agent's task.
        let watched = monitor.try_clone()?;
        #[expect(clippy::disallowed_methods, reason = "its one thread for blocking work")]
        let repaired =
            tokio::task::spawn_blocking(move || watched.delete_and_wait(&prefix, REPAIR_LIMIT));
        let gap = repaired.await??;
        if deletion > 0 {
            taken.push(gap.as_secs_f64() * 1e3);
        }
    }
    keeper.abort();
    let worst = report::percentile(&mut taken.clone(), 99);
    let mut report = report::alone("route-repair", "ms", taken, 5.0);
    report.met &= worst <= 50.0;
    report.p99 = Some(worst);
    Ok(report)
}

/// Where node `number` is in the underlay.
fn gateway(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 17, 0, 0).to_bits() + number as u32 + 1)
}

fn block(number: usize) -> ipnet::Ipv4Net {
    let address =
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + ((number as u32) << 8));
    ipnet::Ipv4Net::new_assert(address, 24)
}

/// The moved instances: all in the second half of the cluster's range.
fn moved(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + number as u32)
}

fn node(number: usize) -> Result<NodeName> {
    Ok(format!("n{number}").parse()?)
}

/// Every destination with the number of its node.
fn destinations() -> Vec<(ipnet::Ipv4Net, usize)> {
    let blocks = (0..NODES).map(|number| (block(number), number));
    let moved = (0..ROUTES - NODES).map(|number| (moved(number).into(), number % NODES));
    blocks.chain(moved).collect()
}

fn table() -> RouteTable {
    let peers = (0..NODES).filter_map(|number| {
        Some(Peer { node: node(number).ok()?, blocks: vec![block(number)], via: gateway(number) })
    });
    let exceptions = (0..ROUTES - NODES).filter_map(|number| {
        Some(Exception { address: moved(number), node: node(number % NODES).ok()? })
    });
    let (peers, exceptions) = (peers.collect(), exceptions.collect());
    RouteTable { peers, exceptions, ..RouteTable::default() }
}

/// The same routes as files for `ip -batch`.
struct Script {
    add: PathBuf,
    delete: PathBuf,
}

impl Script {
    fn write(dir: &Path) -> Result<Self> {
        let (mut add, mut delete) = (String::new(), String::new());
        for number in 0..NODES {
            let (id, via) = (number + 1, gateway(number));
            writeln!(add, "nexthop add id {id} via {via} dev uplink protocol 196")?;
        }
        for (destination, number) in destinations() {
            let id = number + 1;
            writeln!(add, "route add {destination} nhid {id} proto 196 metric 196")?;
            writeln!(delete, "route del {destination} metric 196")?;
        }
        for number in 0..NODES {
            writeln!(delete, "nexthop del id {}", number + 1)?;
        }
        let script = Self { add: dir.join("add"), delete: dir.join("delete") };
        std::fs::write(&script.add, add)?;
        std::fs::write(&script.delete, delete)?;
        Ok(script)
    }

    fn run(&self, path: &Path) -> Result<Duration> {
        let started = Instant::now();
        let status = Command::new("ip").arg("-batch").arg(path).status()?;
        if !status.success() {
            bail!("`ip -batch {}` failed", path.display());
        }
        Ok(started.elapsed())
    }
}
