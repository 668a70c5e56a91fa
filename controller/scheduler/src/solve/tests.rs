use std::collections::BTreeMap;

use dwell_core::id::{NodeName, PoolName};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::skill::Skills;
use dwell_core::workload::{self, Resources};
use proptest::prelude::*;

use super::*;
use crate::problem::Closed;

/// A bin with its owned parts, since a [`Bin`] only borrows.
#[derive(Clone, Debug)]
struct Host {
    name: NodeName,
    labels: BTreeMap<String, String>,
    pool: Option<PoolName>,
    capacity: Resources,
    used: Resources,
    addresses: u32,
    closed: Option<Closed>,
}

fn resources(cpu: u64, memory: u64) -> Resources {
    Resources { cpu: Millicores(cpu), memory: Bytes(memory) }
}

fn host(name: &str, cpu: u64, memory: u64) -> Host {
    Host {
        name: NodeName::new(name).unwrap(),
        labels: BTreeMap::new(),
        pool: None,
        capacity: resources(cpu, memory),
        used: Resources::default(),
        addresses: 250,
        closed: None,
    }
}

impl Host {
    fn bin(&self) -> Bin<'_> {
        Bin {
            name: &self.name,
            labels: &self.labels,
            pool: self.pool.as_ref(),
            arch: "x86_64",
            capacity: self.capacity,
            used: self.used,
            items: 0,
            addresses: self.addresses,
            closed: self.closed,
            carries: self.name.as_str() != "old",
            skills: if self.name.as_str() == "old" { Skills::default() } else { Skills::ALL },
        }
    }
}

fn bins(hosts: &[Host]) -> Vec<Bin<'_>> {
    hosts.iter().map(Host::bin).collect()
}

fn group(rules: &workload::Placement, request: Resources) -> Group<'_> {
    Group {
        request,
        rules,
        takes_address: true,
        spread: 0,
        wanted: 1,
        carries: false,
        needs: Skills::default(),
        avoids: Vec::new(),
    }
}

fn rules(constraints: &[&str]) -> workload::Placement {
    let constraints = constraints.iter().map(|text| text.parse().unwrap()).collect();
    workload::Placement { constraints, ..workload::Placement::default() }
}

fn reason(problem: &Problem<'_>) -> String {
    solve(problem, &Placement::new()).groups[0].reason.as_ref().unwrap().to_string()
}

/// Places `count` items of one kind and tells how many each host got.
fn spread(hosts: &[Host], count: usize, request: Resources) -> Vec<usize> {
    let rules = rules(&[]);
    let group = Group { wanted: count, ..group(&rules, request) };
    let problem = Problem { bins: bins(hosts), groups: vec![group] };
    let solution = solve(&problem, &Placement::new());
    let bins = &solution.groups[0].bins;
    (0..hosts.len()).map(|bin| bins.iter().filter(|&&b| b == bin).count()).collect()
}

#[test]
fn copies_are_spread() {
    let hosts = [host("n1", 4000, 4000), host("n2", 4000, 4000), host("n3", 4000, 4000)];
    assert_eq!(spread(&hosts, 6, resources(100, 100)), [2, 2, 2]);
    assert_eq!(spread(&hosts, 4, Resources::default()), [2, 1, 1]);
}

#[test]
fn a_full_host_is_passed_over() {
    let hosts = [host("n1", 100, 4000), host("n2", 4000, 4000)];
    assert_eq!(spread(&hosts, 5, resources(100, 100)), [1, 4]);
}

#[test]
fn the_emptier_host_is_preferred() {
    let mut hosts = [host("n1", 4000, 4000), host("n2", 4000, 4000)];
    hosts[0].used = resources(1000, 0);
    assert_eq!(spread(&hosts, 1, resources(100, 100)), [0, 1]);
}

#[test]
fn small_workloads_without_requests_do_not_pile_up() {
    let hosts = [host("n1", 4000, 4000), host("n2", 4000, 4000)];
    let rules = rules(&[]);
    let groups =
        (0..2).map(|spread| Group { spread, ..group(&rules, Resources::default()) }).collect();
    let problem = Problem { bins: bins(&hosts), groups };
    let solution = solve(&problem, &Placement::new());
    assert_eq!((&solution.groups[0].bins[..], &solution.groups[1].bins[..]), (&[0][..], &[1][..]));
}

