//! What an instance could try that has a socket for packets of its own making.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;

use dwell_core::workload::Protocol::{self, Tcp, Udp};
use dwell_network::world::{
    HOST, NEIGHBOUR, Place, World, bound, db, inside, lan, run, until_silent, web,
};
use dwell_network::{Allow, Direction, HostNetwork, Network as _, Policy, PortRange, Sandbox};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
};

use super::{SILENCE, THERE, connect, dual, pings, six, table, with};

const PORT: u16 = 8081;
const OPEN: u16 = 8082;

/// Numbers of next headers.
const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMP: u8 = 58;
const DESTINATION: u8 = 60;

/// A packet, its header the sender's own choice.
#[derive(Clone)]
struct Packet {
    source: Ipv6Addr,
    target: Ipv6Addr,
    /// What is the first behind the header, and all of it.
    next: u8,
    payload: Vec<u8>,
}

impl Packet {
    fn udp(source: Ipv6Addr, target: Ipv6Addr, port: u16) -> Self {
        let mut payload = [PORT, port, 13, 0].map(u16::to_be_bytes).concat();
        payload.extend(b"dwell");
        Self { source, target, next: UDP, payload }.summed(6)
    }

    fn icmp(source: Ipv6Addr, target: Ipv6Addr, message: &[u8]) -> Self {
        Self { source, target, next: ICMP, payload: message.to_vec() }.summed(2)
    }

    /// With the checksum, which is at this place of the payload.
    fn summed(mut self, at: usize) -> Self {
        let length = u32::try_from(self.payload.len()).unwrap();
        let mut all = [self.source.octets(), self.target.octets()].concat();
        all.extend(length.to_be_bytes());
        all.extend([0, 0, 0, self.next]);
        all.extend(&self.payload);
        all.resize(all.len().next_multiple_of(2), 0);
        let words = all.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let sum = !u16::try_from(folded).unwrap();
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Behind an extension header without options that matter.
    fn behind(mut self, kind: u8) -> Self {
        // Its length is in 8 bytes behind the first 8; the rest is an option for padding.
        let mut payload = vec![self.next, 0, 1, 4, 0, 0, 0, 0];
        payload.extend(&self.payload);
        (self.next, self.payload) = (kind, payload);
        self
    }

    /// To go on to another place, by the header that says so.
    fn routed(mut self, kind: u8, final_target: Ipv6Addr) -> Self {
        const SEGMENTS: u8 = 4;
        let mut payload = vec![self.next, 2, kind, 1, 0, 0, 0, 0];
        if kind == SEGMENTS {
            payload = vec![self.next, 4, kind, 1, 1, 0, 0, 0];
            payload.extend(final_target.octets());
            payload.extend(self.target.octets());
        } else {
            payload.extend(final_target.octets());
        }
        payload.extend(&self.payload);
        (self.next, self.payload) = (ROUTING, payload);
        self
    }

    /// In two, the first of which has so many bytes of the payload.
    fn split(self, at: usize) -> [Self; 2] {
        let part = |offset: u16, more: u16, payload: &[u8]| {
            let mut whole = vec![self.next, 0];
            whole.extend((offset | more).to_be_bytes());
            whole.extend(7_u32.to_be_bytes());
            whole.extend(payload);
            Self { next: FRAGMENT, payload: whole, ..self.clone() }
        };
        let (first, second) = self.payload.split_at(at);
        [part(0, 1, first), part(u16::try_from(at).unwrap(), 0, second)]
    }

    fn bytes(&self) -> Vec<u8> {
        const HOPS: u8 = 255;
        let length = u16::try_from(self.payload.len()).unwrap();
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([self.next, HOPS]);
        bytes.extend(self.source.octets());
        bytes.extend(self.target.octets());
        bytes.extend(&self.payload);
        bytes
    }

    /// Sends it out of a sandbox by its link, whatever is in it.
    fn send(&self, from: &Sandbox) {
        Place::Inside(from).visit(|| {
            let socket = socket(
                AddressFamily::Inet6,
                SockType::Raw,
                SockFlag::empty(),
                Some(SockProtocol::Raw),
            );
            let socket = socket.unwrap();
            // Where the kernel is to send it, which is not what it says itself: to the gateway.
            let way = SocketAddrV6::new(six(THERE), 0, 0, 0);
            let way = SockaddrIn6::from(way);
            sendto(socket.as_raw_fd(), &self.bytes(), &way, MsgFlags::empty()).unwrap();
        });
    }
}

/// How a packet is sent, in one or in parts.
type Shape = fn(Packet) -> Vec<Packet>;

/// Whether any of these gets to a socket at a port of a place.
fn arrives(packets: &[Packet], from: &Sandbox, to: Place<'_>, port: u16) -> bool {
    let receiver = to.visit(|| bound(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))));
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    packets.iter().for_each(|packet| packet.send(from));
    receiver.recv(&mut [0; 16]).is_ok()
}

fn allow(source: &str, ports: &[(Protocol, u16, u16)]) -> Allow {
    let ports = ports.iter().map(|&(protocol, first, last)| PortRange { protocol, first, last });
    Allow { source: source.parse().unwrap(), ports: ports.collect() }
}

