use dwell_core::id::Revision;
use dwell_core::net::Mac;
use dwell_core::session::NodePeer;

use super::*;
use crate::config::{OverlayChoice, OverlayMode};
use dwell_engine::fake::FakeEngine;
use dwell_engine::fake::control::TokioClock;
use dwell_network::Sandbox;
use dwell_network::fake::{FakeNetwork, Operation};

fn assignment(revision: u64, masked_peers: u8) -> Option<Arc<Assignment>> {
    let peer = |n: u8| {
        let name = format!("h{n}").parse().unwrap();
        let peer = NodePeer {
            address: [192, 168, 1, n].into(),
            block: Some(ipnet::Ipv4Net::new_assert([10, 80, n, 0].into(), 24)),
            more_blocks: Vec::new(),
        };
        (name, peer)
    };
    let network = NodeNetwork {
        block: Some("10.80.1.0/24".parse().unwrap()),
        peers: (2..2 + masked_peers).map(peer).collect(),
        ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap())
    };
    Some(Arc::new(Assignment { revision: Revision(revision), ..Assignment::empty(network) }))
}

fn choices() -> HostChoices {
    HostChoices {
        masquerade: true,
        host_access: Vec::new(),
        answers_names: true,
        untracked: true,
        connections_max: None,
        overlay: OverlayChoice { mode: OverlayMode::Auto, port: 4789 },
    }
}

/// A host's network with the tasks that keep it, on paused time.
struct Host {
    network: FakeNetwork,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    engine: watch::Sender<EngineState>,
    rechecks: watch::Sender<u64>,
    address: watch::Sender<Ipv4Addr>,
    desired: watch::Receiver<Option<Arc<Desired>>>,
    prepared: watch::Receiver<Prepared>,
}

impl Host {
    fn start() -> Self {
        Self::start_with(false)
    }

    fn start_with(awaits_engine: bool) -> Self {
        Self::start_on(FakeNetwork::default(), awaits_engine)
    }

    fn start_on(network: FakeNetwork, awaits_engine: bool) -> Self {
        let assignment = watch::Sender::new(None);
        let engine = watch::Sender::new(EngineState::Unknown);
        let (prepared, desired) = (watch::Sender::new(Prepared::NotYet), watch::Sender::new(None));
        let seen = desired.subscribe();
        tokio::spawn(release(assignment.subscribe(), prepared.subscribe(), desired));
        let is_prepared = prepared.subscribe();
        let rechecks = watch::Sender::new(0);
        let address = watch::Sender::new(Ipv4Addr::new(192, 0, 2, 1));
        let keeper = HostNetwork {
            network: Arc::new(network.clone()),
            choices: choices(),
            address: address.subscribe(),
            assignment: assignment.subscribe(),
            engine: engine.subscribe(),
            awaits_engine,
            recheck: rechecks.subscribe(),
            prepared,
        };
        tokio::spawn(keeper.keep());
        Self {
            network,
            assignment,
            engine,
            rechecks,
            address,
            desired: seen,
            prepared: is_prepared,
        }
    }

    fn ensured(&self) -> usize {
        self.network.calls(Operation::EnsureHost)
    }
}

/// Lets everything happen that happens within this time.
async fn after(time: Duration) {
    sleep(time).await;
}

