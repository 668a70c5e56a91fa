//! The fake engine keeps the contract of all engines.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is to fail on the spot")]

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use dwell_core::container::ContainerId;
use dwell_core::foreign::{Foreign, ForeignRestart, ForeignVolume};
use dwell_core::id::{InstanceName, VolumeName};
use dwell_core::quantity::Bytes;
use dwell_core::workload::{Mount, MountSource, Template};
use dwell_engine::Engine;
use dwell_engine::contract::{Command, Harness, Program};
use dwell_engine::fake::FakeEngine;
use dwell_engine::fake::behaviour;
use dwell_engine::fake::control::TokioClock;

dwell_engine::engine_contract!(in_memory);

/// On a node whose kernel cannot limit everything.
mod with_fewer_limits {
    use dwell_core::workload::Enforced;

    use super::InMemory;

    dwell_engine::engine_contract!(in_memory);

    async fn in_memory(check: &str) -> InMemory {
        let node = super::in_memory(check).await;
        node.0.enforce_only(Enforced { cpu: false, memory: true, pids: false });
        node
    }
}

/// A node of which everything is in memory.
struct InMemory(FakeEngine);

async fn in_memory(_check: &str) -> InMemory {
    InMemory(FakeEngine::new(Arc::new(TokioClock::new())))
}

#[async_trait]
impl Harness for InMemory {
    fn engine(&self) -> &dyn Engine {
        &self.0
    }

    fn template(&self, program: Program) -> Template {
        let image = format!("{program:?}");
        let usual = behaviour::Program::default();
        let behaves = match program {
            Program::Serves { exit_code } => {
                behaviour::Program { ends_when_asked: Some(exit_code), ..usual }
            }
            Program::IsStubborn => behaviour::Program { ends_when_asked: None, ..usual },
            Program::Prints { text, exit_code } => {
                behaviour::Program { prints: text.to_owned(), ends: Some(exit_code), ..usual }
            }
            Program::Repeats => behaviour::Program { prints: "name? ".to_owned(), ..usual },
        };
        self.0.set_program(&image, behaves);
        Template { stdin: program == Program::Repeats, ..Template::of_image(&image) }
    }

    fn of_missing_image(&self) -> Template {
        self.0.break_image("missing", true);
        Template::of_image("missing")
    }

    async fn archive(&self, name: &str) -> Vec<u8> {
        self.0.forget_image(name);
        FakeEngine::archive(name)
    }

    fn command(&self, command: Command) -> Vec<String> {
        let words = vec![format!("{command:?}")];
        let cannot = |why: &str, code| behaviour::Command {
            stderr: format!("dwell: {}: {why}\r\n", words[0]),
            ends: Some(code),
            ..behaviour::Command::default()
        };
        let behaves = match command {
            Command::Prints { stdout, stderr, exit_code } => behaviour::Command {
                stdout: stdout.to_owned(),
                stderr: stderr.to_owned(),
                ends: Some(exit_code),
            },
            // As every command of the fake that has an input.
            Command::Repeats => return words,
            Command::Waits => behaviour::Command::default(),
            Command::IsMissing => cannot("not found in the instance", 127),
            Command::IsNoProgram => cannot("not executable", 126),
        };
        self.0.set_command(&words, behaves);
        words
    }

    async fn make_sandbox(&self, _instance: &InstanceName) {}

    async fn write_file(&self, id: &ContainerId, path: &str, content: &[u8]) {
        self.0.write_file(id, path, content);
    }

    async fn read_file(&self, id: &ContainerId, path: &str) -> Option<Vec<u8>> {
        self.0.read_file(id, path)
    }

    async fn remove_by_hand(&self, id: &ContainerId) {
        self.0.vanish(id);
        self.0.remove_foreign(id);
    }

    async fn make_stranger(&self) -> String {
        self.0.add_stranger("stranger");
        "stranger".to_owned()
    }

    async fn make_foreign(&self) -> ContainerId {
        let mut template = Template::of_image("shop:1");
        let name: VolumeName = "data".parse().unwrap();
        let source = MountSource::Volume(name.clone());
        template.mounts.push(Mount { source, target: "/data".to_owned(), read_only: false });
        let id = ContainerId("foreign".to_owned());
        self.0.add_foreign(Foreign {
            id: id.clone(),
            name: "shop".to_owned(),
            template,
            own_files: Some(Bytes(1)),
            volumes: vec![ForeignVolume { name, source: "shop_data".to_owned(), size: None }],
            restart: ForeignRestart::Always,
            changes: Vec::new(),
            obstacles: Vec::new(),
        });
        id
    }

    async fn leave_file(&self) -> PathBuf {
        let path = PathBuf::from("/var/lib/dwell/left");
        self.0.leave_file(&path);
        path
    }
}
