//! The DNS server on real sockets, asked from inside a sandbox, from the host and from another host.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwell_agent::directory::HeldDirectory;
use dwell_agent::dns::{self, Dns};
use dwell_core::directory::{DirectoryChange, DirectoryInstance, DirectoryWorkload};
use dwell_core::id::{Incarnation, InstanceName, Revision};
use dwell_core::session::{Assignment, NodeNetwork};
use dwell_network::GATEWAY;
use dwell_network::linux::gateway;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use dwell_network::world::{HOST, Place, World, run, web};

/// The longest that a reply may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// Where the names are that the cluster does not have.
const UPSTREAM: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// A node that answers DNS for `web-0`, which it runs, and further instances of `web`.
struct Node {
    _world: World,
    _tasks: JoinSet<()>,
    _directory: HeldDirectory,
}

impl Node {
    async fn with(instances: u32, upstream: &[&str]) -> Self {
        let world = World::with([&web()]).await;
        let mut directory = HeldDirectory::new(Default::default());
        directory.apply(everything(instances)).unwrap();
        let tasks = serve(&directory, upstream);
        until_answered(GATEWAY).await;
        until_answered(HOST).await;
        Self { _world: world, _tasks: tasks, _directory: directory }
    }
}

fn serve(directory: &HeldDirectory, upstream: &[&str]) -> JoinSet<()> {
    let dns = Dns {
        serves_instances: true,
        listen: vec![(HOST, dns::PORT).into()],
        upstream: upstream.iter().map(|address| address.parse().unwrap()).collect(),
        assignment: watch::Sender::new(Some(Arc::new(assignment()))).subscribe(),
        directories: directory.subscribe(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(dns.keep());
    tasks
}

async fn until_answered(server: Ipv4Addr) {
    let start = Instant::now();
    // Before the address is there, questions to it are lost.
    let answered = async || {
        let asking = ask(Place::Host, server, "dwell.", RecordType::SOA);
        matches!(timeout(Duration::from_millis(100), asking).await, Ok(Ok(_)))
    };
    while !answered().await {
        assert!(start.elapsed() < PATIENCE, "{server} does not answer");
        sleep(Duration::from_millis(10)).await;
    }
}

fn assignment() -> Assignment {
    let network = NodeNetwork {
        zone: "dwell".to_owned(),
        ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap())
    };
    Assignment { revision: Revision(1), ..Assignment::empty(network) }
}

fn everything(instances: u32) -> DirectoryChange {
    let first = u32::from(web().address);
    let instance = |ordinal| {
        let address = Ipv4Addr::from(first + ordinal);
        (
            InstanceName::new("web".parse().unwrap(), ordinal),
            DirectoryInstance { address, ready: true },
        )
    };
    DirectoryChange {
        incarnation: Incarnation::UNKNOWN,
        // Revision 1 is that of a piece, after which more comes.
        revision: Revision(2),
        base: None,
        workloads: [("web".parse().unwrap(), DirectoryWorkload::default())].into(),
        instances: (0..instances).map(instance).collect(),
        removed_workloads: Vec::new(),
        removed_instances: Vec::new(),
    }
}

fn question(name: &str, of: RecordType) -> Vec<u8> {
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), of));
    message.to_vec().unwrap()
}

/// Asks `server` with one datagram from `place`.
async fn ask(
    place: Place<'_>,
    server: Ipv4Addr,
    name: &str,
    of: RecordType,
) -> io::Result<Message> {
    let socket = place.visit(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    socket.connect((server, dns::PORT)).await?;
    socket.send(&question(name, of)).await?;
    let mut reply = vec![0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut reply)).await??;
    Message::from_vec(&reply[..length]).map_err(io::Error::other)
}

