//! Who may log in, case by case.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Certificate, PrivateKey};

use super::{Asking, Keys, clean, with_certificate, with_key};
use crate::authorized_keys::{AuthorizedKey, Forced, LineError, parse_line};
use crate::enter::SftpOptions;
use crate::permit::Permit;
use crate::state::Trust;

const NOW: u64 = 1_800_000_000;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn line(options: &str, seed: u8) -> AuthorizedKey {
    let key = key(seed).public_key().to_openssh().unwrap();
    parse_line(&format!("{options} {key}")).unwrap().unwrap()
}

fn asking<'a>(login: &'a str, from: &str) -> Asking<'a> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    Asking { login, by_default: false, from: from.parse::<IpAddr>().unwrap(), now }
}

/// A certificate for key 1 by key 9, for `alice` and `ops`, changed by `change`.
fn certificate(change: impl FnOnce(&mut Builder)) -> Certificate {
    certificate_of(CertType::User, NOW - 60, NOW + 60, change)
}

fn certificate_of(
    kind: CertType,
    after: u64,
    before: u64,
    change: impl FnOnce(&mut Builder),
) -> Certificate {
    let subject = key(1).public_key().clone();
    let mut builder = Builder::new([7; 16], subject, after, before).unwrap();
    builder.cert_type(kind).unwrap();
    builder.key_id("alice@example").unwrap();
    builder.valid_principal("alice").unwrap();
    builder.valid_principal("ops").unwrap();
    change(&mut builder);
    builder.sign(&key(9)).unwrap()
}

/// A cluster whose user CA is key 9.
fn cluster() -> Trust {
    let authority = key(9).public_key().key_data().clone();
    Trust { user_authorities: vec![authority], ..Trust::default() }
}

fn log_in(
    trust: &Trust,
    own: &[AuthorizedKey],
    certificate: &Certificate,
    login: &str,
    from: &str,
) -> Option<Permit> {
    let keys = Keys { trust, own, sets: None, users: None };
    with_certificate(keys, certificate, asking(login, from))
}

#[test]
fn keys_of_the_instance_and_of_its_sets() {
    let sets =
        [("a", 2), ("b", 3)].map(|(name, seed)| (name.parse().unwrap(), vec![line("", seed)]));
    let trust = Trust { sets: BTreeMap::from(sets), ..Trust::default() };
    let own = [line("", 1)];
    let only_a = ["a".parse().unwrap()];
    let may = |sets, seed: u8| {
        let keys = Keys { trust: &trust, own: &own, sets, users: None };
        let key = key(seed);
        with_key(keys, key.public_key().key_data(), asking("root", "192.0.2.1")).is_some()
    };
    assert_eq!([1, 2, 3, 4].map(|seed| may(None, seed)), [true, true, true, false]);
    assert_eq!([1, 2, 3, 4].map(|seed| may(Some(&only_a), seed)), [true, true, false, false]);
    assert_eq!([1, 2, 3, 4].map(|seed| may(Some(&[]), seed)), [true, false, false, false]);
}

#[test]
fn the_first_line_that_applies_decides() {
    let own = [line("from=\"10.0.0.0/8\"", 1), line("restrict", 1), line("", 1)];
    let trust = Trust::default();
    let keys = Keys { trust: &trust, own: &own, sets: None, users: None };
    let key = key(1);
    let permit = |from| with_key(keys, key.public_key().key_data(), asking("root", from)).unwrap();
    assert!(permit("10.1.1.1").terminal);
    assert!(!permit("192.0.2.1").terminal);
}

#[test]
fn an_authority_is_no_key() {
    let own = [line("cert-authority", 9)];
    let trust = Trust::default();
    let keys = Keys { trust: &trust, own: &own, sets: None, users: None };
    assert!(with_key(keys, key(9).public_key().key_data(), asking("root", "192.0.2.1")).is_none());
    assert!(keys.any_authority());
}

#[test]
fn certificates_of_the_cluster() {
    let trust = cluster();
    let may = |certificate: &Certificate, login| {
        log_in(&trust, &[], certificate, login, "192.0.2.1").is_some()
    };
    assert!(may(&certificate(|_| {}), "alice"));
    assert!(may(&certificate(|_| {}), "ops"));
    assert!(!may(&certificate(|_| {}), "root"), "not a principal");
    assert!(
        !may(&certificate_of(CertType::User, NOW - 60, NOW, |_| {}), "alice"),
        "the end is excluded"
    );
    assert!(!may(&certificate_of(CertType::User, NOW + 1, NOW + 60, |_| {}), "alice"), "not yet");
    let for_hosts = certificate_of(CertType::Host, NOW - 60, NOW + 60, |_| {});
    assert!(!may(&for_hosts, "alice"));
    let unknown = certificate(|builder| {
        builder.critical_option("verify-required", "").unwrap();
    });
    assert!(!may(&unknown, "alice"), "something critical that is not known");
    let other = Trust {
        user_authorities: vec![key(8).public_key().key_data().clone()],
        ..Trust::default()
    };
    assert!(log_in(&other, &[], &certificate(|_| {}), "alice", "192.0.2.1").is_none());
}

