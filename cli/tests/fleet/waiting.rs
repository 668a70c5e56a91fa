//! What is waited for and followed: instances, events, output.

use super::*;

#[tokio::test]
async fn apply_waits_until_every_instance_is_well() {
    let starts = |health: v1::Health| {
        let mut instance = instance("web", 1, v1::Phase::Running);
        instance.status.as_mut().unwrap().set_health(health);
        Change::Instance(instance)
    };
    let script = vec![
        change(8, Change::Bookmark(true)),
        change(9, starts(v1::Health::Starting)),
        change(10, starts(v1::Health::Healthy)),
    ];
    let fake = Fake::start(State { watches: [script].into(), ..starting() });
    let file = manifest();
    let ran = run(&fake, &["apply", "--wait", "-f", file.path().to_str().unwrap()]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "web created, 2 instances\n"));
    assert!(
        ran.stderr.starts_with("web: 2 of 2 running at 10.80.1.1, 10.80.1.2, after "),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stderr.lines().count(), 1);
    assert_eq!(fake.asked(), ["apply dry_run=false keep=", "watch after 7"]);
}

#[tokio::test]
async fn nodes_are_chosen_to_reboot_and_waited_for_until_one_fails() {
    use v1::reboot::State as Step;
    let node = |name: &str, pool: &str| v1::Node {
        name: name.into(),
        pool: pool.into(),
        ..Default::default()
    };
    let step = |name: &str, state: Step, message: &str| {
        let reboot =
            v1::Reboot { run: 7, state: state.into(), message: message.into(), since_ms: 1 };
        Change::Node(v1::Node { reboot: Some(reboot), ..node(name, "ssd") })
    };
    let nodes = vec![node("h2", "ssd"), node("h1", "ssd"), node("h3", "")];
    let script = vec![
        change(8, step("h1", Step::Rebooting, "reboots")),
        change(9, step("h1", Step::Done, "")),
        change(10, step("h2", Step::Failed, "its reboot failed: no power")),
    ];
    let watches = [script].into();
    let fake = Fake::start(State { nodes: nodes.clone(), watches, ..starting() });
    let line = ["node", "reboot", "--pool", "ssd", "--back-deadline", "5m", "--wait"];
    let ran = run(&fake, &line).await;
    assert_eq!(ran.stdout, "h1 is to be rebooted\nh2 is to be rebooted\n");
    assert!(ran.code != 0 && ran.stderr.contains("its reboot failed: no power"), "{}", ran.stderr);
    let asked = fake.asked();
    assert_eq!(asked[0], "reboot h1,h2 parallelism=1 no_drain=false back=300000");
    let fake = Fake::start(State { nodes, ..starting() });
    let ran = run(&fake, &["node", "reboot", "--label", "zone=a"]).await;
    assert!(ran.code != 0 && ran.stderr.contains("no node is in that pool"), "{}", ran.stderr);
    let ran = run(&fake, &["node", "reboot", "--cancel"]).await;
    assert_eq!((ran.code, fake.asked()), (0, vec!["cancel reboot".to_owned()]));
    assert!(ran.stdout.contains("but for h1"), "{}", ran.stdout);
}