const MOMENT: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_without_an_assignment() {
    let host = Host::start();
    after(10 * RESYNC).await;
    assert_eq!((host.ensured(), host.desired.borrow().is_none()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn the_host_comes_first_and_then_only_what_is_new() {
    let host = Host::start();
    host.network.stall();
    host.assignment.send_replace(assignment(1, 2));
    after(MOMENT).await;
    assert!(host.desired.borrow().is_none(), "told of instances before the host was prepared");
    host.network.resume();
    after(MOMENT).await;
    assert_eq!(host.desired.borrow().as_ref().unwrap().revision(), Revision(1));
    assert_eq!(host.network.routes().peers.len(), 2);
    host.assignment.send_replace(assignment(2, 2));
    after(MOMENT).await;
    assert_eq!(host.desired.borrow().as_ref().unwrap().revision(), Revision(2));
    assert_eq!(host.ensured(), 1, "other instances are no other network");
    host.assignment.send_replace(assignment(3, 1));
    after(MOMENT).await;
    assert_eq!(host.network.routes().peers.len(), 1);
    assert_eq!(host.ensured(), 1, "other peers are no other host");
}

#[tokio::test(start_paused = true)]
async fn another_address_of_the_node_makes_the_overlay_another_one() {
    let host = Host::start();
    host.assignment.send_replace(assignment(1, 2));
    after(MOMENT).await;
    let local = || host.network.routes().overlay.unwrap().local;
    assert_eq!(local(), Ipv4Addr::new(192, 0, 2, 1));
    host.address.send_replace(Ipv4Addr::new(192, 0, 2, 99));
    after(BREATH).await;
    assert_eq!(local(), Ipv4Addr::new(192, 0, 2, 99));
}

/// The others take its packets from no other address.
#[tokio::test(start_paused = true)]
async fn the_overlay_has_the_address_that_the_controller_knows_whatever_the_host_takes_for_its_own()
{
    let known_by = |revision, address: [u8; 4]| {
        let assignment = assignment(revision, 2).unwrap();
        let address = Some(address.into());
        let network = NodeNetwork { address, ..assignment.network.clone() };
        Some(Arc::new(Assignment { network, ..Assignment::clone(&assignment) }))
    };
    let host = Host::start();
    let local = || host.network.routes().overlay.unwrap().local;
    host.assignment.send_replace(known_by(1, [192, 0, 2, 7]));
    after(MOMENT).await;
    assert_eq!(local(), Ipv4Addr::new(192, 0, 2, 7));
    host.address.send_replace(Ipv4Addr::new(192, 0, 2, 99));
    after(BREATH).await;
    assert_eq!(local(), Ipv4Addr::new(192, 0, 2, 7));
    host.assignment.send_replace(known_by(2, [192, 0, 2, 99]));
    after(BREATH).await;
    assert_eq!(local(), Ipv4Addr::new(192, 0, 2, 99));
}

#[tokio::test(start_paused = true)]
async fn it_is_looked_at_again_after_a_while_and_when_the_engine_is_back() {
    let host = Host::start();
    host.assignment.send_replace(assignment(1, 1));
    after(BREATH).await;
    host.engine.send_replace(EngineState::Away { reason: String::new() });
    after(MOMENT).await;
    assert_eq!(host.ensured(), 1);
    host.engine.send_replace(EngineState::Ready);
    after(MOMENT).await;
    assert_eq!(host.ensured(), 2);
    after(RESYNC).await;
    assert_eq!(host.ensured(), 3);
    host.rechecks.send_replace(1);
    after(BREATH).await;
    assert_eq!(host.ensured(), 4, "somebody wants it");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_with_growing_pauses_and_holds_nothing_up() {
    let host = Host::start();
    host.network.fail(Operation::EnsureHost, 3);
    host.assignment.send_replace(assignment(1, 1));
    after(MOMENT).await;
    assert!(host.desired.borrow().is_some());
    assert_eq!(host.network.routes().peers.len(), 1);
    for (pause, calls) in [(RETRY, 2), (2 * RETRY, 3), (4 * RETRY, 4), (RESYNC, 5)] {
        assert_eq!(host.ensured(), calls - 1);
        after(pause).await;
        assert_eq!(host.ensured(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_was_disturbed_is_looked_at_and_a_fight_leaves_time_to_breathe() {
    let host = Host::start();
    host.assignment.send_replace(assignment(1, 1));
    after(2 * BREATH).await;
    let synced = || host.network.calls(Operation::SyncRoutes);
    host.network.disturb(|counts| counts.routes += 1);
    after(MOMENT).await;
    assert_eq!((host.ensured(), synced()), (1, 2), "at once, and only the routes");
    for _ in 0..100 {
        host.network.disturb(|counts| counts.host += 1);
        after(MOMENT).await;
    }
    after(2 * BREATH).await;
    assert_eq!(synced(), 2);
    let repairs = host.ensured() - 1;
    assert!((2..=12).contains(&repairs), "{repairs} repairs in 100 ms");
    host.network.disturb(|counts| counts.sandboxes += 1);
    after(2 * BREATH).await;
    assert_eq!((host.ensured() - 1, synced()), (repairs, 2), "that is for the reconciler");
}

#[tokio::test(start_paused = true)]
async fn routes_do_not_wait_for_the_engine_and_forwarding_does() {
    let host = Host::start_with(true);
    host.assignment.send_replace(assignment(1, 2));
    host.engine.send_replace(EngineState::Away { reason: String::new() });
    after(2 * BREATH).await;
    let forwards = || host.network.host().unwrap().forwards;
    assert_eq!((host.network.routes().peers.len(), forwards()), (2, false));
    assert!(host.desired.borrow().is_some(), "the reconciler says itself that it waits");
    assert_eq!(*host.prepared.borrow(), Prepared::WithoutForwarding);
    host.engine.send_replace(EngineState::Ready);
    after(2 * BREATH).await;
    assert_eq!((forwards(), *host.prepared.borrow()), (true, Prepared::Whole));
    // What instances that run need is not taken away.
    host.engine.send_replace(EngineState::Away { reason: String::new() });
    after(2 * RESYNC).await;
    assert_eq!((forwards(), *host.prepared.borrow()), (true, Prepared::Whole));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_finds_sandboxes_forwards_without_the_engine() {
    let network = FakeNetwork::default();
    let wanted = assignment(1, 0).unwrap().network.clone();
    network.ensure_host(&host_network(&wanted, &choices(), false)).await.unwrap();
    let address = Ipv4Addr::new(10, 80, 1, 2);
    let instance = "web-0".parse().unwrap();
    let sandbox = Sandbox::only(instance, address, Mac::of_address(address));
    network.ensure_sandbox(&sandbox).await.unwrap();
    let host = Host::start_on(network, true);
    host.assignment.send_replace(assignment(1, 0));
    after(2 * BREATH).await;
    assert!(host.network.host().unwrap().forwards);
    assert_eq!(*host.prepared.borrow(), Prepared::Whole);
}

#[tokio::test]
async fn a_docker_beside_dwell_is_waited_for_while_somebody_listens_for_it() {
    let host = tempfile::tempdir().unwrap();
    let socket = host.path().join("docker.sock");
    assert!(!is_listened_at(&socket).await);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(is_listened_at(&socket).await);
    tokio::time::pause();
    for comes in [true, false] {
        let engine = FakeEngine::new(Arc::new(TokioClock::new()));
        engine.down();
        let answered = watch::Sender::new(EngineState::Unknown);
        let mut state = answered.subscribe();
        let waiting = await_docker(socket.clone(), Arc::new(engine.clone()), answered);
        let waiting = tokio::spawn(waiting);
        sleep(3 * RETRY).await;
        assert_eq!(*state.borrow(), EngineState::Unknown);
        if comes {
            engine.up();
        } else {
            std::fs::remove_file(&socket).unwrap();
        }
        state.wait_for(|state| *state == EngineState::Ready).await.unwrap();
        assert!(!waiting.is_finished(), "a part that ends is a defect");
        waiting.abort();
    }
    drop(listener);
}
