//! Instances whose node is lost, and that are to be replaced then.

use dwell_core::quantity::Millis;
use dwell_core::workload::{Lease, Mount, MountSource, OnLost, Template, WorkloadSpec};

use super::fleet::*;
use crate::model::{Command, Instance, NodeChange, Refusal};

fn replaced(name: &str, replicas: u32, after: u64) -> WorkloadSpec {
    let on_lost = OnLost::ReplaceAfter(Millis::seconds(after));
    WorkloadSpec { on_lost, ..spec(name, replicas) }
}

impl Fleet {
    /// Time in which all nodes but some are heard of.
    fn live(&mut self, seconds: u64, lost: &[&str]) {
        for _ in 0..seconds {
            let lost: Vec<_> = lost.iter().map(|name| node(name)).collect();
            let alive = self
                .hosts
                .iter()
                .filter(|(name, host)| host.session.is_some() && !lost.contains(name));
            let alive: Vec<_> = alive.map(|(name, _)| name.clone()).collect();
            for name in alive {
                self.sync(&name);
            }
            self.pass(1);
        }
    }

    /// The leases of a host are over: nothing of them runs there any more.
    fn let_go(&mut self, name: &str) {
        let host = self.hosts.get_mut(&node(name)).unwrap();
        let leased = host.held.iter().flat_map(|held| held.instances.values());
        let leased: Vec<_> =
            leased.filter(|one| one.lease.is_some()).map(|one| one.instance.clone()).collect();
        host.containers.retain(|name, _| !leased.contains(name));
    }

    fn record(&self, name: &str) -> Instance {
        let view = self.model.instance(&instance(name)).unwrap();
        Instance::clone(&view.instance)
    }

    fn why_lost(&self, name: &str) -> String {
        let explained = self.model.explain(name).unwrap();
        let fact = explained.facts.into_iter().find(|fact| fact.about == "lost");
        fact.map(|fact| fact.text).unwrap_or_default()
    }
}

/// A fleet in which `web-0` is on a node, which is named, and may be replaced after 60 s.
fn with_web(nodes: usize) -> (Fleet, String) {
    let mut fleet = Fleet::of(nodes);
    fleet.apply(replaced("web", 1, 60)).unwrap();
    fleet.settle();
    let home = fleet.place("web-0").unwrap();
    (fleet, home)
}

#[test]
fn what_is_lent_is_placed_elsewhere_once_its_node_has_been_silent_for_long_enough() {
    let (mut fleet, home) = with_web(3);
    let assigned = fleet.assigned_to(&home).remove(0);
    assert_eq!(assigned.lease, Some(Lease(Millis::seconds(54))));
    assert_eq!(
        fleet.why_lost("web-0"),
        format!("is placed elsewhere once {home} has not been heard of for 1m")
    );
    let (before, address) = (fleet.record("web-0").generation, fleet.address("web-0"));
    fleet.live(59, &[&home]);
    assert_eq!(fleet.place("web-0").as_deref(), Some(home.as_str()));
    fleet.let_go(&home);
    fleet.live(1, &[&home]);
    let other = fleet.place("web-0").unwrap();
    assert_ne!(other, home);
    fleet.live(2, &[&home]);
    assert_eq!(fleet.address("web-0"), address, "it is the same, elsewhere");
    assert!(fleet.record("web-0").generation > before, "what the lost node claims is older");
    fleet.check();
    // It returns and finds that it has nothing to run any more.
    fleet.attach(&node(&home)).unwrap();
    fleet.settle();
    assert!(fleet.assigned_to(&home).is_empty());
    assert_eq!(fleet.place("web-0"), Some(other));
    fleet.check();
}

#[test]
fn what_is_not_declared_to_be_replaced_stays_its_nodes() {
    let mut fleet = Fleet::of(3);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let home = fleet.place("web-0").unwrap();
    fleet.live(600, &[&home]);
    assert_eq!(fleet.place("web-0"), Some(home));
    assert_eq!(fleet.why_lost("web-0"), "");
}