#[test]
fn reasons_name_nodes_and_numbers() {
    let mut hosts = vec![host("n1", 500, 4000), host("n2", 4000, 4000), host("n3", 4000, 4000)];
    hosts[0].used = resources(400, 0);
    hosts[1].closed = Some(Closed::Cordoned);
    for host in &mut hosts[..2] {
        host.labels.insert("disk".into(), "ssd".into());
    }
    let rules = rules(&["disk==ssd"]);
    let groups = vec![group(&rules, resources(500, 1))];
    let problem = Problem { bins: bins(&hosts), groups: groups.clone() };
    assert_eq!(
        reason(&problem),
        "0 of 3 nodes fit: n1 has 100m of the 500m CPU asked for free, n2 is cordoned, n3 lacks disk==ssd"
    );

    hosts.extend((4..20).map(|n| host(&format!("n{n}"), 1, 1)));
    let problem = Problem { bins: bins(&hosts), groups: groups.clone() };
    let text = reason(&problem);
    assert!(text.starts_with("0 of 19 nodes fit: n1 has 100m"), "{text}");
    assert!(text.ends_with("n5 lacks disk==ssd, and 14 more"), "{text}");

    let problem = Problem { bins: vec![], groups };
    let text = reason(&problem);
    assert!(text.starts_with("there are no nodes yet"), "{text}");
}

#[test]
fn constraints_look_at_labels_names_pools_and_architectures() {
    let mut node = host("n1", 1000, 1000);
    node.labels.insert("disk".into(), "ssd".into());
    node.pool = Some(PoolName::new("db").unwrap());
    let fits = |constraints: &[&str], pool: Option<&str>| {
        let rules = workload::Placement {
            pool: pool.map(|pool| PoolName::new(pool).unwrap()),
            ..rules(constraints)
        };
        misfit(&bins(std::slice::from_ref(&node))[0], &rules).is_none()
    };
    assert!(fits(&[], None));
    assert!(fits(&["disk==ssd", "node.name==n1", "node.arch==x86_64"], Some("db")));
    assert!(fits(&["rack!=r1"], None), "a label that is not there differs");
    assert!(!fits(&["rack==r1"], None));
    assert!(!fits(&["disk!=ssd"], None));
    assert!(!fits(&["node.name!=n1"], None));
    assert!(!fits(&[], Some("web")));
}

prop_compose! {
    fn any_host(index: usize)(
        cpu in 0..3000u64, memory in 0..3000u64, used in 0..1500u64, addresses in 0..4u32,
        ssd in any::<bool>(), closed in any::<bool>(), pooled in any::<bool>(),
    ) -> Host {
        Host {
            labels: ssd.then(|| ("disk".to_owned(), "ssd".to_owned())).into_iter().collect(),
            pool: pooled.then(|| PoolName::new("db").unwrap()),
            used: resources(used.min(cpu), used.min(memory)),
            addresses,
            closed: closed.then_some(Closed::Cordoned),
            ..host(&format!("n{index}"), cpu, memory)
        }
    }
}

#[derive(Clone, Debug)]
struct World {
    hosts: Vec<Host>,
    rules: Vec<workload::Placement>,
    requests: Vec<(u64, u64, bool, usize)>,
    previous: Placement,
}

impl World {
    fn problem(&self) -> Problem<'_> {
        let group = |(spread, (rules, &(cpu, memory, takes_address, wanted)))| Group {
            carries: false,
            needs: Skills::default(),
            avoids: Vec::new(),
            request: resources(cpu, memory),
            rules,
            takes_address,
            spread,
            wanted,
        };
        let groups = self.rules.iter().zip(&self.requests).enumerate().map(group).collect();
        Problem { bins: bins(&self.hosts), groups }
    }
}

fn any_rules() -> impl Strategy<Value = workload::Placement> {
    let constraint = prop::sample::select(vec!["disk==ssd", "disk!=ssd", "node.name!=n1"]);
    let pool = prop::option::weighted(0.2, Just("db"));
    (pool, prop::option::weighted(0.4, constraint), prop::bool::weighted(0.3)).prop_map(
        |(pool, constraint, one_per_node)| workload::Placement {
            pool: pool.map(|pool| PoolName::new(pool).unwrap()),
            one_per_node,
            ..rules(constraint.as_slice())
        },
    )
}

