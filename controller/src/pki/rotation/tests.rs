//! What counts before, during and after a rotation, and what a crash leaves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::access::Role;
use dwell_core::id::InstanceName;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use ssh_key::{Certificate, HashAlg, PrivateKey, PublicKey};

use super::*;
use crate::pki::{By, Certified, Identity, NewToken, Request, Tls, UserCertificate};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
    authority: Arc<Authority>,
    ssh: SshAuthority,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki");
        let (authority, ssh) = open(&path).unwrap();
        Self { _directory: directory, path, authority, ssh }
    }

    /// As a controller would that starts now.
    fn again(&mut self) {
        (self.authority, self.ssh) = open(&self.path).unwrap();
    }

    fn rotate(&self) -> Issuer {
        rotate(&self.authority, &self.ssh, "ann", Timestamp(7)).unwrap()
    }

    fn node(&self, by: By) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let request = Request::read(request.der()).unwrap();
        let (name, enrolment) = ("h1".parse().unwrap(), request.enrolment());
        let identity = Identity::Node { name, enrolment, issuer: Issuer(9) };
        der(&self.authority.issue_node(&request, &identity, DAY, by).unwrap())
    }

    fn client(&self) -> CertificateDer<'static> {
        let issued = self.authority.issue_client("ann".parse().unwrap(), Role::Admin, DAY);
        der(&issued.unwrap().certificate_pem)
    }

    /// What a listener makes of a certificate: TLS first.
    fn verify(&self, certificate: &CertificateDer<'_>) -> Option<Certified> {
        let verifier = self.authority.trusted().client_verifier().unwrap();
        verifier.verify_client_cert(certificate, &[], UnixTime::now()).ok()?;
        Some(self.authority.read(certificate).unwrap())
    }

    /// Who signed a person's key for SSH, as one of those that nodes take.
    fn ssh_signer(&self) -> Option<usize> {
        let key = PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]));
        let what = UserCertificate {
            key_id: "ann".into(),
            principals: vec!["root".into()],
            valid_after: Timestamp(0),
            valid_before: Timestamp(9_000_000),
        };
        let line = self.ssh.certify_user(key.public_key(), what).unwrap();
        signer_of(&line, &self.ssh.user_authorities())
    }

    fn host_certificate(&self) -> String {
        let name: InstanceName = "web-0".parse().unwrap();
        self.ssh.host_key(&name, [10, 80, 0, 1].into(), Timestamp(5)).unwrap().certificate
    }
}

