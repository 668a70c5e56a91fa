//! `dwell key`.

use super::fake::KEY;
use super::{Fake, run, starting};

#[tokio::test]
async fn keys_come_and_go() {
    let fake = Fake::start(starting());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alice.pub");
    let path = file.to_str().unwrap();
    std::fs::write(&file, format!("# Alice's\n{KEY} alice@laptop\n\ncert-authority {KEY}\n"))
        .unwrap();
    let ran = run(&fake, &["key", "add", "team", path]).await;
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 2), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("SHA256:") && ran.stdout.contains("alice@laptop is in team\n"));
    let ran = run(&fake, &["key", "ls", "-o", "json"]).await;
    insta::assert_snapshot!(ran.stdout);

    // A name that fits nothing removes nothing, whatever stands beside it.
    let ran = run(&fake, &["key", "rm", "team", "alice@laptop", "alice@labtop"]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("no key \"alice@labtop\" in team"), "{}", ran.stderr);
    assert_eq!(fake.state.lock().unwrap().key_sets["team"].len(), 2);
    let ran = run(&fake, &["key", "rm", "team", "alice@laptop"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(fake.state.lock().unwrap().key_sets["team"], [format!("cert-authority {KEY}")]);
    assert_eq!(run(&fake, &["key", "rm", "other", "x"]).await.code, 3);

    let ran = run(&fake, &["key", "rm", "team"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    assert_eq!(run(&fake, &["key", "rm", "team", "--yes"]).await.code, 0);
    assert!(fake.state.lock().unwrap().key_sets.is_empty());
}

#[tokio::test]
async fn what_is_no_public_key_is_not_sent() {
    let fake = Fake::start(starting());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let path = file.to_str().unwrap();
    for (text, says) in [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "id:1: this is a private key"),
        ("ssh-ed25519 AAAA\n", "id:1: this is no public key"),
        ("\n", "there is no public key in"),
    ] {
        std::fs::write(&file, text).unwrap();
        for arguments in [&["key", "add", "team", path][..], &["key", "sign", path]] {
            let ran = run(&fake, arguments).await;
            assert_eq!(ran.code, 2, "{arguments:?} {}", ran.stderr);
            assert!(ran.stderr.contains(says) || text == "\n", "{}", ran.stderr);
        }
    }
    assert_eq!(run(&fake, &["key", "add", "Team", path]).await.code, 2);
    assert!(fake.asked().is_empty() && fake.state.lock().unwrap().key_sets.is_empty());
}

#[tokio::test]
async fn certificates_and_authorities() {
    let fake = Fake::start(starting());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alice.pub");
    std::fs::write(&file, format!("{KEY} alice\n")).unwrap();
    let path = file.to_str().unwrap();
    let sign =
        ["key", "sign", path, "--principal", "alice", "--principal", "root", "--valid", "1h"];
    let ran = run(&fake, &sign).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert!(ran.stderr.contains("valid until 2026-01-31T12:00:00.000Z"), "{}", ran.stderr);
    assert_eq!(fake.asked(), ["certify alice,root for 3600000 ms"]);
    let certificate = std::fs::read_to_string(directory.path().join("alice-cert.pub")).unwrap();
    assert_eq!(certificate, format!("certificate of {KEY} alice\n"));

    // Without a name: one's own, and the container's own user where it does not have that.
    assert_eq!(run(&fake, &["key", "sign", path]).await.code, 0);
    let asked = fake.asked();
    assert!(asked.last().unwrap().contains(",@container for "), "{asked:?}");

    let ran = run(&fake, &["key", "ca"]).await;
    assert_eq!(ran.stdout, format!("@cert-authority *.dwell {KEY} host CA\n"));
    let ran = run(&fake, &["key", "ca", "--user"]).await;
    assert_eq!(ran.stdout, format!("{KEY} user CA\n"));
}
