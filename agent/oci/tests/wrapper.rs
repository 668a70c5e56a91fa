//! The program as containerd calls it, with a script in the place of runc.
//!
//! Needs root, as the program itself does: only root may ask for the namespace of another process.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dwell_network::fixtures::Namespace;
use dwell_oci::Mapping;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A state directory and a bundle; what `runtime.sh` noted appears beside them.
struct Node {
    directory: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(node.path("bundle")).unwrap();
        let config = json!({"linux": {"namespaces": [{"type": "mount"}]}});
        fs::write(node.path("bundle/config.json"), config.to_string()).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn map(&self, container_id: &str, netns: &Path) {
        let mapping = Mapping {
            root: None,
            sysctls: std::collections::BTreeMap::new(),
            systemd: false,
            instance: "web-0".into(),
            netns: netns.into(),
            binds: Vec::new(),
            copies: Vec::new(),
        };
        mapping.write(self.directory.path(), container_id).unwrap();
    }

    fn call(&self, runtime: &str, args: &[impl AsRef<OsStr>]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_dwell-oci"))
            .arg(format!("--dwell-state-dir={}", self.directory.path().display()))
            .arg(format!("--dwell-runtime={}/tests/{runtime}", env!("CARGO_MANIFEST_DIR")))
            .args(args)
            .env("NOTED", self.path("noted"))
            .output()
            .unwrap()
    }

    /// The arguments by which containerd creates a container.
    fn creation(&self, container_id: &str) -> Vec<String> {
        let (log, bundle) = (self.path("log.json"), self.path("bundle"));
        let (log, bundle) = (log.display(), bundle.display());
        let line = format!("--root /r --log {log} --log-format json create --bundle {bundle}");
        line.split(' ').chain([container_id]).map(str::to_owned).collect()
    }

    fn create(&self, container_id: &str) -> Output {
        self.call("runtime.sh", &self.creation(container_id))
    }

    /// What the runtime was called with; `None` if it was not.
    fn noted(&self) -> Option<Vec<u8>> {
        fs::read(self.path("noted")).ok()
    }

    /// The network namespaces in the bundle's configuration.
    fn networks(&self) -> Vec<Value> {
        let text = fs::read(self.path("bundle/config.json")).unwrap();
        let config: Value = serde_json::from_slice(&text).unwrap();
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        namespaces.iter().filter(|one| one["type"] == "network").cloned().collect()
    }

    /// The message of the last line in runc's log.
    fn logged(&self) -> String {
        let text = fs::read_to_string(self.path("log.json")).unwrap();
        let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        line["msg"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_creation_joins_its_sandbox_and_then_becomes_the_runtime() {
    let (node, sandbox) = (Node::new(), Namespace::new());
    node.map("c1", &sandbox.path());

    let output = node.create("c1");

    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(node.networks(), [json!({"type": "network", "path": sandbox.path()})]);
    let noted = String::from_utf8(node.noted().unwrap()).unwrap();
    assert_eq!(noted.lines().collect::<Vec<_>>(), node.creation("c1"));
    assert!(!node.path("log.json").exists(), "a success was logged");
    assert_eq!(fs::read_link(node.path("bundles/c1")).unwrap(), node.path("bundle"));
}

#[test]
fn every_other_command_is_handed_over_as_it_is() {
    let node = Node::new();
    let args = ["exec", "c1", "a b", "", "*"].map(OsStr::new);
    let output = node.call("runtime.sh", &[&args[..], &[OsStr::from_bytes(b"\xff")]].concat());

    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(node.noted().unwrap(), b"exec\nc1\na b\n\n*\n\xff\n");
    assert!(output.stderr.is_empty());
}

#[test]
fn a_refused_creation_starts_nothing_and_says_why() {
    for (container_id, netns, message) in [
        ("c1", None, "container \"c1\" has no sandbox"),
        ("../c1", None, "\"../c1\" is not a container id"),
        ("c1", Some("/run/absent"), "No such file or directory"),
        ("c1", Some("/dev/null"), "is not a network namespace"),
        ("c1", Some("/proc/self/ns/net"), "is the network namespace of the host"),
    ] {
        let node = Node::new();
        if let Some(netns) = netns {
            node.map(container_id, netns.as_ref());
        }
        let output = node.create(container_id);

        assert_eq!(output.status.code(), Some(1), "{message}: {output:?}");
        assert_eq!(node.noted(), None, "{message}: the runtime was started");
        assert_eq!(node.networks(), [] as [Value; 0], "{message}: the bundle was changed");
        assert!(node.logged().contains(message), "{:?} lacks {message:?}", node.logged());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, format!("{}\n", node.logged()));
    }
}

#[test]
fn an_unusable_configuration_starts_nothing() {
    let (node, sandbox) = (Node::new(), Namespace::new());
    node.map("c1", &sandbox.path());
    fs::write(node.path("bundle/config.json"), "{").unwrap();

    assert_eq!(node.create("c1").status.code(), Some(1));
    assert_eq!(node.noted(), None, "the runtime was started");
    assert!(node.logged().contains("is not a JSON object: EOF"), "{}", node.logged());
}

#[test]
fn a_missing_runtime_is_named_with_a_remedy() {
    let node = Node::new();
    let output = node.call("no-such-runc", &["--version"]);

    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in ["no-such-runc\" is not installed", "apt-get install runc", "--dwell-runtime=PATH"]
    {
        assert!(stderr.contains(part), "{stderr}");
    }
}
