//! The reconciler with a fake engine and network, on paused time: what a node goes through.

mod foreign;
mod health;
mod hooks;
mod isolation;
mod last_words;
mod sightings;
mod trouble;
mod updates;

use std::collections::BTreeMap;

use dwell_core::health::{HealthCheck, Probe};
use dwell_core::id::{Generation, InstanceName, Revision};
use dwell_core::image::ImageDigest;
use dwell_core::instance::{Assigned, InstanceStatus, Outcome, Phase, RunState};
use dwell_core::quantity::Bytes;
use dwell_core::registry::RegistryLogins;
use dwell_core::workload::{Limits, RestartPolicy, Template};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use dwell_engine::fake::control::TokioClock;
use dwell_engine::fake::{FakeEngine, Operation, assigned};
use dwell_engine::{Container, ContainerId, Engine, EngineError, Usage};
use dwell_network::fake::{FakeNetwork, Operation as NetworkOperation};
use dwell_network::fixtures;

/// How long anything may take, in simulated time.
const LIMIT: Duration = Duration::from_secs(120);

/// A host with an engine, a network and a disk, on which reconcilers come and go.
struct Host {
    engine: FakeEngine,
    network: FakeNetwork,
    clock: Arc<dyn Clock>,
    disk: TempDir,
    desired: watch::Sender<Option<Arc<Desired>>>,
    assigned: BTreeMap<InstanceName, Assigned>,
    registries: RegistryLogins,
    revision: u64,
    settled: Vec<Settled>,
    prepared: Option<watch::Receiver<Prepared>>,
}

impl Host {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        let network = FakeNetwork::default();
        network.ensure_host(&fixtures::host()).await.unwrap();
        Self {
            engine: FakeEngine::new(Arc::clone(&clock)),
            network,
            clock,
            disk: tempfile::tempdir().unwrap(),
            desired: watch::Sender::new(None),
            assigned: BTreeMap::new(),
            registries: RegistryLogins::new(),
            revision: 0,
            settled: Vec::new(),
            prepared: None,
        }
    }

    /// A reconciler on this host that has taken up the desired state.
    fn start(&self) -> Agent {
        let mut config = Config::new(self.disk.path().join("journals"));
        config.calls_max = 4;
        config.settled.clone_from(&self.settled);
        config.prepared.clone_from(&self.prepared);
        config.processes = Arc::new(self.engine.clone());
        let reconciler = Reconciler::spawn(
            config,
            Arc::new(self.engine.clone()),
            Arc::new(self.network.clone()),
            Arc::clone(&self.clock),
            self.desired.subscribe(),
        )
        .unwrap();
        Agent { statuses: reconciler.statuses(), reconciler }
    }

    /// Declares instances, each at a generation and with an image, beside those there are.
    fn declare<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        generation: u64,
        image: &str,
    ) {
        for name in names {
            let one = assigned(name, generation, Template::of_image(image));
            self.assigned.insert(one.instance.clone(), one);
        }
        self.publish();
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Assigned)) {
        let one = self.assigned.get_mut(&name.parse().unwrap()).unwrap();
        one.generation = one.generation.next();
        change(one);
        self.publish();
    }

    fn publish(&mut self) {
        self.revision += 1;
        let desired: Desired = self.assigned.values().cloned().collect();
        let desired = desired.with_registries(self.registries.clone());
        self.desired.send_replace(Some(Arc::new(desired.at(Revision(self.revision)))));
    }

    /// The id of the one container of an instance.
    fn container(&self, name: &str) -> ContainerId {
        let all = self.engine.containers();
        let mut own = all.iter().filter(|container| container.instance.to_string() == name);
        let id = own.next().unwrap().id.clone();
        assert!(own.next().is_none(), "{name} has several containers");
        id
    }

    fn running(&self, name: &str) -> usize {
        self.engine.running(&name.parse().unwrap())
    }
}

struct Agent {
    reconciler: Reconciler,
    statuses: watch::Receiver<Option<Arc<Statuses>>>,
}

impl Agent {
    /// Waits until the statuses are as they should be.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Statuses) -> bool) -> Arc<Statuses> {
        let seen =
            timeout(LIMIT, self.statuses.wait_for(|seen| seen.as_deref().is_some_and(&is_so)))
                .await
                .map(|seen| seen.unwrap().clone());
        match seen {
            Ok(seen) => seen.unwrap(),
            Err(_) => panic!("{what} did not come true: {:#?}", self.statuses.borrow()),
        }
    }

    /// Waits until an instance has a status that is as it should be.
    async fn status(
        &mut self,
        name: &str,
        is_so: impl Fn(&InstanceStatus) -> bool,
    ) -> InstanceStatus {
        let instance: InstanceName = name.parse().unwrap();
        let seen = self.until(name, |all| all.instances.get(&instance).is_some_and(&is_so)).await;
        seen.instances[&instance].clone()
    }

    async fn all_running(&mut self, count: usize) -> Arc<Statuses> {
        self.until("all running", |all| {
            all.instances.len() == count
                && all.instances.values().all(|one| one.phase == Phase::Running)
        })
        .await
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|ordinal| format!("web-{ordinal}")).collect()
}

