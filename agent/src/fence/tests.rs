use dwell_core::fixtures;
use dwell_core::id::Revision;
use dwell_core::instance::Assigned;
use dwell_core::quantity::Millis;
use dwell_core::session::{Lent, NodeNetwork};
use dwell_core::workload::{Lease, Template};
use dwell_network::fake::{FakeNetwork, Operation};

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

struct Steady;

impl Clock for Steady {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000)
    }
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 80, 1, last)
}

fn one(name: &str, last: u8, lease: Option<u64>) -> Assigned {
    let lease = lease.map(|seconds| Lease(Millis::seconds(seconds)));
    let one = fixtures::assigned(name, 1, Template::of_image("web"));
    fixtures::at(address(last), Assigned { lease, ..one })
}

/// One instance with a lease, and one without.
fn assignment(revision: u64) -> Assignment {
    let all = [one("web-0", 1, Some(12)), one("db-0", 2, None)];
    Assignment {
        revision: Revision(revision),
        instances: all.into_iter().map(|one| (one.instance.clone(), one)).collect(),
        ..Assignment::empty(NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()))
    }
}

fn lent(assignment: &Assignment, sent_at: Timestamp) -> Leases {
    let mut leases = Leases::begin(Steady.now());
    let lent = Lent { heartbeat: 1, only_renewed: false };
    leases.hear(lent, sent_at, assignment.instances.values(), Steady.now());
    leases
}

#[test]
fn the_kernel_is_told_how_long_is_left() {
    let (all, now, instant) = (assignment(1), Steady.now(), Instant::now());
    let said = |leases: &Leases| {
        let all = reaches(&all, leases, now, instant);
        all.into_iter().map(|reach| (reach.address, reach.until)).collect::<Vec<_>>()
    };
    let free = (address(2), Until::Ever);
    let most = Duration::from_secs(12);
    assert_eq!(said(&Leases::begin(now)), [free, (address(1), Until::AsSaid { most })]);
    let sent_at = Timestamp(now.0 - 5_000);
    let at = Until::At(instant + Duration::from_secs(7));
    assert_eq!(said(&lent(&all, sent_at)), [free, (address(1), at)]);
    let long_ago = Timestamp(now.0 - 12_000);
    assert_eq!(said(&lent(&all, long_ago)), [free, (address(1), Until::At(instant))]);
}

struct Node {
    network: FakeNetwork,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    leases: watch::Sender<Leases>,
    settled: watch::Receiver<Arc<BTreeSet<Ipv4Addr>>>,
    fenced: watch::Receiver<Position>,
}

impl Node {
    fn new() -> Self {
        let network = FakeNetwork::default();
        let assignment = watch::Sender::new(None);
        let leases = watch::Sender::new(Leases::begin(Steady.now()));
        let settled = watch::Sender::new(Arc::default());
        let fenced = watch::Sender::new(Position::default());
        let node = Self {
            network: network.clone(),
            assignment: assignment.clone(),
            leases: leases.clone(),
            settled: settled.subscribe(),
            fenced: fenced.subscribe(),
        };
        let fence = Fence {
            network: Arc::new(network),
            assignment: assignment.subscribe(),
            leases: leases.subscribe(),
            clock: Arc::new(Steady),
            settled,
            fenced,
        };
        tokio::spawn(fence.keep());
        node
    }

    async fn is_fenced(&mut self, revision: u64) {
        let fenced = self.fenced.wait_for(|fenced| fenced.revision == Revision(revision));
        tokio::time::timeout(LIMIT, fenced).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_does_not_know_is_neither_started_nor_acknowledged() {
    let mut node = Node::new();
    node.network.fail(Operation::SyncLeases, usize::MAX);
    node.assignment.send_replace(Some(Arc::new(assignment(5))));
    let settled = node.settled.wait_for(|settled| settled.contains(&address(2)));
    let settled = tokio::time::timeout(LIMIT, settled).await.unwrap().unwrap().clone();
    assert!(!settled.contains(&address(1)), "its lease is not in force");
    assert_eq!(node.fenced.borrow().revision, Revision(0));
    node.network.fail(Operation::SyncLeases, 0);
    node.is_fenced(5).await;
    assert!(node.settled.borrow().contains(&address(1)));
}

#[tokio::test(start_paused = true)]
async fn each_answer_is_passed_on_and_nothing_is_said_where_nothing_is_lent() {
    let mut node = Node::new();
    let all = assignment(5);
    node.assignment.send_replace(Some(Arc::new(all.clone())));
    node.is_fenced(5).await;
    assert!(matches!(node.network.leases()[&address(1)], Until::AsSaid { .. }));
    node.leases.send_replace(lent(&all, Steady.now()));
    let told = || matches!(node.network.leases()[&address(1)], Until::At(_));
    let start = tokio::time::Instant::now();
    while !told() {
        assert!(start.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let without = Assignment { instances: [].into(), ..assignment(6) };
    node.assignment.send_replace(Some(Arc::new(without.clone())));
    node.is_fenced(6).await;
    node.network.fail(Operation::SyncLeases, usize::MAX);
    let next = Assignment { revision: Revision(7), ..without };
    node.assignment.send_replace(Some(Arc::new(next)));
    node.is_fenced(7).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_leases_needs_no_kernel_that_knows_them() {
    let mut node = Node::new();
    node.network.fail(Operation::SyncLeases, usize::MAX);
    let without = Assignment { instances: [].into(), ..assignment(5) };
    node.assignment.send_replace(Some(Arc::new(without)));
    node.is_fenced(5).await;
}
