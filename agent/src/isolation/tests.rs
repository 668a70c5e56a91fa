use dwell_core::directory::{DirectoryInstance, DirectoryWorkload};
use dwell_core::fixtures;
use dwell_core::id::{InstanceName, Revision};
use dwell_core::session::NodeNetwork;
use dwell_core::workload::{Protocol, Template};
use proptest::prelude::*;

use super::*;
use dwell_network::fake::{FakeNetwork, Operation};

const WORKLOADS: [&str; 3] = ["api", "db", "web"];
const LABELS: [&str; 2] = ["team", "tier"];
const PORTS: [u16; 4] = [22, 80, 81, 443];

fn workload(n: usize) -> WorkloadName {
    WORKLOADS[n].parse().unwrap()
}

fn address(workload: usize, ordinal: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 80, u8::try_from(workload).unwrap(), ordinal)
}

fn assignment(instances: &[(usize, u8, Option<Vec<AllowRule>>)], closed: bool) -> Assignment {
    let assigned = |(of, ordinal, allow_from): &(usize, u8, Option<Vec<AllowRule>>)| {
        let instance = InstanceName::new(workload(*of), (*ordinal).into());
        let address = address(*of, *ordinal);
        let template = Template { allow_from: allow_from.clone(), ..Template::of_image("image") };
        let assigned = fixtures::assigned(&instance.to_string(), 1, template);
        (instance, fixtures::at(address, assigned))
    };
    let network =
        NodeNetwork { closed, ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()) };
    Assignment {
        revision: Revision(1),
        instances: instances.iter().map(assigned).collect(),
        ..Assignment::empty(network)
    }
}

/// A directory with so many instances of each workload, and which labels each has.
fn directory(sizes: [u8; 3], labels: [[bool; 2]; 3]) -> Directory {
    let mut directory = Directory { revision: Revision(1), ..Directory::default() };
    for (of, &size) in sizes.iter().enumerate() {
        let labels = LABELS.iter().zip(labels[of]).filter(|(_, has)| *has);
        let labels = labels.map(|(name, _)| ((*name).to_owned(), "x".to_owned())).collect();
        let entry = DirectoryWorkload { ports: Vec::new(), labels };
        directory.workloads.insert(workload(of), entry);
        for ordinal in 0..size {
            let entry = DirectoryInstance { address: address(of, ordinal), ready: true };
            let name = InstanceName::new(workload(of), ordinal.into());
            directory.instances.insert(name, entry);
        }
    }
    directory
}

/// Whether the policies let a connection through.
fn passes(
    (policies, direction): (&[Policy], Direction),
    to: Ipv4Addr,
    from: Ipv4Addr,
    protocol: Protocol,
    port: u16,
) -> bool {
    let found = policies.iter().find(|one| (one.address, one.direction) == (to, direction));
    let Some(policy) = found else { return true };
    policy.allowed.iter().any(|allow| {
        let has_port = |range: &PortRange| {
            range.protocol == protocol && (range.first..=range.last).contains(&port)
        };
        allow.source.contains(&from) && (allow.ports.is_empty() || allow.ports.iter().any(has_port))
    })
}

/// Whether a source means an address: told from the address, not from the source.
fn means(source: &AllowSource, own: &WorkloadName, from: Ipv4Addr, directory: &Directory) -> bool {
    let mut senders = directory.instances.iter().filter(|(_, one)| one.address == from);
    let sender = senders.next().map(|(name, _)| name.workload());
    match source {
        AllowSource::Any => true,
        AllowSource::Cidr(range) => range.contains(&from),
        AllowSource::SameWorkload => sender == Some(own),
        AllowSource::Workload(workload) => sender == Some(workload),
        AllowSource::Labels(wanted) => sender.is_some_and(|sender| {
            let has = &directory.workloads[sender].labels;
            wanted.iter().all(|(name, value)| has.get(name) == Some(value))
        }),
    }
}

fn a_source() -> impl Strategy<Value = AllowSource> {
    let labels = (any::<bool>(), prop::sample::select(vec!["x", "y"])).prop_map(|(both, value)| {
        let names = LABELS.iter().take(if both { 2 } else { 1 });
        names.map(|name| ((*name).to_owned(), value.to_owned())).collect()
    });
    prop_oneof![
        Just(AllowSource::Any),
        Just(AllowSource::SameWorkload),
        (0_usize..3).prop_map(|of| AllowSource::Workload(workload(of))),
        labels.prop_map(AllowSource::Labels),
        (0_usize..3, 22_u8..=32).prop_map(|(of, length)| AllowSource::Cidr(Ipv4Net::new_assert(
            address(of, 1),
            length
        ))),
    ]
}