#[test]
fn what_the_node_has_not_acknowledged_proves_nothing() {
    let mut fleet = Fleet::of(3);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let home = fleet.place("web-0").unwrap();
    // It may run on for ever: the node has not heard that it may not.
    fleet.apply(replaced("web", 1, 60)).unwrap();
    assert!(fleet.why_lost("web-0").contains("has not acknowledged yet"));
    fleet.live(600, &[&home]);
    assert_eq!(fleet.place("web-0").as_deref(), Some(home.as_str()));
    // Taken in, but not on its disk.
    fleet.fetch(&node(&home));
    fleet.live(600, &[&home]);
    assert_eq!(fleet.place("web-0").as_deref(), Some(home.as_str()));
    fleet.acknowledge(&node(&home)).unwrap();
    fleet.let_go(&home);
    fleet.live(60, &[&home]);
    assert_ne!(fleet.place("web-0"), Some(home));
}

#[test]
fn a_time_that_changes_counts_as_the_longer_one_until_the_node_goes_by_it() {
    for (before, after) in [(60, 120), (120, 60)] {
        let mut fleet = Fleet::of(3);
        fleet.apply(replaced("web", 1, before)).unwrap();
        fleet.settle();
        let home = fleet.place("web-0").unwrap();
        fleet.apply(replaced("web", 1, after)).unwrap();
        fleet.live(119, &[&home]);
        assert_eq!(fleet.place("web-0").as_deref(), Some(home.as_str()), "{before} to {after}");
        fleet.let_go(&home);
        fleet.live(1, &[&home]);
        assert_ne!(fleet.place("web-0"), Some(home));
    }
}

#[test]
fn what_was_to_be_replaced_and_is_not_any_more_is_kept() {
    let (mut fleet, home) = with_web(3);
    fleet.apply(spec("web", 1)).unwrap();
    // Back again, but the node has not heard of either.
    fleet.apply(replaced("web", 1, 60)).unwrap();
    fleet.live(600, &[&home]);
    assert_eq!(fleet.place("web-0"), Some(home), "it may hold the one in between");
}

#[test]
fn a_controller_that_starts_counts_anew_and_remembers_who_has_acknowledged() {
    let (mut fleet, home) = with_web(3);
    fleet.live(50, &[&home]);
    fleet.restart_controller();
    let others: Vec<_> = fleet.hosts.keys().filter(|name| name.as_str() != home).cloned().collect();
    for other in &others {
        fleet.attach(other).unwrap();
    }
    fleet.live(59, &[&home]);
    assert_eq!(fleet.place("web-0").as_deref(), Some(home.as_str()));
    fleet.let_go(&home);
    fleet.live(1, &[&home]);
    assert_ne!(fleet.place("web-0"), Some(home));
}

#[test]
fn what_was_acknowledged_in_another_history_proves_nothing() {
    let (mut fleet, home) = with_web(3);
    let backup = fleet.backup();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    // The node keeps it for good now, and the backup does not know.
    fleet.restore(backup);
    fleet.begin(77, Some("a test".to_owned()));
    let others: Vec<_> = fleet.hosts.keys().filter(|name| name.as_str() != home).cloned().collect();
    for other in &others {
        fleet.attach(other).unwrap();
    }
    fleet.settle();
    fleet.live(300, &[&home]);
    assert_eq!(fleet.place("web-0").as_deref(), Some(home.as_str()), "it is not confirmed");
    fleet.command(Command::ConfirmRestore { force: true }).unwrap();
    fleet.live(300, &[&home]);
    assert_eq!(fleet.place("web-0"), Some(home));
}

#[test]
fn an_agent_that_keeps_no_leases_is_not_trusted_with_any() {
    let (mut fleet, home) = with_web(3);
    fleet.hosts.get_mut(&node(&home)).unwrap().keeps_no_leases = true;
    fleet.attach(&node(&home)).unwrap();
    fleet.settle();
    assert!(fleet.why_lost("web-0").contains("upgrade it"), "{}", fleet.why_lost("web-0"));
    fleet.live(600, &[&home]);
    assert_eq!(fleet.place("web-0"), Some(home));
}

