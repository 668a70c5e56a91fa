//! The program as people and programs use it, against a fake controller on a unix socket.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is tests")]

#[path = "fleet/fake.rs"]
mod fake;
#[path = "fleet/images.rs"]
mod images;
#[path = "fleet/keys.rs"]
mod keys;
#[path = "fleet/names.rs"]
mod names;
#[path = "fleet/openssh.rs"]
mod openssh;
#[path = "fleet/registries.rs"]
mod registries;
#[path = "fleet/support.rs"]
mod support;
#[path = "fleet/terminal.rs"]
mod terminal;
#[path = "fleet/tunnels.rs"]
mod tunnels;
#[path = "fleet/volumes.rs"]
mod volumes;
#[path = "fleet/waiting.rs"]
mod waiting;

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
        status: v1::GetStatusResponse {
            found: vec![v1::FleetFinding {
                gravity: v1::fleet_finding::Gravity::Problem.into(),
                subject: "node/h2".into(),
                kind: "node-down".into(),
                since_ms: Some(1_000),
                ..Default::default()
            }],
            ..Default::default()
        },
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
        &["status"],
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
async fn the_status_ends_with_1_unless_all_is_well_or_on_its_way() {
    use v1::fleet_finding::Gravity;
    let state = |gravity: Option<Gravity>| {
        let one = |gravity: Gravity| v1::FleetFinding {
            gravity: gravity.into(),
            subject: "workload/web".into(),
            kind: "some-kind".into(),
            message: "says why".into(),
            next: "dwell do something".into(),
            ..Default::default()
        };
        let found = gravity.into_iter().map(one).collect();
        let counts = Some(v1::FleetCounts { nodes: 3, nodes_ready: 3, ..Default::default() });
        let status = v1::GetStatusResponse { found, counts, ..Default::default() };
        State { status, ..starting() }
    };
    for (gravity, code) in [
        (None, 0),
        (Some(Gravity::Progress), 0),
        (Some(Gravity::Warning), 1),
        (Some(Gravity::Problem), 1),
        // Of a controller that knows more.
        (Some(Gravity::Unspecified), 1),
    ] {
        let ran = run(&Fake::start(state(gravity)), &["status"]).await;
        assert_eq!(ran.code, code, "{gravity:?}");
        match gravity {
            None => assert!(ran.stdout.starts_with("all is well: 3 nodes"), "{}", ran.stdout),
            Some(_) => assert!(
                ran.stdout.contains("some-kind: says why\n    dwell do something\n"),
                "{}",
                ran.stdout
            ),
        }
    }
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
async fn a_container_is_planned_and_adopted() {
    let fake = Fake::start(State::default());
    let plan = run(&fake, &["adopt", "--node", "h1", "--container", "shop", "--plan"]).await;
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    assert!(plan.stdout.contains("container shop (c1) on h1 would become instance shop-0"));
    assert!(plan.stdout.contains("image: shop:1"), "{}", plan.stdout);
    let words = ["adopt", "--node", "h1", "--container", "shop", "--as", "store", "-o", "json"];
    let ran = run(&fake, &words).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("\"instance\": \"store-0\""), "{}", ran.stdout);
    for wrong in [
        &["adopt"][..],
        &["adopt", "--container", "shop"],
        &["adopt", "--node", "h1", "web-0"],
        &["adopt", "web-0", "--plan"],
    ] {
        assert_eq!(run(&fake, wrong).await.code, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn chosen_instances_are_moved_replaced_and_removed() {
    let fake = Fake::start(State {
        workloads: vec![workload("web", 2), workload("db", 1)],
        instances: vec![
            instance("web", 0, v1::Phase::Running),
            instance("web", 1, v1::Phase::Running),
        ],
        nodes: vec![v1::Node { name: "h2".into(), ..Default::default() }],
        ..State::default()
    });
    let ran = run(&fake, &["move", "web-0", "web-1.dwell", "--to", "h2"]).await;
    assert_eq!(ran.stdout, "web-0 moves from h1 to h2\nweb-1 moves from h1 to h2\n");
    let ran = run(&fake, &["move", "web-0", "--dry-run"]).await;
    assert_eq!(ran.stdout, "web-0 would move from h1 to h2\n");
    let ran = run(&fake, &["move", "web-0", "--to", "h1"]).await;
    assert_eq!(ran.stdout, "web-0 is on h1 already\n");
    let ran = run(&fake, &["replace", "web-0", "web-1"]).await;
    assert_eq!(ran.stdout, "web-0 is being replaced\nweb-1 is being replaced\n");
    let ran = run(&fake, &["replace", "web"]).await;
    assert!(ran.code != 0 && ran.stderr.contains("web"), "{}", ran.stderr);
    let ran = run(&fake, &["rm", "web-1", "db", "web-0"]).await;
    assert_eq!(ran.stdout, "web-1 is being removed\nweb-0 is being removed\ndb is being removed\n");
    assert_eq!(
        fake.asked(),
        [
            "move web-0,web-1 to=h2 false",
            "move web-0 to= true",
            "move web-0 to=h1 false",
            "replace instances web-0,web-1",
            "remove instances web-1,web-0",
            "remove db"
        ]
    );
}

#[tokio::test]
async fn a_workload_is_resized() {
    let fake = Fake::start(State { workloads: vec![workload("web", 1)], ..State::default() });
    let ran = run(&fake, &["resize", "web", "--cpu", "1.5", "--memory", "1Gi"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let [asked] = &fake.asked()[..] else { panic!("one request") };
    assert!(asked.contains("cpu_millicores: Some(1500)"), "{asked}");
    assert!(asked.contains("memory_bytes: Some(1073741824), pids: None"), "{asked}");
    let ran = run(&fake, &["resize", "web"]).await;
    assert_eq!(ran.code, 2, "nothing is said to change");
}

#[tokio::test]
async fn one_instance_is_resized() {
    let fake = Fake::start(starting());
    for (words, asked) in [
        (
            &["web-0", "--cpu", "1.5"][..],
            "resize web-0 alone cpu=Some(1500) memory=None reset=false",
        ),
        (&["web-0", "--reset"][..], "resize web-0 alone cpu=None memory=None reset=true"),
    ] {
        run(&fake, &[&["resize"], words].concat()).await;
        assert!(fake.asked().iter().any(|one| one == asked), "{:?}", fake.asked());
    }
    for words in
        [&["web-0", "--pids", "99"][..], &["web", "--reset"], &["web-0", "--reset", "--cpu", "1"]]
    {
        let ran = run(&fake, &[&["resize"], words].concat()).await;
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.stderr);
    }
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