fn unavailable() -> EngineError {
    EngineError::Unavailable { engine: "fake", reason: "no reply".to_owned() }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Whether a generation was rolled back.
fn rolled_back(status: &InstanceStatus, generation: u64) -> bool {
    matches!(status.verdict_on(Generation(generation)), Some(Outcome::RolledBack { .. }))
}

#[tokio::test(start_paused = true)]
async fn thirty_instances_start_with_two_calls_and_one_look_each() {
    let mut host = Host::new().await;
    for operation in [Operation::Create, Operation::Start] {
        host.engine.set_latency(operation, Duration::from_millis(50));
    }
    let mut agent = host.start();
    let names = names(30);
    host.declare(names.iter().map(String::as_str), 1, "a");
    let statuses = agent.all_running(30).await;
    assert_eq!(statuses.revision, Revision(1));
    pass(Duration::from_secs(5)).await;
    let count = |operation| host.engine.count(operation);
    assert_eq!(count(Operation::Create), 30);
    assert_eq!(count(Operation::Start), 30);
    assert_eq!(count(Operation::Inspect), 30, "an event of an own step cost a look");
    assert_eq!(count(Operation::List), 1);
    assert_eq!(host.network.calls(NetworkOperation::EnsureSandbox), 30);
    let journals = std::fs::read_dir(host.disk.path().join("journals")).unwrap();
    assert_eq!(journals.count(), 0, "a plain start wrote a journal");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_a_desired_state_has_arrived() {
    let mut host = Host::new().await;
    let foreign = assigned("old-0", 1, Template::of_image("a"));
    let id = host.engine.create(&foreign).await.unwrap();
    let mut agent = host.start();
    pass(Duration::from_secs(60)).await;
    assert!(agent.statuses.borrow().is_none());
    assert_eq!(host.engine.containers().len(), 1);
    host.publish();
    agent.until("nothing left", |all| all.instances.is_empty()).await;
    assert!(matches!(host.engine.inspect(&id).await, Err(EngineError::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_healed_at_once_and_a_crash_loop_with_growing_pauses() {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    agent.all_running(1).await;
    let id = host.container("web-0");
    let began = tokio::time::Instant::now();
    assert!(host.engine.crash(&id, 9));
    let status =
        agent.status("web-0", |one| one.restarts == 1 && one.phase == Phase::Running).await;
    assert!(began.elapsed() < Duration::from_millis(5), "took {:?}", began.elapsed());
    assert_eq!((status.exit_code, status.container_id.as_str()), (Some(9), id.as_str()));

    host.engine.ends_at_once("a", Some(1));
    assert!(host.engine.crash(&id, 1));
    pass(Duration::from_secs(60)).await;
    let starts = host.engine.count(Operation::Start);
    assert!((8..=14).contains(&starts), "{starts} starts in a minute of crashes");
    agent.status("web-0", |one| one.phase == Phase::Backoff).await;
    host.engine.ends_at_once("a", None);
    agent.status("web-0", |one| one.phase == Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_removed_by_hand_is_made_again() {
    let mut host = Host::new().await;
    host.declare(["web-0", "web-1"], 1, "a");
    let mut agent = host.start();
    agent.all_running(2).await;
    let (gone, kept) = (host.container("web-0"), host.container("web-1"));
    host.engine.vanish(&gone);
    agent
        .status("web-0", |one| one.phase == Phase::Running && one.container_id != gone.as_str())
        .await;
    assert_eq!(host.container("web-1"), kept);
    assert_eq!(host.engine.count(Operation::Stop), 0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_away_is_reported_and_nothing_is_restarted_when_it_is_back() {
    let mut host = Host::new().await;
    let names = names(10);
    host.declare(names.iter().map(String::as_str), 1, "a");
    let mut agent = host.start();
    agent.all_running(10).await;
    let before = host.engine.containers();
    host.engine.down();
    agent
        .until("unknown", |all| all.instances.values().all(|one| one.phase == Phase::Unknown))
        .await;
    let crashed = host.container("web-3");
    assert!(host.engine.crash(&crashed, 1), "one ends unseen");
    pass(Duration::from_secs(60)).await;
    host.engine.up();
    agent.all_running(10).await;
    assert_eq!(host.engine.count(Operation::Start), 11, "only the one that ended was started");
    assert_eq!(host.engine.count(Operation::Stop), 0);
    let ids = |all: &[Container]| all.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&host.engine.containers()));
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_lost_end_in_one_container() {
    let mut host = Host::new().await;
    host.engine.fail_after_next(Operation::Create, 1, unavailable());
    host.engine.fail_after_next(Operation::Start, 1, unavailable());
    host.engine.fail_next(Operation::List, 2, unavailable());
    host.network.fail(NetworkOperation::EnsureSandbox, 2);
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    agent.all_running(1).await;
    assert_eq!(host.engine.count(Operation::Create), 1, "the container was found, not made again");
    assert_eq!(host.engine.containers().len(), 1);
    assert_eq!(host.engine.overlaps(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_start_holds_up_only_its_own_instance() {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    agent.all_running(1).await;
    host.engine.stall(Operation::Start);
    host.declare(["web-1"], 1, "a");
    pass(Duration::from_secs(1)).await;
    host.change("web-0", |one| one.run = RunState::Stopped);
    agent.status("web-0", |one| one.phase == Phase::Stopped).await;
    host.engine.release(Operation::Start);
    agent.status("web-1", |one| one.phase == Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_below_what_is_used_is_not_set_and_says_so() {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    let held = |one: &InstanceStatus| one.verdict_on(Generation(1)) == Some(&Outcome::Held);
    agent.status("web-0", held).await;
    host.engine.use_up(Usage { memory: Some(Bytes::mebi(90)), pids: None });
    host.change("web-0", |one| {
        one.generation = Generation(2);
        one.fallback = Some(one.template.clone());
        one.template.resources.memory = Bytes::mebi(64);
    });
    let refused = |one: &InstanceStatus| match one.verdict_on(Generation(2)) {
        Some(Outcome::RolledBack { reason }) => {
            reason.contains("90 MiB of memory, more than the new limit of 64Mi")
        }
        _ => false,
    };
    agent.status("web-0", refused).await;
    assert_eq!(host.engine.count(Operation::UpdateLimits), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_looks_and_touches_nothing() {
    let mut host = Host::new().await;
    let names = names(50);
    host.declare(names.iter().map(String::as_str), 1, "a");
    let mut agent = host.start();
    agent.all_running(50).await;
    let before = host.engine.containers();
    agent.reconciler.stop().await;
    let changes = host.network.changes();
    // An event that comes before the first look is over makes no difference.
    host.engine.stall(Operation::List);
    let mut agent = host.start();
    pass(Duration::from_millis(100)).await;
    let some = host.container("web-7");
    host.engine.update_limits(&some, Limits::default()).await.unwrap();
    host.engine.release(Operation::List);
    agent.all_running(50).await;
    pass(Duration::from_secs(10)).await;
    assert_eq!(host.engine.containers(), before);
    assert_eq!(host.network.changes(), changes);
    for operation in [Operation::Create, Operation::Start] {
        assert_eq!(host.engine.count(operation), 50);
    }
    assert_eq!(host.engine.count(Operation::List), 2);
}

#[tokio::test(start_paused = true)]
async fn agents_that_die_amid_the_start_of_thirty_leave_thirty() {
    let mut host = Host::new().await;
    for operation in [Operation::Create, Operation::Start, Operation::Inspect] {
        host.engine.set_latency(operation, Duration::from_millis(30));
    }
    let names = names(30);
    host.declare(names.iter().map(String::as_str), 1, "a");
    for _ in 0..10 {
        let agent = host.start();
        pass(Duration::from_millis(137)).await;
        drop(agent);
    }
    let mut agent = host.start();
    agent.all_running(30).await;
    assert_eq!(host.engine.containers().len(), 30);
    assert_eq!(host.engine.overlaps(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_done_once_also_if_the_agent_dies_in_between() {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    host.change("web-0", |one| one.template.restart = RestartPolicy::Never);
    let mut agent = host.start();
    agent.all_running(1).await;
    // No two runs of a container begin in the same millisecond.
    pass(Duration::from_millis(10)).await;
    host.engine.set_latency(Operation::Start, Duration::from_millis(50));
    host.change("web-0", |one| one.restarts_asked = 1);
    agent.status("web-0", |one| one.phase != Phase::Running).await;
    drop(agent);
    let mut agent = host.start();
    agent.status("web-0", |one| one.phase == Phase::Running && one.restarts_done == 1).await;
    agent.reconciler.stop().await;
    let mut agent = host.start();
    agent.all_running(1).await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(host.engine.count(Operation::Stop), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_withdrawn_leaves_nothing_behind() {
    let mut host = Host::new().await;
    host.declare(["web-0", "web-1"], 1, "a");
    let mut agent = host.start();
    agent.all_running(2).await;
    host.change("web-0", |one| one.restarts_asked = 1);
    agent.status("web-0", |one| one.restarts_done == 1 && one.phase == Phase::Running).await;
    host.assigned.remove(&"web-0".parse().unwrap());
    host.publish();
    agent.until("web-0 gone", |all| all.instances.len() == 1).await;
    pass(Duration::from_secs(1)).await;
    assert!(host.network.sandbox(&"web-0".parse().unwrap()).is_none());
    assert!(host.network.sandbox(&"web-1".parse().unwrap()).is_some());
    assert_eq!(host.running("web-1"), 1);
    let journals = std::fs::read_dir(host.disk.path().join("journals")).unwrap();
    assert_eq!(journals.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_no_event_told_is_found_by_the_backstop() {
    let mut host = Host::new().await;
    host.declare(["web-0"], 1, "a");
    let mut agent = host.start();
    agent.all_running(1).await;
    let id = host.container("web-0");
    host.engine.lose_events(2);
    host.engine.vanish(&id);
    pass(Duration::from_secs(700)).await;
    agent
        .status("web-0", |one| one.phase == Phase::Running && one.container_id != id.as_str())
        .await;
}
