//! How long a large table of routes takes: to install, to look at when there is nothing to do, to remove; and
//! who may reach isolated instances.
//!
//! `unshare --net --mount cargo run --release -p dwell-network --example routes_bench [ROUTES]`, as root.

#![expect(clippy::print_stdout, reason = "what it is for")]

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::{
    Allow, Direction, Exception, HostNetwork, Network as _, Peer, Policy, RouteTable, fixtures,
};

const NODES: u32 = 1000;
const ROUTES: u32 = 100_000;
const ROUNDS: usize = 9;

fn shell(script: &str) -> Result<()> {
    ensure!(Command::new("sh").args(["-ec", script]).status()?.success(), "`{script}` failed");
    Ok(())
}

fn table(routes: u32) -> Result<RouteTable> {
    let node = |n: u32| format!("node-{n}").parse();
    let peers = (0..NODES)
        .map(|n| {
            let via = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 1)) + n);
            Ok(Peer { node: node(n)?, blocks: Vec::new(), via })
        })
        .collect::<Result<_>>()?;
    let exceptions = (0..routes)
        .map(|n| {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + n);
            Ok(Exception { address, node: node(n % NODES)? })
        })
        .collect::<Result<_>>()?;
    Ok(RouteTable { peers, exceptions, ..RouteTable::default() })
}

fn policies(sources: u32) -> Vec<Policy> {
    let source = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + n);
    let allowed =
        (0..sources).map(|n| Allow { source: source(n).into(), ports: Vec::new() }).collect();
    vec![Policy { address: Ipv4Addr::new(10, 200, 0, 1), direction: Direction::In, allowed }]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let routes = std::env::args().nth(1).map_or(Ok(ROUTES), |text| text.parse())?;
    shell(
        "mount -t tmpfs dwell-bench /run
         ip link set lo up
         ip link add uplink type veth peer name other
         ip link set other up
         ip address add 198.18.0.1/15 dev uplink
         ip link set uplink up",
    )
    .context("run it in namespaces of its own, as root")?;
    let network = LinuxNetwork::new(&LinuxConfig::default())?;
    let cluster = "10.0.0.0/8".parse()?;
    network.ensure_host(&HostNetwork { cluster, masquerade: true, ..fixtures::host() }).await?;
    let table = table(routes)?;
    let (mut install, mut resync, mut remove) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let report = network.sync_routes(&table).await?;
        install.push(start.elapsed());
        ensure!(report.added == routes as usize, "{report:?}");
        let start = Instant::now();
        let report = network.sync_routes(&table).await?;
        resync.push(start.elapsed());
        ensure!(report.in_place == routes as usize, "{report:?}");
        let start = Instant::now();
        network.sync_routes(&RouteTable::default()).await?;
        remove.push(start.elapsed());
    }
    println!("{routes} routes by {NODES} nodes, median of {ROUNDS}:");
    println!("  install {:?}", median(install));
    println!("  resync  {:?}", median(resync));
    println!("  remove  {:?}", median(remove));
    for sources in [5000, 5001] {
        let start = Instant::now();
        network.sync_policies(&policies(sources)).await?;
        println!("  {sources} sources of an isolated instance {:?}", start.elapsed());
    }
    Ok(())
}
