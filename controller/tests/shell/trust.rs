//! Who gets in: tokens, certificates, roles.

use std::time::Duration;

use dwell_controller::pki::{By, Identity, Request};
use dwell_core::access::{Issuer, Role};
use dwell_proto::trust::renewal_message;
use dwell_proto::v1;
use dwell_proto::v1::enrollment_client::EnrollmentClient;
use dwell_proto::v1::fleet_client::FleetClient;
use dwell_proto::v1::session_client::SessionClient;
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::Code;

use crate::fixture::{Agent, Credentials, Fixture, SOON, apply, hello, workload};

async fn fleet_code(fixture: &Fixture, credentials: Option<&Credentials>) -> Option<Code> {
    let mut fleet = FleetClient::new(fixture.tcp(credentials).await.unwrap());
    fleet.get_info(v1::GetInfoRequest {}).await.err().map(|status| status.code())
}

async fn attach_error(fixture: &Fixture, credentials: &Credentials) -> Option<tonic::Status> {
    Agent::attach(fixture, credentials, hello("192.0.2.1")).await.err()
}

#[tokio::test]
async fn a_token_admits_one_host_once() {
    let fixture = Fixture::start().await;
    let token = fixture.token().await;
    fixture.join(&token, "h1", "192.0.2.1").await.unwrap();
    let code = |result: Result<Credentials, tonic::Status>| result.err().unwrap().code();

    assert_eq!(code(fixture.join(&token, "h2", "192.0.2.2").await), Code::PermissionDenied);
    // A taken name or address costs no token, and the holder keeps both.
    let other = fixture.token().await;
    assert_eq!(code(fixture.join(&other, "h1", "192.0.2.2").await), Code::AlreadyExists);
    assert_eq!(code(fixture.join(&other, "h2", "192.0.2.1").await), Code::AlreadyExists);
    fixture.join(&other, "h2", "192.0.2.2").await.unwrap();

    let (secret, digest) = token.rsplit_once('.').unwrap();
    let guessed = format!("{}A.{digest}", &secret[..secret.len() - 1]);
    assert_eq!(code(fixture.join(&guessed, "h3", "192.0.2.3").await), Code::PermissionDenied);
    assert_eq!(code(fixture.join("dwell1.x.y", "h3", "192.0.2.3").await), Code::InvalidArgument);
    let fresh = fixture.token().await;
    assert_eq!(code(fixture.join(&fresh, "../h3", "192.0.2.3").await), Code::InvalidArgument);
    assert_eq!(code(fixture.join(&fresh, "h3", "here").await), Code::InvalidArgument);
}

#[tokio::test]
async fn a_token_expires() {
    let fixture = Fixture::start().await;
    let request = v1::CreateJoinTokenRequest { valid_ms: 1 };
    let token = fixture.fleet().await.create_join_token(request).await.unwrap().into_inner().token;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let status = fixture.join(&token, "h1", "192.0.2.1").await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
}

