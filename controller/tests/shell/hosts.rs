//! Which host a node is: copies of it, and hosts that joined after a backup.

use dwell_proto::v1::{self, agent_message};
use tonic::Code;

use crate::fixture::{Agent, Fixture};

/// Of an agent that knows of unconfirmed restores.
fn hello(address: &str) -> v1::Hello {
    v1::Hello { protocol_newest: 2, ..crate::fixture::hello(address) }
}

fn on_machine(digit: &str, run: u64) -> v1::Hello {
    v1::Hello { host_mark: digit.repeat(64), run, ..hello("192.0.2.1") }
}

#[tokio::test]
async fn a_copy_on_another_machine_is_refused_and_the_original_is_served_on() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let mut original = Agent::attach(&fixture, &node, on_machine("1", 1)).await.unwrap();
    original.snapshot().await;
    for run in [2, 3] {
        let refused = Agent::attach(&fixture, &node, on_machine("2", run)).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("dwell node admit h1"), "{refused}");
    }
    let mut fleet = fixture.fleet().await;
    let workloads = vec![crate::fixture::workload("web", 1)];
    fleet.apply(crate::fixture::apply(workloads)).await.unwrap();
    assert_eq!(original.assigned().await.instances.len(), 1);

    // After the admission the original attaches again, or the other machine does.
    let admit = v1::UpdateNodeRequest { name: "h1".into(), admit: true, ..Default::default() };
    fleet.update_node(admit).await.unwrap();
    original.say(agent_message::Message::Heartbeat(v1::Heartbeat::default())).await;
    while original.next().await.is_ok() {}
    let mut other = Agent::attach(&fixture, &node, on_machine("2", 4)).await.unwrap();
    other.snapshot().await;
    let refused = Agent::attach(&fixture, &node, on_machine("1", 5)).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_mark_that_is_none_is_refused() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let refused = Agent::attach(&fixture, &node, on_machine("x", 1)).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("host_mark"), "{refused}");
}

/// Its mark is lost with what came after it.
#[tokio::test]
async fn a_host_that_joined_after_the_backup_is_taken_in_again() {
    let mut fixture = Fixture::start().await;
    fixture.stop().await;
    let backup = fixture.backup();
    fixture.begin().await.unwrap();
    let node = fixture.node("h1", "192.0.2.1").await;
    fixture.stop().await;
    fixture.put_back(&backup);
    fixture.begin().await.unwrap();
    let holding = v1::Hello { revision: 7, incarnation: 9, ..hello("192.0.2.1") };
    let mut agent = Agent::attach(&fixture, &node, holding).await.unwrap();
    let told = agent.snapshot().await;
    assert!(told.unconfirmed);
    let mut fleet = fixture.fleet().await;
    let found = fleet.get_restore(v1::GetRestoreRequest {}).await.unwrap().into_inner();
    assert_eq!((found.adopted, found.heard), (vec!["h1".to_owned()], vec!["h1".to_owned()]));
    fleet.confirm_restore(v1::ConfirmRestoreRequest { force: false }).await.unwrap();
    let found = fleet.get_restore(v1::GetRestoreRequest {}).await.unwrap().into_inner();
    assert!(!found.unconfirmed && found.adopted.is_empty());
}

/// Until then it was told to go on as it is.
#[tokio::test]
async fn the_stream_of_a_dismissed_host_ends_with_the_confirmation_of_a_restore() {
    let mut fixture = Fixture::start().await;
    let old = fixture.node("h1", "192.0.2.1").await;
    let mut fleet = fixture.fleet().await;
    let remove = v1::RemoveNodeRequest { name: "h1".to_owned(), force: true };
    fleet.remove_node(remove).await.unwrap();
    let new = fixture.node("h1", "192.0.2.2").await;
    fixture.stop().await;
    let store = fixture.backup();
    fixture.put_back(&store);
    fixture.begin().await.unwrap();
    let mut dismissed = Agent::attach(&fixture, &old, hello("192.0.2.1")).await.unwrap();
    assert!(dismissed.snapshot().await.unconfirmed);
    let mut present = Agent::attach(&fixture, &new, hello("192.0.2.2")).await.unwrap();
    assert!(present.snapshot().await.unconfirmed);

    let mut fleet = fixture.fleet().await;
    let found = fleet.get_restore(v1::GetRestoreRequest {}).await.unwrap().into_inner();
    let host =
        v1::SupersededHost { node: "h1".to_owned(), address: "192.0.2.1".to_owned(), instances: 0 };
    assert_eq!(found.superseded, [host]);
    fleet.confirm_restore(v1::ConfirmRestoreRequest { force: false }).await.unwrap();
    assert!(dismissed.next().await.is_err(), "it would go on for ever");
    let mut again = Agent::attach(&fixture, &old, hello("192.0.2.1")).await.unwrap();
    let nothing = again.snapshot().await;
    assert!(!nothing.unconfirmed && nothing.instances.is_empty());
}
