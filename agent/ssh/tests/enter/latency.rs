//! How long a process takes to start. Run with `--nocapture` to see the numbers.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dwell_ssh::enter::{Exit, Request, SftpOptions, Terminal, Work};

use crate::world::{World, outcome, request};

/// How often each is done.
const TIMES: usize = 30;

/// The middle of several measurements.
async fn median(mut once: impl AsyncFnMut()) -> Duration {
    let mut taken = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        once().await;
        taken.push(start.elapsed());
    }
    taken.sort_unstable();
    taken[TIMES / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_much_faster_than_docker_exec() {
    let world = World::new().await;
    let container = world.idle(&[]);
    let asked = |work: &Work| request(&container, "root", work.clone());
    let run = async |request: Request| {
        let ended = outcome(world.enter.start(request).await.unwrap()).await;
        assert_eq!(ended.exit, Exit::Code(0));
    };
    let work = Work::Command("true".to_owned());
    let start = Instant::now();
    run(asked(&work)).await;
    let first = start.elapsed();
    let pipes = median(async || run(asked(&work)).await).await;
    let size = Terminal {
        term: "xterm".to_owned(),
        columns: 80,
        rows: 24,
        pixel_width: 0,
        pixel_height: 0,
        modes: Vec::new(),
    };
    let terminal =
        median(async || run(Request { terminal: Some(size.clone()), ..asked(&work) }).await).await;
    let sftp = median(async || run(asked(&Work::Sftp(SftpOptions::default()))).await).await;
    let docker = median(async || drop(world.docker(&["exec", &container.id, "true"]))).await;
    let spawned = median(async || {
        let mut shell = Command::new("/bin/busybox");
        assert!(shell.args(["sh", "-c", "true"]).stdin(Stdio::null()).status().unwrap().success());
    })
    .await;
    println!(
        "first {first:?}, then {pipes:?}, with a terminal {terminal:?}, sftp {sftp:?}; \
         docker exec {docker:?}, a shell on the host {spawned:?}"
    );
    assert!(pipes * 4 < docker, "{pipes:?} is not much less than {docker:?}");
}
