//! Whoever reaches the port: what they can use up, and who gets in meanwhile.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dwell_controller::config::Config;
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as FromAgent;
use dwell_proto::v1::enrollment_client::EnrollmentClient;
use dwell_proto::v1::fleet_client::FleetClient;
use dwell_proto::v1::session_client::SessionClient;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tonic::Code;

use crate::fixture::{Agent, Credentials, Fixture, SOON, hello, unix};
use crate::raw::{self, Raw, zeros};

const JOIN: &str = "/dwell.v1.Enrollment/Join";
/// Where good clients come from, and where others do.
const GOOD: Ipv4Addr = Ipv4Addr::LOCALHOST;
const BAD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// The largest resident memory that the program may have needed, above what it had at rest. What the attacks below send
/// and never finish is more than ten times as much.
const MEMORY_MAX_BYTES: usize = 96 << 20;

/// The program itself, so that its memory is its own; killed when dropped.
struct Running {
    fixture: Fixture,
    child: Child,
}

impl Running {
    async fn start() -> Self {
        let mut fixture = Fixture::not_started();
        // A free port, which nobody else is given for a while.
        fixture.config.listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let Config { data_dir, listen, socket, .. } = &fixture.config;
        let (data_dir, socket) = (data_dir.display(), socket.display());
        let config = format!("data_dir: {data_dir}\nlisten: {listen}\nsocket: {socket}\n");
        let path = fixture.config.socket.with_file_name("config.yaml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_dwell-controller"))
            .arg("--config")
            .arg(path)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Self { fixture, child };
        let answers = async {
            while unix(&running.fixture.config.socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, answers).await.unwrap();
        running
    }