#[tokio::test]
async fn wait_returns_when_everything_is_in_the_state() {
    let runs = change(9, Change::Instance(instance("web", 1, v1::Phase::Running)));
    let fake = Fake::start(State { watches: [vec![runs]].into(), ..starting() });
    let ran = run(&fake, &["wait", "web"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.starts_with("web: 2 of 2 running at 10.80.1.1"), "{}", ran.stderr);
    assert_eq!(fake.asked(), ["watch after 7"]);
    // What is so already needs no change.
    let ran = run(&Fake::start(starting()), &["wait", "web-0", "--for", "running"]).await;
    assert_eq!((ran.code, ran.stderr.contains("web-0: running, after ")), (0, true));

    let gone = |kind: v1::Kind, name: &str| {
        Change::Deleted(v1::Deleted { kind: kind.into(), name: name.into() })
    };
    let script = vec![
        change(8, gone(v1::Kind::Instance, "web-0")),
        change(9, gone(v1::Kind::Instance, "web-1")),
        change(10, gone(v1::Kind::Workload, "web")),
    ];
    let fake = Fake::start(State { watches: [script].into(), ..starting() });
    let ran = run(&fake, &["wait", "web", "--for", "gone"]).await;
    assert_eq!((ran.code, ran.stderr.contains("web is gone, after ")), (0, true), "{}", ran.stderr);

    let ready = |state: v1::NodeState| v1::Node {
        name: "h1".into(),
        state: state.into(),
        ..Default::default()
    };
    let script = vec![change(9, Change::Node(ready(v1::NodeState::Ready)))];
    let nodes = vec![ready(v1::NodeState::Down)];
    let fake = Fake::start(State { nodes, watches: [script].into(), ..starting() });
    let ran = run(&fake, &["wait", "h1", "--for", "ready"]).await;
    assert_eq!((ran.code, ran.stderr.contains("h1 is ready, after ")), (0, true), "{}", ran.stderr);
}

#[tokio::test]
async fn wait_ends_with_the_codes_of_the_help() {
    let mut failed = instance("web", 1, v1::Phase::Failed);
    failed.status.as_mut().unwrap().message = "there is no image nginx:9".into();
    let fake = Fake::start(State {
        instances: vec![failed],
        workloads: vec![workload("web", 2)],
        ..starting()
    });
    let ran = run(&fake, &["wait", "web-1"]).await;
    assert_eq!((ran.code, ran.stderr.contains("no image nginx:9")), (1, true), "{}", ran.stderr);
    let ran = run(&fake, &["wait", "web", "--for", "completed"]).await;
    assert_eq!((ran.code, ran.stderr.contains("never completes")), (1, true), "{}", ran.stderr);

    let fake = Fake::start(starting());
    for (arguments, code) in [
        (&["wait", "web", "--timeout", "1s"][..], 6),
        (&["wait", "web", "nosuch"], 3),
        (&["wait", "h9", "--for", "drained"], 3),
        // That is what was waited for.
        (&["wait", "nosuch", "--for", "gone"], 0),
        (&["wait", "web", "--for", "nonsense"], 2),
        (&["wait"], 2),
    ] {
        let ran = run(&fake, arguments).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn waiting_ends_with_what_cannot_be_and_with_the_time() {
    let mut failed = instance("web", 1, v1::Phase::Failed);
    failed.status.as_mut().unwrap().message = "there is no image nginx:9".into();
    let script = vec![change(8, Change::Instance(failed))];
    let fake = Fake::start(State { watches: [script].into(), ..starting() });
    let ran = run(&fake, &["scale", "--wait", "web=2"]).await;
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stderr, "dwell: web-1 failed; there is no image nginx:9\n");

    let fake = Fake::start(starting());
    let ran = run(&fake, &["scale", "--wait", "--timeout", "2s", "web=2"]).await;
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.contains("not done after 2s: web: 1 of 2 done"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_lost_watch_is_taken_up_again() {
    let done = vec![instance("web", 0, v1::Phase::Running), instance("web", 1, v1::Phase::Running)];
    let fake = Fake::start(State {
        watches: [
            vec![change(9, Change::Bookmark(true)), Err(Status::unavailable("restarting"))],
            vec![Err(Status::out_of_range("too far back"))],
        ]
        .into(),
        later: Some((vec![workload("web", 2)], done)),
        ..starting()
    });
    let ran = run(&fake, &["scale", "--wait", "web=2"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(fake.asked(), ["scale web=2", "watch after 7", "watch after 9"]);
}

#[tokio::test]
async fn events_are_followed() {
    let event = |revision| v1::Event {
        revision,
        subject: "node/h1".into(),
        reason: "node-ready".into(),
        ..Default::default()
    };
    let script = vec![
        change(8, Change::Event(event(8))),
        Err(Status::permission_denied("the certificate was revoked")),
    ];
    let fake =
        Fake::start(State { watches: [script].into(), events: vec![event(7)], ..starting() });
    let ran = run(&fake, &["events", "-f", "-o", "json"]).await;
    assert_eq!((ran.code, ran.stdout.lines().count()), (4, 2));
    assert!(ran.stdout.lines().all(|line| line.starts_with("{\"revision\":")), "{}", ran.stdout);
}

/// `--limit` is about what had happened before; what happened during a gap is told, all of it.
#[tokio::test]
async fn events_that_were_missed_while_following_are_all_told() {
    let event = |revision| v1::Event { revision, subject: "node/h1".into(), ..Default::default() };
    let fake = Fake::start(State {
        watches: [
            vec![Err(Status::out_of_range("too far back"))],
            vec![Err(Status::permission_denied("the certificate was revoked"))],
        ]
        .into(),
        // The fake is at revision 7 when it is first asked.
        events: (1..=150).map(event).collect(),
        ..starting()
    });
    let ran = run(&fake, &["events", "-f", "--limit", "1", "-o", "json"]).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("some changes were missed"), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 1 + 143, "{}", ran.stdout);
}

#[tokio::test]
async fn logs_keep_their_streams_and_end_with_their_reader() {
    let fake = Fake::start(starting());
    let ran = run(&fake, &["logs", "web-0"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("to stdout\n", "to stderr\n"));

    let mut child = command(&fake, &["logs", "-f", "web-0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).await.unwrap();
    drop(stdout);
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(141));
}

#[tokio::test]
async fn exec_carries_input_output_and_the_exit_code() {
    let fake = Fake::start(starting());
    let ran = run(&fake, &["exec", "web-0", "ls", "-l", "--", "x"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (3, "ls -l -- x"));

    let mut child = command(&fake, &["exec", "-i", "web-0", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Far more than any buffer on the way.
    let sent: Vec<u8> = (0..2_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut received = Vec::new();
    let write = async {
        tokio::io::AsyncWriteExt::write_all(&mut stdin, &sent).await.unwrap();
        drop(stdin);
    };
    let both = async { tokio::join!(write, stdout.read_to_end(&mut received)) };
    tokio::time::timeout(LIMIT, both).await.unwrap().1.unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
}