fn some_rules() -> impl Strategy<Value = Option<Vec<AllowRule>>> {
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let range = (protocol, 0_usize..4, 0_usize..4).prop_map(|(protocol, a, b)| {
        let (first, last) = (PORTS[a.min(b)], PORTS[a.max(b)]);
        dwell_core::workload::PortRange { protocol, first, last }
    });
    let rule = (a_source(), prop::collection::vec(range, 0..3))
        .prop_map(|(from, ports)| AllowRule { from, ports });
    prop::option::of(prop::collection::vec(rule, 0..4))
}

proptest! {
    /// What gets through is what the rules say, for every sender, instance and port.
    #[test]
    fn policies_mean_what_the_rules_say(
        instances in prop::collection::vec((0_usize..3, 0_u8..4, some_rules()), 0..5),
        closed: bool,
        sizes: [u8; 3],
        labels: [[bool; 2]; 3],
    ) {
        let (assignment, directory) =
            (assignment(&instances, closed), directory(sizes.map(|size| size % 5), labels));
        let policies = policies(&assignment, &directory);
        let outside = Ipv4Addr::new(192, 0, 2, 1);
        let senders = (0..3).flat_map(|of| (0..5).map(move |n| address(of, n))).chain([outside]);
        for from in senders {
            for assigned in assignment.instances.values() {
                for (protocol, port) in
                    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|one| PORTS.map(|port| (one, port)))
                {
                    let expected = match &assigned.template.allow_from {
                        None => !closed,
                        Some(rules) => rules.iter().any(|rule| {
                            let has_port = |range: &dwell_core::workload::PortRange| {
                                range.protocol == protocol && range.first <= port && port <= range.last
                            };
                            means(&rule.from, assigned.instance.workload(), from, &directory)
                                && (rule.ports.is_empty() || rule.ports.iter().any(has_port))
                        }),
                    };
                    prop_assert_eq!(
                        passes((&policies, Direction::In), assigned.address, from, protocol, port), expected,
                        "{} to {} {:?} {}", from, assigned.instance, protocol, port
                    );
                }
            }
        }
    }

    /// The same in the other direction, which the cluster's switch says nothing of.
    #[test]
    fn what_leaves_is_what_the_rules_say(
        instances in prop::collection::vec((0_usize..3, 0_u8..3, some_rules()), 0..4),
        closed in any::<bool>(),
        labels in any::<[[bool; 2]; 3]>(),
    ) {
        let (mut assignment, directory) =
            (assignment(&instances, closed), directory([3; 3], labels));
        for assigned in assignment.instances.values_mut() {
            assigned.template.allow_to = assigned.template.allow_from.take();
        }
        let policies = policies(&assignment, &directory);
        let outside = Ipv4Addr::new(192, 0, 2, 1);
        let receivers = (0..3).flat_map(|of| (0..3).map(move |n| address(of, n))).chain([outside]);
        for to in receivers {
            for assigned in assignment.instances.values() {
                for (protocol, port) in
                    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|one| PORTS.map(|port| (one, port)))
                {
                    let expected = assigned.template.allow_to.as_ref().is_none_or(|rules| {
                        rules.iter().any(|rule| {
                            let has_port = |range: &dwell_core::workload::PortRange| {
                                range.protocol == protocol && range.first <= port && port <= range.last
                            };
                            means(&rule.from, assigned.instance.workload(), to, &directory)
                                && (rule.ports.is_empty() || rule.ports.iter().any(has_port))
                        })
                    });
                    let passes =
                        passes((&policies, Direction::Out), assigned.address, to, protocol, port);
                    prop_assert_eq!(passes, expected, "{} from {}", to, assigned.instance);
                    let is_open = !policies.iter().any(|one| {
                        one.address == assigned.address && one.direction == Direction::In
                    });
                    prop_assert_eq!(is_open, !closed);
                }
            }
        }
    }

    /// The order in which things are told does not matter, so that nothing is changed for nothing.
    #[test]
    fn the_same_is_said_in_the_same_words(rules in prop::collection::vec(some_rules(), 1..3)) {
        let instances: Vec<_> = (0..).zip(rules).map(|(n, rules)| (0, n, rules)).collect();
        let mut backwards = instances.clone();
        for (_, _, rules) in &mut backwards {
            rules.iter_mut().for_each(|rules| rules.reverse());
        }
        let directory = directory([2, 2, 2], [[true, false]; 3]);
        prop_assert_eq!(
            policies(&assignment(&instances, false), &directory),
            policies(&assignment(&backwards, false), &directory)
        );
    }
}