    /// The most memory that it ever had.
    fn peak_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_never_end_take_little_memory_and_a_good_agent_gets_in() {
    let running = Running::start().await;
    let fixture = &running.fixture;
    let (to, ca_pem) = (fixture.address(), fixture.authority().certificates_pem());
    let before = running.peak_bytes();
    // 24 connections from four addresses, each with up to 1536 requests of 32 KiB of which the last byte is missing.
    let part = zeros((32 << 10) - 1);
    let flood = |number: u8, ca_pem: String, part| async move {
        let from = Ipv4Addr::new(127, 0, 1, number % 4);
        // Some are turned away.
        if let Ok(raw) = Raw::connect(to, from, &ca_pem, None).await {
            raw.flood(JOIN, 32 << 10, part).await;
        }
    };
    let floods: Vec<_> =
        (0..24).map(|number| tokio::spawn(flood(number, ca_pem.clone(), part.clone()))).collect();

    fixture.agent("h1", "192.0.2.1").await;
    for flood in floods {
        // All of them are over by themselves.
        timeout(6 * SOON, flood).await.unwrap().unwrap();
    }
    let more = running.peak_bytes() - before;
    assert!(more < MEMORY_MAX_BYTES, "{} MiB more", more >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_node_that_never_end_take_little_memory_and_a_good_agent_attaches() {
    let running = Running::start().await;
    let fixture = &running.fixture;
    let (to, ca_pem) = (fixture.address(), fixture.authority().certificates_pem());
    let bad = fixture.node("bad", "192.0.2.66").await;
    let good = fixture.node("good", "192.0.2.1").await;
    let before = running.peak_bytes();
    let (announced, part) = (16 << 20, zeros(12 << 20));
    let mut held = Vec::new();
    for path in ["/dwell.v1.Session/Renew", "/dwell.v1.Session/Carry", "/dwell.v1.Session/Attach"] {
        let mut raw = Raw::connect(to, BAD, &ca_pem, Some(&bad)).await.unwrap();
        let mut begun = Vec::new();
        for _ in 0..40 {
            begun.push(raw.half(path, announced, part.clone()).await.unwrap());
        }
        // A Hello may be large, so some of these are waited for; all others are refused by what they announce.
        let waited_for = if path.ends_with("Attach") { 4 } else { 0 };
        let (responses, bodies): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
        let mut answers: FuturesUnordered<_> = responses.into_iter().map(raw::code).collect();
        for _ in waited_for..40 {
            let refused = answers.next().await.unwrap().unwrap();
            let expected = [Code::OutOfRange, Code::ResourceExhausted];
            assert!(expected.contains(&refused), "{path}: {refused:?}");
        }
        held.push((raw, bodies, answers));
    }
    Agent::attach(fixture, &good, hello("192.0.2.1")).await.unwrap().snapshot().await;
    let more = running.peak_bytes() - before;
    assert!(more < MEMORY_MAX_BYTES, "{} MiB more", more >> 20);
    drop(held);
}

/// A field whose value is given as bytes.
fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 10);
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

/// Two bytes of a message are hundreds in memory, if each is an entry with nothing in it.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_millions_of_empty_entries_take_little_memory_and_a_good_agent_attaches() {
    let running = Running::start().await;
    let fixture = &running.fixture;
    let (to, ca_pem) = (fixture.address(), fixture.authority().certificates_pem());
    let bad = fixture.node("bad", "192.0.2.66").await;
    let good = fixture.node("good", "192.0.2.1").await;
    let person = fixture.client("ann").await;
    let before = running.peak_bytes();
    let entries = |number| field(number, &[]).repeat((8 << 20) - 64);
    // Instances, volumes, claims; mounts of a template.
    let hellos = [(4, entries(2)), (4, entries(6)), (12, field(1, &[]).repeat(4 << 20))];
    let hellos = hellos.map(|(number, value)| field(1, &field(number, &value)));
    let declaration = field(1, &field(3, &entries(9)));
    let attach = "/dwell.v1.Session/Attach";
    let mut calls: Vec<_> = hellos.into_iter().map(|hello| (&bad, attach, hello)).collect();
    calls.push((&person, "/dwell.v1.Fleet/Apply", declaration));
    for (who, path, message) in calls {
        let mut raw = Raw::connect(to, BAD, &ca_pem, Some(who)).await.unwrap();
        let announced = u32::try_from(message.len()).unwrap();
        let (response, body) = raw.half(path, announced, message.into()).await.unwrap();
        assert_eq!(raw::code(response).await.unwrap(), Code::OutOfRange, "{path}");
        drop(body);
    }
    // A report of a node that has attached.
    let mut agent = Agent::attach(fixture, &bad, hello("192.0.2.66")).await.unwrap();
    let gone = vec![String::new(); 8_000_000];
    agent.say(FromAgent::Status(v1::StatusReport { gone, ..Default::default() })).await;
    let ended = async { while let Ok(Some(_)) = agent.receiver.message().await {} };
    timeout(6 * SOON, ended).await.expect("the report is taken");

    Agent::attach(fixture, &good, hello("192.0.2.1")).await.unwrap().snapshot().await;
    let more = running.peak_bytes() - before;
    assert!(more < MEMORY_MAX_BYTES, "{} MiB more", more >> 20);
}

#[tokio::test]
async fn a_request_without_a_certificate_that_does_not_end_is_ended_with_its_connection() {
    let fixture = Fixture::start().await;
    let ca_pem = fixture.authority().certificates_pem();
    let mut raw = Raw::connect(fixture.address(), GOOD, &ca_pem, None).await.unwrap();
    let (response, _body) = raw.half(JOIN, 1000, zeros(999)).await.unwrap();
    assert_eq!(raw::code(response).await.unwrap(), Code::DeadlineExceeded);
    // A message that is whole, of a request that is not.
    let mut other = Raw::connect(fixture.address(), GOOD, &ca_pem, None).await.unwrap();
    let (response, _body) = other.half(JOIN, 2, zeros(2)).await.unwrap();
    assert!(raw::code(response).await.is_ok_and(|code| code != Code::Ok));
    for raw in [raw, other] {
        timeout(2 * SOON, raw.connection).await.expect("the connection goes on").unwrap().ok();
    }
}

/// Whoever has a copy of a node's key can take its stream over, but not without a trace.
#[tokio::test]
async fn a_stream_that_is_taken_over_from_elsewhere_is_an_event() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let events = async || {
        let request = v1::ListEventsRequest::default();
        let all = fixture.fleet().await.list_events(request).await.unwrap().into_inner().events;
        let all = all.into_iter().filter(|event| event.reason == "node-superseded");
        all.map(|event| event.message).collect::<Vec<_>>()
    };
    let mut first = Agent::attach(&fixture, &node, hello("192.0.2.1")).await.unwrap();
    first.snapshot().await;
    let mut second = Agent::attach(&fixture, &node, hello("192.0.2.1")).await.unwrap();
    second.snapshot().await;
    assert_eq!(events().await, Vec::<String>::new(), "from the same address");
    let thief = Agent::attach_from(BAD, &fixture, &node, hello("192.0.2.1")).await.unwrap();
    let told = events().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("127.0.0.1 ") && told[0].contains("127.0.0.66;"), "{told:?}");
    drop((first, second, thief));
}

