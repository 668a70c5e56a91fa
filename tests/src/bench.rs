//! Benchmarks: dwell and the alternative, taken in turns in one run, on hosts of one lab.
//!
//! Turns alternate, so that a machine whose speed drifts treats both alike; what counts is the median of
//! each side and their ratio. Every result is printed as a row and written to `target/bench/NAME.json`.
//!
//! Code map: `node` (starting and resting), `replace`, `roll` (rollouts and limits), `routes`, `fleet` (many nodes), `net` (between two hosts), `ssh`, `machine`, `sim`; the others are the
//! sides that they compare, and `runner`, which says what runs.

mod bare;
mod dwell;
mod fleet;
mod heal;
mod lost;
mod machine;
mod net;
mod node;
mod plain;
mod replace;
mod report;
mod roll;
mod routes;
mod runner;
mod sim;
mod ssh;
mod swarm;
mod tap;
mod wire;

use anyhow::{Result, ensure};

pub use report::{Report, write};
use runner::Runner;

/// How often the quick ones are repeated.
const MANY: usize = 11;
/// How often the slow ones are repeated.
const FEW: usize = 3;

/// A benchmark: its name, and what one has to know to read it.
type Benchmark = (&'static str, &'static str);

/// On one node.
const NODE: [Benchmark; 9] = [
    (
        "start-one",
        "`dwell apply --wait` of one instance until it runs; create+start through the Docker API on its bridge",
    ),
    ("start-fifty", "the same for 50; the Docker API at the concurrency that suits it best"),
    ("start-fifty-vs-swarm", "50 instances; a Swarm service of 50 replicas until all tasks run"),
    ("agent-rss", "resident memory of the agent, idle with 50 instances"),
    ("controller-rss", "resident memory of the controller, the same"),
    (
        "apply-latency",
        "from sending an accepted one-instance change to the agent's first engine call",
    ),
    ("restart-resync", "agent killed and started with 50 instances until all are reported again"),
    (
        "deploy-one-vs-swarm",
        "`dwell apply --wait` of one instance until it runs; a Swarm service of one, the same",
    ),
    ("self-heal", "main process killed until its replacement starts; Swarm with restart delay 0"),
];

/// Of the replacement of one container; the second entry is against a Swarm service update.
const REPLACE: [Benchmark; 3] = [
    (
        "replace-downtime",
        "the longest time a client that connects every millisecond is not let in; recreated as Docker Compose does",
    ),
    (
        "start-first",
        "how often a client that connects every millisecond is not let in during 1,000 replacements, each started beside the one before",
    ),
    ("journal-cost", "writing the journal, syncing included, for each replacement"),
];

/// Of the agent's routes, without an engine.
const ROUTES: [Benchmark; 5] = [
    ("routes-install", "100,000 routes over 1,000 nexthops; `ip -batch` with the same"),
    ("routes-remove", "the same, removed"),
    ("routes-install-raw", "the same, installed; a bare netlink loop of batches made beforehand"),
    ("routes-resync", "100,000 routes dumped and compared, none of them wrong"),
    (
        "route-repair",
        "the kernel's notice of a route that somebody deleted to its notice that it is back, 1,000 nodes",
    ),
];

/// Between instances on two hosts; the second entry is against Docker's overlay network.
const NET: [Benchmark; 3] = [
    ("net-throughput", "one TCP stream; Docker's bridge with routes made by hand, and overlay"),
    ("net-connections", "TCP connections made and closed per second, one after the other"),
    ("net-rtt", "one byte there and back over a TCP connection"),
];

/// Into an instance; OpenSSH's server runs in the same container.
const SSH: [Benchmark; 3] = [
    ("ssh-exec", "`ssh HOST true` over a kept connection; second entry: over a new one"),
    ("sftp-throughput", "1 GiB to the instance by sftp; second entry: from it"),
    ("ssh-idle-memory", "of dwell-ssh for each instance that nobody is logged in to"),
];

/// Of machines.
const MACHINE: [Benchmark; 2] = [
    (
        "machine-boot",
        "`dwell run --machine` of a whole Debian until a command is run over SSH; `docker run` of the same with an sshd of its own; second entry: until its systemd is up",
    ),
    (
        "machine-io",
        "in a machine's root: 256 MiB in sequence, random blocks of 4 KiB, packages installed; in a container's",
    ),
];

/// Of many nodes at once. Entries: streams that broke; until all agents are attached; of the change, until it is
/// answered, until all agents have their assignments, until all directories are complete; the controller's memory.
const FLEET: [Benchmark; 1] = [(
    "fleet-apply",
    "1,000 agents over mutual TLS attach at once; one change of 10,000 instances until every node knows all of them",
)];

/// Of a node that is lost; the second entry is against a Swarm of as many hosts.
const LOST: [Benchmark; 1] = [(
    "failover-lost-node",
    "a host that is gone until its instance runs elsewhere, beyond the time that was declared (15 s); a Swarm's task likewise, whose old one may run on",
)];

/// Of what is changed in many instances, or in the kernel; the second entry of the last is against `docker update` by the API.
const ROLL: [Benchmark; 2] = [
    (
        "roll-twenty",
        "a new version for 20 instances on two nodes, 4 at a time; a Swarm's service, 4 at a time",
    ),
    ("resize-live", "`dwell resize INSTANCE --memory` until the kernel has the limit"),
];

/// Of nothing but decisions: the whole, simulated.
const SIM: [Benchmark; 1] =
    [("sim-speed", "simulated steps per second on one core, faults and checks included")];

/// What is measured.
#[must_use]
pub fn benchmarks() -> Vec<(&'static str, &'static str)> {
    [&NODE[..], &REPLACE, &ROLL, &ROUTES, &NET, &SSH, &MACHINE, &FLEET, &LOST, &SIM].concat()
}

/// Runs the benchmarks named, or all, and hands the entries of each to `done` as they come. Returns those that failed:
/// they stop no other.
///
/// # Errors
/// If a name is unknown.
pub async fn run(names: &[String], done: impl Fn(&[Report]) -> Result<()>) -> Result<Vec<String>> {
    for name in names {
        ensure!(
            benchmarks().iter().any(|(known, _)| known == name),
            "there is no benchmark {name}; `dwell-bench --list` lists them"
        );
    }
    let runner = Runner::new(names, &done);
    runner.take("sim-speed", async { Ok([sim::run_seeds()]) }).await;
    fleet::run(&runner).await;
    routes::run(&runner).await;
    node::run(&runner).await;
    replace::run(&runner).await;
    roll::run(&runner).await;
    lost::run(&runner).await;
    net::run(&runner).await;
    ssh::run(&runner).await;
    machine::run(&runner).await;
    Ok(runner.into_failed())
}
