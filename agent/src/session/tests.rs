mod news;

use std::net::Ipv4Addr;

use dwell_core::clock::{SystemClock, Timestamp};
use dwell_core::directory::Directory;
use dwell_core::fixtures;
use dwell_core::health::Health;
use dwell_core::id::{Generation, InstanceName, Revision, WorkloadName};
use dwell_core::image::ContainerImage;
use dwell_core::instance::{InstanceStatus, Phase};
use dwell_core::quantity::Bytes;
use dwell_core::session::SeenVolume;
use dwell_core::workload::Template;
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as Up;
use dwell_proto::v1::controller_message::Message as Down;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::assignment::cache;
use crate::directory::Directories;
use crate::fake_controller::{Attachment, Ca, Face, FakeController, LIMIT, identity};
use crate::identity::certificates;
use crate::tunnel;
use crate::volumes::Volumes;
use dwell_network::fake::FakeNetwork;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn name(ordinal: u32) -> InstanceName {
    InstanceName::new(WorkloadName::new("web").unwrap(), ordinal)
}

fn assigned(ordinal: u32) -> v1::AssignedInstance {
    let address = Ipv4Addr::new(10, 80, 1, u8::try_from(ordinal).unwrap());
    let template = Template::of_image("web");
    (&fixtures::at(address, fixtures::assigned(&format!("web-{ordinal}"), 1, template))).into()
}

fn snapshot(revision: u64, ordinals: &[u32]) -> v1::Assignment {
    v1::Assignment {
        revision,
        instances: ordinals.iter().map(|&ordinal| assigned(ordinal)).collect(),
        network: Some(v1::NodeNetwork {
            cluster_cidr: "10.80.0.0/16".into(),
            block: "10.80.1.0/24".into(),
            ..v1::NodeNetwork::default()
        }),
        ..v1::Assignment::default()
    }
}

fn delta(base_revision: u64, revision: u64, ordinals: &[u32], removed: &[u32]) -> v1::Assignment {
    v1::Assignment {
        base_revision,
        network: None,
        removed: removed.iter().map(|&ordinal| name(ordinal).to_string()).collect(),
        ..snapshot(revision, ordinals)
    }
}

fn status(ordinal: u32, phase: Phase, observed_at: u64) -> InstanceStatus {
    InstanceStatus {
        instance: name(ordinal),
        generation: Generation(1),
        phase,
        health: Health::None,
        readiness: Health::None,
        container_id: String::new(),
        address: None,
        image: ContainerImage::default(),
        started_at: None,
        restarts: 0,
        exit_code: None,
        ends: Vec::new(),
        hook_failed: None,
        restarts_done: 0,
        message: String::new(),
        observed_at: Timestamp(observed_at),
        verdict: None,
        task: None,
        image_ahead: None,
        let_go: None,
    }
}

fn statuses(revision: u64, all: &[InstanceStatus]) -> Option<Arc<Statuses>> {
    let instances = all.iter().map(|one| (one.instance.clone(), one.clone())).collect();
    Some(Arc::new(Statuses { revision: Revision(revision), complete: true, instances }))
}

/// An agent's session, seen from both sides.
struct Agent {
    data_dir: tempfile::TempDir,
    desired: watch::Receiver<Option<Arc<Assignment>>>,
    statuses: watch::Sender<Option<Arc<Statuses>>>,
    capacity: watch::Sender<Arc<Capacity>>,
    directory: Directories,
    address: watch::Sender<Ipv4Addr>,
    volumes: watch::Sender<Option<Arc<Volumes>>>,
    fenced: watch::Sender<Position>,
    leases: watch::Sender<Leases>,
    ssh_events: EventQueue,
    reboot_orders: watch::Sender<Option<RebootOrder>>,
    reboot_failed: watch::Sender<Option<RebootFailed>>,
    tasks: [JoinHandle<()>; 2],
}

