//! The CA's files, what certificates say, and tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use dwell_core::access::{Issuer, Role};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn request(params: &CertificateParams) -> Vec<u8> {
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn the_ca_is_made_once_and_its_key_is_for_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path().join("pki");
    let first = Authority::open(&pki).unwrap();
    let second = Authority::open(&pki).unwrap();
    assert_eq!(first.trusted().pinned(), second.trusted().pinned());
    assert_eq!(first.cluster_id(), second.cluster_id());
    assert_eq!(first.cluster_id().len(), 16);
    let mode = |path: &str| fs::metadata(pki.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode(".")), (0o600, 0o700));
}

#[test]
fn a_crash_at_the_first_start_leaves_nothing_that_stops_the_second() {
    let directory = tempfile::tempdir().unwrap();
    Authority::open(directory.path()).unwrap();
    fs::remove_file(directory.path().join("ca.pem")).unwrap();
    Authority::open(directory.path()).unwrap();
}

#[test]
fn a_damaged_ca_is_named() {
    let directory = tempfile::tempdir().unwrap();
    Authority::open(directory.path()).unwrap();
    let key = directory.path().join("ca.key");
    for (text, words) in [
        (KeyPair::generate().unwrap().serialize_pem(), "not the key of ca.pem"),
        ("garbage".to_owned(), "ca.key"),
    ] {
        fs::write(&key, text).unwrap();
        let error = Authority::open(directory.path()).err().unwrap().to_string();
        assert!(error.contains(words) && error.contains("ca.key"), "{error}");
    }
    fs::remove_file(&key).unwrap();
    assert!(matches!(Authority::open(directory.path()), Err(PkiError::File { .. })));
}

#[test]
fn a_certificate_says_what_we_say_and_not_what_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open(directory.path()).unwrap();
    let mut params = CertificateParams::new(vec!["controller.dwell".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = Request::read(&request(&params)).unwrap();
    let identity = Identity::Node {
        name: "h1".parse().unwrap(),
        enrolment: request.enrolment(),
        issuer: Issuer(1),
    };
    let certificate = der(&authority.issue_node(&request, &identity, DAY, By::Newest).unwrap());
    let certified = authority.read(&certificate).unwrap();
    assert_eq!(certified.identity, identity);
    let left = certified.expires.duration_since(SystemTime::now()).unwrap();
    assert!(left <= DAY && left > DAY - Duration::from_secs(60), "{left:?}");
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    assert!(!parsed.is_ca());
}

#[test]
fn another_clusters_certificate_is_nobodys() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (Authority::open(one.path()).unwrap(), Authority::open(two.path()).unwrap());
    let issued = two.issue_client("ann".parse().unwrap(), Role::Admin, DAY).unwrap();
    assert!(matches!(one.read(&der(&issued.certificate_pem)), Err(PkiError::NoIdentity)));
    assert!(matches!(one.read(&CertificateDer::from(vec![0; 9])), Err(PkiError::NoIdentity)));
    // The CA's own certificate speaks for nobody either.
    assert!(matches!(one.read(&der(&one.certificates_pem())), Err(PkiError::NoIdentity)));
}

#[test]
fn a_context_says_its_role_and_its_serial() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open(directory.path()).unwrap();
    for role in Role::ALL {
        let issued = authority.issue_client("ann".parse().unwrap(), role, DAY).unwrap();
        let certified = authority.read(&der(&issued.certificate_pem)).unwrap();
        assert_eq!(issued.client.role, role);
        assert_eq!(certified.identity, Identity::Client(issued.client));
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let good = request(&CertificateParams::default());
    let mut forged = good.clone();
    // The last bytes are the signature's.
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for bytes in
        [Vec::new(), vec![0x30; 100], forged, good[..50].to_vec(), vec![0; REQUEST_MAX + 1]]
    {
        assert!(matches!(Request::read(&bytes), Err(PkiError::Request)));
    }
    assert!(Request::read(&good).is_ok());
}

#[test]
fn a_token_is_known_again_by_its_digest_alone() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open(directory.path()).unwrap();
    let made = NewToken::mint(&authority).unwrap();
    let text = made.token.to_string();
    assert_eq!(ShownToken::read(&text).unwrap(), made.shown);
    assert!(!text.contains(&identity::hex(&made.shown.digest)));
    let other = NewToken::mint(&authority).unwrap();
    assert_ne!(other.shown.id, made.shown.id);
}

#[test]
fn a_request_with_an_rsa_key_is_refused_as_its_error_says() {
    use base64::Engine as _;
    let der = base64::engine::general_purpose::STANDARD.decode(RSA_REQUEST).unwrap();
    let error = Request::read(&der).err().unwrap().to_string();
    assert!(error.contains("ECDSA P-256, P-384 or Ed25519"), "{error}");
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        assert!(Request::read(request.der()).is_ok(), "{algorithm:?}");
    }
}

/// A good request of OpenSSL's (`openssl req -new -newkey rsa:2048 -subj /CN=x -outform DER`), in Base64.
const RSA_REQUEST: &str = "\
MIICUTCCATkCAQAwDDEKMAgGA1UEAwwBeDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAOGdlRFlUaM5EOMpGTBlVmmQ\
qoRjBNcmyzGpTSl9buu4UAbia/ABRqnuR6f9pnYTxvbXxXuH2QyuCI7yX20B0H5rDRyHfc/CIrWXnzJNxOxc1Ox67hqkBjbDKO9h\
Emn4KIs32MiitB596SfSJrB8bI7Y98SZ1YQaRwMn0jgres+T4GAeIM3zPxx33yWhYqsjD01BIpj3oDZYNhisDkS1nlx93DKQT/Oo\
W3vTWnr1fBOexDiz3zfmha1gUpVW0G8bSLS1zWUjPVnXDl66ljwdQEMa2Dqhs2UnAkTRqcam0MeyLfWXVazHr2jve1az8ipkcVdN\
pgyaVPz3wJQNkdEj2ecCAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4IBAQDcuBdERrs8UABHEe9XEepanfKCzTBZOHUfT+UpR31dz/zz\
YbKJ8HRatxGe2v3sVhNNm/bbVeBPE+sMusttcr2jDjuYc0/Yuc74tjNkndtfqM1KcCfQ+I/o3kBB73St2wuQhulZtXgku9yI5L8q\
e3htjGy0bwbpiIdxI8nMzJc0ikmqE3LeIS7JLuKQFBMmhU25cxfh6m2RIvbNuVfaA1AzsM+i3LQag8jXk2gcpdMPwFK8ib/YMLlG\
VZJRidbJj7NFWIOd/ACGTv8lb56OFHAT+s6j7fFmR6fqIGFft2+H4QDE6TUGvbbkvrbM3KoNUo42BEeB3DP4n9dAU+1uz031\
";
