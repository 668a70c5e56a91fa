use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

const NETNS: &str = "/run/dwell/netns/web-0";

fn joining<'a>(held: &'a [(&'a str, PathBuf)]) -> Changes<'a> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Changes { netns: Path::new(NETNS), held, root: None, sysctls: &NONE, cgroups: None }
}

fn replaced(config: &Value) -> Result<Value, &'static str> {
    let mut config = config.as_object().unwrap().clone();
    replace_network(&mut config, Path::new(NETNS))?;
    Ok(Value::Object(config))
}

#[test]
fn settings_are_added_to_those_of_the_engine() {
    let set = |before: Value| {
        let mut config = json!({ "linux": before }).as_object().unwrap().clone();
        let sysctls = [("net.b".to_owned(), "1 2".to_owned())].into();
        set_sysctls(&mut config, &sysctls).map(|()| config["linux"]["sysctl"].clone())
    };
    assert_eq!(set(json!({})), Ok(json!({ "net.b": "1 2" })));
    assert_eq!(set(json!({ "sysctl": null })), Ok(json!({ "net.b": "1 2" })));
    let both = json!({ "net.a": "1", "net.b": "1 2" });
    assert_eq!(set(json!({ "sysctl": { "net.a": "1", "net.b": "0" } })), Ok(both));
    assert_eq!(set(json!({ "sysctl": 1 })), Err("linux.sysctl"));
}

#[test]
fn the_network_is_replaced_and_nothing_else() {
    let before = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["sleep", "1"], "oomScoreAdj": -500},
        "hooks": {
            "prestart": [
                {"path": "/usr/bin/nvidia-container-runtime-hook", "args": ["prestart"]},
                {"path": "/proc/1/exe", "args": ["libnetwork-setkey", "-exec-root=/run", "c1"]},
                {"path": "/bin/without-args"}
            ],
            "poststop": [{"path": "/bin/x", "args": ["libnetwork-setkey"]}]
        },
        "linux": {
            "resources": {"memory": {"limit": u64::MAX, "swap": -1}},
            "namespaces": [
                {"type": "mount"}, {"type": "network"}, {"type": "uts"},
                {"type": "network", "path": "/proc/7/ns/net"}, {"type": "pid", "path": "/p"}
            ]
        }
    });
    let after = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["sleep", "1"], "oomScoreAdj": -500},
        "hooks": {
            "prestart": [
                {"path": "/usr/bin/nvidia-container-runtime-hook", "args": ["prestart"]},
                {"path": "/bin/without-args"}
            ],
            "poststop": [{"path": "/bin/x", "args": ["libnetwork-setkey"]}]
        },
        "linux": {
            "resources": {"memory": {"limit": u64::MAX, "swap": -1}},
            "namespaces": [
                {"type": "mount"}, {"type": "uts"}, {"type": "pid", "path": "/p"},
                {"type": "network", "path": NETNS}
            ]
        }
    });
    assert_eq!(replaced(&before), Ok(after));
}

#[test]
fn a_container_of_the_host_network_gets_a_namespace() {
    let before = json!({"linux": {"namespaces": [{"type": "mount"}]}});
    let expected = json!([{"type": "mount"}, {"type": "network", "path": NETNS}]);
    assert_eq!(replaced(&before).unwrap()["linux"]["namespaces"], expected);
}

#[test]
fn a_configuration_without_a_place_for_the_network_is_refused() {
    for (config, key) in [
        (json!({}), "linux"),
        (json!({"linux": null}), "linux"),
        (json!({"windows": {}}), "linux"),
        (json!({"linux": {}}), "linux.namespaces"),
        (json!({"linux": {"namespaces": null}}), "linux.namespaces"),
        (json!({"linux": {"namespaces": {"type": "network"}}}), "linux.namespaces"),
    ] {
        assert_eq!(replaced(&config), Err(key), "{config}");
    }
}

fn any_namespace() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"type": "network"})),
        Just(json!({"type": "network", "path": "/proc/1/ns/net"})),
        Just(json!({"type": "network", "path": null})),
        "(mount|uts|ipc|pid|cgroup)".prop_map(|kind| json!({"type": kind})),
        Just(json!({})),
        Just(json!("network")),
    ]
}

proptest! {
    /// Exactly one network entry, ours; all others as they were; a second time changes nothing.
    #[test]
    fn exactly_one_network_remains(namespaces in prop::collection::vec(any_namespace(), 0..8)) {
        let others: Vec<_> =
            namespaces.iter().filter(|one| one["type"] != "network").cloned().collect();
        let once = replaced(&json!({"linux": {"namespaces": namespaces}})).unwrap();

        let mut result = once["linux"]["namespaces"].as_array().unwrap().clone();
        prop_assert_eq!(result.pop(), Some(json!({"type": "network", "path": NETNS})));
        prop_assert_eq!(result, others);
        prop_assert_eq!(replaced(&once).unwrap(), once);
    }
}