fn any_world() -> impl Strategy<Value = World> {
    (0..6usize, 1..4usize).prop_flat_map(|(hosts, groups)| {
        (
            (0..hosts).map(any_host).collect::<Vec<_>>(),
            prop::collection::vec(any_rules(), groups),
            prop::collection::vec((0..900u64, 0..900u64, any::<bool>(), 0..8usize), groups),
            prop::collection::btree_map((0..4usize, 0..6usize), 1..3u32, 0..6),
        )
            .prop_map(|(hosts, rules, requests, previous)| World {
                hosts,
                rules,
                requests,
                previous,
            })
    })
}

proptest! {
    #[test]
    fn what_is_promised_holds(world in any_world()) {
        let problem = world.problem();
        let solution = solve(&problem, &world.previous);
        prop_assert_eq!(&solution, &solve(&problem, &world.previous), "the same question, the same answer");
        prop_assert_eq!(solution.groups.len(), problem.groups.len());
        for (group, answer) in problem.groups.iter().zip(&solution.groups) {
            prop_assert!(answer.bins.len() <= group.wanted);
            prop_assert_eq!(
                answer.reason.is_some(),
                answer.bins.len() < group.wanted,
                "a reason exactly if there is not a bin for each"
            );
        }

        let mut siblings = world.previous.clone();
        for (group, answer) in problem.groups.iter().zip(&solution.groups) {
            for &bin in &answer.bins {
                let there = siblings.entry((group.spread, bin)).or_default();
                *there += 1;
                prop_assert!(!group.rules.one_per_node || *there == 1, "one on every node");
            }
        }
        let mut after = problem.clone();
        for (index, bin) in problem.bins.iter().enumerate() {
            let (mut added, mut addresses) = (Resources::default(), 0);
            for (group, answer) in problem.groups.iter().zip(&solution.groups) {
                let here = answer.bins.iter().filter(|&&bin| bin == index).count();
                if here > 0 {
                    prop_assert!(bin.closed.is_none(), "nothing new in a closed bin");
                    prop_assert_eq!(misfit(bin, group.rules), None);
                }
                added = added.plus(group.request.times(here as u64));
                addresses += if group.takes_address { here } else { 0 };
            }
            prop_assert!(addresses <= bin.addresses as usize, "no more addresses than there are");
            prop_assert!(added.fits(bin.capacity.minus(bin.used)), "never over capacity");
            after.bins[index].used = bin.used.plus(added);
            after.bins[index].addresses -= addresses as u32;
        }

        // What was refused is refused by every bin, as the other groups left it.
        for (group, answer) in problem.groups.iter().zip(&solution.groups) {
            if answer.reason.is_some() {
                for (index, bin) in after.bins.iter().enumerate() {
                    let there = siblings.get(&(group.spread, index)).copied().unwrap_or_default();
                    prop_assert!(refusal(bin, group, there).is_some());
                }
            }
        }
    }

    #[test]
    fn copies_differ_by_one_where_there_is_room(hosts in 1..8usize, count in 0..30usize) {
        let hosts: Vec<_> = (0..hosts).map(|n| host(&format!("n{n}"), 100_000, 100_000)).collect();
        let counts = spread(&hosts, count, resources(100, 100));
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }
}

/// Fleets of thousands: linear in nodes and instances, not in their product.
#[test]
fn a_large_fleet_is_solved_at_once() {
    let hosts: Vec<_> = (0..2_000).map(|n| host(&format!("n{n}"), 64_000, 1 << 38)).collect();
    assert!(spread(&hosts, 10_000, resources(100, 1 << 20)).iter().all(|&count| count == 5));
}

#[test]
fn what_an_agent_has_to_know_goes_where_it_does() {
    let hosts = [host("old", 4, 4 << 30)];
    let rules = rules(&[]);
    let mut group = group(&rules, Resources::default());
    let problem = |group| Problem { bins: bins(&hosts), groups: vec![group] };
    assert_eq!(solve(&problem(group.clone()), &Placement::new()).groups[0].bins, [0]);
    group.carries = true;
    let told = reason(&problem(group.clone()));
    assert!(told.contains("old has an agent of a version that carries no files over"), "{told}");
    (group.carries, group.needs) = (false, Skills { process: true, ..Skills::default() });
    let told = reason(&problem(group));
    assert!(told.contains("old has an agent of a version that does not know init"), "{told}");
}
