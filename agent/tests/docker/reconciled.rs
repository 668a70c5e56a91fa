//! The reconciler on a real daemon, with a network in memory: starts, a kill, a restart of the agent.

use std::sync::Arc;
use std::time::Duration;

use dwell_agent::reconciler::{Config, Reconciler};
use dwell_core::clock::SystemClock;
use dwell_core::instance::Phase;
use dwell_core::session::Statuses;
use dwell_docker::{DockerEngine, Runtime};
use dwell_engine::{Container, Engine as _};
use dwell_network::fake::FakeNetwork;
use dwell_network::{Network as _, fixtures};
use dwell_planner::Desired;
use tokio::sync::watch;
use tokio::time::timeout;

use dwell_docker::world::{PATIENCE, World, shell};
use dwell_engine::fake::assigned;

/// How many instances the node has.
const COUNT: usize = 10;

#[tokio::test]
async fn a_node_survives_kills_and_restarts() {
    let world = World::shared().await;
    let engine = Arc::new(world.node("reconciled", Runtime::WithoutNetwork).engine);
    let network = Arc::new(FakeNetwork::default());
    network.ensure_host(&fixtures::host()).await.unwrap();
    let desired: Desired = (0..COUNT)
        .map(|ordinal| {
            assigned(&format!("node-{ordinal}"), 1, shell("trap exit TERM; sleep 1000 & wait"))
        })
        .collect();
    let desired = watch::Sender::new(Some(Arc::new(desired)));
    let start = || {
        let config = Config::new(world.directory().join("journals"));
        let (engine, network) =
            (Arc::<DockerEngine>::clone(&engine), Arc::<FakeNetwork>::clone(&network));
        let clock = Arc::new(SystemClock::new());
        Reconciler::spawn(config, engine, network, clock, desired.subscribe()).unwrap()
    };

    let reconciler = start();
    until(&reconciler, "all run", |all| is_running(all, COUNT)).await;
    let before = look(&engine).await;

    let victim = &before[0];
    let pid = victim.details.unwrap().pid.unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.try_into().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    until(&reconciler, "the killed one runs again", |all| {
        is_running(all, COUNT) && all.instances[&victim.instance].restarts == 1
    })
    .await;

    let before = look(&engine).await;
    reconciler.stop().await;
    let reconciler = start();
    until(&reconciler, "all are known again", |all| is_running(all, COUNT)).await;
    assert_eq!(look(&engine).await, before, "a restart of the agent touched something");

    desired.send_replace(Some(Arc::new(Desired::default())));
    until(&reconciler, "nothing is left", |all| all.instances.is_empty()).await;
    assert_eq!(engine.list().await.unwrap(), []);
    assert_eq!(network.sandboxes().await.unwrap(), []);
}

async fn look(engine: &DockerEngine) -> Vec<Container> {
    let mut containers = Vec::new();
    for container in engine.list().await.unwrap() {
        containers.push(engine.inspect(&container.id).await.unwrap());
    }
    containers.sort_by(|a, b| a.instance.cmp(&b.instance));
    containers
}

fn is_running(all: &Statuses, count: usize) -> bool {
    all.instances.len() == count && all.instances.values().all(|one| one.phase == Phase::Running)
}

async fn until(reconciler: &Reconciler, what: &str, is_so: impl Fn(&Statuses) -> bool) {
    let mut statuses = reconciler.statuses();
    let waiting = statuses.wait_for(|all| all.as_deref().is_some_and(&is_so));
    let seen = timeout(PATIENCE + Duration::from_secs(30), waiting).await;
    assert!(seen.is_ok(), "not so: {what}");
}