async fn police(world: &World, sandbox: &Sandbox, direction: Direction, allowed: Vec<Allow>) {
    let policy = Policy { address: sandbox.address, direction, allowed };
    world.network.sync_policies(&[policy]).await.unwrap();
}

#[tokio::test]
async fn what_is_not_from_its_own_address_goes_nowhere() {
    let (web, db) = (web(), db());
    let world = with([&web, &db]).await;
    let own = six(db.address);
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    for source in [
        six(THERE),
        six(HOST),
        six(web.address),
        Ipv6Addr::UNSPECIFIED,
        address("fe80::1"),
        address("fe80::6477:6c6c:c000:201"),
        address("2001:db8::5"),
        address("fd00:6::a50:106"),
        db.address.to_ipv6_mapped(),
        db.address.to_ipv6_compatible(),
    ] {
        let packet = Packet::udp(source, six(web.address), PORT);
        assert!(!arrives(&[packet], &db, Place::Inside(&web), PORT), "{source}");
    }
    let packet = Packet::udp(own, six(web.address), PORT);
    assert!(arrives(&[packet], &db, Place::Inside(&web), PORT));

    // And to nobody who is of a link, also where the host has opened the port.
    run("ip -6 address add fd00:ec2::254/128 dev lo nodad");
    let host_access = vec![PortRange { protocol: Udp, first: PORT, last: PORT }];
    world.network.ensure_host(&HostNetwork { host_access, ..dual() }).await.unwrap();
    assert!(arrives(&[Packet::udp(own, six(HOST), PORT)], &db, Place::Host, PORT));
    for target in
        ["fe80::1", "fe80::6477:6c6c:c000:201", "ff02::1", "ff05::1", "ff0e::1", "fd00:ec2::254"]
    {
        let packet = Packet::udp(own, address(target), PORT);
        assert!(!arrives(&[packet], &db, Place::Host, PORT), "{target}");
    }
}

#[tokio::test]
async fn what_stands_before_a_port_does_not_hide_it() {
    let (web, db) = (web(), db());
    let world = with([&web, &db]).await;
    let (own, target) = (six(db.address), six(web.address));
    // Of the last the kernel takes none: the first fragment has to hold all headers.
    let shapes: [(&str, bool, Shape); 6] = [
        ("as usual", true, |packet| vec![packet]),
        ("options for the receiver", true, |packet| vec![packet.behind(DESTINATION)]),
        ("options for each hop", true, |packet| vec![packet.behind(HOP_BY_HOP)]),
        ("two fragments", true, |packet| packet.split(8).into()),
        ("the second fragment first", true, |packet| {
            let [first, second] = packet.split(8);
            vec![second, first]
        }),
        ("the port in the second fragment", false, |packet| {
            packet.behind(DESTINATION).split(8).into()
        }),
    ];
    let to_web = |shape: Shape, port| {
        arrives(&shape(Packet::udp(own, target, port)), &db, Place::Inside(&web), port)
    };
    let to_host = |shape: Shape, port| {
        arrives(&shape(Packet::udp(own, six(HOST), port)), &db, Place::Host, port)
    };
    let host_access = vec![PortRange { protocol: Udp, first: OPEN, last: OPEN }];
    world.network.ensure_host(&HostNetwork { host_access, ..dual() }).await.unwrap();
    for (name, is_taken, shape) in shapes {
        let one_port = vec![allow("0.0.0.0/0", &[(Udp, OPEN, OPEN), (Tcp, PORT, PORT)])];
        police(&world, &web, Direction::In, one_port.clone()).await;
        assert_eq!(to_web(shape, OPEN), is_taken, "{name}: it is allowed");
        assert!(!to_web(shape, PORT), "{name}: it is not allowed");
        police(&world, &db, Direction::Out, one_port).await;
        assert_eq!(to_web(shape, OPEN), is_taken, "{name}: it may go there");
        assert!(!to_web(shape, PORT), "{name}: it may not go there");
        world.network.sync_policies(&[]).await.unwrap();
        assert_eq!(to_web(shape, PORT), is_taken, "{name}: nobody minds");
        assert_eq!(to_host(shape, OPEN), is_taken, "{name}: the host has opened it");
        assert!(!to_host(shape, PORT), "{name}: the host has not opened it");
    }

    // A header that names another receiver is not followed, by instances as by hosts.
    let closed = Place::Inside(&web);
    police(&world, &web, Direction::In, vec![]).await;
    for kind in [0, 2, 4] {
        for over in [six(HOST), six(THERE), six(NEIGHBOUR)] {
            let packet = Packet::udp(own, over, PORT).routed(kind, target);
            assert!(!arrives(&[packet], &db, closed, PORT), "by {over}, header {kind}");
        }
    }
}

