//! `dwell support-bundle`: what is in it, and what must not be.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use dwell_proto::v1;

use crate::fake::{Fake, State};
use crate::{LIMIT, command};

/// Everything in a bundle, by name.
fn unpack(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        found.insert(name, text);
    }
    found
}

#[tokio::test]
async fn a_support_bundle_has_what_is_known_and_no_secret() {
    let secret = "s3cret-of-somebody";
    let template = v1::Template {
        image: "app:1".into(),
        environment: [("TOKEN".to_owned(), secret.to_owned())].into(),
        ..Default::default()
    };
    let spec =
        v1::WorkloadSpec { name: "web".into(), template: Some(template), ..Default::default() };
    let workload = v1::Workload { spec: Some(spec), ..Default::default() };
    let fake = Fake::start(State {
        workloads: vec![workload],
        instances: vec![v1::Instance { name: "web-0".into(), ..Default::default() }],
        nodes: vec![v1::Node { name: "h1".into(), ..Default::default() }],
        logins: [("registry.example".to_owned(), ("robot".to_owned(), secret.to_owned()))].into(),
        ..State::default()
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.tar");
    let bundle = async || {
        // Without programs, so that nothing of this machine is in it.
        let mut command = command(&fake, &["support-bundle", "--file", path.to_str().unwrap()]);
        let ran = command.env("PATH", directory.path()).output();
        tokio::time::timeout(LIMIT, ran).await.expect("it did not end").unwrap()
    };
    let ran = bundle().await;
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let found = unpack(&path);
    for (name, said) in [
        ("README", "look through it"),
        ("fleet/instances.json", "web-0"),
        ("fleet/nodes.json", "h1"),
        ("fleet/status.json", "counts"),
        ("fleet/registries.json", "robot"),
        ("fleet/events.json", "events"),
        ("host/firewall.txt", "not known: cannot run nft"),
    ] {
        let text = &found[&format!("dwell-support/{name}")];
        assert!(text.contains(said), "{name}: {text}");
    }
    for (name, text) in &found {
        assert!(!text.contains(secret), "{name}: {text}");
    }

    let refused = bundle().await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is there already"), "{refused:?}");
}

#[tokio::test]
async fn a_controller_that_is_away_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.tar");
    let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_dwell"))
        .args(["--socket", "/nowhere/socket", "support-bundle", "--file"])
        .arg(&path)
        .env("PATH", directory.path())
        .output();
    let ran = tokio::time::timeout(LIMIT, ran).await.expect("it did not end").unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let found = unpack(&path);
    assert!(found["dwell-support/fleet/controller.json"].contains("/nowhere/socket"), "{found:?}");
}
