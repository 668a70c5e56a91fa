//! Names: completed, cut short, and of a workload for its instances.

use super::*;

/// The script that removes `web` twice must not remove its neighbour the second time.
#[tokio::test]
async fn a_name_cut_short_changes_and_destroys_nothing() {
    let fake = Fake::start(State {
        workloads: vec![workload("web-staging", 1)],
        instances: vec![instance("web-staging", 0, v1::Phase::Running)],
        nodes: vec![v1::Node { name: "h1".into(), ..Default::default() }],
        ..State::default()
    });
    for arguments in [
        &["rm", "web"][..],
        &["stop", "web"],
        &["start", "web"],
        &["restart", "web"],
        &["restart", "web-staging-"],
        &["scale", "web=0"],
        &["exec", "web", "--", "reboot"],
        &["cp", "/etc/hostname", "web:/etc/"],
        &["port-forward", "web", "80"],
        &["node", "cordon", "h"],
        &["node", "uncordon", "h"],
        &["node", "drain", "h"],
        &["node", "label", "h", "a=b"],
        &["node", "rm", "--force", "h"],
        // The first exists, the second does not: then the first stays as it is, too.
        &["rm", "web-staging", "web"],
        &["stop", "web-staging", "web-staging-0", "web"],
        &["scale", "web-staging=3", "web=0"],
        &["node", "drain", "h1", "h"],
        &["node", "rm", "h1", "h"],
        // Nor does a question that is answered by another's state help anybody.
        &["ps", "web"],
        &["logs", "web"],
        &["inspect", "web"],
        &["node", "inspect", "h"],
        &["route", "check", "web"],
        &["doctor", "h"],
    ] {
        let ran = run(&fake, arguments).await;
        let not_run = if arguments[0] == "exec" { 125 } else { 3 };
        assert_eq!((ran.code, ran.stdout.as_str()), (not_run, ""), "{arguments:?} {}", ran.stderr);
        assert!(ran.stderr.contains("; did you mean "), "{arguments:?} {}", ran.stderr);
    }
    assert_eq!(fake.asked(), Vec::<String>::new());
    assert_eq!(run(&fake, &["rm", "web-staging"]).await.code, 0);
    assert_eq!(fake.asked(), ["remove web-staging"]);
}

#[tokio::test]
async fn the_name_of_a_node_is_pointed_to_where_nodes_are_shown() {
    let nodes = vec![v1::Node { name: "h1".into(), ..Default::default() }];
    let fake = Fake::start(State { nodes, ..State::default() });
    let ran = run(&fake, &["inspect", "h1"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains("`dwell node inspect h1` shows it"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_workload_stands_for_its_instances() {
    let fake = Fake::start(State {
        workloads: vec![workload("web", 2), workload("db", 1), workload("idle", 0)],
        instances: vec![
            instance("web", 0, v1::Phase::Running),
            instance("web", 1, v1::Phase::Running),
            instance("db", 0, v1::Phase::Running),
        ],
        ..State::default()
    });
    // With one instance it is meant, and with several nobody guesses.
    assert_eq!(run(&fake, &["exec", "db", "true"]).await.code, 3);
    assert_eq!(run(&fake, &["route", "check", "db"]).await.code, 0);
    assert_eq!(fake.asked(), ["check routes to db-0"]);
    for arguments in [&["exec", "web", "true"][..], &["route", "check", "web"], &["ssh", "web"]] {
        let ran = run(&fake, arguments).await;
        assert!(
            ran.stderr.contains("web has 2 instances; say which: web-0, web-1"),
            "{}",
            ran.stderr
        );
    }
    let ran = run(&fake, &["exec", "idle", "true"]).await;
    assert!(ran.stderr.contains("`dwell scale idle=1`"), "{}", ran.stderr);

    let ran = run(&fake, &["logs", "web"]).await;
    assert_eq!(ran.stdout, "web-0 | to stdout\nweb-1 | to stdout\n");
    assert_eq!(ran.stderr, "web-0 | to stderr\nweb-1 | to stderr\n");
    let ran = run(&fake, &["logs", "--no-prefix", "db"]).await;
    assert_eq!((ran.stdout.as_str(), ran.code), ("to stdout\n", 0));
}

#[tokio::test]
async fn names_are_completed() {
    let fake = Fake::start(State {
        workloads: vec![workload("web", 2), workload("web-staging", 1), workload("db", 1)],
        instances: vec![
            instance("web", 0, v1::Phase::Running),
            instance("web", 1, v1::Phase::Running),
            instance("web-staging", 0, v1::Phase::Running),
        ],
        nodes: vec![v1::Node { name: "h1".into(), ..Default::default() }],
        ..State::default()
    });
    let complete = async |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dwell"));
        command
            .args(["--", "dwell", "--socket"])
            .arg(fake.socket())
            .args(words)
            .env("DWELL_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", (words.len() + 2).to_string())
            .env("_CLAP_IFS", " ")
            .stdin(Stdio::null());
        let output = tokio::time::timeout(LIMIT, command.output()).await.unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete(&["rm", "w"]).await, "web web-staging");
    assert_eq!(complete(&["stop", "web-"]).await, "web-staging web-0 web-1");
    assert_eq!(complete(&["ssh", "root@web-1"]).await, "root@web-1");
    assert_eq!(complete(&["scale", "d"]).await, "db=");
    assert_eq!(complete(&["node", "drain", "h"]).await, "h1");
    assert_eq!(complete(&["rm", "x"]).await, "");
    // Nothing is said where nobody answers.
    fake.state.lock().unwrap().refusal = Some(Status::unavailable("away"));
    assert_eq!(complete(&["rm", "w"]).await, "");
}
