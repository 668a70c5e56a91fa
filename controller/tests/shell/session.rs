//! Agents: snapshot, deltas, reports, superseded and broken streams, a restarted controller.

use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as FromAgent;
use dwell_proto::v1::controller_message::Message as FromController;
use tonic::Code;

use crate::fixture::{Agent, Fixture, apply, hello, running, workload};

#[tokio::test]
async fn an_agent_gets_what_it_is_to_run_and_says_what_became_of_it() {
    let fixture = Fixture::start().await;
    let mut agent = fixture.agent("h1", "192.0.2.1").await;
    let mut fleet = fixture.fleet().await;
    fleet.apply(apply(vec![workload("web", 1)])).await.unwrap();

    let delta = agent.assigned().await;
    assert_ne!(delta.base_revision, 0);
    let assigned = &delta.instances[0];
    assert_eq!((assigned.instance.as_str(), assigned.address.as_str()), ("web-0", "10.80.0.1"));
    agent
        .say(FromAgent::Acknowledge(v1::Acknowledge {
            revision: delta.revision,
            incarnation: delta.incarnation,
        }))
        .await;
    agent.report_running(&delta).await;
    let phase = |instance: &v1::Instance| instance.status.as_ref().unwrap().phase();
    let seen = fixture.until_instance("web-0", |found| phase(found) == v1::Phase::Running).await;
    assert_eq!(seen.node, "h1");
    let workloads =
        fleet.list_workloads(v1::ListWorkloadsRequest::default()).await.unwrap().into_inner();
    assert_eq!(workloads.workloads[0].ready, 1);

    fleet.remove_workload(v1::RemoveWorkloadRequest { name: "web".to_owned() }).await.unwrap();
    let delta = loop {
        let delta = agent.assignment().await;
        if !delta.removed.is_empty() {
            break delta;
        }
    };
    assert_eq!(delta.removed, ["web-0"]);
    agent.report_gone(&delta).await;
    let mut watch = fleet.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    loop {
        let left =
            fleet.list_workloads(v1::ListWorkloadsRequest::default()).await.unwrap().into_inner();
        if left.workloads.is_empty() {
            break;
        }
        watch.message().await.unwrap();
    }
}