#[tokio::test]
async fn without_a_certificate_there_are_four_requests_at_once_with_small_headers() {
    let fixture = Fixture::start().await;
    let ca_pem = fixture.authority().certificates_pem();
    let mut raw = Raw::connect(fixture.address(), GOOD, &ca_pem, None).await.unwrap();
    // Once something was answered, the settings have been heard.
    let (response, _body) = raw.half("/dwell.v1.Fleet/GetInfo", 0, zeros(0)).await.unwrap();
    assert_eq!(raw::code(response).await.unwrap(), Code::Unauthenticated);
    assert_eq!(raw.requests.current_max_send_streams(), 4);
    let (response, _body) = raw.begin(JOIN, 3 << 10).await.unwrap();
    let refused = raw::code(response).await;
    assert!(!refused.is_ok_and(|code| code == Code::Ok), "3 KiB of headers are taken");
    // More than that for those who have one.
    let node = fixture.node("h1", "192.0.2.1").await;
    let mut raw = Raw::connect(fixture.address(), GOOD, &ca_pem, Some(&node)).await.unwrap();
    let (response, _body) = raw.begin("/dwell.v1.Fleet/GetInfo", 3 << 10).await.unwrap();
    assert_eq!(raw::code(response).await.unwrap(), Code::PermissionDenied);
    assert_eq!(raw.requests.current_max_send_streams(), dwell_proto::STREAMS_MAX as usize);
}