#[test]
fn the_file_is_replaced_with_its_mode_kept() {
    let bundle = tempfile::tempdir().unwrap();
    let path = bundle.path().join("config.json");
    fs::write(&path, r#"{"linux":{"namespaces":[]},"process":{"env":["A=\u00e9\ud83d\ude00"]}}"#)
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

    rewrite(bundle.path(), &joining(&[])).unwrap();

    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(config["linux"]["namespaces"][0]["path"], NETNS);
    assert_eq!(config["process"]["env"][0], "A=\u{e9}\u{1f600}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(bundle.path()).unwrap().count(), 1, "a temporary file stayed behind");
}

#[test]
fn a_file_that_is_no_configuration_is_refused_and_left_alone() {
    let bundle = tempfile::tempdir().unwrap();
    let path = bundle.path().join("config.json");
    let absent = rewrite(bundle.path(), &joining(&[])).unwrap_err();
    assert!(matches!(absent, BundleError::Read { .. }), "{absent}");

    let deep = "[".repeat(100_000);
    for text in ["", "{", "[]", "{}{}", r#"{"linux":{"namespaces":[}}"#, &deep] {
        fs::write(&path, text).unwrap();
        let refused = rewrite(bundle.path(), &joining(&[])).unwrap_err();
        assert!(matches!(refused, BundleError::Malformed { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    let oversized = File::create(&path).unwrap();
    oversized.set_len(MAX_CONFIG_BYTES + 1).unwrap();
    let refused = rewrite(bundle.path(), &joining(&[])).unwrap_err();
    assert!(matches!(refused, BundleError::TooLarge { .. }), "{refused}");
}

#[test]
fn a_mount_gets_what_was_opened_by_its_target_and_no_other_does() {
    let bundle = tempfile::tempdir().unwrap();
    let file = bundle.path().join("config.json");
    let config = json!({
        "linux": {"namespaces": []},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/srv/x", "options": ["rbind", "ro"]},
            {"destination": "/data/in", "type": "bind", "source": "/srv/x"},
            {"destination": "/tmpfs", "type": "tmpfs", "source": "tmpfs"}
        ]
    });
    fs::write(&file, config.to_string()).unwrap();
    let held = |target| vec![(target, PathBuf::from("/run/dwell/binds/0"))];
    // Twice, as after a start that failed.
    for _ in 0..2 {
        rewrite(bundle.path(), &joining(&held("/data/"))).unwrap();
        let seen: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let sources: Vec<_> =
            seen["mounts"].as_array().unwrap().iter().map(|one| one["source"].clone()).collect();
        assert_eq!(sources, ["proc", "/run/dwell/binds/0", "/srv/x", "tmpfs"]);
        assert_eq!(seen["mounts"][1]["options"], json!(["rbind", "ro"]));
    }
    for absent in ["/dat", "/tmpfs", "/proc"] {
        let refused = rewrite(bundle.path(), &joining(&held(absent))).unwrap_err();
        assert!(matches!(refused, BundleError::NoMount { .. }), "{absent}: {refused}");
    }
}

#[test]
fn a_machine_has_another_root_and_manages_control_groups_of_its_own() {
    let before = json!({
        "root": {"path": "rootfs", "readonly": false},
        "mounts": [
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]},
            {"destination": "/.dwell-root/", "type": "bind", "source": "/volumes/root", "options": ["rbind"]},
            {"destination": "/data", "type": "bind", "source": "/volumes/data", "options": ["rbind"]},
        ],
        "linux": {"namespaces": [{"type": "mount"}]},
    });
    let bundle = tempfile::tempdir().unwrap();
    let path = bundle.path().join("config.json");
    fs::write(&path, before.to_string()).unwrap();
    let found = root_and_source(bundle.path(), "/.dwell-root").unwrap();
    assert_eq!(found, (bundle.path().join("rootfs"), PathBuf::from("/volumes/root")));
    let absent = root_and_source(bundle.path(), "/other").unwrap_err();
    assert!(matches!(absent, BundleError::NoMount { .. }), "{absent}");

    let root = Some(("/.dwell-root", Path::new("/run/dwell/binds/root")));
    let changes = Changes { root, cgroups: Some(Cgroups::Beside), ..joining(&[]) };
    rewrite(bundle.path(), &changes).unwrap();
    let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(after["root"], json!({"path": "/run/dwell/binds/root", "readonly": false}));
    assert_eq!(after["mounts"].as_array().unwrap().len(), 2, "{after}");
    assert_eq!(after["mounts"][0]["type"], "cgroup2");
    assert_eq!(after["mounts"][0]["options"][0], "rw");
    assert_eq!(after["mounts"][1]["destination"], "/data");
    let namespaces =
        json!([{"type": "mount"}, {"type": "network", "path": NETNS}, {"type": "cgroup"}]);
    assert_eq!(after["linux"]["namespaces"], namespaces);
}
