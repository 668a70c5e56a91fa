//! The program as people and programs use it, against a fake controller on a unix socket.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is tests")]

#[path = "fleet/fake.rs"]
mod fake;
#[path = "fleet/images.rs"]
mod images;
#[path = "fleet/keys.rs"]
mod keys;
#[path = "fleet/openssh.rs"]
mod openssh;
#[path = "fleet/registries.rs"]
mod registries;
#[path = "fleet/support.rs"]
mod support;
#[path = "fleet/tunnels.rs"]
mod tunnels;
#[path = "fleet/volumes.rs"]
mod volumes;

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use dwell_proto::v1::{self, watch_response::Change};
use fake::{Fake, State};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tonic::Status;

/// Nothing here takes longer than this, on the busiest machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn command(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dwell"));
    command
        .arg("--socket")
        .arg(fake.socket())
        .args(arguments)
        .env_remove("DWELL_SOCKET")
        .env_remove("DWELL_CONTEXT")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(fake: &Fake, arguments: &[&str]) -> Ran {
    let output = tokio::time::timeout(LIMIT, command(fake, arguments).output()).await;
    let output = output.expect("it did not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn workload(name: &str, replicas: u32) -> v1::Workload {
    let template = v1::Template { image: "nginx:1".into(), ..Default::default() };
    v1::Workload {
        spec: Some(v1::WorkloadSpec {
            name: name.into(),
            replicas,
            template: Some(template),
            ..Default::default()
        }),
        generation: 1,
        updated: replicas,
        created_at_ms: 1_000,
        ..Default::default()
    }
}

fn instance(workload: &str, ordinal: u32, phase: v1::Phase) -> v1::Instance {
    v1::Instance {
        name: format!("{workload}-{ordinal}"),
        workload: workload.into(),
        ordinal,
        node: "h1".into(),
        address: format!("10.80.1.{}", ordinal + 1),
        mac: "02:d0:0a:50:01:01".into(),
        generation: 1,
        created_at_ms: 1_000,
        status: Some(v1::InstanceStatus {
            generation: 1,
            phase: phase.into(),
            started_at_ms: Some(2_000),
            observed_at_ms: 3_000,
            container_id: "abc".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn change(revision: u64, change: Change) -> Result<v1::WatchResponse, Status> {
    Ok(v1::WatchResponse { revision, change: Some(change) })
}

/// One workload of two instances, one of which is not there yet.
fn starting() -> State {
    State {
        workloads: vec![workload("web", 2)],
        instances: vec![
            instance("web", 0, v1::Phase::Running),
            instance("web", 1, v1::Phase::Preparing),
        ],
        revision: 7,
        ..State::default()
    }
}

fn manifest() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"workloads:\n  web:\n    image: nginx:1\n    replicas: 2\n").unwrap();
    file
}

#[tokio::test]
async fn programs_get_stable_fields() {
    let fake = Fake::start(State {
        nodes: vec![v1::Node {
            name: "h1".into(),
            capacity: Some(v1::Capacity::default()),
            ..Default::default()
        }],
        events: vec![v1::Event { revision: 3, subject: "node/h1".into(), ..Default::default() }],
        checks: vec![v1::RouteCheck {
            node: "h1".into(),
            probe: Some(v1::RouteProbe { round_trip_us: Some(300), ..Default::default() }),
            ..Default::default()
        }],
        audits: vec![v1::AuditAnswer {
            node: "h1".into(),
            findings: vec![v1::AuditFinding {
                kind: "limits-kernel".into(),
                subject: "instance web-0".into(),
                node: "h1".into(),
                claims: vec![v1::AuditClaim { by: "engine".into(), says: "cpu 1".into() }],
                ..Default::default()
            }],
        }],
        diagnoses: vec![v1::NodeDiagnosis {
            node: "h1".into(),
            diagnosis: Some(v1::Diagnosis {
                at_ms: 1_000,
                findings: vec![v1::Finding { check: "mtu".into(), ..Default::default() }],
            }),
            clock_ahead_ms: -3,
            ..Default::default()
        }],
        ..starting()
    });
    let mut all = String::new();
    for arguments in [
        &["ps", "web"][..],
        &["node", "ls"],
        &["node", "token"],
        &["route", "ls"],
        &["route", "check", "web-0"],
        &["doctor"],
        &["audit"],
        &["events"],
        &["inspect", "web-1"],
        &["version"],
        &["plan", "-f", "-"],
    ] {
        let mut command = command(&fake, arguments);
        command.args(["-o", "json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let text = b"services: {web: {image: 'nginx:1'}}";
        drop(tokio::io::AsyncWriteExt::write_all(&mut stdin, text).await);
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        all += &format!(
            "$ dwell {}\n{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn what_the_server_says_is_shown_as_it_is() {
    for (status, code) in [
        (Status::failed_precondition("h1 holds \u{1b}[2J3 instances\r\n; drain it first"), 4),
        (Status::unavailable("h1 is not connected"), 5),
        (Status::internal("the store is full"), 1),
    ] {
        let fake = Fake::start(State { refusal: Some(status), ..starting() });
        let ran = run(&fake, &["ps"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""));
        assert!(
            ran.stderr.starts_with("dwell: ") && !ran.stderr.contains('\u{1b}'),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("status") && !ran.stderr.contains("code"), "{}", ran.stderr);
        // A command's own exit codes are left to it.
        assert_eq!(run(&fake, &["exec", "web-0", "true"]).await.code, 125);
    }
}

#[tokio::test]
async fn what_was_checked_and_has_problems_ends_with_1() {
    let state = |problem: &str, outcome: v1::finding::Outcome| State {
        nodes: vec![v1::Node { name: "h1".into(), ..Default::default() }],
        checks: vec![v1::RouteCheck { problem: problem.into(), ..Default::default() }],
        diagnoses: vec![v1::NodeDiagnosis {
            node: "h1".into(),
            diagnosis: Some(v1::Diagnosis {
                findings: vec![v1::Finding { outcome: outcome.into(), ..Default::default() }],
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..starting()
    };
    let well = Fake::start(state("", v1::finding::Outcome::Warning));
    let ill = Fake::start(state("no route", v1::finding::Outcome::Problem));
    for arguments in [&["route", "check", "web-0"][..], &["doctor"], &["doctor", "h1"]] {
        assert_eq!(run(&well, arguments).await.code, 0, "{arguments:?}");
        assert_eq!(run(&ill, arguments).await.code, 1, "{arguments:?}");
    }
    let silent =
        v1::NodeDiagnosis { node: "h1".into(), problem: "away".into(), ..Default::default() };
    well.state.lock().unwrap().diagnoses = vec![silent];
    assert_eq!(run(&well, &["doctor"]).await.code, 1);
    assert_eq!(run(&well, &["doctor", "h2"]).await.code, 3);
}

#[tokio::test]
async fn an_audit_ends_by_what_remains() {
    use v1::audit_finding::Remedy;
    let state = |remedy: Option<Remedy>| {
        let finding = |remedy: Remedy| v1::AuditFinding {
            kind: "mapping".into(),
            node: "h1".into(),
            remedy: remedy.into(),
            ..Default::default()
        };
        let findings = remedy.into_iter().map(finding).collect();
        State { audits: vec![v1::AuditAnswer { node: "h1".into(), findings }], ..starting() }
    };
    for (remedy, code) in [
        (None, 0),
        (Some(Remedy::Repaired), 0),
        (Some(Remedy::Repair), 1),
        (Some(Remedy::Person), 1),
    ] {
        let fake = Fake::start(state(remedy));
        assert_eq!(run(&fake, &["audit"]).await.code, code, "{remedy:?}");
        assert_eq!(fake.asked(), [""; 0]);
        assert_eq!(run(&fake, &["audit", "--fix"]).await.code, code, "{remedy:?}");
        assert_eq!(fake.asked(), ["repair"]);
    }
    let fake = Fake::start(State { refusal: Some(Status::unavailable("away")), ..starting() });
    let ran = run(&fake, &["audit", "-o", "json"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("away"), "{}", ran.stderr);
}

/// A DNS server of this machine that answers every question with this code.
async fn dns_server(code: u8) -> String {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            (question[2], question[3]) = (0x84, code);
            drop(socket.send_to(&question[..length], from).await);
        }
    });
    address
}

#[tokio::test]
async fn resolvers_are_told_of_nodes_that_answer() {
    let (serves, refuses) = (dns_server(0).await, dns_server(5).await);
    let node = |address: &str, state: v1::NodeState| v1::Node {
        name: address.replace(['.', ':'], "-"),
        address: address.into(),
        state: state.into(),
        ..Default::default()
    };
    let fleet = |nodes| Fake::start(State { nodes, ..starting() });
    let fake = fleet(vec![
        node("127.0.0.1:9", v1::NodeState::Down),
        node(&refuses, v1::NodeState::Ready),
        node(&serves, v1::NodeState::Ready),
    ]);
    let ran = run(&fake, &["dns-config"]).await;
    assert!(ran.stdout.contains(&format!("\nDNS={serves}\nDomains=~dwell ")), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
    // Who names a server may do it for another machine.
    let ran = run(&fake, &["dns-config", "--server", &refuses, "dnsmasq"]).await;
    let shown = refuses.replace(':', "#");
    assert!(ran.stdout.contains(&format!("\nserver=/dwell/{shown}\n")), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("does not answer this machine for zone dwell; a node answers where")
    );
    let silent = fleet(vec![node(&refuses, v1::NodeState::Ready)]);
    let ran = run(&silent, &["dns-config"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""));
    assert!(ran.stderr.contains("none of 1 ready nodes answers"), "{}", ran.stderr);
    assert!(ran.stderr.contains("dns: {listen:"), "{}", ran.stderr);
    let empty = fleet(Vec::new());
    let ran = run(&empty, &["dns-config", "unbound"]).await;
    assert!((ran.code, ran.stderr.contains("--server")) == (3, true), "{}", ran.stderr);
}

#[tokio::test]
async fn a_private_key_is_written_only_where_nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let fake = Fake::start(starting());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("alice.yaml");
    let file = std::fs::File::create(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = command(&fake, &["context", "issue", "alice"]);
    let ended = command.stdout(file).status();
    assert_eq!(tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap().code(), Some(0));
    assert!(std::fs::read_to_string(&path).unwrap().contains("the key"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // What is no file is somebody else's to guard.
    assert!(run(&fake, &["context", "issue", "alice"]).await.stdout.contains("the key"));
}

#[tokio::test]
async fn wrong_files_and_arguments_change_nothing() {
    let fake = Fake::start(starting());
    for arguments in [
        &["apply", "-f", "/nonexistent.yaml"][..],
        &["apply", "-f", "/dev/null"],
        &["run", "--name", "../x", "nginx"],
        &["run", "--name", "x", "--", "--privileged"],
        &["run", "--name", "x", "--cpu", "-1", "nginx"],
        &["run", "--name", "x", "--memory", "1", "nginx"],
        &["scale", "web"],
        &["scale", "web=x"],
        &["rm", ""],
        &["ps", "--timeout", "1s"],
        &["exec", "-it", "web-0", "sh"],
    ] {
        let ran = run(&fake, arguments).await;
        let expected = if arguments[0] == "exec" { 125 } else { 2 };
        assert_eq!(ran.code, expected, "{arguments:?} {}", ran.stderr);
        assert_ne!(ran.stderr, "");
    }
    assert_eq!(fake.asked(), Vec::<String>::new());
}

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
async fn several_are_scaled_together_or_not_at_all() {
    let fake = Fake::start(State {
        workloads: vec![workload("web", 1), workload("db", 1)],
        ..State::default()
    });
    let ran = run(&fake, &["scale", "web=2", "db=99999"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    assert_eq!(fake.asked(), Vec::<String>::new());
    let ran = run(&fake, &["scale", "web=2", "db=3"]).await;
    assert_eq!(ran.stdout, "web scaled to 2\ndb scaled to 3\n");
    assert_eq!(fake.asked(), ["scale web=2 db=3"]);
}

#[tokio::test]
async fn a_file_without_a_number_of_instances_leaves_it_open() {
    let fake = Fake::start(starting());
    for (text, keep) in [("replicas: 3", ""), ("user: www", "web")] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(format!("workloads: {{web: {{image: a, {text}}}}}").as_bytes()).unwrap();
        assert_eq!(run(&fake, &["apply", "-f", file.path().to_str().unwrap()]).await.code, 0);
        assert_eq!(fake.asked().pop().unwrap(), format!("apply dry_run=false keep={keep}"));
    }
}

#[tokio::test]
async fn a_key_set_that_does_not_exist_is_warned_of() {
    let fake = Fake::start(State { key_sets: [("team".to_owned(), vec![])].into(), ..starting() });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"workloads: {web: {image: a, ssh: {key_sets: [team, nosuch]}}}").unwrap();
    for verb in ["plan", "apply"] {
        let ran = run(&fake, &[verb, "-f", file.path().to_str().unwrap()]).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(
            ran.stderr.starts_with("warning: workload web names key set nosuch, which does"),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
}

#[tokio::test]
async fn what_is_listed_can_be_narrowed_and_watched() {
    let moved = v1::Instance { node: "h2".into(), ..instance("web", 1, v1::Phase::Running) };
    let script = vec![
        change(8, Change::Bookmark(true)),
        change(9, Change::Instance(moved)),
        Err(Status::permission_denied("the certificate was revoked")),
    ];
    let nodes = ["h1", "h2"].map(|name| v1::Node { name: name.into(), ..Default::default() });
    let fake = Fake::start(State { watches: [script].into(), nodes: nodes.into(), ..starting() });
    assert_eq!(run(&fake, &["ps", "-q"]).await.stdout, "web-0\nweb-1\n");
    assert_eq!(run(&fake, &["ps", "-q", "--unwell"]).await.stdout, "web-1\n");
    assert_eq!(
        run(&fake, &["ps", "-a", "-q", "--node", "h1", "web"]).await.stdout,
        "web-0\nweb-1\n"
    );
    let none = run(&fake, &["ps", "--node", "h2"]).await.stdout;
    assert_eq!(none, "No instance is of that kind.\n");
    // Without a terminal nothing is drawn over.
    let ran = run(&fake, &["ps", "-w"]).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let tables: Vec<&str> = ran.stdout.split("WORKLOAD ").collect();
    assert!(tables.len() >= 2 && !ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
    assert!(tables[1].contains("preparing"), "{}", ran.stdout);
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

#[test]
fn there_is_a_manual_page_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dwell"));
    assert!(command.arg("man").arg(directory.path()).status().unwrap().success());
    for page in ["dwell.1", "dwell-apply.1", "dwell-node-drain.1"] {
        let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{text}");
    }
}

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

/// A terminal of which this test is the other side.
struct Terminal {
    ours: std::fs::File,
    theirs: std::fs::File,
}

impl Terminal {
    fn open() -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap());
        let terminal = Self { ours: ours.into(), theirs: theirs.unwrap() };
        terminal.resize(100, 40);
        terminal
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.theirs, size).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Reads until `text` has been shown.
    async fn shows(&self, text: &str) {
        let (mut ours, wanted) = (self.ours.try_clone().unwrap(), text.to_owned());
        #[expect(clippy::disallowed_methods, reason = "nothing else blocks in this program")]
        let read = tokio::task::spawn_blocking(move || {
            let mut shown = String::new();
            let mut byte = [0];
            while !shown.contains(&wanted) {
                ours.read_exact(&mut byte).unwrap();
                shown.push(char::from(byte[0]));
            }
        });
        tokio::time::timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("no {text}")).unwrap();
    }

    fn is_silent(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    fn spawn(&self, fake: &Fake) -> tokio::process::Child {
        self.spawn_with(fake, &["exec", "-it", "web-0", "sh"])
    }

    fn spawn_with(&self, fake: &Fake, arguments: &[&str]) -> tokio::process::Child {
        let side = || Stdio::from(self.theirs.try_clone().unwrap());
        let mut command = command(fake, arguments);
        command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap()
    }
}

fn signal(child: &tokio::process::Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn exec_with_a_terminal_is_raw_resizes_and_gives_it_back() {
    let fake = Fake::start(starting());
    let mut terminal = Terminal::open();
    let mut child = terminal.spawn(&fake);
    terminal.shows("size 100x40").await;
    assert!(terminal.is_raw());
    terminal.resize(120, 50);
    signal(&child, rustix::process::Signal::WINCH);
    terminal.shows("resized 120x50").await;
    // In raw mode Ctrl-C is a key like any other.
    terminal.ours.write_all(b"\x03x").unwrap();
    terminal.shows("\x03x").await;
    terminal.ours.write_all(b"\x04").unwrap();
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
    assert!(!terminal.is_raw());
}

#[tokio::test]
async fn a_terminal_is_given_back_when_exec_is_ended() {
    let fake = Fake::start(starting());
    let terminal = Terminal::open();
    let mut child = terminal.spawn(&fake);
    terminal.shows("size 100x40").await;
    assert!(terminal.is_raw());
    signal(&child, rustix::process::Signal::TERM);
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(125));
    assert!(!terminal.is_raw());
}
