//! People: who did what, who may do what, and whom nothing is taken from any more.

use dwell_proto::v1;
use dwell_proto::v1::fleet_client::FleetClient;
use tonic::transport::Channel;

use crate::fixture::{Fixture, apply, workload};

/// The API, for one person.
async fn of(fixture: &Fixture, name: &str) -> FleetClient<Channel> {
    let credentials = fixture.client(name).await;
    FleetClient::new(fixture.tcp(Some(&credentials)).await.unwrap())
}

/// The newest event of a kind: who, and what.
async fn told(fixture: &Fixture, reason: &str) -> (String, String) {
    let all = v1::ListEventsRequest::default();
    let events = fixture.fleet().await.list_events(all).await.unwrap().into_inner().events;
    let found = events.into_iter().rev().find(|event| event.reason == reason);
    found.map(|event| (event.by, event.message)).unwrap_or_default()
}

#[tokio::test]
async fn events_say_who_did_it() {
    let mut fixture = Fixture::start().await;
    let agent = fixture.agent("h1", "192.0.2.1").await;
    let mut ann = of(&fixture, "ann").await;
    let mut bob = of(&fixture, "bob").await;
    ann.apply(apply(vec![workload("web", 1)])).await.unwrap();
    bob.scale_workload(v1::ScaleWorkloadRequest { name: "web".into(), replicas: 2 }).await.unwrap();
    ann.create_join_token(v1::CreateJoinTokenRequest::default()).await.unwrap();
    let drain =
        v1::UpdateNodeRequest { name: "h1".into(), draining: Some(true), ..Default::default() };
    bob.update_node(drain).await.unwrap();
    let login = v1::SetRegistryLoginRequest {
        host: "ghcr.io".into(),
        username: "ci".into(),
        password: "x".into(),
    };
    ann.set_registry_login(login).await.unwrap();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDmfYeiHnzkS2sUjJXTcSN3fgVXsXNXFcqnXEO8Iuz1B me";
    let keys = v1::UpdateKeySetRequest {
        name: "team".into(),
        add: vec![key.to_owned()],
        ..Default::default()
    };
    bob.update_key_set(keys).await.unwrap();
    // The agent does not answer; that somebody asked is told all the same, without what may be secret.
    let request = v1::ExecRequest {
        instance: "web-0".into(),
        command: ["sh", "-c", "echo hunter2"].map(str::to_owned).into(),
        ..Default::default()
    };
    let first = v1::ExecInput { input: Some(v1::exec_input::Input::Request(request)) };
    let exec = ann.exec(tokio_stream::iter([first]));
    let is_told = async {
        while told(&fixture, "exec").await.0.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = exec => {}
        () = is_told => {}
    }
    let mut local = fixture.fleet().await;
    local.remove_workload(v1::RemoveWorkloadRequest { name: "web".into() }).await.unwrap();

    for (reason, by) in [
        ("workload-created", "ann"),
        ("workload-changed", "bob"),
        ("token-made", "ann"),
        ("node-draining", "bob"),
        ("registry-login", "ann"),
        ("key-set-changed", "bob"),
        ("exec", "ann"),
        ("workload-removed", "local"),
        ("node-joined", ""),
    ] {
        assert_eq!(told(&fixture, reason).await.0, by, "{reason}");
    }
    let (_, message) = told(&fixture, "exec").await;
    assert_eq!(message, "sh is run in it");
    drop(agent);
    fixture.restart().await;
    assert_eq!(told(&fixture, "exec").await.0, "ann", "it is stored");
}
