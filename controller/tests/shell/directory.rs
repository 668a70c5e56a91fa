//! The directory and the network on an agent's stream: whole, then what changed, together and in time.

use std::time::Duration;

use dwell_core::directory::{Directory, DirectoryChange};
use dwell_core::id::Revision;
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as FromAgent;
use dwell_proto::v1::controller_message::Message as FromController;

use crate::fixture::{Agent, Fixture, apply, hello, running, workload};

impl Agent {
    /// The next message about the directory.
    async fn directory(&mut self) -> v1::DirectoryChange {
        loop {
            if let FromController::Directory(change) = self.next().await.unwrap() {
                return change;
            }
        }
    }

    /// Takes in changes until the directory is as wanted; how many it took.
    async fn follow(&mut self, held: &mut Directory, wanted: impl Fn(&Directory) -> bool) -> usize {
        let mut messages = 0;
        while !wanted(held) {
            let change = DirectoryChange::try_from(self.directory().await).unwrap();
            held.apply(change).unwrap();
            messages += 1;
        }
        messages
    }
}

#[tokio::test]
async fn every_node_learns_who_is_where_and_ready() {
    let fixture = Fixture::start().await;
    let mut agent = fixture.agent("h1", "192.0.2.1").await;
    let mut other = fixture.agent("h2", "192.0.2.2").await;
    assert_eq!(other.directory().await.base_revision, 0, "the whole comes first");
    let mut spec = workload("web", 100);
    spec.constraints = vec!["node.name==h1".to_owned()];
    fixture.fleet().await.apply(apply(vec![spec])).await.unwrap();
    let mut assigned = agent.assigned().await;
    while assigned.instances.len() < 100 {
        assigned.instances.extend(agent.assigned().await.instances);
    }
    let mut held = Directory::default();
    let again = fixture.node("h3", "192.0.2.3").await;
    let mut third = Agent::attach(&fixture, &again, hello("192.0.2.3")).await.unwrap();
    third.follow(&mut held, |held| held.instances.len() == 100).await;

    // One by one, as fast as can be: changes of one moment go together.
    for one in &assigned.instances {
        let instances = vec![running(one)];
        let revision = assigned.revision;
        let report = v1::StatusReport { instances, revision, ..Default::default() };
        agent.say(FromAgent::Status(report)).await;
    }
    let all = |held: &Directory| held.instances.values().all(|entry| entry.ready);
    let messages = third.follow(&mut held, all).await;
    assert!(messages <= 50, "{messages} messages for 100 changes");

    // What is known on attaching is not sent again; what is new is.
    drop(third);
    let revision = held.revision;
    let mut ill = running(&assigned.instances[7]);
    (ill.health, ill.observed_at_ms) = (v1::Health::Unhealthy.into(), 2);
    let instances = vec![ill];
    let report = v1::StatusReport { instances, revision: assigned.revision, ..Default::default() };
    agent.say(FromAgent::Status(report)).await;
    let seen =
        |found: &v1::Instance| found.status.as_ref().unwrap().health() == v1::Health::Unhealthy;
    fixture.until_instance(&assigned.instances[7].instance, seen).await;
    let hello = v1::Hello { directory_revision: revision.0, ..hello("192.0.2.3") };
    let mut third = Agent::attach(&fixture, &again, hello).await.unwrap();
    let change = third.directory().await;
    assert_eq!((change.base_revision, change.instances.len()), (revision.0, 1));
    held.apply(DirectoryChange::try_from(change).unwrap()).unwrap();
    assert!(!held.instances.values().all(|entry| entry.ready));
}

#[tokio::test]
async fn a_restarted_controller_takes_no_name_away() {
    let mut fixture = Fixture::start_with(|config| {
        config.nodes.unreachable_after = dwell_core::quantity::Millis(1_500);
    })
    .await;
    let names = [("h1", "192.0.2.1"), ("h2", "192.0.2.2")];
    let mut credentials = Vec::new();
    for (name, address) in names {
        credentials.push(fixture.node(name, address).await);
    }
    let mut agent = Agent::attach(&fixture, &credentials[0], hello(names[0].1)).await.unwrap();
    let mut other = Agent::attach(&fixture, &credentials[1], hello(names[1].1)).await.unwrap();
    let mut spec = workload("web", 1);
    spec.constraints = vec!["node.name==h1".to_owned()];
    fixture.fleet().await.apply(apply(vec![spec])).await.unwrap();
    let assigned = agent.assigned().await;
    agent.report_running(&assigned).await;
    let mut held = Directory::default();
    let ready = |held: &Directory| held.instances.values().any(|entry| entry.ready);
    other.follow(&mut held, ready).await;

    fixture.restart().await;
    let known = v1::Hello { directory_revision: held.revision.0, ..hello(names[1].1) };
    let mut other = Agent::attach(&fixture, &credentials[1], known).await.unwrap();
    other.snapshot().await;
    let quiet = tokio::time::timeout(Duration::from_millis(300), other.directory()).await;
    assert!(quiet.is_err(), "h1 has not said yet what it runs: {quiet:?}");
    let status = v1::StatusReport {
        complete: true,
        instances: assigned.instances.iter().map(running).collect(),
        revision: assigned.revision,
        ..Default::default()
    };
    let back = v1::Hello { status: Some(status), ..hello(names[0].1) };
    let _agent = Agent::attach(&fixture, &credentials[0], back).await.unwrap();
    let change = other.directory().await;
    assert_eq!(change.base_revision, 0);
    assert!(change.instances.iter().all(|entry| entry.ready));
    assert!(Revision(change.revision) > held.revision);
}

#[tokio::test]
async fn a_new_node_is_one_peer_and_a_new_instance_nothing() {
    let fixture = Fixture::start_with(|config| {
        config.isolation = dwell_controller::config::Isolation::Closed;
        config.zone = "fleet".to_owned();
    })
    .await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    let network = agent.snapshot().await.network.unwrap();
    assert_eq!((network.closed, network.zone.as_str()), (true, "fleet"));
    let mut other = fixture.agent("h2", "192.0.2.2").await;
    let delta = agent.assignment().await;
    assert_eq!(delta.network, None);
    let network = delta.network_delta.unwrap();
    assert_eq!(network.peers.len(), 1);
    assert_eq!((network.peers[0].node.as_str(), network.exceptions.len()), ("h2", 0));

    let mut spec = workload("web", 1);
    spec.constraints = vec!["node.name==h2".to_owned()];
    fixture.fleet().await.apply(apply(vec![spec])).await.unwrap();
    assert_eq!(other.assigned().await.network_delta, None);
    let request = v1::UpdateNodeRequest {
        name: "h2".to_owned(),
        set_labels: [("rack".to_owned(), "7".to_owned())].into(),
        ..Default::default()
    };
    fixture.fleet().await.update_node(request).await.unwrap();
    fixture.node("h3", "192.0.2.3").await;
    let next = agent.assignment().await;
    assert!(next.instances.is_empty());
    assert_eq!(next.network_delta.unwrap().peers[0].node, "h3", "nothing was sent between");
}