#[test]
fn a_certificate_for_nobody_is_for_nobody() {
    let subject = key(1).public_key().clone();
    let mut builder = Builder::new([7; 16], subject, NOW - 60, NOW + 60).unwrap();
    builder.cert_type(CertType::User).unwrap();
    builder.key_id("any").unwrap();
    builder.all_principals_valid().unwrap();
    let certificate = builder.sign(&key(9)).unwrap();
    assert!(log_in(&cluster(), &[], &certificate, "alice", "192.0.2.1").is_none());
}

#[test]
fn certificates_say_what_their_owner_may() {
    let trust = cluster();
    let bare = log_in(&trust, &[], &certificate(|_| {}), "alice", "192.0.2.1").unwrap();
    assert!(!bare.terminal && !bare.forwarding && !bare.agent);
    assert!(bare.key.ends_with(" alice@example"), "{}", bare.key);
    let full = certificate(|builder| {
        builder.extension("permit-pty", "").unwrap();
        builder.extension("permit-port-forwarding", "").unwrap();
        builder.extension("permit-agent-forwarding", "").unwrap();
        builder.critical_option("force-command", "uptime").unwrap();
        builder.critical_option("source-address", "192.0.2.0/24").unwrap();
    });
    let permit = log_in(&trust, &[], &full, "alice", "192.0.2.1").unwrap();
    assert!(permit.terminal && permit.forwarding && permit.agent);
    assert_eq!(permit.command, Some(Forced::Command("uptime".to_owned())));
    assert!(log_in(&trust, &[], &full, "alice", "198.51.100.1").is_none());
}

#[test]
fn authorities_in_lines() {
    let trust = Trust::default();
    let full = certificate(|builder| {
        builder.extension("permit-pty", "").unwrap();
        builder.extension("permit-port-forwarding", "").unwrap();
    });
    let may = |options: &str, login| log_in(&trust, &[line(options, 9)], &full, login, "192.0.2.1");
    assert!(may("cert-authority", "alice").is_some());
    assert!(may("cert-authority", "root").is_none());
    assert!(may("cert-authority,principals=\"ops\"", "root").is_some());
    assert!(may("cert-authority,principals=\"others\"", "alice").is_none());
    assert!(may("cert-authority,from=\"10.0.0.0/8\"", "alice").is_none());
    let strict = may("cert-authority,no-pty,permitopen=\"db:5432\"", "alice").unwrap();
    assert!(!strict.terminal && strict.may_open("db", 5432) && !strict.may_open("db", 22));
    let forced = certificate(|builder| {
        builder.critical_option("force-command", "a").unwrap();
    });
    let both = |options| log_in(&trust, &[line(options, 9)], &forced, "alice", "192.0.2.1");
    let forced = both("cert-authority,command=\"a\"").unwrap().command;
    assert_eq!(forced, Some(Forced::Command("a".to_owned())));
    assert!(both("cert-authority,command=\"b\"").is_none(), "two commands cannot both be forced");
}

#[test]
fn a_certificate_is_good_for_its_names_and_for_no_other() {
    let trust = cluster();
    let may = |certificate: &Certificate, own: &[AuthorizedKey], login| {
        log_in(&trust, own, certificate, login, "192.0.2.1").is_some()
    };
    let plain = certificate(|_| {});
    assert!(may(&plain, &[], "alice") && !may(&plain, &[], "root"));
    assert!(!may(&plain, &[], "@container"), "the container's own user is a name like any other");
    let both = certificate(|builder| {
        builder.valid_principal("@container").unwrap();
    });
    assert!(may(&both, &[], "alice") && may(&both, &[], "@container") && !may(&both, &[], "root"));

    let foreign = Trust::default();
    let by_line = |options: &str, login| {
        log_in(&foreign, &[line(options, 9)], &plain, login, "192.0.2.1").is_some()
    };
    assert!(by_line("cert-authority", "alice") && !by_line("cert-authority", "@container"));
    let by_principal = "cert-authority,principals=\"ops\"";
    assert!(by_line(by_principal, "root") && by_line(by_principal, "@container"));
    let web = "cert-authority,principals=\"ops\",login=\"web\"";
    assert!(by_line(web, "web") && !by_line(web, "root") && !by_line(web, "@container"));
}

