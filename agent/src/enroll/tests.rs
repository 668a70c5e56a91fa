use dwell_proto::trust::CONTROLLER_NAME;
use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::fake_controller::{CLUSTER, CROWD, Ca, Face, FakeController, SECRET, identity};

fn candidate() -> Candidate {
    Candidate {
        node: "h1".parse().unwrap(),
        address: Ipv4Addr::new(192, 168, 1, 11),
        routes_only: false,
        host_mark: Some(HostMark::new(&"h1".parse().unwrap(), "m1")),
    }
}

async fn refusal(endpoint: &str, token: &JoinToken) -> EnrollError {
    let dir = tempfile::tempdir().unwrap();
    let refused = join(dir.path(), endpoint, token, &candidate(), false).await.unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was stored");
    refused
}

/// What one attempt comes to.
async fn attempt(endpoint: &str, token: &JoinToken) -> Attempt {
    let tls = Arc::new(trust::by_digest(*token.ca_digest()).unwrap());
    let request = v1::JoinRequest { token: token.to_string(), ..v1::JoinRequest::default() };
    ask_to_join(endpoint, tls, request).await.unwrap_err()
}

#[tokio::test]
async fn a_host_that_is_put_off_asks_again_and_one_that_is_refused_does_not() {
    let put_off = || Attempt::PutOff(EnrollError::Refused { reason: "later".into() });
    for (refusals, tries) in [(0, 1), (2, 3), (5, 6), (9, 6)] {
        let mut asked = 0;
        let joined = while_put_off(0..=1, async || {
            asked += 1;
            if asked > refusals { Ok(()) } else { Err(put_off()) }
        });
        assert_eq!(joined.await.is_ok(), refusals < 6);
        assert_eq!(asked, tries);
    }
    let mut asked = 0;
    let refused = while_put_off(0..=1, async || -> Result<(), Attempt> {
        asked += 1;
        Err(Attempt::Failed(EnrollError::Clock))
    });
    assert!(refused.await.is_err());
    assert_eq!(asked, 1);

    let ca = Ca::new();
    let (crowd, used) = (ca.token(CROWD), ca.token("another-secret-of-the-test"));
    let controller = FakeController::start(Face::proper(ca)).await;
    let failed = attempt(&controller.address, &crowd).await;
    assert!(matches!(failed, Attempt::PutOff(EnrollError::Refused { .. })), "{failed:?}");
    let failed = attempt(&controller.address, &used).await;
    assert!(matches!(failed, Attempt::Failed(EnrollError::Refused { .. })), "{failed:?}");
}

