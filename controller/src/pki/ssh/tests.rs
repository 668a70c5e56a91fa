//! Keys that stay, and certificates that stock tools would take.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use ssh_key::{Certificate, HashAlg};

use super::*;

struct Place {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        Self { directory, authority }
    }

    fn open(&self) -> SshAuthority {
        SshAuthority::open(self.directory.path(), &self.authority, "dwell").unwrap()
    }
}

fn host_key(ssh: &SshAuthority, name: &str, made_at: u64) -> HostKey {
    let address = Ipv4Addr::new(10, 80, 0, 1);
    ssh.host_key(&name.parse().unwrap(), address, Timestamp(made_at)).unwrap()
}

#[test]
fn an_identity_has_one_host_key_for_life() {
    let place = Place::new();
    let (ssh, again) = (place.open(), place.open());
    assert_eq!(ssh.host_authorities(), again.host_authorities());
    assert_eq!(ssh.user_authorities(), again.user_authorities());
    assert_ne!(ssh.host_authorities(), ssh.user_authorities());
    let key = host_key(&ssh, "web-0", 5);
    assert_eq!(host_key(&again, "web-0", 5), key, "over a restart of the controller");
    for (name, made_at) in [("web-0", 6), ("web-1", 5), ("we-0", 5)] {
        assert_ne!(host_key(&ssh, name, made_at).private_key, key.private_key, "{name} {made_at}");
    }
    assert_ne!(host_key(&Place::new().open(), "web-0", 5).private_key, key.private_key);
}

#[test]
fn a_host_certificate_is_for_all_names_and_for_ever() {
    let ssh = Place::new().open();
    let key = host_key(&ssh, "web-0", 5);
    let private = PrivateKey::from_openssh(&key.private_key).unwrap();
    let certificate = Certificate::from_openssh(&key.certificate).unwrap();
    assert_eq!(certificate.public_key(), private.public_key().key_data());
    assert_eq!(certificate.cert_type(), CertType::Host);
    assert_eq!(certificate.valid_principals(), ["web-0.dwell", "web-0", "10.80.0.1"]);
    assert_eq!((certificate.valid_after(), certificate.valid_before()), (0, u64::MAX));
    assert_eq!((certificate.key_id(), certificate.serial()), ("web-0", 5));
    let authority = PublicKey::from_openssh(&ssh.host_authorities()[0]).unwrap();
    let fingerprint = authority.fingerprint(HashAlg::Sha256);
    certificate.validate_at(1_800_000_000, [&fingerprint]).unwrap();
}

#[test]
fn a_user_certificate_says_who_what_and_until_when() {
    let ssh = Place::new().open();
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32])).public_key().clone();
    let line = ssh
        .certify_user(
            &key,
            UserCertificate {
                key_id: "ann/ann@laptop".into(),
                principals: vec!["root".into(), "deploy".into()],
                valid_after: Timestamp(1_000_000_500),
                valid_before: Timestamp(1_000_060_900),
            },
        )
        .unwrap();
    let certificate = Certificate::from_openssh(&line).unwrap();
    assert_eq!(certificate.cert_type(), CertType::User);
    assert_eq!(certificate.key_id(), "ann/ann@laptop");
    assert_eq!(certificate.valid_principals(), ["root", "deploy"]);
    assert_eq!((certificate.valid_after(), certificate.valid_before()), (1_000_000, 1_000_060));
    assert!(certificate.extensions().keys().eq(USER_EXTENSIONS.iter()));
    assert!(certificate.critical_options().is_empty());
    let authority = PublicKey::from_openssh(&ssh.user_authorities()[0]).unwrap();
    let fingerprint = authority.fingerprint(HashAlg::Sha256);
    certificate.validate_at(1_000_030, [&fingerprint]).unwrap();
    certificate.validate_at(1_000_061, [&fingerprint]).unwrap_err();
}

#[test]
fn files_are_the_controllers_alone_and_damage_is_told() {
    let place = Place::new();
    drop(place.open());
    for name in ["ssh-host-ca", "ssh-user-ca", "ssh-host-keys"] {
        let path = place.directory.path().join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let good = std::fs::read(&path).unwrap();
        for bad in ["", "x", &"g".repeat(64)] {
            std::fs::write(&path, bad).unwrap();
            let error = SshAuthority::open(place.directory.path(), &place.authority, "dwell")
                .err()
                .unwrap();
            assert!(error.to_string().contains(name), "{error}");
        }
        std::fs::write(&path, good).unwrap();
    }
    drop(place.open());
}

/// Not a benchmark: a debug build takes some twenty times as long as a real one.
#[test]
fn host_keys_are_cheap_enough_to_be_made_whenever_they_are_sent() {
    let ssh = Place::new().open();
    let begun = Instant::now();
    for ordinal in 0..20 {
        host_key(&ssh, &format!("web-{ordinal}"), 5);
    }
    let each = begun.elapsed() / 20;
    println!("{each:?} for a host key in this build");
    assert!(each < std::time::Duration::from_millis(200), "{each:?}");
}
