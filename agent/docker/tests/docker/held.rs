//! How processes are held: what a container finds of it.

use dwell_core::quantity::Bytes;
use dwell_core::workload::{Init, Most, Process, Template, Tmpfs, Ulimit};
use dwell_docker::Runtime;
use dwell_docker::world::{World, shell};
use dwell_engine::fake::assigned;
use dwell_engine::{Engine as _, LogOptions};

use crate::texts;

const LOOK: &str = "
    b=/bin/busybox
    echo main $$; $b cat /proc/1/comm
    echo open $(ulimit -n) of $(ulimit -Hn)
    $b grep CapEff /proc/self/status
    $b grep Groups /proc/self/status
    echo x > /somewhere && echo writes
    echo x > /scratch/it && $b df -k /scratch | $b tail -1 | $b awk '{ print $1, $2 }'
    $b stat -c %a /scratch
    $b grep db /etc/hosts
    (exec 3</dev/null; $b sleep 0.01 & exec $b sleep 0.02) &
    exit 0";

async fn seen(name: &str, process: Process) -> String {
    let node = World::shared().await.node(name, Runtime::Dwell);
    let template = Template { process, ..shell(LOOK) };
    let id = node.run(&assigned(&format!("{name}-0"), 1, template)).await;
    node.engine.wait(&id).await.unwrap();
    let printed = texts(node.engine.logs(&id, &LogOptions::default()).await.unwrap()).await.0;
    node.engine.remove(&id).await.unwrap();
    printed
}

#[tokio::test]
async fn processes_are_held_as_declared() {
    let process = Process {
        init: Some(Init::Engine),
        read_only: true,
        tmpfs: vec![Tmpfs {
            target: "/scratch".into(),
            size: Some(Bytes::mebi(1)),
            mode: Some(0o711),
        }],
        ulimits: [("nofile".to_owned(), Ulimit { soft: Most::Number(77), hard: Most::Number(99) })]
            .into(),
        cap_drop: ["ALL".to_owned()].into(),
        group_add: vec!["4711".into()],
        extra_hosts: [("db".to_owned(), "192.0.2.9".parse().unwrap())].into(),
        ..Process::default()
    };
    let seen = seen("held", process).await;
    let lines: Vec<&str> = seen.lines().map(str::trim).collect();
    for line in ["open 77 of 99", "tmpfs 1024", "711", "192.0.2.9\tdb"] {
        assert!(lines.contains(&line), "{line} is missing in {seen}");
    }
    assert!(!lines.contains(&"main 1"), "process 1 is the init: {seen}");
    assert!(seen.contains("CapEff:\t0000000000000000"), "{seen}");
    assert!(lines.iter().any(|line| line.starts_with("Groups") && line.contains("4711")), "{seen}");
    assert!(!lines.contains(&"writes"), "{seen}");
}

#[tokio::test]
async fn without_a_word_a_container_is_as_it_always_was() {
    let seen = seen("unheld", Process::default()).await;
    assert!(seen.contains("main 1\n") && seen.contains("writes"), "{seen}");
    assert!(!seen.contains("CapEff:\t0000000000000000"), "{seen}");
}