#[test]
fn a_key_can_be_bound_to_names() {
    let trust = Trust::default();
    let may = |options: &str, login| {
        let own = [line(options, 1)];
        let keys = Keys { trust: &trust, own: &own, sets: None, users: None };
        let key = key(1);
        with_key(keys, key.public_key().key_data(), asking(login, "192.0.2.1")).is_some()
    };
    assert!(may("", "anybody") && may("", "@container"));
    let bound = "login=\"web,deploy\"";
    assert!(may(bound, "deploy") && !may(bound, "root") && !may(bound, "@container"));
    assert!(may("login=\"web,@container\"", "@container"));
}

/// Who chose no name is whom the instance says, if that one or nobody in particular is who the key is for.
#[test]
fn whoever_chose_no_name_needs_what_is_good_for_whom_the_instance_says() {
    let trust = cluster();
    let users = ["deploy".to_owned()];
    let may = |options: &str, principal: &str, login: &str| {
        let own = [line(options, 1)];
        let keys = Keys { trust: &trust, own: &own, sets: None, users: Some(&users) };
        let asking = Asking { by_default: true, ..asking(login, "192.0.2.1") };
        let certificate = certificate(|builder| {
            builder.valid_principal(principal).unwrap();
        });
        (
            with_key(keys, key(1).public_key().key_data(), asking).is_some(),
            with_certificate(keys, &certificate, asking).is_some(),
        )
    };
    assert_eq!(may("", "deploy", "deploy"), (true, true));
    assert_eq!(may("login=\"@default\"", "@default", "deploy"), (true, true));
    assert_eq!(may("login=\"root\"", "@container", "deploy"), (false, false));
    assert_eq!(
        may("", "@default", "@container"),
        (false, false),
        "the instance does not let it in"
    );
}

/// A restriction of the SFTP server that we do not have makes the certificate invalid, as it does a line.
#[test]
fn an_sftp_server_is_forced_as_restricted_as_it_is_said() {
    let forced = |command: &str| {
        let certificate = certificate(|builder| {
            builder.critical_option("force-command", command).unwrap();
        });
        log_in(&cluster(), &[], &certificate, "alice", "192.0.2.1").map(|permit| permit.command)
    };
    let read_only = SftpOptions { read_only: true, directory: None };
    assert_eq!(forced("internal-sftp -R"), Some(Some(Forced::Sftp(read_only.clone()))));
    assert_eq!(forced("internal-sftp -P remove"), None);
    let options = line("restrict,command=\"internal-sftp -R\"", 1).options;
    assert_eq!(options.command, Some(Forced::Sftp(read_only)));
    let key = key(1).public_key().to_openssh().unwrap();
    let unknown = parse_line(&format!("command=\"internal-sftp -u 077\" {key}"));
    assert_eq!(unknown, Err(LineError::Value("command")));
}

#[test]
fn names_of_others_are_cleaned() {
    assert_eq!(clean("ro\not\u{1b}[2J", 64), "root[2J");
    assert_eq!(clean("abcdef", 3), "abc");
}

#[test]
fn an_instance_names_who_may_be_logged_in_as_whatever_the_key_or_the_certificate_says() {
    let trust = cluster();
    let own = [line("", 2), line("login=\"root,deploy\"", 3)];
    let certificate = certificate(|builder| {
        builder.valid_principal("@container").unwrap();
    });
    // By a plain key, by one for certain names, and by a certificate.
    let may = |users: Option<&[String]>, login: &str| {
        let keys = Keys { trust: &trust, own: &own, sets: None, users };
        let asking = asking(login, "192.0.2.1");
        let by_key = |seed: u8| with_key(keys, key(seed).public_key().key_data(), asking);
        let by_certificate = with_certificate(keys, &certificate, asking);
        [by_key(2), by_key(3), by_certificate].map(|permit| permit.is_some())
    };
    let users = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(may(None, "root"), [true, true, false]);
    assert_eq!(may(None, "alice"), [true, false, true]);

    let named = users(&["deploy", "alice"]);
    assert_eq!(may(Some(&named), "root"), [false, false, false]);
    assert_eq!(may(Some(&named), "deploy"), [true, true, false]);
    assert_eq!(may(Some(&named), "alice"), [true, false, true]);
    assert_eq!(may(Some(&named), "@container"), [false, false, false]);
    let with_own = users(&["alice", "@container"]);
    assert_eq!(may(Some(&with_own), "alice"), [true, false, true]);
    assert_eq!(may(Some(&with_own), "@container"), [true, false, true]);
    assert_eq!(may(Some(&[]), "alice"), [false, false, false]);
}