impl Agent {
    fn start(controller: &str, identity: Identity) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let assignment = watch::Sender::new(None);
        let desired = assignment.subscribe();
        let stored = watch::Sender::new(OnDisk::default());
        let everything = Position { revision: Revision(u64::MAX), ..Position::default() };
        let fenced = watch::Sender::new(everything);
        let leases = watch::Sender::new(Leases::default());
        let statuses = watch::Sender::new(None);
        let capacity = watch::Sender::new(Arc::new(Capacity::default()));
        let address = watch::Sender::new(Ipv4Addr::new(192, 168, 1, 11));
        let volumes = watch::Sender::new(None);
        let node = tunnel::Node {
            engine: None,
            images: None,
            statuses: statuses.subscribe(),
            assignment: assignment.subscribe(),
            network: Arc::new(FakeNetwork::default()),
            recheck: Arc::default(),
            config: Arc::default(),
        };
        let held = HeldDirectory::new(Directory::default());
        let (directory, ssh_events) = (held.subscribe(), EventQueue::default());
        let (reboot_orders, reboot_failed) = (watch::Sender::new(None), watch::Sender::new(None));
        let session = Session {
            data_dir: data_dir.path().to_owned(),
            identity,
            host_mark: None,
            controller: controller.to_owned(),
            address: address.subscribe(),
            assignment,
            directory: held,
            ssh_events: ssh_events.clone(),
            stored: stored.subscribe(),
            fenced: fenced.subscribe(),
            boot: Boot { id: "b1".into(), may_reboot: true },
            reboot_orders: reboot_orders.clone(),
            reboot_failed: reboot_failed.subscribe(),
            leases: leases.clone(),
            clock: Arc::new(SystemClock::new()),
            statuses: statuses.subscribe(),
            volumes: volumes.subscribe(),
            capacity: capacity.subscribe(),
            tunnels: Tunnels::new(node),
        };
        let keeper = cache::keep(data_dir.path().to_owned(), desired.clone(), stored);
        let tasks = [tokio::spawn(session.run()), tokio::spawn(keeper)];
        Self {
            data_dir,
            desired,
            statuses,
            volumes,
            fenced,
            leases,
            capacity,
            address,
            directory,
            ssh_events,
            reboot_orders,
            reboot_failed,
            tasks,
        }
    }

    /// The instances that the reconciler is told.
    fn instances(&self) -> Vec<String> {
        let desired = self.desired.borrow();
        desired.iter().flat_map(|all| all.instances.keys().map(ToString::to_string)).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A controller and an agent of it.
async fn pair() -> (FakeController, Agent) {
    let ca = Ca::new();
    let node = identity(&ca, "", DAY);
    let controller = FakeController::start(Face::proper(ca)).await;
    let agent = Agent::start(&controller.address, node);
    (controller, agent)
}

/// The next report, passing over heartbeats.
async fn report(stream: &mut Attachment) -> v1::StatusReport {
    loop {
        match stream.next().await.unwrap() {
            Up::Status(report) => return report,
            Up::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Waits for a revision to be acknowledged, passing over everything else.
async fn acknowledged(stream: &mut Attachment, revision: u64) {
    let is_it = |up: Up| matches!(up, Up::Acknowledge(stored) if stored.revision == revision);
    while !is_it(stream.next().await.unwrap()) {}
}

/// Waits for the agent to end the stream.
async fn ended(mut stream: Attachment) {
    while stream.next().await.is_some() {}
}

#[tokio::test]
async fn another_address_of_the_host_is_told_at_once() {
    let (mut controller, agent) = pair().await;
    let stream = controller.attachment().await;
    assert_eq!(stream.hello.address, "192.168.1.11");
    stream.welcome(60_000).await;
    agent.address.send_replace(Ipv4Addr::new(192, 168, 1, 99));
    let stream = controller.attachment().await;
    assert_eq!(stream.hello.address, "192.168.1.99");
}

/// A report says that its revision was taken up, so that volumes which were seen under a newer one wait.
#[tokio::test]
async fn volumes_are_told_when_their_revision_was_taken_up() {
    let (mut controller, agent) = pair().await;
    let mut stream = controller.attachment().await;
    stream.welcome(60_000).await;
    stream.send(Down::Assignment(snapshot(9, &[0]))).await;
    acknowledged(&mut stream, 9).await;
    let volume = SeenVolume {
        instance: "db-0".parse().unwrap(),
        name: "data".parse().unwrap(),
        image_path: None,
        is_copy: false,
    };
    let seen_under = Position { revision: Revision(6), ..Position::default() };
    agent.volumes.send_replace(Some(Arc::new(Volumes { seen_under, there: vec![volume] })));
    agent.statuses.send_replace(statuses(5, &[]));
    let first = report(&mut stream).await;
    assert_eq!((first.complete, first.revision, first.volumes_known), (true, 5, false));
    agent.statuses.send_replace(statuses(7, &[]));
    assert_eq!(report(&mut stream).await.revision, 7);
    let told = report(&mut stream).await;
    assert!(!told.complete && told.volumes_known);
    assert_eq!((told.revision, told.volumes[0].name.as_str()), (6, "data"));

    // Another stream knows nothing of what this one told.
    drop(stream);
    let mut stream = controller.attachment().await;
    stream.welcome(60_000).await;
    assert!(report(&mut stream).await.volumes_known);
}

#[tokio::test]
async fn assignments_are_merged_stored_and_acknowledged() {
    let (mut controller, agent) = pair().await;
    let mut stream = controller.attachment().await;
    assert_eq!((stream.hello.protocol, stream.hello.revision), (1, 0));
    assert_eq!(stream.hello.address, "192.168.1.11");
    stream.welcome(1_000).await;
    stream.send(Down::Assignment(snapshot(5, &[0, 1]))).await;
    acknowledged(&mut stream, 5).await;
    stream.send(Down::Assignment(delta(5, 8, &[2], &[0]))).await;
    acknowledged(&mut stream, 8).await;
    assert_eq!(agent.instances(), ["web-1", "web-2"]);
    let cache::Cached::Assignment(cached) = cache::load(agent.data_dir.path()).unwrap() else {
        panic!("acknowledged and not stored");
    };
    assert_eq!(Some(&cached), agent.desired.borrow().as_deref());
}

#[tokio::test]
async fn a_delta_with_another_base_ends_the_stream_and_changes_nothing() {
    let (mut controller, agent) = pair().await;
    let mut stream = controller.attachment().await;
    stream.welcome(1_000).await;
    stream.send(Down::Assignment(snapshot(5, &[0]))).await;
    acknowledged(&mut stream, 5).await;
    stream.send(Down::Assignment(delta(6, 7, &[1], &[0]))).await;
    ended(stream).await;

    let mut stream = controller.attachment().await;
    assert_eq!(stream.hello.revision, 5);
    assert_eq!(agent.instances(), ["web-0"]);
    stream.welcome(1_000).await;
    stream.send(Down::Assignment(snapshot(7, &[1]))).await;
    acknowledged(&mut stream, 7).await;
    assert_eq!(agent.instances(), ["web-1"]);
}

#[tokio::test]
async fn messages_that_make_no_sense_end_the_stream_and_change_nothing() {
    let wrong_name = v1::AssignedInstance { instance: "../web".into(), ..assigned(1) };
    let (mut controller, agent) = pair().await;
    for no_sense in [
        Down::Assignment(v1::Assignment {
            instances: vec![assigned(1), wrong_name],
            ..snapshot(9, &[])
        }),
        Down::Assignment(v1::Assignment { network: None, ..snapshot(9, &[1]) }),
        Down::Assignment(v1::Assignment {
            removed: vec!["\u{202e}".into()],
            ..delta(5, 9, &[1], &[])
        }),
        Down::Assignment(snapshot(4, &[])),
        Down::Welcome(v1::Welcome::default()),
    ] {
        let mut stream = controller.attachment().await;
        stream.welcome(1_000).await;
        stream.send(Down::Assignment(snapshot(5, &[0]))).await;
        acknowledged(&mut stream, 5).await;
        stream.send(no_sense).await;
        ended(stream).await;
        assert_eq!(agent.instances(), ["web-0"]);
    }
}

#[tokio::test]
async fn nothing_is_believed_before_the_right_welcome() {
    let (mut controller, agent) = pair().await;
    let stream = controller.attachment().await;
    stream.send(Down::Assignment(snapshot(5, &[0]))).await;
    ended(stream).await;
    let stream = controller.attachment().await;
    let welcome =
        v1::Welcome { cluster_id: "another".into(), heartbeat_ms: 100, ..v1::Welcome::default() };
    stream.send(Down::Welcome(welcome)).await;
    stream.send(Down::Assignment(snapshot(5, &[0]))).await;
    ended(stream).await;
    assert!(agent.desired.borrow().is_none());
}

#[tokio::test]
async fn statuses_are_told_as_differences() {
    let (mut controller, agent) = pair().await;
    let mut stream = controller.attachment().await;
    let hello = stream.hello.status.take().unwrap();
    assert!(!hello.complete, "an agent that has not looked claims to know everything");
    stream.welcome(60_000).await;
    // What is said is never later than what is on the disk.
    stream.send(Down::Assignment(snapshot(7, &[0, 1]))).await;
    acknowledged(&mut stream, 7).await;

    let (zero, one) = (status(0, Phase::Running, 1), status(1, Phase::Preparing, 1));
    agent.statuses.send_replace(statuses(5, &[zero.clone(), one.clone()]));
    let first = report(&mut stream).await;
    assert!(first.complete);
    assert_eq!((first.instances.len(), first.revision), (2, 5));

    // Seen again and the same: not worth a message. The one after it shows that none was sent.
    agent.statuses.send_replace(statuses(5, &[status(0, Phase::Running, 2), one.clone()]));
    tokio::task::yield_now().await;
    agent.statuses.send_replace(statuses(5, &[zero.clone(), status(1, Phase::Running, 3)]));
    let second = report(&mut stream).await;
    assert!(!second.complete);
    assert_eq!(second.instances, [(&status(1, Phase::Running, 3)).into()]);

    agent.statuses.send_replace(statuses(6, std::slice::from_ref(&zero)));
    let third = report(&mut stream).await;
    assert_eq!((third.gone, third.revision), (vec!["web-1".to_owned()], 6));
    // An assignment that changed nothing that can be seen: the controller has to learn that it was seen.
    agent.statuses.send_replace(statuses(7, &[zero]));
    assert_eq!(report(&mut stream).await.revision, 7);
}

#[tokio::test]
async fn a_restarted_controller_is_told_everything_again() {
    let face = Arc::new(Face::proper(Ca::new()));
    let node = identity(&face.ca, "", DAY);
    let mut controller = FakeController::start(Arc::clone(&face)).await;
    let address = controller.address.clone();
    let agent = Agent::start(&address, node);
    let mut stream = controller.attachment().await;
    stream.welcome(1_000).await;
    stream.send(Down::Assignment(snapshot(5, &[0]))).await;
    acknowledged(&mut stream, 5).await;
    drop(stream);
    controller.stop().await;

    agent.statuses.send_replace(statuses(5, &[status(0, Phase::Running, 1)]));
    let mut controller = FakeController::listen(&address, face).await;
    let stream = controller.attachment().await;
    let hello = stream.hello.clone();
    assert_eq!(hello.revision, 5);
    let status = hello.status.unwrap();
    assert!(status.complete);
    assert_eq!(status.instances.len(), 1);
    assert_eq!(agent.instances(), ["web-0"]);
}

#[tokio::test]
async fn heartbeats_carry_what_has_changed() {
    let (mut controller, agent) = pair().await;
    let mut stream = controller.attachment().await;
    stream.welcome(100).await;
    let Some(Up::Heartbeat(first)) = stream.next().await else { panic!("no heartbeat") };
    assert_eq!(first.capacity, None);
    let more = Capacity { memory: Bytes::mebi(64), ..Capacity::default() };
    agent.capacity.send_replace(Arc::new(more.clone()));
    let told = loop {
        let Some(Up::Heartbeat(heartbeat)) = stream.next().await else { panic!("no heartbeat") };
        if let Some(capacity) = heartbeat.capacity {
            break capacity;
        }
    };
    assert_eq!(told, (&more).into());
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_and_used() {
    let ca = Ca::new();
    // Issued an hour ago for 80 minutes: two thirds are over.
    let old = identity(&ca, "", Duration::from_secs(1200));
    let mut controller = FakeController::start(Face::proper(ca)).await;
    let agent = Agent::start(&controller.address, old.clone());
    let first = controller.attachment().await;
    first.welcome(1_000).await;
    let second = controller.attachment().await;
    assert_ne!(first.certificate, second.certificate);
    let stored = Identity::load(agent.data_dir.path()).unwrap();
    assert_eq!(stored.certificates().unwrap()[0].to_vec(), second.certificate);
    assert_ne!(stored.key_pem, old.key_pem);
}

/// The new authority is trusted, and durably, before anything that it signed is used.
#[tokio::test]
async fn other_authorities_are_kept_together_with_a_renewed_certificate() {
    let (ca, new) = (Ca::new(), Ca::new());
    let both = ca.pem.clone() + &new.pem;
    let old = identity(&ca, "", DAY);
    let face = Face { trust_pem: both.clone(), ..Face::proper(ca) };
    let mut controller = FakeController::start(face).await;
    let agent = Agent::start(&controller.address, old.clone());
    let first = controller.attachment().await;
    first.welcome(1_000).await;
    first.send(Down::Trust(v1::Trust { ca_pem: both.clone() })).await;
    let mut second = controller.attachment().await;
    assert_ne!(first.certificate, second.certificate);
    let stored = Identity::load(agent.data_dir.path()).unwrap();
    assert_eq!(stored.certificates().unwrap()[0].to_vec(), second.certificate);
    assert_eq!(stored.ca_pem, both);
    assert_eq!(certificates(&stored.ca_pem).unwrap().len(), 2);

    // Those that it has are no reason to renew again, nor are none, of an earlier controller.
    second.welcome(100).await;
    for ca_pem in [both, String::new()] {
        second.send(Down::Trust(v1::Trust { ca_pem })).await;
    }
    for _ in 0..5 {
        assert!(second.next().await.is_some(), "the stream ended");
    }
    assert_eq!(Identity::load(agent.data_dir.path()).unwrap(), stored);
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_renewed_by_proof_of_its_key() {
    let ca = Ca::new();
    let old = identity(&ca, "", Duration::ZERO);
    let mut controller = FakeController::start(Face::proper(ca)).await;
    let agent = Agent::start(&controller.address, old.clone());
    let attached = controller.attachment().await;
    let stored = Identity::load(agent.data_dir.path()).unwrap();
    assert_eq!(stored.certificates().unwrap()[0].to_vec(), attached.certificate);
    assert_ne!(stored.key_pem, old.key_pem);
}

#[tokio::test]
async fn a_link_that_swallows_everything_is_noticed() {
    let ca = Ca::new();
    let node = identity(&ca, "", DAY);
    let mut controller = FakeController::start(Face::proper(ca)).await;
    let target = controller.address.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let open = watch::Sender::new(true);
    let gate = open.subscribe();
    let proxy = tokio::spawn(async move {
        loop {
            let (agent, _) = listener.accept().await.unwrap();
            let controller = TcpStream::connect(&target).await.unwrap();
            let ((agent_in, agent_out), (controller_in, controller_out)) =
                (agent.into_split(), controller.into_split());
            tokio::spawn(copy(agent_in, controller_out, gate.clone()));
            tokio::spawn(copy(controller_in, agent_out, gate.clone()));
        }
    });
    let agent = Agent::start(&address, node);
    let first = controller.attachment().await;
    first.welcome(100).await;
    open.send_replace(false);
    // Both ends believe in the connection; nothing but its silence speaks against it.
    tokio::time::sleep(3 * FIRST_HEARTBEAT).await;
    open.send_replace(true);
    let begun = Instant::now();
    let second = controller.attachment().await;
    assert!(begun.elapsed() < LIMIT / 2);
    drop((first, second, agent));
    proxy.abort();
}

/// Copies while the gate is open, and forgets what comes while it is not.
async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    gate: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *gate.borrow() && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