fn open(path: &Path) -> Result<(Arc<Authority>, SshAuthority), PkiError> {
    let authority = Arc::new(Authority::open(path)?);
    let ssh = SshAuthority::open(path, &authority, "dwell")?;
    Ok((authority, ssh))
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn signer_of(certificate: &str, authorities: &[String]) -> Option<usize> {
    let certificate = Certificate::from_openssh(certificate).unwrap();
    let signer = certificate.signature_key().fingerprint(HashAlg::Sha256);
    authorities.iter().position(|line| {
        PublicKey::from_openssh(line).unwrap().fingerprint(HashAlg::Sha256) == signer
    })
}

fn issuer_of(certified: &Certified) -> Issuer {
    match &certified.identity {
        Identity::Node { issuer, .. } => *issuer,
        Identity::Client(client) => client.issuer,
    }
}

#[test]
fn both_count_in_between_and_the_newest_signs() {
    let mut place = Place::new();
    let (old_node, old_client) = (place.node(By::Newest), place.client());
    assert_eq!(issuer_of(&place.verify(&old_node).unwrap()), Issuer(1));
    let cluster = place.authority.cluster_id().to_owned();
    let first_pem = place.authority.certificates_pem();
    assert_eq!(place.rotate(), Issuer(2));
    for again in [false, true] {
        if again {
            place.again();
        }
        assert_eq!(place.authority.cluster_id(), cluster);
        assert!(place.authority.certificates_pem().starts_with(&first_pem));
        for (certificate, number) in [
            (&old_node, 1),
            (&old_client, 1),
            (&place.node(By::Oldest), 1),
            (&place.node(By::Newest), 2),
            (&place.client(), 2),
        ] {
            let certified = place.verify(certificate).unwrap();
            assert_eq!(issuer_of(&certified), Issuer(number));
            assert!(!certified.retired.is_cancelled());
        }
        assert_eq!(place.ssh_signer(), Some(0), "the first of two, which nodes have first");
        assert_eq!(place.ssh.user_authorities().len(), 2);
        let hosts = place.ssh.host_authorities();
        assert_eq!((signer_of(&place.host_certificate(), &hosts), hosts.len()), (Some(0), 2));
        // Another one has to wait.
        let refused = rotate(&place.authority, &place.ssh, "bob", Timestamp(9)).unwrap_err();
        assert!(refused.to_string().contains("dwell ca finish"), "{refused}");
    }
}

#[test]
fn the_controller_shows_what_everybody_knows_and_tokens_pin_that() {
    let place = Place::new();
    let tls = Tls::new(Arc::clone(&place.authority), &["c.example"]).unwrap();
    let first = *place.authority.trusted().pinned().1;
    let config = tls.config();
    assert!(Arc::ptr_eq(&config, &tls.config()), "made anew without need");
    let pinned = || *NewToken::mint(&place.authority).unwrap().token.ca_digest();
    assert_eq!(pinned(), first);
    place.rotate();
    assert!(!Arc::ptr_eq(&config, &tls.config()), "the new one's certificates are to count");
    assert_eq!(pinned(), first);
    finish(&place.authority, &place.ssh).unwrap();
    assert_ne!(pinned(), first);
}

#[test]
fn what_the_retired_one_signed_is_worth_nothing_and_what_lives_by_it_ends() {
    let mut place = Place::new();
    let old = place.client();
    place.rotate();
    let (new, by_oldest) = (place.client(), place.node(By::Oldest));
    let (of_old, of_new) = (place.verify(&old).unwrap(), place.verify(&new).unwrap());
    let host_certificate = place.host_certificate();
    let old_host = place.ssh.host_authorities()[0].clone();
    assert_eq!(finish(&place.authority, &place.ssh).unwrap(), Issuer(2));
    assert!(of_old.retired.is_cancelled() && !of_new.retired.is_cancelled());
    // One that was through TLS already.
    assert!(matches!(place.authority.read(&old), Err(PkiError::Retired)));
    for again in [false, true] {
        if again {
            place.again();
        }
        assert!(place.verify(&old).is_none() && place.verify(&by_oldest).is_none());
        assert_eq!(issuer_of(&place.verify(&new).unwrap()), Issuer(2));
        assert_eq!((place.ssh_signer(), place.ssh.user_authorities().len()), (Some(0), 1));
        let hosts = place.ssh.host_authorities();
        assert!(hosts.len() == 1 && hosts[0] != old_host);
        assert_eq!(signer_of(&host_certificate, &hosts), None);
        assert_eq!(signer_of(&place.host_certificate(), &hosts), Some(0));
        assert!(matches!(finish(&place.authority, &place.ssh), Err(RotationError::None)));
    }
    assert_eq!(place.rotate(), Issuer(3), "and so on");
}

/// Instances keep their keys: only who vouches for them is another.
#[test]
fn host_keys_stay() {
    let place = Place::new();
    let key = || {
        let name: InstanceName = "web-0".parse().unwrap();
        place.ssh.host_key(&name, [10, 80, 0, 1].into(), Timestamp(5)).unwrap().private_key
    };
    let before = key();
    place.rotate();
    finish(&place.authority, &place.ssh).unwrap();
    assert_eq!(key(), before);
}

#[test]
fn the_form_of_before_is_read_and_the_retired_keys_go_from_the_disk() {
    let mut place = Place::new();
    let has = |path: &Path, name: &str| path.join(name).exists();
    assert!(!has(&place.path, STORED), "one that was never rotated is as it always was");
    let (ca, users) = (place.authority.certificates_pem(), place.ssh.user_authorities());
    assert_eq!(fs::read_to_string(place.path.join("ca.pem")).unwrap(), ca);
    place.rotate();
    place.again();
    assert!(place.authority.certificates_pem().starts_with(&ca));
    assert!(place.ssh.user_authorities().ends_with(&users));
    let mode = fs::metadata(place.path.join(STORED)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // A version that knows of no rotation goes on as before until the end.
    assert!(KEYS_OF_FIRST.iter().all(|name| has(&place.path, name)));
    let kept = fs::read(place.path.join("ca.key")).unwrap();
    finish(&place.authority, &place.ssh).unwrap();
    assert!(KEYS_OF_FIRST.iter().all(|name| !has(&place.path, name)));
    assert!(has(&place.path, "ca.pem"), "without it that version would make another cluster");
    // A crash before they had gone.
    fs::write(place.path.join("ca.key"), kept).unwrap();
    place.again();
    assert!(!has(&place.path, "ca.key"));
    assert!(!fs::read_to_string(place.path.join(STORED)).unwrap().contains(ca.trim()));
}

#[test]
fn a_file_that_cannot_be_written_changes_nothing() {
    let place = Place::new();
    let old = place.client();
    // Nothing can be put in its place.
    fs::create_dir_all(place.path.join(STORED).join("x")).unwrap();
    assert!(rotate(&place.authority, &place.ssh, "ann", Timestamp(7)).is_err());
    assert!(!place.authority.trusted().is_rotating());
    assert_eq!(place.ssh.user_authorities().len(), 1);
    assert!(place.verify(&old).is_some());
}

#[test]
fn a_damaged_file_is_named_and_never_replaced_by_the_first_authority() {
    let place = Place::new();
    place.rotate();
    let path = place.path.join(STORED);
    let good = fs::read_to_string(&path).unwrap();
    let none = r#"{"format": 1, "authorities": []}"#.to_owned();
    let later = good.replace("\"format\": 1", "\"format\": 2");
    for bad in [String::new(), good[..good.len() / 2].to_owned(), none, later] {
        fs::write(&path, bad).unwrap();
        let error = Authority::open(&place.path).err().unwrap();
        assert!(error.to_string().contains(STORED), "{error}");
    }
}
