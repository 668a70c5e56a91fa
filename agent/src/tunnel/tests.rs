mod connect;
mod images;
mod look;
mod volumes;

use dwell_core::clock::Timestamp;
use dwell_core::fixtures;
use dwell_core::health::Health;
use dwell_core::id::{Generation, Revision};
use dwell_core::image::ContainerImage;
use dwell_core::instance::{Assigned, InstanceStatus, Phase};
use dwell_core::session::NodeNetwork;
use dwell_core::workload::Template;
use dwell_proto::v1::exec_input::Input;
use dwell_proto::v1::exec_output::Output;
use tonic::codegen::Bytes;

use super::*;
use crate::fake_controller::{Ca, Carried, Face, FakeController, LIMIT, identity};
use crate::{link, trust};
use dwell_engine::Engine;
use dwell_engine::fake::FakeEngine;
use dwell_engine::fake::control::TokioClock;
use dwell_network::fake::FakeNetwork;

/// A node with one running instance, `web-0`, which has the address of loopback, one without a container, `web-1`, and
/// one whose container has ended, `web-2`.
struct Fixture {
    controller: FakeController,
    channel: Channel,
    engine: FakeEngine,
    container: ContainerId,
    tunnels: Tunnels,
}

fn assigned(instance: &str) -> Assigned {
    let assigned = fixtures::assigned(instance, 1, Template::of_image("web"));
    fixtures::at(Ipv4Addr::LOCALHOST, assigned)
}

fn network() -> NodeNetwork {
    NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap())
}

fn status(instance: &str, phase: Phase, container_id: &str) -> InstanceStatus {
    InstanceStatus {
        instance: instance.parse().unwrap(),
        generation: Generation(1),
        phase,
        health: Health::None,
        readiness: Health::None,
        container_id: container_id.to_owned(),
        address: None,
        image: ContainerImage::default(),
        started_at: None,
        restarts: 0,
        exit_code: None,
        ends: Vec::new(),
        hook_failed: None,
        restarts_done: 0,
        message: String::new(),
        observed_at: Timestamp(0),
        verdict: None,
        task: None,
        image_ahead: None,
        let_go: None,
    }
}

impl Fixture {
    async fn start() -> Self {
        let ca = Ca::new();
        let node = identity(&ca, "", Duration::from_secs(3600));
        let controller = FakeController::start(Face::proper(ca)).await;
        let tls = Arc::new(trust::by_identity(&node).unwrap());
        let channel = link::connect(&controller.address, tls, LIMIT).await.unwrap();
        let engine = FakeEngine::new(Arc::new(TokioClock::new()));
        let container = engine.create(&assigned("web-0")).await.unwrap();
        engine.start(&container).await.unwrap();
        let all = [
            status("web-0", Phase::Running, container.as_str()),
            status("web-1", Phase::Stopped, ""),
            status("web-2", Phase::Stopped, "c2"),
        ];
        let instances = all.into_iter().map(|one| (one.instance.clone(), one)).collect();
        let statuses = Statuses { revision: Revision(1), complete: true, instances };
        let statuses = watch::Sender::new(Some(Arc::new(statuses))).subscribe();
        let instances = ["web-0", "web-1"].map(|name| (name.parse().unwrap(), assigned(name)));
        let assignment = Assignment {
            revision: Revision(1),
            instances: instances.into(),
            ..Assignment::empty(network())
        };
        let assignment = watch::Sender::new(Some(Arc::new(assignment))).subscribe();
        let shared: SharedEngine = Arc::new(engine.clone());
        let images = Images::of_test(Arc::clone(&shared), assignment.clone(), statuses.clone());
        let tunnels = Tunnels::new(Node {
            engine: Some(shared),
            images: Some(images),
            statuses,
            assignment,
            network: Arc::new(FakeNetwork::default()),
            recheck: Arc::default(),
            config: Arc::default(),
        });
        Self { controller, channel, engine, container, tunnels }
    }

    async fn open(&mut self, purpose: Option<Purpose>) -> Carried {
        let request = v1::OpenTunnel { tunnel: "t1".into(), purpose };
        self.tunnels.open(self.channel.clone(), request);
        let carried = self.controller.tunnel().await;
        assert_eq!(carried.tunnel, "t1");
        carried
    }

    async fn exec(&mut self, request: v1::ExecRequest) -> Carried {
        let instance = "web-0".to_owned();
        self.open(Some(Purpose::Exec(v1::ExecRequest { instance, ..request }))).await
    }
}

