//! Logins at registries: what people send, what the agents get of it, and what nobody is shown.

use dwell_proto::v1;
use tonic::Code;

use crate::fixture::{Agent, Fixture, apply, hello, workload};

fn login(host: &str, password: &str) -> v1::SetRegistryLoginRequest {
    v1::SetRegistryLoginRequest {
        host: host.to_owned(),
        username: "ci".to_owned(),
        password: password.to_owned(),
    }
}

fn told(assignment: &v1::Assignment) -> Option<Vec<(String, String)>> {
    let logins = assignment.registries.as_ref()?.logins.iter();
    Some(logins.map(|login| (login.host.clone(), login.password.clone())).collect())
}

#[tokio::test]
async fn logins_reach_the_agents_that_need_them_and_survive() {
    let mut fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    assert_eq!(told(&agent.snapshot().await), Some(Vec::new()));
    let mut fleet = fixture.fleet().await;
    fleet.set_registry_login(login("ghcr.io", "unneeded")).await.unwrap();
    fleet.set_registry_login(login("Index.Docker.io", "hunter2")).await.unwrap();
    fleet.apply(apply(vec![workload("web", 1)])).await.unwrap();
    let hub = Some(vec![("docker.io".to_owned(), "hunter2".to_owned())]);
    assert_eq!(told(&agent.assigned().await), hub);

    let listed = fleet.list_registries(v1::ListRegistriesRequest {}).await.unwrap().into_inner();
    let shown: Vec<&str> = listed.registries.iter().map(|one| one.host.as_str()).collect();
    assert_eq!(shown, ["docker.io", "ghcr.io"]);
    assert_eq!(
        (listed.registries[0].username.as_str(), listed.registries[0].by.as_str()),
        ("ci", "local")
    );
    assert!(!format!("{listed:?}").contains("hunter2"));
    let all = v1::ListEventsRequest::default();
    let events = fleet.list_events(all).await.unwrap().into_inner().events;
    assert!(events.iter().any(|event| event.reason == "registry-login"));
    assert!(!format!("{events:?}").contains("hunter2"));

    fixture.restart().await;
    let mut fleet = fixture.fleet().await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    assert_eq!(told(&agent.snapshot().await), hub);
    let request = v1::RemoveRegistryLoginRequest { host: "docker.io".to_owned() };
    fleet.remove_registry_login(request.clone()).await.unwrap();
    let logins = loop {
        if let Some(logins) = told(&agent.assignment().await) {
            break logins;
        }
    };
    assert!(logins.is_empty(), "the removal reaches the node");
    let gone = fleet.remove_registry_login(request).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    for wrong in [login("ghcr", "x"), login("https://ghcr.io", "x"), login("ghcr.io", "")] {
        let refused = fleet.set_registry_login(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