/// A controller that does TLS, begins HTTP/2 if it `says_hello`, and ends the connection.
async fn ends_after_tls(face: Face, says_hello: bool) -> String {
    let certificates = CertificateDer::pem_slice_iter(face.chain.as_bytes());
    let certificates = certificates.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(face.key.as_bytes()).unwrap();
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let mut stream = acceptor.accept(stream).await.unwrap();
        if says_hello {
            // An empty frame of settings.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            stream.flush().await.unwrap();
            // The preface at least; what follows has the request in it.
            stream.read_exact(&mut [0; 24]).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_connection_that_ends_is_repeated_only_if_no_request_can_have_been_heard() {
    for says_hello in [false, true] {
        let ca = Ca::new();
        let token = ca.token(SECRET);
        let address = ends_after_tls(Face::proper(ca), says_hello).await;
        let failed = attempt(&address, &token).await;
        match (&failed, says_hello) {
            (Attempt::PutOff(error), false) | (Attempt::Failed(error), true) => {
                assert!(matches!(error, EnrollError::Link(_)), "{error}");
            }
            _ => panic!("{says_hello}: {failed:?}"),
        }
    }
}

#[tokio::test]
async fn a_host_joins_once() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let token = ca.token(SECRET);
    let controller = FakeController::start(Face::proper(ca)).await;
    let address = controller.address.as_str();

    let joined = join(dir.path(), address, &token, &candidate(), false).await.unwrap();
    assert_eq!(joined, Identity::load(dir.path()).unwrap());
    assert_eq!((joined.cluster_id.as_str(), joined.controller.as_str()), (CLUSTER, address));

    let again = join(dir.path(), address, &token, &candidate(), false).await.unwrap_err();
    assert!(matches!(again, EnrollError::AlreadyJoined { .. }), "{again}");
    let forced = join(dir.path(), address, &token, &candidate(), true).await.unwrap();
    assert_ne!(forced.key_pem, joined.key_pem);

    std::fs::write(Identity::path(dir.path()), "damaged").unwrap();
    let damaged = join(dir.path(), address, &token, &candidate(), false).await.unwrap_err();
    assert!(damaged.to_string().contains("--force"), "{damaged}");
    join(dir.path(), address, &token, &candidate(), true).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_told_in_the_controllers_words() {
    let ca = Ca::new();
    let token = ca.token("another-secret-of-the-test");
    let controller = FakeController::start(Face::proper(ca)).await;
    let refused = refusal(&controller.address, &token).await;
    assert!(matches!(refused, EnrollError::Refused { .. }), "{refused}");
    let message = refused.to_string();
    assert!(message.contains("used already"), "{message}");
    assert!(!message.contains('\u{1b}') && !message.contains("another-secret"), "{message}");
}

#[tokio::test]
async fn only_the_pinned_ca_is_trusted() {
    let (ca, other) = (Ca::new(), Ca::new());
    let token = ca.token(SECRET);
    let node = |ca: &Ca| ca.issue("h2", ExtendedKeyUsagePurpose::ServerAuth);
    let server = |ca: &Ca| ca.issue(CONTROLLER_NAME, ExtendedKeyUsagePurpose::ServerAuth);
    let client = |ca: &Ca| ca.issue(CONTROLLER_NAME, ExtendedKeyUsagePurpose::ClientAuth);

    for (what, (certificate, key), shown) in [
        ("another cluster", server(&other), &other.pem),
        ("somebody who shows our CA beside a certificate of another", server(&other), &ca.pem),
        ("somebody who does not show the CA", server(&ca), &other.pem),
        ("a node that stands in for the controller", node(&ca), &ca.pem),
        ("a client that stands in for the controller", client(&ca), &ca.pem),
    ] {
        let face = Face { chain: certificate + shown, key, ..Face::proper(Ca::new()) };
        let controller = FakeController::start(face).await;
        let refused = refusal(&controller.address, &token).await;
        let EnrollError::Link(LinkError::NotTrusted { .. }) = refused else {
            panic!("{what}: {refused}");
        };
    }
}

#[tokio::test]
async fn a_ca_that_was_swapped_in_the_answer_is_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let token = ca.token(SECRET);
    let proper = Face::proper(ca);
    let face = Face { ca: other, ..proper };
    let controller = FakeController::start(face).await;
    let refused = refusal(&controller.address, &token).await;
    assert!(matches!(refused, EnrollError::Answer { .. }), "{refused}");
}

#[tokio::test]
async fn a_renewed_certificate_that_would_be_renewed_again_at_once_blames_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let old = identity(&ca, "", Duration::ZERO);
    // Valid for seventy minutes, of which sixty are over.
    let face = Face { left: Duration::from_secs(600), ..Face::proper(ca) };
    let controller = FakeController::start(face).await;
    let refused = renew_expired(dir.path(), &old, &controller.address).await.unwrap_err();
    assert!(matches!(refused, EnrollError::Clock), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was stored");
}

#[tokio::test]
async fn who_is_not_there_or_not_a_controller_is_named() {
    let token = Ca::new().token(SECRET);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-x\r\n").await.ok();
        }
    });
    let refused = refusal(&address, &token).await;
    assert!(matches!(refused, EnrollError::Link(LinkError::Protocol { .. })), "{refused}");
    other.abort();
    drop(other.await);

    // One that lets nobody in for the moment: before TLS, and after it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let full = listener.local_addr().unwrap().to_string();
    let closing = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let Attempt::PutOff(refused) = attempt(&full, &token).await else {
        panic!("it would not be asked again");
    };
    assert!(matches!(refused, EnrollError::Link(LinkError::Ended { .. })), "{refused}");
    assert!(refused.to_string().contains("try again in a moment"), "{refused}");
    closing.abort();
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let ended = super::refused("c:7400", Status::from_error(broken.into()));
    assert!(matches!(ended, EnrollError::Link(LinkError::Ended { .. })), "{ended}");
    let said = super::refused("c:7400", Status::permission_denied("no"));
    assert!(matches!(said, EnrollError::Refused { .. }), "{said}");

    let refused = refusal(&address, &token).await;
    assert!(matches!(refused, EnrollError::Link(LinkError::Unreachable { .. })), "{refused}");
    let refused = refusal("no-such-host.invalid:7400", &token).await;
    assert!(matches!(refused, EnrollError::Link(LinkError::Resolve { .. })), "{refused}");
}
