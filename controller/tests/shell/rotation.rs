//! The cluster's authority, rotated while nodes and people are connected.

use std::time::Duration;

use dwell_core::access::Issuer;
use dwell_proto::v1;
use dwell_proto::v1::controller_message::Message;
use dwell_proto::v1::fleet_client::FleetClient;
use rcgen::{CertificateParams, KeyPair};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backup::succeed;
use crate::crash::{Program, fleet};
use crate::fixture::{Agent, Credentials, Fixture, SOON, hello};

async fn status(fixture: &Fixture) -> v1::GetAuthorityResponse {
    let mut fleet = fixture.fleet().await;
    fleet.get_authority(v1::GetAuthorityRequest {}).await.unwrap().into_inner()
}

async fn rotate(fixture: &Fixture) -> Result<u32, Status> {
    let mut fleet = fixture.fleet().await;
    let rotated = fleet.rotate_authority(v1::RotateAuthorityRequest {}).await?;
    Ok(rotated.into_inner().number)
}

async fn finish(fixture: &Fixture, force: bool) -> Result<v1::FinishRotationResponse, Status> {
    let mut fleet = fixture.fleet().await;
    let finished = fleet.finish_rotation(v1::FinishRotationRequest { force }).await?;
    Ok(finished.into_inner())
}

/// What an agent does when it hears of other authorities.
async fn renew(agent: &mut Agent, keeps_trust: bool) -> (Credentials, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let certificate_request = request.der().to_vec().into();
    let request = v1::RenewRequest { certificate_request, keeps_trust };
    let renewed = agent.client.renew(request).await.unwrap().into_inner();
    let certificate_pem = renewed.certificate_pem;
    (Credentials { certificate_pem, key_pem: key.serialize_pem() }, renewed.ca_pem)
}

/// Waits until a node is told whom to trust, and then everything again.
async fn told(agent: &mut Agent) -> (String, v1::Assignment) {
    let trust = loop {
        if let Message::Trust(trust) = agent.next().await.unwrap() {
            break trust.ca_pem;
        }
    };
    (trust, agent.assignment().await)
}

async fn context(fixture: &Fixture, name: &str) -> FleetClient<Channel> {
    FleetClient::new(fixture.tcp(Some(&fixture.client(name).await)).await.unwrap())
}

async fn is_good(client: &mut FleetClient<Channel>) -> bool {
    client.get_info(v1::GetInfoRequest {}).await.is_ok()
}