/// The next message; `None` when the tunnel has ended.
async fn next(tunnel: &mut Carried) -> Option<Message> {
    let message = timeout(LIMIT, tunnel.up.message()).await.unwrap();
    message.unwrap().map(|message| message.message.unwrap())
}

async fn next_output(tunnel: &mut Carried) -> Output {
    match next(tunnel).await {
        Some(Message::Exec(v1::ExecOutput { output: Some(output) })) => output,
        other => panic!("{other:?}"),
    }
}

async fn say(tunnel: &Carried, input: Input) {
    let exec = Some(v1::ExecInput { input: Some(input) });
    tunnel.down.send(Ok(v1::TunnelDown { exec, ..Default::default() })).await.unwrap();
}

fn words(command: &[&str]) -> v1::ExecRequest {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    v1::ExecRequest { command, ..v1::ExecRequest::default() }
}

/// Waits for something to become so, looking again and again.
async fn until(so: impl Fn() -> bool) {
    let looking = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, looking).await.unwrap();
}

async fn followed_log(node: &mut Fixture) -> Carried {
    let request = v1::LogsRequest { instance: "web-0".into(), follow: true, ..Default::default() };
    node.open(Some(Purpose::Logs(request))).await
}

async fn next_piece(tunnel: &mut Carried) -> Option<Bytes> {
    match next(tunnel).await? {
        Message::Logs(chunk) if chunk.stream() == v1::OutputStream::Stdout => Some(chunk.data),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_is_followed_and_left() {
    let mut node = Fixture::start().await;
    let mut tunnel = followed_log(&mut node).await;
    for line in ["one\n", "two\n"] {
        node.engine.print(&node.container, line);
        while !next_piece(&mut tunnel).await.unwrap().ends_with(line.as_bytes()) {}
    }
    drop(tunnel);
    until(|| node.tunnels.all.available_permits() == TUNNELS_MAX).await;
}

#[tokio::test]
async fn a_log_ends_with_its_container() {
    let mut node = Fixture::start().await;
    let mut tunnel = followed_log(&mut node).await;
    let text = "x".repeat(3 * PIECE_MAX + 1);
    node.engine.print(&node.container, &text);
    node.engine.crash(&node.container, 1);
    let mut carried = Vec::new();
    while let Some(piece) = next_piece(&mut tunnel).await {
        assert!(piece.len() <= PIECE_MAX);
        carried.extend_from_slice(&piece);
    }
    assert!(carried.ends_with(text.as_bytes()));
}

#[tokio::test]
async fn a_command_has_output_and_an_exit_code() {
    let mut node = Fixture::start().await;
    node.engine.set_exec_exit_code(7);
    let mut tunnel = node.exec(words(&["echo", "hi"])).await;
    assert_eq!(next_output(&mut tunnel).await, Output::Started(true));
    assert_eq!(next_output(&mut tunnel).await, Output::Stdout("echo hi\n".into()));
    assert_eq!(next_output(&mut tunnel).await, Output::ExitCode(7));
    assert_eq!(next(&mut tunnel).await, None);
    assert_eq!(node.engine.hang_ups(), 0);
}

#[tokio::test]
async fn a_command_gets_its_input_and_its_end() {
    let mut node = Fixture::start().await;
    let request = v1::ExecRequest { stdin: true, tty: true, ..words(&["cat"]) };
    let mut tunnel = node.exec(request).await;
    assert_eq!(next_output(&mut tunnel).await, Output::Started(true));
    say(&tunnel, Input::Resize(v1::TerminalSize { columns: 1_000_000, rows: 0 })).await;
    // More than fits any buffer on the way: what is not read back in time has to wait.
    let sent = Bytes::from(vec![b'x'; 1 << 20]);
    let (down, input) = (tunnel.down.clone(), sent.clone());
    let writer = tokio::spawn(async move {
        for piece in input.chunks(16 * 1024) {
            let input = Some(Input::Stdin(Bytes::copy_from_slice(piece)));
            let exec = Some(v1::ExecInput { input });
            down.send(Ok(v1::TunnelDown { exec, ..Default::default() })).await.unwrap();
        }
        let exec = Some(v1::ExecInput { input: Some(Input::StdinClosed(true)) });
        down.send(Ok(v1::TunnelDown { exec, ..Default::default() })).await.unwrap();
    });
    let mut echoed = Vec::new();
    loop {
        match next_output(&mut tunnel).await {
            Output::Stdout(data) => echoed.extend_from_slice(&data),
            Output::ExitCode(code) => break assert_eq!(code, 0),
            other => panic!("{other:?}"),
        }
    }
    writer.await.unwrap();
    assert_eq!(echoed.len(), sent.len());
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_hung_up() {
    let mut node = Fixture::start().await;
    node.engine.set_exec_hangs(true);
    let mut tunnel = node.exec(words(&["sleep", "infinity"])).await;
    assert_eq!(next_output(&mut tunnel).await, Output::Started(true));
    drop(tunnel);
    until(|| node.engine.hang_ups() == 1).await;
    until(|| node.tunnels.all.available_permits() == TUNNELS_MAX).await;
}

#[tokio::test]
async fn a_main_process_is_attached_to_and_hung_up() {
    let mut node = Fixture::start().await;
    let attach = v1::ExecRequest { attach: true, tty: true, ..v1::ExecRequest::default() };
    let mut tunnel = node.exec(attach.clone()).await;
    assert_eq!(next_output(&mut tunnel).await, Output::Started(true));
    assert_eq!(next_output(&mut tunnel).await, Output::Stdout("started\n".into()));
    drop(tunnel);
    until(|| node.engine.hang_ups() == 1).await;
    // What has ended is attached to as well.
    let mut tunnel = node.exec(attach).await;
    assert_eq!(next_output(&mut tunnel).await, Output::Started(true));
    assert_eq!(next_output(&mut tunnel).await, Output::Stdout("started\n".into()));
    assert_eq!(next_output(&mut tunnel).await, Output::ExitCode(129));
}

#[tokio::test]
async fn a_command_in_an_instance_that_does_not_run_is_told_of_the_instance() {
    let mut node = Fixture::start().await;
    let request = v1::ExecRequest { instance: "web-2".into(), ..words(&["x"]) };
    let mut tunnel = node.open(Some(Purpose::Exec(request))).await;
    let Some(Message::Error(error)) = next(&mut tunnel).await else { panic!("no error") };
    assert_eq!(error.message, "web-2 is not running (stopped); `dwell inspect web-2` says why");

    // It ends between the look and the command.
    node.engine.stop(&node.container, Duration::ZERO).await.unwrap();
    let request = v1::ExecRequest { instance: "web-0".into(), ..words(&["x"]) };
    let mut tunnel = node.open(Some(Purpose::Exec(request))).await;
    let Some(Message::Error(error)) = next(&mut tunnel).await else { panic!("no error") };
    assert_eq!(error.message, "web-0 has just stopped running; `dwell inspect web-0` says why");
}

#[tokio::test]
async fn what_cannot_be_done_is_told() {
    let mut node = Fixture::start().await;
    let logs = |instance: &str| {
        let instance = instance.to_owned();
        Some(Purpose::Logs(v1::LogsRequest { instance, ..Default::default() }))
    };
    let exec = |request: v1::ExecRequest| {
        Some(Purpose::Exec(v1::ExecRequest { instance: "web-0".into(), ..request }))
    };
    let nameless = [("A=B".to_owned(), String::new())].into();
    for (purpose, code) in [
        (logs("web-7"), Code::NotFound),
        (logs("web-1"), Code::FailedPrecondition),
        (logs("../web\u{1b}"), Code::InvalidArgument),
        (exec(words(&[])), Code::InvalidArgument),
        (exec(words(&[&"x".repeat(2 << 20)])), Code::InvalidArgument),
        (exec(v1::ExecRequest { environment: nameless, ..words(&["x"]) }), Code::InvalidArgument),
        (None, Code::InvalidArgument),
    ] {
        let mut tunnel = node.open(purpose).await;
        let Some(Message::Error(error)) = next(&mut tunnel).await else { panic!("no error") };
        assert_eq!(Code::from(error.code), code, "{}", error.message);
        assert!(!error.message.contains('\u{1b}'));
        assert_eq!(next(&mut tunnel).await, None);
    }
}

/// It does not move along with its instance, so that whoever finds nothing is told where it may be.
#[tokio::test]
async fn what_an_earlier_container_printed_is_said_to_be_where_it_ended() {
    let mut node = Fixture::start().await;
    let previous =
        v1::LogsRequest { instance: "web-0".into(), previous: true, ..Default::default() };
    let mut tunnel = node.open(Some(Purpose::Logs(previous))).await;
    let Some(Message::Error(error)) = next(&mut tunnel).await else { panic!("no error") };
    assert_eq!(Code::from(error.code), Code::NotFound);
    for says in ["on the node on which it ended", "`dwell events --about instance/web-0`"] {
        assert!(error.message.contains(says), "{}", error.message);
    }
}