/// Asks `server` twice over one stream from `place`; returns the second reply.
async fn ask_by_stream(place: Place<'_>, server: Ipv4Addr, name: &str) -> io::Result<Message> {
    let stream = place.visit(|| TcpStream::connect((server, dns::PORT)))?;
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    let query = question(name, RecordType::A);
    let mut reply = Vec::new();
    for _ in 0..2 {
        stream.write_u16(query.len().try_into().unwrap()).await?;
        stream.write_all(&query).await?;
        reply = vec![0; usize::from(timeout(PATIENCE, stream.read_u16()).await??)];
        stream.read_exact(&mut reply).await?;
    }
    Message::from_vec(&reply).map_err(io::Error::other)
}

fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(A(address)) => Some(address),
        _ => None,
    };
    reply.answers.iter().filter_map(address).collect()
}

/// The reply of a server that says [`ELSEWHERE`] to everything.
fn elsewhere(query: &[u8]) -> Vec<u8> {
    let mut message = Message::from_vec(query).unwrap().into_response();
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 60, RData::A(A(ELSEWHERE))));
    message.to_vec().unwrap()
}

/// What a server makes of a question: the messages that it sends back.
type Behaviour = fn(&[u8]) -> Vec<Vec<u8>>;

/// A server at `port` that knows other names, and behaves like this over UDP.
fn other_server(port: u16, behaviour: Behaviour) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let socket = tokio::net::UdpSocket::bind((UPSTREAM, port)).await.unwrap();
        let mut query = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut query).await.unwrap();
            for reply in behaviour(&query[..length]) {
                socket.send_to(&reply, client).await.unwrap();
            }
        }
    });
    tasks.spawn(async move {
        let listener = tokio::net::TcpListener::bind((UPSTREAM, port)).await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let reply = elsewhere(&query);
            stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    tasks
}

#[tokio::test]
async fn an_instance_asks_its_gateway() {
    let web = web();
    let place = Place::Inside(&web);
    let _node = Node::with(1000, &["127.0.0.1:5300"]).await;
    let _other = other_server(5300, |query| vec![elsewhere(query)]);

    let own = ask(place, GATEWAY, "web-0.dwell.", RecordType::A).await.unwrap();
    assert_eq!((own.metadata.id, addresses(&own)), (99, vec![web.address]));
    let some = ask(place, GATEWAY, "web.dwell.", RecordType::A).await.unwrap();
    assert!((20..1000).contains(&addresses(&some).len()));
    let all = ask_by_stream(place, GATEWAY, "web.dwell.").await.unwrap();
    assert_eq!(addresses(&all).len(), 1000);

    let other = ask(place, GATEWAY, "example.com.", RecordType::A).await.unwrap();
    assert_eq!((other.metadata.id, addresses(&other)), (99, vec![ELSEWHERE]));
    let other = ask_by_stream(place, GATEWAY, "example.com.").await.unwrap();
    assert_eq!((other.metadata.id, addresses(&other)), (99, vec![ELSEWHERE]));
}

#[tokio::test]
async fn other_hosts_get_the_zone_and_nothing_else() {
    let _node = Node::with(1, &["127.0.0.1:5300"]).await;
    let _other = other_server(5300, |query| vec![elsewhere(query)]);
    let zone = ask(Place::Lan, HOST, "web.dwell.", RecordType::A).await.unwrap();
    assert_eq!(addresses(&zone), [web().address]);
    let other = ask(Place::Lan, HOST, "example.com.", RecordType::A).await.unwrap();
    assert_eq!(other.metadata.response_code, ResponseCode::Refused);
    let other = ask(Place::Host, HOST, "example.com.", RecordType::A).await.unwrap();
    assert_eq!(addresses(&other), [ELSEWHERE], "the host itself is no other host");
}

#[tokio::test]
async fn the_hosts_resolvers_are_not_asked_for_the_host() {
    let _node = Node::with(1, &[]).await;
    let other = ask(Place::Host, GATEWAY, "example.com.", RecordType::A).await.unwrap();
    assert_eq!(other.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn forged_late_and_missing_replies() {
    // The first server is dead, the second refuses, and somebody guesses before the third answers.
    let _node = Node::with(1, &["127.0.0.1:5301", "127.0.0.1:5302", "127.0.0.1:5303"]).await;
    let _unwilling = other_server(5302, |query| {
        let mut message = Message::from_vec(query).unwrap().into_response();
        message.metadata.response_code = ResponseCode::Refused;
        vec![message.to_vec().unwrap()]
    });
    let _guessed = other_server(5303, |query| {
        let mut forged = Message::from_vec(&elsewhere(query)).unwrap();
        forged.answers[0].data = RData::A(A(Ipv4Addr::new(198, 51, 100, 66)));
        let mut other_id = forged.clone();
        other_id.metadata.id = forged.metadata.id.wrapping_add(1);
        let mut other_name = forged;
        other_name.queries[0].set_name(Name::from_ascii("example.net.").unwrap());
        vec![
            b"short".to_vec(),
            query.to_vec(),
            other_id.to_vec().unwrap(),
            other_name.to_vec().unwrap(),
            elsewhere(query),
        ]
    });
    let web = web();
    for _ in 0..2 {
        let reply = ask(Place::Inside(&web), GATEWAY, "example.com.", RecordType::A).await.unwrap();
        assert_eq!(addresses(&reply), [ELSEWHERE]);
    }
}

#[tokio::test]
async fn without_another_server_it_says_so() {
    let _node = Node::with(1, &["127.0.0.1:5301"]).await;
    let web = web();
    let reply = ask(Place::Inside(&web), GATEWAY, "example.com.", RecordType::A).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn one_client_cannot_use_up_the_other_servers() {
    let _node = Node::with(1, &["127.0.0.1:5300"]).await;
    let silent = UdpSocket::bind((UPSTREAM, 5300)).unwrap();
    let web = web();
    let greedy = Place::Inside(&web).visit(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    greedy.set_nonblocking(true).unwrap();
    let greedy = tokio::net::UdpSocket::from_std(greedy).unwrap();
    let server = SocketAddr::from((GATEWAY, dns::PORT));
    for _ in 0..65 {
        greedy.send_to(&question("example.com.", RecordType::A), server).await.unwrap();
    }
    // The last one is told at once; those before it wait for the silent server.
    let mut reply = [0; 512];
    let length = timeout(Duration::from_secs(1), greedy.recv(&mut reply)).await.unwrap().unwrap();
    let reply = Message::from_vec(&reply[..length]).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let own = ask(Place::Inside(&web), GATEWAY, "web-0.dwell.", RecordType::A).await.unwrap();
    assert_eq!(addresses(&own), [web.address], "its names do not depend on others");
    drop(silent);
}

#[tokio::test]
async fn the_gateway_address_comes_back_and_goes() {
    let node = Node::with(1, &[]).await;
    let shown = || run("ip -o -4 address show dev lo | grep 169.254.1.1 || true");
    assert!(shown().contains("169.254.1.1/32 scope link lo:dwell"), "{}", shown());
    run("ip address del 169.254.1.1/32 dev lo");
    let start = Instant::now();
    while shown().is_empty() {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(1)).await;
    }
    let web = web();
    let own = ask(Place::Inside(&web), GATEWAY, "web-0.dwell.", RecordType::A).await.unwrap();
    assert_eq!(addresses(&own), [web.address]);
    drop(node);
    gateway::remove().await.unwrap();
    assert_eq!(shown(), "");
    run("ip address add 169.254.1.1/32 dev lo");
    gateway::remove().await.unwrap();
    assert!(!shown().is_empty(), "what somebody else has added is theirs");
}

#[tokio::test]
async fn a_port_that_is_taken_is_waited_for() {
    let _world = World::with([&web()]).await;
    let holder = UdpSocket::bind((HOST, dns::PORT)).unwrap();
    let mut directory = HeldDirectory::new(Default::default());
    directory.apply(everything(1)).unwrap();
    let _tasks = serve(&directory, &[]);
    until_answered(GATEWAY).await;
    drop(holder);
    until_answered(HOST).await;
}
