//! The program itself: killed in the middle of its work, and on a disk that runs full.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dwell_proto::v1;
use dwell_proto::v1::fleet_client::FleetClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::fixture::{SOON, apply, unix, workload};

/// The program, killed when dropped.
pub(crate) struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Program {
    /// Starts it on a directory, after a shell's `preparation` in the same process.
    pub(crate) fn start(directory: &Path, preparation: &str) -> Self {
        let shown = directory.display();
        let config =
            format!("data_dir: {shown}/data\nlisten: 127.0.0.1:0\nsocket: {shown}/socket\n");
        std::fs::write(directory.join("config.yaml"), config).unwrap();
        let script = format!("set -e; cd {shown}; {preparation} exec \"$0\" --config config.yaml");
        let program = env!("CARGO_BIN_EXE_dwell-controller");
        // Mounts of its own, also for those who are not root.
        let child = Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c", &script, program])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

pub(crate) async fn fleet(directory: &Path) -> FleetClient<Channel> {
    let connect = async {
        loop {
            match unix(&directory.join("socket")).await {
                Ok(channel) => return FleetClient::new(channel),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(SOON, connect).await.unwrap()
}

pub(crate) async fn names(fleet: &mut FleetClient<Channel>) -> Vec<String> {
    let answer =
        fleet.list_workloads(v1::ListWorkloadsRequest::default()).await.unwrap().into_inner();
    answer.workloads.into_iter().map(|workload| workload.spec.unwrap().name).collect()
}

#[tokio::test]
async fn nothing_accepted_is_lost_when_it_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut accepted = Vec::new();
    for round in 0..5 {
        let program = Program::start(directory.path(), "");
        let mut client = fleet(directory.path()).await;
        let found = names(&mut client).await;
        for name in &accepted {
            assert!(found.contains(name), "{name} is lost");
        }
        // What was on its way when it was killed may be there, whole, or not.
        assert!(found.len() <= accepted.len() + round, "{found:?}");
        let mut program = Some(program);
        let mut killer = None;
        for number in 0.. {
            // While the next ones are on their way.
            if number == 5 + round {
                let program = program.take();
                #[expect(clippy::disallowed_methods, reason = "nothing else blocks in this test")]
                let killing = tokio::task::spawn_blocking(move || drop(program));
                killer = Some(killing);
            }
            let name = format!("w-{round}-{number}");
            match client.apply(apply(vec![workload(&name, 3)])).await {
                Ok(_) => accepted.push(name),
                Err(_) => break,
            }
        }
        killer.unwrap().await.unwrap();
    }
    assert!(accepted.len() >= 5 * 5, "{} were accepted", accepted.len());
}

#[tokio::test]
async fn a_full_disk_is_said_and_survived() {
    let directory = tempfile::tempdir().unwrap();
    let preparation = "mkdir data; mount -t tmpfs -o size=4m none data; \
                       head -c 1000000 /dev/zero > data/ballast;";
    let program = Program::start(directory.path(), preparation);
    let mut client = fleet(directory.path()).await;
    let large = |name: String| {
        let mut spec = workload(&name, 1);
        let environment = (0..6).map(|number| (format!("V{number}"), "x".repeat(30_000)));
        spec.template.as_mut().unwrap().environment = environment.collect();
        spec
    };
    let mut accepted = Vec::new();
    let status = loop {
        let name = format!("w-{:03}", accepted.len());
        match client.apply(apply(vec![large(name.clone())])).await {
            Ok(_) => accepted.push(name),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("is full; free some space"), "{status}");
    assert_eq!(names(&mut client).await, accepted);
    assert!(!accepted.is_empty());

    let ballast = format!("/proc/{}/cwd/data/ballast", program.0.id());
    std::fs::remove_file(ballast).unwrap();
    client.apply(apply(vec![large("w-more".to_owned())])).await.unwrap();
    accepted.push("w-more".to_owned());
    assert_eq!(names(&mut client).await, accepted);
}