#[tokio::test]
async fn a_join_that_is_too_large_is_refused_by_what_it_announces() {
    let fixture = Fixture::start().await;
    let request = v1::JoinRequest { token: "x".repeat(100_000), ..Default::default() };
    let mut enrollment = EnrollmentClient::new(fixture.tcp(None).await.unwrap());
    assert_eq!(enrollment.join(request).await.unwrap_err().code(), Code::OutOfRange);
    let ca_pem = fixture.authority().certificates_pem();
    let mut raw = Raw::connect(fixture.address(), GOOD, &ca_pem, None).await.unwrap();
    let (response, _body) = raw.half(JOIN, u32::MAX, zeros(1)).await.unwrap();
    assert_eq!(raw::code(response).await.unwrap(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_hundred_silent_connections_of_one_address_keep_nobody_else_out() {
    let fixture = Fixture::start().await;
    let to = fixture.address();
    let node = fixture.node("h1", "192.0.2.1").await;
    // Each one has five seconds. A machine that stands still for as long shows nothing, and gets another attempt.
    for attempt in 0.. {
        let mut silent = Vec::new();
        for _ in 0..700 {
            silent.push(raw::tcp(to, BAD).await.unwrap().into_std().unwrap());
        }
        let closed = || silent.iter().filter(|one| is_closed(one)).count();
        let refused = async {
            while closed() < 700 - 256 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            closed()
        };
        let refused = timeout(2 * SOON, refused).await.expect("they have more than their share");
        let mut agent = Agent::attach(&fixture, &node, hello("192.0.2.1")).await.unwrap();
        agent.snapshot().await;
        let (name, address) = (format!("h2-{attempt}"), format!("192.0.2.{}", 10 + attempt));
        fixture.node(&name, &address).await;
        // The others are still there: nobody has waited until one of them had to go.
        if closed() == refused {
            return;
        }
        assert!(attempt < 5, "nobody is let in before a silent one had to go");
    }
}

/// Whether the other side has closed a connection, on which it says nothing.
fn is_closed(connection: &std::net::TcpStream) -> bool {
    let peeked = connection.peek(&mut [0]);
    !peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_without_a_certificate_keep_no_other_address_out() {
    let fixture = Fixture::start().await;
    let (to, ca_pem) = (fixture.address(), fixture.authority().certificates_pem());
    let connect = |ca_pem: String| async move { raw::tls(to, BAD, &ca_pem, None).await };
    let idle: Vec<_> = (0..64).map(|_| tokio::spawn(connect(ca_pem.clone()))).collect();
    let mut held = Vec::new();
    for one in idle {
        held.extend(timeout(2 * SOON, one).await.unwrap().unwrap());
    }
    assert!(held.len() > 8, "{} have got through TLS", held.len());
    fixture.node("h1", "192.0.2.1").await;
    assert_eq!(code_of(&fixture, &fixture.client("ann").await).await, None);
    // A ninth of the same address waits, and is refused or gets the place of one whose time is up.
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessed_tokens_of_one_address_use_up_no_attempts_of_another() {
    let fixture = Fixture::start().await;
    let (to, ca_pem) = (fixture.address(), fixture.authority().certificates_pem());
    let token = fixture.token().await;
    let mut raw = Raw::connect(to, BAD, &ca_pem, None).await.unwrap();
    let mut refused = 0;
    for _ in 0..300 {
        // An empty request: there is no token in it.
        let Ok((response, mut body)) = raw.half(JOIN, 0, zeros(0)).await else { break };
        body.send_data(Vec::new().into(), true).unwrap();
        let code = raw::code(response).await;
        refused += usize::from(code.is_ok_and(|code| code == Code::ResourceExhausted));
    }
    assert!(refused > 0, "nothing is counted");
    fixture.join(&token, "h1", "192.0.2.1").await.unwrap();
}

#[tokio::test]
async fn a_removed_node_is_refused_before_it_has_said_anything() {
    let fixture = Fixture::start().await;
    let ca_pem = fixture.authority().certificates_pem();
    let node = fixture.node("h1", "192.0.2.1").await;
    let remove = v1::RemoveNodeRequest { name: "h1".to_owned(), force: true };
    fixture.fleet().await.remove_node(remove).await.unwrap();
    for path in ["/dwell.v1.Session/Renew", "/dwell.v1.Session/Carry"] {
        let mut raw = Raw::connect(fixture.address(), GOOD, &ca_pem, Some(&node)).await.unwrap();
        let (response, _body) = raw.begin(path, 0).await.unwrap();
        assert_eq!(raw::code(response).await.unwrap(), Code::PermissionDenied, "{path}");
    }
    // Another host under its name is served, and the earlier one still is not.
    let successor = fixture.node("h1", "192.0.2.2").await;
    let channel = fixture.tcp(Some(&node)).await.unwrap();
    let refused = SessionClient::new(channel).renew(v1::RenewRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    Agent::attach(&fixture, &successor, hello("192.0.2.2")).await.unwrap().snapshot().await;
}

#[tokio::test]
async fn what_a_node_begins_has_bounds_of_its_call() {
    let fixture = Fixture::start().await;
    let ca_pem = fixture.authority().certificates_pem();
    let node = fixture.node("h1", "192.0.2.1").await;
    let mut raw = Raw::connect(fixture.address(), GOOD, &ca_pem, Some(&node)).await.unwrap();
    for (call, announced) in
        [("Renew", (64 << 10) + 1), ("Carry", (1 << 10) + 1), ("Attach", 17 << 20)]
    {
        let (response, _body) =
            raw.half(&format!("/dwell.v1.Session/{call}"), announced, zeros(0)).await.unwrap();
        assert_eq!(raw::code(response).await.unwrap(), Code::OutOfRange, "{call}");
    }
    // A few of each at once; another is told so, and nobody waits. What is not said in time makes room.
    let mut begun = Vec::new();
    for _ in 0..5 {
        begun.push(raw.half("/dwell.v1.Session/Attach", 1 << 10, zeros(9)).await.unwrap());
    }
    let (responses, _bodies): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
    let answers: FuturesUnordered<_> = responses.into_iter().map(raw::code).collect();
    let codes: Vec<Code> = answers.map(Result::unwrap).collect().await;
    let late = Code::DeadlineExceeded;
    assert_eq!(codes, [Code::ResourceExhausted, late, late, late, late]);
    Agent::attach(&fixture, &node, hello("192.0.2.1")).await.unwrap().snapshot().await;
}

/// All that is on a node with a thousand instances is in its Hello.
#[tokio::test]
async fn a_hello_of_a_full_node_is_taken() {
    let fixture = Fixture::start().await;
    let node = fixture.node("h1", "192.0.2.1").await;
    let instances = (0..1000).map(|number| v1::InstanceStatus {
        instance: format!("web-{number}"),
        generation: 1,
        phase: v1::Phase::Backoff.into(),
        message: "x".repeat(1000),
        ..v1::InstanceStatus::default()
    });
    let status = v1::StatusReport {
        complete: true,
        instances: instances.collect(),
        ..v1::StatusReport::default()
    };
    let hello = v1::Hello { status: Some(status), ..hello("192.0.2.1") };
    assert!(hello.encoded_len() > 1_000_000);
    Agent::attach(&fixture, &node, hello).await.unwrap().snapshot().await;
}

#[tokio::test]
async fn a_node_has_few_connections_and_the_newest_count() {
    let fixture = Fixture::start().await;
    let ca_pem = fixture.authority().certificates_pem();
    let node = fixture.node("h1", "192.0.2.1").await;
    let other = fixture.agent("h2", "192.0.2.2").await;
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections
            .push(Raw::connect(fixture.address(), GOOD, &ca_pem, Some(&node)).await.unwrap());
    }
    Agent::attach(&fixture, &node, hello("192.0.2.1")).await.unwrap().snapshot().await;
    let oldest = connections.remove(0);
    timeout(SOON, oldest.connection).await.expect("the oldest goes on").unwrap().ok();
    let mut newest = connections.pop().unwrap();
    let (response, _body) = newest.begin("/dwell.v1.Fleet/GetInfo", 0).await.unwrap();
    assert_eq!(raw::code(response).await.unwrap(), Code::PermissionDenied);
    drop(other);
}

#[tokio::test]
async fn only_tls_1_3_and_http_2_are_spoken() {
    let fixture = Fixture::start().await;
    let (to, ca_pem) = (fixture.address(), fixture.authority().certificates_pem());
    let old = [&rustls::version::TLS12];
    assert!(raw::tls_with(to, GOOD, &ca_pem, None, &old, &[b"h2"]).await.is_err(), "TLS 1.2");
    let new = [&rustls::version::TLS13];
    let http_1 = raw::tls_with(to, GOOD, &ca_pem, None, &new, &[b"http/1.1"]).await;
    assert!(http_1.is_err(), "HTTP/1.1 by its name");
    // Without a name, and in plain text.
    let mut unnamed = raw::tls_with(to, GOOD, &ca_pem, None, &new, &[]).await.unwrap();
    let mut plain = raw::tcp(to, GOOD).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nhost: controller.dwell\r\n\r\n";
    unnamed.write_all(request).await.unwrap();
    plain.write_all(request).await.unwrap();
    let mut answers = [Vec::new(), Vec::new()];
    // Whatever comes before the end is no answer of HTTP/1.1.
    let [first, second] = &mut answers;
    timeout(2 * SOON, unnamed.read_to_end(first)).await.unwrap().ok();
    timeout(2 * SOON, plain.read_to_end(second)).await.unwrap().ok();
    for answer in answers {
        assert!(!answer.starts_with(b"HTTP/1"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn no_path_leads_around_the_rules() {
    let fixture = Fixture::start().await;
    let ca_pem = fixture.authority().certificates_pem();
    let mut raw = Raw::connect(fixture.address(), GOOD, &ca_pem, None).await.unwrap();
    for path in [
        "/dwell.v1.Fleet/GetInfo",
        "//dwell.v1.Fleet/GetInfo",
        "/dwell.v1.Enrollment/../dwell.v1.Fleet/GetInfo",
        "/dwell.v1.Enrollment//dwell.v1.Fleet/GetInfo",
        "/dwell.v1.Enrollment/%2e%2e/dwell.v1.Fleet/GetInfo",
        "/%64well.v1.Fleet/GetInfo",
        "/dwell.v1.Fleet%2fGetInfo",
        "/dwell.v1.Session/Attach",
        "//dwell.v1.Session/Renew",
        "/",
    ] {
        let (response, _body) = raw.half(path, 0, zeros(0)).await.unwrap();
        let code = raw::code(response).await.unwrap();
        let nothing = [Code::Unauthenticated, Code::Unimplemented];
        assert!(nothing.contains(&code), "{path}: {code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_parallel_joins_with_one_token_exactly_one_succeeds() {
    let fixture = Fixture::start().await;
    for round in 0..5 {
        let token = fixture.token().await;
        let names: Vec<String> = (0..4).map(|number| format!("h{round}-{number}")).collect();
        let addresses: Vec<String> =
            (0..4).map(|number| format!("192.0.{round}.{}", number + 1)).collect();
        let join = |number: usize| fixture.join(&token, &names[number], &addresses[number]);
        let (first, second, third, fourth) = tokio::join!(join(0), join(1), join(2), join(3));
        let all = [first, second, third, fourth];
        let refused = all.iter().filter_map(|one| one.as_ref().err()).map(tonic::Status::code);
        assert_eq!(refused.collect::<Vec<_>>(), [Code::PermissionDenied; 3]);
    }
}

async fn code_of(fixture: &Fixture, credentials: &Credentials) -> Option<Code> {
    let mut fleet = FleetClient::new(fixture.tcp(Some(credentials)).await.unwrap());
    fleet.get_info(v1::GetInfoRequest {}).await.err().map(|status| status.code())
}