/// A node whose isolation is kept, on paused time.
struct Node {
    network: FakeNetwork,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    directory: watch::Sender<Arc<Directory>>,
    settled: Settled,
}

impl Node {
    fn start() -> Self {
        let network = FakeNetwork::default();
        let assignment = watch::Sender::new(None);
        let directory = watch::Sender::new(Arc::new(Directory::default()));
        let settled = watch::Sender::new(Arc::default());
        let seen = settled.subscribe();
        let isolation = Isolation {
            network: Arc::new(network.clone()),
            assignment: assignment.subscribe(),
            directory: directory.subscribe(),
            settled,
        };
        tokio::spawn(isolation.keep());
        Self { network, assignment, directory, settled: seen }
    }

    fn assign(&self, instances: &[(usize, u8, Option<Vec<AllowRule>>)]) {
        self.assignment.send_replace(Some(Arc::new(assignment(instances, false))));
    }

    async fn is_settled(&mut self, addresses: &[Ipv4Addr]) {
        let limit = Duration::from_secs(600);
        let settled = self.settled.wait_for(|settled| settled.iter().eq(addresses.iter()));
        drop(tokio::time::timeout(limit, settled).await.unwrap().unwrap());
    }
}

fn from(source: AllowSource) -> Option<Vec<AllowRule>> {
    Some(vec![AllowRule { from: source, ports: Vec::new() }])
}

#[tokio::test(start_paused = true)]
async fn an_isolated_instance_is_settled_once_its_policy_is_in_force() {
    let mut node = Node::start();
    node.network.fail(Operation::SyncPolicies, 2);
    node.assign(&[(0, 1, None), (1, 1, Some(vec![]))]);
    // The open one does not suffer from what the kernel refuses for the other.
    node.is_settled(&[address(0, 1)]).await;
    assert_eq!(node.network.policies(), []);
    node.is_settled(&[address(0, 1), address(1, 1)]).await;
    assert_eq!(node.network.calls(Operation::SyncPolicies), 3);
    assert_eq!(node.network.policies()[0].address, address(1, 1));

    // A change that cannot be made leaves the old policy, which is one.
    node.network.fail(Operation::SyncPolicies, 1);
    node.assign(&[(1, 1, from(AllowSource::Any)), (1, 2, Some(vec![]))]);
    node.is_settled(&[address(1, 1)]).await;
    node.is_settled(&[address(1, 1), address(1, 2)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_confined_instance_is_settled_once_its_policy_is_in_force() {
    let mut node = Node::start();
    node.network.fail(Operation::SyncPolicies, 1);
    let mut confined = assignment(&[(0, 1, None), (1, 1, None)], false);
    let last = confined.instances.values_mut().last().unwrap();
    last.template.allow_to = from(AllowSource::Workload(workload(0)));
    node.assignment.send_replace(Some(Arc::new(confined)));
    node.is_settled(&[address(0, 1)]).await;
    node.is_settled(&[address(0, 1), address(1, 1)]).await;
    let policy = node.network.policies().remove(0);
    assert_eq!((policy.address, policy.direction), (address(1, 1), Direction::Out));
}

#[tokio::test(start_paused = true)]
async fn the_policies_follow_the_directory_and_many_changes_are_one() {
    let mut node = Node::start();
    node.assign(&[(1, 1, from(AllowSource::Workload(workload(0))))]);
    node.is_settled(&[address(1, 1)]).await;
    let calls = node.network.calls(Operation::SyncPolicies);
    for size in 1..=4 {
        node.directory.send_replace(Arc::new(directory([size, 0, 0], [[false; 2]; 3])));
        tokio::time::sleep(DIRECTORY_PAUSE / 8).await;
    }
    tokio::time::sleep(DIRECTORY_PAUSE).await;
    assert_eq!(node.network.policies()[0].allowed.len(), 4);
    assert_eq!(node.network.calls(Operation::SyncPolicies), calls + 1);

    // What concerns nobody here costs the network nothing.
    node.directory.send_replace(Arc::new(directory([4, 0, 9], [[true; 2]; 3])));
    tokio::time::sleep(2 * DIRECTORY_PAUSE).await;
    assert_eq!(node.network.calls(Operation::SyncPolicies), calls + 1);
}
