//! Public keys and certificates: what people send, and what agents get of it.

use std::time::Duration;

use dwell_core::clock::Clock as _;
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as FromAgent;
use dwell_proto::v1::fleet_client::FleetClient;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{Certificate, HashAlg, PrivateKey, PublicKey};
use tonic::Code;

use crate::fixture::{Agent, Fixture, apply, hello, workload};

fn public_key(seed: u8) -> String {
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
    key.set_comment(format!("user{seed}@laptop"));
    key.public_key().to_openssh().unwrap()
}

fn update(add: &[String], remove: &[&str]) -> v1::UpdateKeySetRequest {
    let remove = remove.iter().map(ToString::to_string).collect();
    v1::UpdateKeySetRequest { name: "team".to_owned(), add: add.to_vec(), remove }
}

async fn authority(fixture: &Fixture) -> v1::GetInfoResponse {
    fixture.fleet().await.get_info(v1::GetInfoRequest::default()).await.unwrap().into_inner()
}

#[tokio::test]
async fn key_sets_reach_agents_and_survive() {
    let mut fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    let trust = agent.snapshot().await.ssh_trust.unwrap();
    let info = authority(&fixture).await;
    assert_eq!(
        (&trust.host_authority, &trust.user_authority),
        (&info.host_authority, &info.user_authority)
    );
    assert!(trust.key_sets.is_empty() && !info.closed);

    let mut fleet = fixture.fleet().await;
    let keys = [public_key(1), public_key(2)];
    fleet.update_key_set(update(&keys, &[])).await.unwrap();
    let trust = agent.assignment().await.ssh_trust.unwrap();
    assert_eq!((trust.key_sets[0].name.as_str(), &trust.key_sets[0].keys[..]), ("team", &keys[..]));

    fixture.restart().await;
    let mut fleet = fixture.fleet().await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    assert_eq!(agent.snapshot().await.ssh_trust.unwrap(), trust, "the CAs are the same ones too");
    let line = format!("restrict {}", keys[0]);
    fleet.update_key_set(update(&[], &[&line, "user2@laptop"])).await.unwrap();
    assert!(agent.assignment().await.ssh_trust.unwrap().key_sets[0].keys.is_empty());
    let request = v1::RemoveKeySetRequest { name: "team".to_owned() };
    fleet.remove_key_set(request.clone()).await.unwrap();
    assert!(agent.assignment().await.ssh_trust.unwrap().key_sets.is_empty());
    let gone = fleet.remove_key_set(request).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);

    let private = "-----BEGIN OPENSSH PRIVATE KEY-----".to_owned();
    let refused = fleet.update_key_set(update(&[public_key(1), private.clone()], &[])).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("key 2: this is a private key"), "{refused}");
    let mut spec = workload("web", 1);
    let ssh = v1::Ssh { authorized_keys: vec![private], ..Default::default() };
    spec.template.as_mut().unwrap().ssh = Some(ssh);
    let refused = fleet.apply(apply(vec![spec])).await.unwrap_err();
    assert!(
        refused.message().contains("ssh.authorized_keys[0]: this is a private key"),
        "{refused}"
    );
    let none = fleet.list_key_sets(v1::ListKeySetsRequest::default()).await.unwrap();
    assert!(none.into_inner().key_sets.is_empty());
}

#[tokio::test]
async fn a_host_key_belongs_to_the_identity() {
    let mut fixture = Fixture::start().await;
    let credentials = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    agent.snapshot().await;
    let mut fleet = fixture.fleet().await;
    let mut image = workload("image", 1);
    let ssh = v1::Ssh { mode: v1::ssh::Mode::Image.into(), ..Default::default() };
    image.template.as_mut().unwrap().ssh = Some(ssh);
    fleet.apply(apply(vec![workload("web", 1), image])).await.unwrap();
    let mut assigned = agent.assigned().await;
    while assigned.instances.len() < 2 {
        assigned.instances.extend(agent.assigned().await.instances);
    }
    let key_of = |assigned: &v1::Assignment, name: &str| {
        let found = assigned.instances.iter().find(|one| one.instance == name).unwrap();
        found.host_key.clone()
    };
    assert_eq!(key_of(&assigned, "image-0"), None, "it brings one of its own");
    let first = key_of(&assigned, "web-0").unwrap();
    let certificate = Certificate::from_openssh(&first.certificate).unwrap();
    let authority = PublicKey::from_openssh(&authority(&fixture).await.host_authority).unwrap();
    certificate.validate_at(1_800_000_000, [&authority.fingerprint(HashAlg::Sha256)]).unwrap();
    assert_eq!(certificate.valid_principals(), ["web-0.dwell", "web-0", "10.80.0.2"]);

    // Changed, restarted with the controller, sent again: the same.
    let mut changed = workload("web", 1);
    changed.template.as_mut().unwrap().image = "debian:13".to_owned();
    fleet.apply(apply(vec![changed])).await.unwrap();
    assert_eq!(key_of(&agent.assigned().await, "web-0").as_ref(), Some(&first));
    fixture.restart().await;
    let mut agent = Agent::attach(&fixture, &credentials, hello("192.0.2.1")).await.unwrap();
    let snapshot = agent.snapshot().await;
    assert_eq!(key_of(&snapshot, "web-0").as_ref(), Some(&first));

    // Removed and made again: another.
    let mut fleet = fixture.fleet().await;
    fleet.remove_workload(v1::RemoveWorkloadRequest { name: "web".to_owned() }).await.unwrap();
    let removed = loop {
        let delta = agent.assignment().await;
        if !delta.removed.is_empty() {
            break delta;
        }
    };
    agent.report_gone(&removed).await;
    let mut watch = fleet.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let request = v1::ListWorkloadsRequest { name: "web".to_owned(), ..Default::default() };
    while !fleet.list_workloads(request.clone()).await.unwrap().into_inner().workloads.is_empty() {
        watch.message().await.unwrap();
    }
    fleet.apply(apply(vec![workload("web", 1)])).await.unwrap();
    let again = agent.assigned().await;
    assert_eq!(again.instances[0].address, "10.80.0.2", "the address is kept for it");
    assert_ne!(key_of(&again, "web-0"), Some(first));
}