#[test]
fn nothing_is_replaced_while_most_nodes_are_silent() {
    let (mut fleet, home) = with_web(5);
    let names = ["n1", "n2", "n3", "n4", "n5"];
    let others: Vec<&str> = names.into_iter().filter(|name| **name != home).collect();
    let lost = [home.as_str(), others[0], others[1]];
    fleet.live(300, &lost);
    assert_eq!(fleet.place("web-0").as_deref(), Some(home.as_str()));
    assert!(fleet.why_lost("web-0").contains("more than half of the nodes"));
    // One of them is back: that leaves two of five.
    fleet.let_go(&home);
    fleet.live(2, &lost[..2]);
    assert_ne!(fleet.place("web-0"), Some(home));
}

#[test]
fn what_has_a_volume_is_refused_and_what_an_image_keeps_there_is_kept() {
    let mut fleet = Fleet::of(3);
    let mut with_volume = replaced("db", 1, 60);
    with_volume.template.mounts.push(Mount {
        source: MountSource::Volume("data".parse().unwrap()),
        target: "/data".into(),
        read_only: false,
    });
    let refusal = fleet.apply(with_volume).unwrap_err();
    assert!(refusal.to_string().contains("on_lost: what is mounted at /data"), "{refusal}");
    let refusal = fleet.apply(replaced("web", 1, 15)).map(drop);
    assert_eq!(refusal, Ok(()));
    let mut settings = settings();
    settings.unreachable_after = Millis::seconds(30);
    fleet.restart_with(settings);
    let refusal = fleet.apply(replaced("web", 1, 20)).unwrap_err();
    assert!(matches!(refusal, Refusal::ReplacedTooSoon { .. }), "{refusal}");
    assert!(refusal.to_string().contains("write \"replace after 30s\""), "{refusal}");
}

#[test]
fn what_is_on_its_way_off_a_lost_node_arrives_elsewhere() {
    let (mut fleet, home) = with_web(3);
    let drained = NodeChange { draining: Some(true), ..NodeChange::default() };
    fleet.update_node(&home, drained).unwrap();
    assert!(fleet.record("web-0").leaving.is_some());
    fleet.let_go(&home);
    fleet.live(60, &[&home]);
    assert_ne!(fleet.place("web-0"), Some(home));
    assert!(fleet.record("web-0").leaving.is_none());
}

#[test]
fn another_template_is_still_lent() {
    let (mut fleet, home) = with_web(3);
    let other = WorkloadSpec { template: Template::of_image("image:2"), ..replaced("web", 1, 60) };
    fleet.apply(other).unwrap();
    fleet.settle();
    let assigned = fleet.assigned_to(&home).remove(0);
    assert_eq!(assigned.lease, Some(Lease(Millis::seconds(54))));
    fleet.let_go(&home);
    fleet.live(60, &[&home]);
    assert_ne!(fleet.place("web-0"), Some(home));
}

/// The backup knows nothing of the instance. Its first node has come back, and lets nobody reach it; on the second it runs.
#[test]
fn of_two_nodes_that_hold_what_a_backup_does_not_know_the_one_that_runs_it_is_awaited() {
    let mut fleet = Fleet::of(3);
    let backup = fleet.backup();
    fleet.apply(replaced("web", 1, 60)).unwrap();
    fleet.settle();
    let home = fleet.place("web-0").unwrap();
    let stale = fleet.hosts[&node(&home)].containers.clone();
    fleet.let_go(&home);
    fleet.live(62, &[&home]);
    let other = fleet.place("web-0").unwrap();
    assert_ne!(other, home);
    fleet.restore(backup);
    fleet.begin(77, Some("a test".to_owned()));
    let all: Vec<_> = fleet.hosts.keys().cloned().collect();
    for name in &all {
        if name.as_str() == home {
            fleet.hosts.get_mut(name).unwrap().containers = stale.clone();
        }
        fleet.attach(name).unwrap();
        let report = fleet.hosts[name].look();
        fleet.deliver(name, report).unwrap();
    }
    fleet.command(Command::ConfirmRestore { force: true }).unwrap();
    let waits_for = |fleet: &Fleet| fleet.record("web-0").node.map(|node| node.to_string());
    assert_eq!(waits_for(&fleet), Some(other.clone()));
    // What the first node lets go of changes nothing.
    fleet.hosts.get_mut(&node(&home)).unwrap().containers.clear();
    fleet.sync(&node(&home));
    assert_eq!(waits_for(&fleet), Some(other));
}