#[tokio::test]
async fn a_restarted_controller_gives_the_same_again() {
    let mut fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    fixture.fleet().await.apply(apply(vec![workload("web", 3)])).await.unwrap();
    let mut before = agent.assigned().await;
    while before.instances.len() < 3 {
        before.instances.extend(agent.assigned().await.instances);
    }

    fixture.restart().await;
    let ended = loop {
        match agent.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");

    let status = v1::StatusReport {
        complete: true,
        instances: before.instances.iter().map(running).collect(),
        revision: before.revision,
        ..Default::default()
    };
    let hello = v1::Hello { status: Some(status), revision: before.revision, ..hello("192.0.2.1") };
    let mut agent = Agent::attach(&fixture, &credentials, hello).await.unwrap();
    let snapshot = agent.snapshot().await;
    assert!(snapshot.revision >= before.revision);
    assert_eq!(snapshot.instances, before.instances);
}

#[tokio::test]
async fn the_newer_of_two_streams_counts() {
    let fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let mut first = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    first.snapshot().await;
    let mut second = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    second.snapshot().await;
    let status = loop {
        match first.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert!(status.message().contains("another stream of node h1"), "{status}");
    fixture.fleet().await.apply(apply(vec![workload("web", 1)])).await.unwrap();
    assert_eq!(second.assigned().await.instances.len(), 1);
}

#[tokio::test]
async fn a_node_speaks_for_its_own_instances_only() {
    let fixture = Fixture::start().await;
    let mut agent = fixture.agent("h1", "192.0.2.1").await;
    let other = fixture.agent("h2", "192.0.2.2").await;
    let mut spec = workload("web", 1);
    spec.constraints = vec!["node.name==h1".to_owned()];
    fixture.fleet().await.apply(apply(vec![spec])).await.unwrap();
    let assigned = agent.assigned().await;
    // The wrong one first: if it counted, it would be seen no later than the right one.
    let mut forged = assigned.clone();
    forged.instances[0].generation += 7;
    other.report_running(&forged).await;
    other
        .say(FromAgent::Status(v1::StatusReport {
            gone: vec!["web-0".to_owned()],
            ..Default::default()
        }))
        .await;
    other.say(FromAgent::Heartbeat(v1::Heartbeat::default())).await;
    agent.report_running(&assigned).await;
    let running =
        |found: &v1::Instance| found.status.as_ref().unwrap().phase() == v1::Phase::Running;
    let seen = fixture.until_instance("web-0", running).await;
    assert_eq!(seen.node, "h1");
    assert_eq!(seen.status.unwrap().generation, assigned.instances[0].generation);
}

/// More than one message can carry: seventy workloads with 248 KB of environment each.
#[tokio::test]
async fn a_node_is_not_cut_off_by_what_is_declared() {
    let fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    let mut fleet = fixture.fleet().await;
    for number in 0..70 {
        let mut spec = workload(&format!("w{number}"), 1);
        let environment = (0..8).map(|one| (format!("V{one}"), format!("{number:031000}")));
        spec.template.as_mut().unwrap().environment = environment.collect();
        fleet.apply(apply(vec![spec])).await.unwrap();
    }
    drop(agent);

    // An agent of an earlier version takes no pieces: it stays attached, and it is said what is wrong.
    let mut old = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    assert!(matches!(old.next().await.unwrap(), FromController::Welcome(_)));
    let message = async {
        loop {
            let nodes =
                fleet.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner();
            match nodes.nodes[0].message.as_str() {
                "" => old.say(FromAgent::Heartbeat(v1::Heartbeat::default())).await,
                message => break message.to_owned(),
            }
        }
    };
    let message = tokio::time::timeout(crate::fixture::SOON, message).await.unwrap();
    assert!(message.starts_with("cannot be told what to do: what it is to do takes"), "{message}");

    let takes_pieces = v1::Hello { takes_pieces: true, ..hello("192.0.2.1") };
    let mut agent = Agent::attach(&fixture, &credentials, takes_pieces).await.unwrap();
    let mut assembly = dwell_proto::pieces::Assembly::default();
    let whole = loop {
        match agent.next().await.unwrap() {
            FromController::AssignmentPiece(piece) => {
                if let Some(whole) = assembly.take(piece).unwrap() {
                    break whole;
                }
            }
            FromController::Assignment(_) => panic!("too large for one message"),
            _ => {}
        }
    };
    assert_eq!((whole.instances.len(), whole.templates.len()), (70, 70));
    let nodes = fleet.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner();
    assert_eq!(nodes.nodes[0].message, "");
}

#[tokio::test]
async fn a_removed_node_is_told_to_run_nothing() {
    let fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let request = v1::RemoveNodeRequest { name: "h1".to_owned(), force: false };
    fixture.fleet().await.remove_node(request).await.unwrap();
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    assert_eq!(agent.snapshot().await.instances, []);
}

#[tokio::test]
async fn streams_that_make_no_sense_end_with_a_reason() {
    let fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let old = v1::Hello { protocol: 99, ..hello("192.0.2.1") };
    let status = Agent::attach(&fixture, &credentials, old).await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("versions 99 to 99"), "{status}");
    let nowhere = v1::Hello { address: "nowhere".to_owned(), ..hello("192.0.2.1") };
    let status = Agent::attach(&fixture, &credentials, nowhere).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);

    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    let gone = vec!["../../etc/passwd".to_owned()];
    agent.say(FromAgent::Status(v1::StatusReport { gone, ..Default::default() })).await;
    let status = loop {
        if let Err(status) = agent.next().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}