#[tokio::test]
async fn people_are_certified_and_that_is_written_down() {
    let fixture = Fixture::start().await;
    let ann = fixture.client("ann").await;
    let mut fleet = FleetClient::new(fixture.tcp(Some(&ann)).await.unwrap());
    let request = v1::CertifyUserRequest {
        public_key: public_key(1),
        principals: vec!["root".to_owned(), "deploy".to_owned()],
        valid_ms: 600_000,
    };
    let answer = fleet.certify_user(request.clone()).await.unwrap().into_inner();
    let certificate = Certificate::from_openssh(&answer.certificate).unwrap();
    assert_eq!(certificate.key_id(), "ann/user1@laptop");
    assert_eq!(certificate.valid_principals(), ["root", "deploy"]);
    assert_eq!(certificate.valid_before(), answer.expires_at_ms / 1000);
    let authority = PublicKey::from_openssh(&authority(&fixture).await.user_authority).unwrap();
    certificate.validate([&authority.fingerprint(HashAlg::Sha256)]).unwrap();
    let request_of =
        |subject: &str| v1::ListEventsRequest { subject: subject.to_owned(), limit: 1 };
    let events = fleet.list_events(request_of("cluster")).await.unwrap().into_inner().events;
    assert_eq!(events[0].reason, "user-certified");
    assert!(events[0].message.starts_with("ann had SHA256:"), "{}", events[0].message);
    assert!(events[0].message.ends_with("user1@laptop certified for 10m as root, deploy"));

    for (wrong, word) in [
        (v1::CertifyUserRequest { principals: vec![], ..request.clone() }, "principals"),
        (v1::CertifyUserRequest { public_key: "AAAA".to_owned(), ..request.clone() }, "public_key"),
        (v1::CertifyUserRequest { valid_ms: 31 * 86_400_000, ..request.clone() }, "30 days"),
    ] {
        let refused = fleet.certify_user(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(word), "{refused}");
    }
}

#[tokio::test]
async fn people_are_certified_by_the_wall_clock_of_now() {
    const HOUR: Duration = Duration::from_secs(3600);
    let fixture = Fixture::start().await;
    let ann = fixture.client("ann").await;
    let mut fleet = FleetClient::new(fixture.tcp(Some(&ann)).await.unwrap());
    let request = v1::CertifyUserRequest {
        public_key: public_key(1),
        principals: vec!["root".to_owned()],
        valid_ms: 600_000,
    };
    for slow_by in [HOUR, Duration::ZERO] {
        fixture.clock.set(slow_by);
        let before = fixture.clock.wall().0;
        let answer = fleet.certify_user(request.clone()).await.unwrap().into_inner();
        let after = fixture.clock.wall().0;
        let expected = before + 600_000..=after + 600_000;
        assert!(expected.contains(&answer.expires_at_ms), "{answer:?} is not in {expected:?}");
    }
}

#[tokio::test]
async fn log_ins_are_events() {
    let fixture = Fixture::start().await;
    let mut agent = fixture.agent("h1", "192.0.2.1").await;
    let mut fleet = fixture.fleet().await;
    fleet.apply(apply(vec![workload("web", 1)])).await.unwrap();
    agent.assigned().await;
    let event = v1::SshEvent {
        at_ms: 1,
        instance: "web-0".to_owned(),
        from: "10.80.1.4:5123".to_owned(),
        login: "root".to_owned(),
        key: "SHA256:abc ann@laptop".to_owned(),
        kind: v1::ssh_event::Kind::Opened.into(),
        ..Default::default()
    };
    let mut watch = fleet.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let events = vec![event.clone()];
    agent.say(FromAgent::SshEvents(v1::SshEvents { events, dropped: 0 })).await;
    let request = v1::ListEventsRequest { subject: "instance/web-0".to_owned(), limit: 1 };
    let told = loop {
        let events = fleet.list_events(request.clone()).await.unwrap().into_inner().events;
        match events.into_iter().find(|event| event.reason == "ssh-opened") {
            Some(told) => break told,
            None => drop(watch.message().await.unwrap()),
        }
    };
    assert_eq!(told.message, "root logged in from 10.80.1.4:5123 with SHA256:abc ann@laptop");

    let events = vec![event; 101];
    agent.say(FromAgent::SshEvents(v1::SshEvents { events, dropped: 0 })).await;
    let ended = loop {
        if let Err(status) = agent.next().await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::InvalidArgument, "{ended}");
}