/// Neither a host nor another instance believes what an instance says of ways and neighbours.
#[tokio::test]
async fn nobody_is_led_elsewhere_by_an_instance() {
    let (web, db) = (web(), db());
    let _world = with([&web, &db]).await;
    let ways = || {
        let of = format!("ip -6 route get {}; ip -6 neighbour; ip -6 route", six(THERE));
        [inside(&web, &of), run(&of), lan(&of)]
    };
    assert!(pings(Place::Inside(&web), THERE) && pings(Place::Host, THERE));
    let before = ways();
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0], &six(db.address).octets()[..]].concat();
    let redirect = [redirect, six(THERE).octets().to_vec()].concat();
    // A router for half an hour, with a default route and a prefix of its own.
    let router = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let neighbour = [&[136, 0, 0, 0, 0xe0, 0, 0, 0], &six(THERE).octets()[..]].concat();
    let neighbour = [neighbour, vec![2, 1, 2, 0, 0, 0, 0, 1]].concat();
    let gateways = [six(db.address), address("fe80::1"), address("fe80::6477:6c6c:c000:202")];
    for message in [redirect.as_slice(), &router, &neighbour] {
        for source in gateways {
            for target in [
                six(web.address),
                six(HOST),
                six(NEIGHBOUR),
                address("ff02::1"),
                address("fe80::6477:6c6c:c000:201"),
            ] {
                Packet::icmp(source, target, message).send(&db);
            }
        }
    }
    // What is sent after that, in the same order, has arrived.
    let last = Packet::udp(six(db.address), six(web.address), PORT);
    assert!(arrives(&[last], &db, Place::Inside(&web), PORT));
    assert_eq!(ways(), before);
}

/// Who is behind a smaller link says so, and is heard by instances whether they are open, closed or confined.
#[tokio::test]
async fn packets_become_as_small_as_the_way_is() {
    const FAR: [u8; 4] = [10, 80, 3, 9];
    let (web, db) = (web(), db());
    let world = with([&web, &db]).await;
    lan("ip netns add dwn-far
         ip link add far mtu 1300 type veth peer name uplink mtu 1300 netns dwn-far
         ip link set far up
         ip -6 address add fd00:9::1/64 dev far nodad
         nsenter --net=/run/netns/dwn-far ip link set lo up
         nsenter --net=/run/netns/dwn-far ip link set uplink up
         nsenter --net=/run/netns/dwn-far ip -6 address add fd00:9::2/64 dev uplink nodad
         nsenter --net=/run/netns/dwn-far ip -6 address add fd00:5::10.80.3.9/128 dev lo nodad
         nsenter --net=/run/netns/dwn-far ip -6 route add default via fd00:9::1
         ip -6 route add fd00:5::10.80.3.0/120 via fd00:9::2");
    // Whoever says so has an address of the range, as every node has.
    let mut table = table();
    table.peers[0].blocks = vec!["10.80.2.0/23".parse().unwrap()];
    assert!(world.network.sync_routes(&table).await.unwrap().is_clean());
    let large = |from: &Sandbox| {
        let ping = format!("busybox ping6 -c 3 -i 0.3 -W 1 -s 1330 {}", six(FAR.into()));
        let said = inside(from, &format!("{ping} || true"));
        let way = inside(from, &format!("ip -6 route get {}", six(FAR.into())));
        assert!(way.contains("mtu 1300"), "{way}: {said}");
        assert!(said.contains("bytes from"), "{said}");
    };
    // The links of the test are new.
    let small = format!("busybox ping6 -c 1 -W 1 {} > /dev/null || echo no", six(FAR.into()));
    until_silent(&format!("nsenter --net=/run/netns/dwn-lan {small}"));
    large(&db);
    let to_far = vec![allow("10.80.3.9/32", &[])];
    let policies = [
        Policy { address: web.address, direction: Direction::In, allowed: vec![] },
        Policy { address: web.address, direction: Direction::Out, allowed: to_far },
    ];
    world.network.sync_policies(&policies).await.unwrap();
    large(&web);
    inside(&web, "ip -6 route flush cache");
    world.network.ensure_host(&HostNetwork { untracked: false, ..dual() }).await.unwrap();
    large(&web);
}

/// At none of its addresses, of whatever kind.
#[tokio::test]
async fn the_nodes_own_services_are_closed_at_all_its_addresses() {
    const SERVICE: u16 = 2375;
    let web = web();
    let _world = with([&web]).await;
    run("ip -6 address add 2001:db8::1/64 dev uplink nodad");
    lan("ip -6 address add 2001:db8::2/64 dev uplink nodad
         ip -6 route add 2001:db8:1::/64 dev uplink");
    let _listener = bound(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SERVICE)));
    let reaches = |from: Place<'_>, to: IpAddr| {
        let at = SocketAddr::from((to, SERVICE));
        let made = from.visit(|| TcpStream::connect_timeout(&at, SILENCE));
        made.is_ok_and(|mut made| made.write_all(b"d").is_ok())
    };
    let addresses = ["2001:db8::1".parse().unwrap(), six(HOST).into(), HOST.into()];
    for address in addresses {
        assert!(!reaches(Place::Inside(&web), address), "{address}");
        assert!(reaches(Place::Lan, address), "{address} is there");
    }
    assert_eq!(connect((Place::Inside(&web), Place::Host), HOST, 22), [false; 2]);
}
