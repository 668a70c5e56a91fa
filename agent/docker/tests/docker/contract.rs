//! Docker keeps the contract of all engines.

use std::fs;
use std::path::PathBuf;

use async_trait::async_trait;
use dwell_core::container::ContainerId;
use dwell_core::id::InstanceName;
use dwell_core::workload::Template;
use dwell_docker::Runtime;
use dwell_docker::world::{IMAGE, Node, World, shell};
use dwell_engine::Engine;
use dwell_engine::contract::{Command, Harness, Program};

dwell_engine::engine_contract!(on_docker);

/// A node on the daemon that all tests share, of a cluster that is called as the check.
struct OnDocker {
    world: &'static World,
    node: Node,
}

async fn on_docker(check: &str) -> OnDocker {
    let world = World::shared().await;
    OnDocker { world, node: world.node(check, Runtime::Dwell) }
}

/// The words of a script with its arguments.
fn script(text: &str, arguments: &[&str]) -> Vec<String> {
    let words = ["/bin/sh", "-c", text, "-"];
    words.iter().chain(arguments).map(|&word| word.to_owned()).collect()
}

#[async_trait]
impl Harness for OnDocker {
    fn engine(&self) -> &dyn Engine {
        &self.node.engine
    }

    fn template(&self, program: Program) -> Template {
        let mut template = Template::of_image(IMAGE);
        template.command = match program {
            Program::Serves { exit_code } => {
                let code = exit_code.to_string();
                script("trap \"exit $1\" TERM; echo ready; while :; do sleep 0.01; done", &[&code])
            }
            Program::IsStubborn => {
                script("trap '' TERM; echo ready; while :; do sleep 1; done", &[])
            }
            Program::Prints { text, exit_code } => {
                script("printf %s \"$1\"; exit $2", &[text, &exit_code.to_string()])
            }
            Program::Repeats => script("printf 'name? '; exec cat", &[]),
        };
        template.stdin = program == Program::Repeats;
        template
    }

    fn of_missing_image(&self) -> Template {
        Template { image: "no-such-image".to_owned(), ..shell("true") }
    }

    async fn archive(&self, name: &str) -> Vec<u8> {
        let tree = self.world.directory().join(name);
        fs::create_dir_all(&tree).unwrap();
        // No other image has this layer.
        fs::write(tree.join("program"), name.repeat(1000)).unwrap();
        let (layer, archive) = (tree.with_extension("layer"), tree.with_extension("archive"));
        let pack = std::process::Command::new("tar")
            .args(["--create", "--file"])
            .arg(&layer)
            .arg("--directory")
            .arg(&tree)
            .arg("program")
            .status();
        assert!(pack.unwrap().success());
        self.world.docker(&["import", layer.to_str().unwrap(), name]);
        self.world.docker(&["save", "--output", archive.to_str().unwrap(), name]);
        self.world.docker(&["rmi", name]);
        fs::read(archive).unwrap()
    }

    fn command(&self, command: Command) -> Vec<String> {
        let words: &[&str] = match command {
            Command::Prints { stdout, stderr, exit_code } => {
                let code = exit_code.to_string();
                return script(
                    "printf %s \"$1\"; printf %s \"$2\" >&2; exit $3",
                    &[stdout, stderr, &code],
                );
            }
            Command::Repeats => &["cat"],
            Command::Waits => &["sleep", "1000"],
            Command::IsMissing => &["/no"],
            Command::IsNoProgram => &["/etc/hosts"],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }

    async fn make_sandbox(&self, instance: &InstanceName) {
        self.node.make_sandbox(instance);
    }

    async fn write_file(&self, id: &ContainerId, path: &str, content: &[u8]) {
        let tree = tempfile::TempDir::new().unwrap();
        let file = tree.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        let tree = format!("{}/.", tree.path().display());
        self.world.docker(&["cp", &tree, &format!("{}:/", id.as_str())]);
    }

    async fn read_file(&self, id: &ContainerId, path: &str) -> Option<Vec<u8>> {
        let tree = tempfile::TempDir::new().unwrap();
        let copy = tree.path().join("copy");
        let source = format!("{}:{path}", id.as_str());
        self.world
            .try_docker(&["cp", &source, copy.to_str().unwrap()])
            .then(|| fs::read(copy).unwrap())
    }

    async fn remove_by_hand(&self, id: &ContainerId) {
        self.world.docker(&["rm", "--force", id.as_str()]);
    }

    async fn make_stranger(&self) -> String {
        let label = format!("--label=dwell.cluster={}", self.node.config.cluster);
        let id = self.world.docker(&["create", "--network=none", &label, IMAGE, "sleep", "1"]);
        id.trim().to_owned()
    }

    async fn make_foreign(&self) -> ContainerId {
        let words = ["run", "--detach", "--network=none", "--restart=always", "--volume=/data"];
        let program = "echo mine > /own; trap 'exit 0' TERM; while :; do sleep 0.01; done";
        let id = self.world.docker(&[&words[..], &[IMAGE, "/bin/sh", "-c", program]].concat());
        ContainerId(id.trim().to_owned())
    }

    async fn leave_file(&self) -> PathBuf {
        let path = self.node.config.data_dir.join("instances/ghost-0/g3");
        fs::create_dir_all(&path).unwrap();
        path
    }
}
