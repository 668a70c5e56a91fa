//! People: who did what, who may do what, and whom nothing is taken from any more.

use std::time::Duration;

use dwell_core::access::Role;
use dwell_proto::v1;
use dwell_proto::v1::fleet_client::FleetClient;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::fixture::{Credentials, Fixture, SOON, apply, workload};

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
            sleep(Duration::from_millis(10)).await;
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

/// A context of a role, and its serial.
async fn issued(fixture: &Fixture, name: &str, role: &str) -> (Credentials, String) {
    let request =
        v1::IssueClientRequest { name: name.to_owned(), valid_ms: 0, role: role.to_owned() };
    let issued = fixture.fleet().await.issue_client(request).await.unwrap().into_inner();
    let credentials =
        Credentials { certificate_pem: issued.certificate_pem, key_pem: issued.private_key_pem };
    (credentials, issued.serial)
}

async fn listed(fixture: &Fixture) -> Vec<v1::Context> {
    let mut fleet = fixture.fleet().await;
    fleet.list_contexts(v1::ListContextsRequest {}).await.unwrap().into_inner().contexts
}

fn revoke(context: &str) -> v1::RevokeContextRequest {
    v1::RevokeContextRequest { context: context.to_owned() }
}

#[tokio::test]
async fn a_context_may_do_what_its_role_may() {
    let fixture = Fixture::start().await;
    let mut codes = Vec::new();
    for role in ["viewer", "developer", "admin"] {
        let (credentials, _) = issued(&fixture, role, role).await;
        let mut fleet = FleetClient::new(fixture.tcp(Some(&credentials)).await.unwrap());
        let looks = fleet.list_workloads(v1::ListWorkloadsRequest::default()).await.err();
        let declares = fleet.apply(apply(vec![workload("web", 1)])).await.err();
        let admits = fleet.create_join_token(v1::CreateJoinTokenRequest::default()).await.err();
        let looks_after = fleet.audit(v1::AuditRequest { repair: false }).await.err();
        let repairs = fleet.audit(v1::AuditRequest { repair: true }).await.err();
        let all = [looks, declares, admits, looks_after, repairs];
        codes.push(all.map(|refused| refused.map(|status| status.code())));
    }
    let no = Some(Code::PermissionDenied);
    assert_eq!(codes[0], [None, no, no, None, no]);
    assert_eq!(codes[1], [None, None, no, None, no]);
    assert_eq!(codes[2], [None; 5]);
    let mut fleet = fixture.fleet().await;
    for (name, role) in [("ann", "root"), ("local", "admin")] {
        let request = v1::IssueClientRequest { name: name.into(), valid_ms: 0, role: role.into() };
        assert_eq!(fleet.issue_client(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_revoked_context_is_worthless_at_once_and_its_streams_end() {
    let mut fixture = Fixture::start().await;
    let (ann, serial) = issued(&fixture, "ann", "viewer").await;
    let (other, other_serial) = issued(&fixture, "ann", "admin").await;
    let mut fleet = FleetClient::new(fixture.tcp(Some(&ann)).await.unwrap());
    let mut others = FleetClient::new(fixture.tcp(Some(&other)).await.unwrap());
    let mut watch = fleet.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let mut still = others.watch(v1::WatchRequest::default()).await.unwrap().into_inner();

    let revoked = others.revoke_context(revoke(&serial)).await.unwrap().into_inner().contexts;
    assert_eq!((revoked.len(), revoked[0].serial.as_str()), (1, serial.as_str()));
    let ended = async { while let Ok(Some(_)) = watch.message().await {} };
    timeout(SOON, ended).await.expect("the stream goes on");
    let mut again = FleetClient::new(fixture.tcp(Some(&ann)).await.unwrap());
    let refused = again.get_info(v1::GetInfoRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("revoked"), "{refused}");
    // Neither the other one of that name nor its stream is concerned.
    others.get_info(v1::GetInfoRequest {}).await.unwrap();
    fixture.fleet().await.apply(apply(vec![workload("web", 1)])).await.unwrap();
    timeout(SOON, still.message()).await.expect("the other stream has ended").unwrap();
    assert_eq!(told(&fixture, "context-revoked").await.0, "ann");
    assert_eq!(told(&fixture, "context-issued").await.0, "local");

    // It stays so, and what is listed says so.
    fixture.restart().await;
    let mut again = FleetClient::new(fixture.tcp(Some(&ann)).await.unwrap());
    let refused = again.get_info(v1::GetInfoRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let all = listed(&fixture).await;
    let one = all.iter().find(|one| one.serial == serial).unwrap();
    assert!(one.revoked_at_ms.is_some() && one.revoked_by == "ann", "{one:?}");
    assert_eq!((one.role.as_str(), one.issued_by.as_str()), ("viewer", "local"));
    let good = all.iter().find(|one| one.serial == other_serial).unwrap();
    assert!(good.revoked_at_ms.is_none(), "{good:?}");

    // By the name: all that are good. Once none is, that is said.
    let mut local = fixture.fleet().await;
    let revoked = local.revoke_context(revoke("ann")).await.unwrap().into_inner().contexts;
    assert_eq!(revoked.len(), 1);
    assert_eq!(local.revoke_context(revoke("ann")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(local.revoke_context(revoke("nobody")).await.unwrap_err().code(), Code::NotFound);
}

/// Such as all that were made before there was a list.
#[tokio::test]
async fn a_context_that_no_list_has_is_listed_once_it_is_used() {
    let fixture = Fixture::start().await;
    let issued = fixture
        .authority()
        .issue_client("ann".parse().unwrap(), Role::Developer, Duration::from_secs(3600))
        .unwrap();
    let credentials =
        Credentials { certificate_pem: issued.certificate_pem, key_pem: issued.private_key_pem };
    assert_eq!(listed(&fixture).await, []);
    let mut fleet = FleetClient::new(fixture.tcp(Some(&credentials)).await.unwrap());
    fleet.get_info(v1::GetInfoRequest {}).await.unwrap();
    let noted = async {
        loop {
            if let Some(one) = listed(&fixture).await.pop() {
                return one;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let one = timeout(SOON, noted).await.unwrap();
    assert_eq!((one.name.as_str(), one.role.as_str()), ("ann", "developer"));
    assert!(one.issued_at_ms.is_none() && one.used_at_ms.is_some(), "{one:?}");
    fixture.fleet().await.revoke_context(revoke(&one.serial)).await.unwrap();
    let mut again = FleetClient::new(fixture.tcp(Some(&credentials)).await.unwrap());
    let refused = again.get_info(v1::GetInfoRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
