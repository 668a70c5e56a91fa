//! What people do by hand to an instance, with and without an agent: it keeps its container, its name and its sandbox, and
//! the file of `dwell-ssh` follows its main process.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dwell_agent::reconciler::{Config, Reconciler};
use dwell_agent::ssh::SshFiles;
use dwell_core::clock::SystemClock;
use dwell_core::id::Revision;
use dwell_core::instance::Assigned;
use dwell_core::session::{Assignment, NodeNetwork};
use dwell_core::ssh::{HostKey, SshContainer, SshInstance};
use dwell_docker::{DockerEngine, Runtime};
use dwell_engine::Engine as _;
use dwell_network::fake::FakeNetwork;
use dwell_network::{Network as _, fixtures};
use dwell_planner::Desired;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use dwell_docker::world::{World, shell};
use dwell_engine::fake::assigned;

/// How long after its start a main process may stay unknown to `dwell-ssh`. Usually it is 3 to 15 ms; this leaves
/// room for a machine that is busy with other tests.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// A node whose agent comes and goes.
struct Node {
    world: &'static World,
    engine: Arc<DockerEngine>,
    run_dir: PathBuf,
    network: Arc<FakeNetwork>,
    desired: watch::Sender<Option<Arc<Desired>>>,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    agent: Option<(Reconciler, JoinHandle<()>)>,
}

#[tokio::test]
async fn what_people_do_to_an_instance_by_hand() {
    let mut node = Node::new(World::shared().await).await;
    node.start();
    let first = node.other_than(None).await;
    let hostname = node.hostname(&first).await;
    assert_eq!(hostname, "hand-0\n");
    let sandboxes = node.network.changes();

    node.world.docker(&["restart", "--time=0", &first.id]);
    let restarted = node.other_than(Some(&first)).await;
    node.world.docker(&["kill", &first.id]);
    let crashed = node.other_than(Some(&restarted)).await;

    node.stop().await;
    node.world.docker(&["restart", "--time=0", &first.id]);
    assert_eq!(node.served(), Some(crashed.clone()), "changed by nobody");
    node.start();
    let adopted = node.other_than(Some(&crashed)).await;

    assert_eq!([&restarted.id, &crashed.id, &adopted.id], [&first.id; 3]);
    assert_eq!(node.hostname(&first).await, hostname);
    assert_eq!(node.network.changes(), sandboxes, "a sandbox was touched");

    // A stopped one is started again, in the same sandbox.
    node.stop().await;
    node.world.docker(&["stop", "--time=0", &first.id]);
    node.start();
    let started = node.other_than(Some(&adopted)).await;
    assert_eq!((&started.id, node.network.changes()), (&first.id, sandboxes));

    node.desired.send_replace(Some(Arc::new(Desired::default())));
    node.assignment.send_replace(Some(Arc::new(assignment(None))));
    node.world.until("it is not served", async || !node.path().exists()).await;
    node.world.until("it is gone", async || node.engine.list().await.unwrap().is_empty()).await;
    node.stop().await;
}

impl Node {
    async fn new(world: &'static World) -> Self {
        let made = world.node("by-hand", Runtime::WithoutNetwork);
        let network = Arc::new(FakeNetwork::default());
        network.ensure_host(&fixtures::host()).await.unwrap();
        let script = "trap exit TERM; sleep 1000 & wait";
        let host_key = HostKey { private_key: "key".into(), certificate: "certificate".into() };
        let one = Assigned { host_key: Some(host_key), ..assigned("hand-0", 1, shell(script)) };
        let desired: Desired = [one.clone()].into_iter().collect();
        Self {
            world,
            engine: Arc::new(made.engine),
            run_dir: made.config.run_dir,
            network,
            desired: watch::Sender::new(Some(Arc::new(desired))),
            assignment: watch::Sender::new(Some(Arc::new(assignment(Some(one))))),
            agent: None,
        }
    }

    fn start(&mut self) {
        let run_dir = self.run_dir.clone();
        let reconciler = Reconciler::spawn(
            Config::new(self.world.directory().join("by-hand/journals")),
            Arc::<DockerEngine>::clone(&self.engine),
            Arc::<FakeNetwork>::clone(&self.network),
            Arc::new(SystemClock::new()),
            self.desired.subscribe(),
        )
        .unwrap();
        let files = SshFiles {
            run_dir,
            assignment: self.assignment.subscribe(),
            sightings: reconciler.sightings(),
        };
        self.agent = Some((reconciler, tokio::spawn(files.keep())));
    }

    async fn stop(&mut self) {
        let (reconciler, files) = self.agent.take().unwrap();
        reconciler.stop().await;
        files.abort();
    }

    fn path(&self) -> PathBuf {
        self.run_dir.join("ssh/instances/hand-0.json")
    }

    /// The container that is served.
    fn served(&self) -> Option<SshContainer> {
        let text = fs::read(self.path()).ok()?;
        serde_json::from_slice::<SshInstance>(&text).unwrap().container
    }

    /// Waits until another main process is served than before, and checks that it is the right one and was
    /// known soon.
    async fn other_than(&self, before: Option<&SshContainer>) -> SshContainer {
        let is_other = async || self.served().is_some_and(|now| Some(&now) != before);
        self.world.until("another main process is served", is_other).await;
        let known_at = fs::metadata(self.path()).unwrap().modified().unwrap();
        let served = self.served().unwrap();
        let seen =
            self.engine.inspect(&dwell_core::container::ContainerId(served.id.clone())).await;
        let details = seen.unwrap().details.unwrap();
        assert_eq!(details.pid, Some(served.pid));
        let stat = fs::read_to_string(format!("/proc/{}/stat", served.pid)).unwrap();
        let ticks = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap();
        assert_eq!(ticks, served.start_ticks.to_string());
        let started_at = Duration::from_millis(details.started_at.unwrap().0);
        let known_at = known_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let later = known_at.saturating_sub(started_at);
        assert!(later < KNOWN_WITHIN, "known to dwell-ssh {later:?} after its start");
        served
    }

    async fn hostname(&self, container: &SshContainer) -> String {
        self.world.docker(&["exec", &container.id, "hostname"])
    }
}

fn assignment(one: Option<Assigned>) -> Assignment {
    let network = NodeNetwork {
        zone: "dwell".to_owned(),
        ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap())
    };
    Assignment {
        revision: Revision(1),
        instances: one.into_iter().map(|one| (one.instance.clone(), one)).collect(),
        ..Assignment::empty(network)
    }
}