#[tokio::test]
async fn a_rotation_takes_everybody_along_who_is_there() {
    let mut fixture = Fixture::start().await;
    let old_node = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &old_node, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    let mut ann = context(&fixture, "ann").await;
    let before = status(&fixture).await;
    assert_eq!(before.authorities.len(), 1);
    assert!(before.nodes.is_empty() && before.contexts.is_empty());
    assert_eq!(finish(&fixture, true).await.unwrap_err().code(), Code::FailedPrecondition);

    assert_eq!(rotate(&fixture).await.unwrap(), 2);
    assert_eq!(rotate(&fixture).await.unwrap_err().code(), Code::FailedPrecondition);
    let (trust, assignment) = told(&mut agent).await;
    assert_eq!(trust, fixture.authority().certificates_pem());
    assert_eq!(assignment.ssh_trust.unwrap().more_user_authorities.len(), 1);
    // Who has the old one is named, and nobody is cut off.
    let now = status(&fixture).await;
    assert_eq!(now.authorities.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(now.authorities[1].made_by, "local");
    assert!(now.ssh_until_ms > 0);
    let named = |now: &v1::GetAuthorityResponse| {
        let nodes = now.nodes.iter().map(|node| (node.name.clone(), node.attached));
        let contexts = now.contexts.iter().map(|one| one.name.clone());
        (nodes.collect::<Vec<_>>(), contexts.collect::<Vec<_>>())
    };
    assert_eq!(named(&now), (vec![("h1".to_owned(), true)], vec!["ann".to_owned()]));
    assert!(is_good(&mut ann).await);
    let refused = finish(&fixture, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let said = refused.message();
    assert!(
        said.contains("node h1") && said.contains("ann (") && said.contains("--force"),
        "{said}"
    );

    // The controller forgets nothing of it, and the node comes with the certificate that it got.
    fixture.restart().await;
    let mut agent = Agent::attach(&fixture, &old_node, hello("192.0.2.1")).await.unwrap();
    let Message::Welcome(welcome) = agent.next().await.unwrap() else { panic!("no welcome") };
    assert_eq!(welcome.ca_pem, trust);
    let (new_node, kept) = renew(&mut agent, true).await;
    assert_eq!(kept, trust);
    let mut agent = Agent::attach(&fixture, &new_node, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    assert_eq!(named(&status(&fixture).await), (vec![], vec!["ann".to_owned()]));
    // Another host joins in between, with a token that pins what the controller shows.
    let joined = fixture.node("h2", "192.0.2.2").await;
    let mut second = Agent::attach(&fixture, &joined, hello("192.0.2.2")).await.unwrap();
    second.snapshot().await;
    let mut bob = context(&fixture, "bob").await;
    assert_eq!(named(&status(&fixture).await).0, vec![]);

    let mut fleet = fixture.fleet().await;
    fleet.revoke_context(v1::RevokeContextRequest { context: "ann".into() }).await.unwrap();
    let cut_off = finish(&fixture, false).await.unwrap();
    assert!(cut_off.nodes.is_empty() && cut_off.contexts.is_empty());
    for agent in [&mut agent, &mut second] {
        let (trust, assignment) = told(agent).await;
        assert_eq!(trust, fixture.authority().certificates_pem());
        assert!(assignment.ssh_trust.unwrap().more_user_authorities.is_empty());
    }
    assert!(is_good(&mut bob).await);
    assert_eq!(status(&fixture).await.authorities[0].number, 2);
    let events = fleet.list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner();
    for reason in ["authority-rotated", "authority-retired"] {
        let event = events.events.iter().find(|event| event.reason == reason);
        assert_eq!(event.unwrap().by, "local", "{reason}");
    }
}

#[tokio::test]
async fn whoever_still_lives_by_the_old_one_at_the_end_is_out_at_once() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &node, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    let mut ann = context(&fixture, "ann").await;
    assert!(is_good(&mut ann).await);
    rotate(&fixture).await.unwrap();
    // An agent of an earlier version keeps nothing that comes with a certificate, so it goes on with the old one.
    let (renewed, _) = renew(&mut agent, false).await;
    let mut agent = Agent::attach(&fixture, &renewed, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    let old = status(&fixture).await.nodes;
    assert_eq!((old.len(), old[0].issuer), (1, Issuer::default().0));

    let cut_off = finish(&fixture, true).await.unwrap();
    assert_eq!((cut_off.nodes[0].name.as_str(), cut_off.contexts[0].name.as_str()), ("h1", "ann"));
    let ended = async { while agent.next().await.is_ok() {} };
    timeout(SOON, ended).await.unwrap();
    let is_out = async {
        while is_good(&mut ann).await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, is_out).await.unwrap();
    for credentials in [&node, &renewed] {
        let refused = match fixture.tcp(Some(credentials)).await {
            Err(_) => true,
            Ok(channel) => FleetClient::new(channel).get_info(v1::GetInfoRequest {}).await.is_err(),
        };
        assert!(refused);
        let attached =
            async { Agent::attach(&fixture, credentials, hello("192.0.2.1")).await.is_ok() };
        assert!(!attached.await);
    }
    assert!(is_good(&mut context(&fixture, "bob").await).await);
}

#[tokio::test]
async fn a_killed_controller_and_a_backup_are_where_the_rotation_was() {
    let directory = tempfile::tempdir().unwrap();
    let numbers = async || {
        let mut client = fleet(directory.path()).await;
        let now = client.get_authority(v1::GetAuthorityRequest {}).await.unwrap().into_inner();
        now.authorities.iter().map(|one| one.number).collect::<Vec<_>>()
    };
    let program = Program::start(directory.path(), "");
    let mut client = fleet(directory.path()).await;
    client.rotate_authority(v1::RotateAuthorityRequest {}).await.unwrap();
    drop(program);
    let program = Program::start(directory.path(), "");
    assert_eq!(numbers().await, [1, 2]);
    let file = directory.path().join("backup.tar");
    succeed(directory.path(), "backup", &file);
    let mut client = fleet(directory.path()).await;
    client.finish_rotation(v1::FinishRotationRequest { force: false }).await.unwrap();
    drop(program);
    let program = Program::start(directory.path(), "");
    assert_eq!(numbers().await, [2]);
    let after = directory.path().join("after.tar");
    succeed(directory.path(), "backup", &after);
    drop(program);
    for (file, expected) in [(&file, &[1, 2][..]), (&after, &[2])] {
        succeed(directory.path(), "restore", file);
        let program = Program::start(directory.path(), "");
        assert_eq!(numbers().await, expected);
        drop(program);
    }
}