/// Nobody learns by trying how near they are.
#[tokio::test]
async fn all_wrong_tokens_are_answered_alike() {
    let fixture = Fixture::start().await;
    let used = fixture.token().await;
    fixture.join(&used, "h1", "192.0.2.1").await.unwrap();
    let request = v1::CreateJoinTokenRequest { valid_ms: 1 };
    let expired =
        fixture.fleet().await.create_join_token(request).await.unwrap().into_inner().token;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let good = fixture.token().await;
    let (start, digest) = good.rsplit_once('.').unwrap();
    let other = |text: &str| if text.ends_with('A') { 'B' } else { 'A' };
    let wrong_secret = format!("{}{}.{digest}", &start[..start.len() - 1], other(start));
    let (version, secret) = start.split_once('.').unwrap();
    let wrong_id = format!("{version}.{}{}.{digest}", other(&secret[..1]), &secret[1..]);
    let mut answers = Vec::new();
    for token in [used, expired, wrong_secret, wrong_id] {
        assert_ne!(token, good);
        let refused = fixture.join(&token, "h2", "192.0.2.2").await.err().unwrap();
        answers.push((refused.code(), refused.message().to_owned()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    fixture.join(&good, "h2", "192.0.2.2").await.unwrap();
}

#[tokio::test]
async fn each_role_may_do_its_own() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let client = fixture.client("ann").await;

    assert_eq!(fleet_code(&fixture, Some(&client)).await, None);
    assert_eq!(fleet_code(&fixture, Some(&node)).await, Some(Code::PermissionDenied));
    assert_eq!(fleet_code(&fixture, None).await, Some(Code::Unauthenticated));
    assert!(attach_error(&fixture, &node).await.is_none());
    assert_eq!(attach_error(&fixture, &client).await.unwrap().code(), Code::PermissionDenied);

    let mut fleet = FleetClient::new(fixture.tcp(Some(&client)).await.unwrap());
    let request =
        v1::IssueClientRequest { name: "eve".to_owned(), valid_ms: 0, role: String::new() };
    assert_eq!(fleet.issue_client(request).await.unwrap_err().code(), Code::PermissionDenied);
}

/// A certificate that the cluster's CA signed for a node, with whatever is asked for.
fn forged(
    fixture: &Fixture,
    name: &str,
    key_of_enrolment: &KeyPair,
    valid: Duration,
) -> Credentials {
    let request = |key: &KeyPair| {
        let request = CertificateParams::default().serialize_request(key).unwrap();
        Request::read(request.der()).unwrap()
    };
    let key = KeyPair::generate().unwrap();
    let enrolment = request(key_of_enrolment).enrolment();
    let identity =
        Identity::Node { name: name.parse().unwrap(), enrolment, issuer: Issuer::default() };
    let certificate_pem =
        fixture.authority().issue_node(&request(&key), &identity, valid, By::Newest).unwrap();
    Credentials { certificate_pem, key_pem: key.serialize_pem() }
}

/// A host that was removed by force, and whose name another host has by now, is not refused: it would go on running
/// what is elsewhere by then.
#[tokio::test]
async fn a_host_whose_name_is_anothers_is_told_to_run_nothing_and_gets_nothing_else() {
    let fixture = Fixture::start().await;
    fixture.node("h1", "192.0.2.1").await;
    let mut fleet = fixture.fleet().await;
    fleet.apply(apply(vec![workload("web", 1)])).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let old = forged(&fixture, "h1", &key, Duration::from_secs(24 * 3600));
    let mut agent = Agent::attach(&fixture, &old, hello("192.0.2.7")).await.unwrap();
    let told = agent.snapshot().await;
    assert!(told.instances.is_empty() && told.removed.is_empty());
    let network = told.network.unwrap();
    assert!(network.peers.is_empty() && network.block.is_empty());
    assert_eq!(told.ssh_trust.unwrap().key_sets.len(), 0);

    let channel = fixture.tcp(Some(&old)).await.unwrap();
    let request = v1::RenewRequest::default();
    let refused = SessionClient::new(channel).renew(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let events = fleet.list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner();
    assert!(events.events.iter().any(|event| event.reason == "old-host-returned"));
}

#[tokio::test]
async fn wrong_certificates_do_not_attach() {
    let fixture = Fixture::start().await;
    let joined = fixture.node("h1", "192.0.2.1").await;
    let key = KeyPair::generate().unwrap();
    let day = Duration::from_secs(24 * 3600);

    let status = attach_error(&fixture, &forged(&fixture, "h9", &key, day)).await.unwrap();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");

    // These end in the handshake, which a client of TLS 1.3 learns with its first request.
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let uri = format!("dwell://{}/client/ann", fixture.authority().cluster_id());
    params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
    let certificate_pem = params.self_signed(&own).unwrap().pem();
    let self_signed = Credentials { certificate_pem, key_pem: own.serialize_pem() };
    let expired = forged(&fixture, "h1", &key, Duration::ZERO);
    // Signed by somebody else under the name of the CA, and by a node.
    let signed_by = |name: &str, signer: KeyPair| {
        let mut issuer = CertificateParams::new(Vec::new()).unwrap();
        issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        issuer.distinguished_name = rcgen::DistinguishedName::new();
        issuer.distinguished_name.push(rcgen::DnType::OrganizationName, "dwell");
        issuer.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = rcgen::Issuer::new(issuer, signer);
        let certificate_pem = params.signed_by(&own, &issuer).unwrap().pem();
        Credentials { certificate_pem, key_pem: own.serialize_pem() }
    };
    let forged_issuer = signed_by(fixture.authority().cluster_id(), KeyPair::generate().unwrap());
    let by_node = signed_by("h1", KeyPair::from_pem(&joined.key_pem).unwrap());
    let chain = format!("{}{}", by_node.certificate_pem, joined.certificate_pem);
    let by_node_with_chain = Credentials { certificate_pem: chain, ..by_node.clone() };
    let other = Fixture::start().await;
    let foreign = other.client("ann").await;
    for (credentials, what) in [
        (self_signed, "self-signed"),
        (expired, "expired"),
        (foreign, "foreign"),
        (forged_issuer, "forged issuer"),
        (by_node, "signed by a node"),
        (by_node_with_chain, "signed by a node whose certificate is good"),
    ] {
        let refused = match fixture.tcp(Some(&credentials)).await {
            Err(_) => true,
            Ok(channel) => FleetClient::new(channel).get_info(v1::GetInfoRequest {}).await.is_err(),
        };
        assert!(refused, "{what}");
    }
    // None of this keeps others out.
    assert_eq!(fleet_code(&fixture, Some(&fixture.client("ann").await)).await, None);
}

#[tokio::test]
async fn a_renewed_certificate_works_and_the_old_one_still_does() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let mut agent = Agent::attach(&fixture, &node, hello("192.0.2.1")).await.unwrap();
    let key = KeyPair::generate().unwrap();
    // Whatever the request says: the certificate is for the node that asks.
    let names = CertificateParams::new(vec!["controller.dwell".to_owned()]).unwrap();
    let certificate_request = names.serialize_request(&key).unwrap().der().to_vec().into();
    let renewed = agent
        .client
        .renew(v1::RenewRequest { certificate_request, keeps_trust: true })
        .await
        .unwrap();
    let certificate_pem = renewed.into_inner().certificate_pem;
    let renewed = Credentials { certificate_pem, key_pem: key.serialize_pem() };
    assert!(attach_error(&fixture, &renewed).await.is_none());
    assert!(attach_error(&fixture, &node).await.is_none());
    let garbage =
        v1::RenewRequest { certificate_request: vec![0x30; 64].into(), ..Default::default() };
    assert_eq!(agent.client.renew(garbage).await.unwrap_err().code(), Code::InvalidArgument);
}

/// Asks for a fresh certificate with an old one and a signature by `signer`.
async fn renew_expired(
    fixture: &Fixture,
    old: &Credentials,
    signer: &KeyPair,
) -> Result<Credentials, tonic::Status> {
    let key = KeyPair::generate().unwrap();
    let certificate_request = CertificateParams::default().serialize_request(&key).unwrap();
    let certificate_request: Vec<u8> = certificate_request.der().to_vec();
    let signature = signer.sign(&renewal_message(&certificate_request)).unwrap().into();
    let certificate = CertificateDer::from_pem_slice(old.certificate_pem.as_bytes()).unwrap();
    let request = v1::RenewExpiredRequest {
        certificate_request: certificate_request.into(),
        certificate: certificate.to_vec().into(),
        signature,
        keeps_trust: true,
    };
    let mut enrollment = EnrollmentClient::new(fixture.tcp(None).await.unwrap());
    let certificate_pem = enrollment.renew_expired(request).await?.into_inner().certificate_pem;
    Ok(Credentials { certificate_pem, key_pem: key.serialize_pem() })
}

#[tokio::test]
async fn a_node_whose_certificate_has_expired_proves_itself_by_the_old_key() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let joined_with = KeyPair::from_pem(&node.key_pem).unwrap();
    let expired = forged(&fixture, "h1", &joined_with, Duration::ZERO);
    let key_of = |old: &Credentials| KeyPair::from_pem(&old.key_pem).unwrap();
    assert!(attach_error(&fixture, &expired).await.is_some());
    let renewed = renew_expired(&fixture, &expired, &key_of(&expired)).await.unwrap();
    assert!(attach_error(&fixture, &renewed).await.is_none());

    let code = |result: Result<Credentials, tonic::Status>| {
        let status = result.err().unwrap();
        (status.code(), status.message().to_owned())
    };
    let refuse = async |old: &Credentials| code(renew_expired(&fixture, old, &key_of(old)).await);
    // The certificate alone, which everybody may have seen, is worth nothing.
    let stranger = KeyPair::generate().unwrap();
    let (unproven, _) = code(renew_expired(&fixture, &expired, &stranger).await);
    assert_eq!(unproven, Code::Unauthenticated);
    let other = Fixture::start().await;
    let foreign = forged(&other, "h1", &joined_with, Duration::ZERO);
    assert_eq!(refuse(&foreign).await.0, Code::Unauthenticated);
    let issued = fixture
        .authority()
        .issue_client("ann".parse().unwrap(), Role::Admin, Duration::ZERO)
        .unwrap();
    let client =
        Credentials { certificate_pem: issued.certificate_pem, key_pem: issued.private_key_pem };
    assert_eq!(refuse(&client).await.0, Code::PermissionDenied);
    let unknown = forged(&fixture, "h9", &joined_with, Duration::ZERO);
    assert_eq!(refuse(&unknown).await.0, Code::PermissionDenied);
    let earlier = forged(&fixture, "h1", &stranger, Duration::ZERO);
    let (superseded, why) = refuse(&earlier).await;
    assert_eq!(superseded, Code::PermissionDenied);
    assert!(why.contains("another host has joined") && why.contains("cleanup"), "{why}");

    // Two hosts have the identity: neither gets another certificate.
    for run in [1, 2, 1] {
        let hello = v1::Hello { run, ..hello("192.0.2.1") };
        Agent::attach(&fixture, &renewed, hello).await.ok();
    }
    assert_eq!(refuse(&expired).await.0, Code::FailedPrecondition);

    let mut fleet = fixture.fleet().await;
    let remove = v1::RemoveNodeRequest { name: "h1".to_owned(), force: true };
    fleet.remove_node(remove).await.unwrap();
    let (removed, why) = refuse(&expired).await;
    assert_eq!(removed, Code::PermissionDenied);
    assert!(why.contains("was removed") && why.contains("join again"), "{why}");
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let fixture = Fixture::start().await;
    let issued = fixture
        .authority()
        .issue_client("ann".parse().unwrap(), Role::Admin, Duration::from_secs(3))
        .unwrap();
    let client =
        Credentials { certificate_pem: issued.certificate_pem, key_pem: issued.private_key_pem };
    let mut fleet = FleetClient::new(fixture.tcp(Some(&client)).await.unwrap());
    let mut watch = fleet.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let end = async { while let Ok(Some(_)) = watch.message().await {} };
    tokio::time::timeout(SOON, end).await.expect("the stream outlives the certificate");
}
