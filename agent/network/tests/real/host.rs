//! What instances may send to hosts, and what nobody may send in the name of an instance.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use dwell_core::workload::Protocol;
use dwell_network::world::{
    HOST, NEIGHBOUR, OUTSIDE, Place, World, bound, datagram, db, host, inside, lan, peer, reaches,
    run, web,
};
use dwell_network::{GATEWAY, HostNetwork, Network as _, PortRange, RouteTable};

/// Where clouds have what a host is trusted with.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Whether a connection from a place gets to a listener at another.
fn connects(from: Place<'_>, (to, at): (Place<'_>, SocketAddr)) -> bool {
    let _listener = to.visit(|| bound(|| TcpListener::bind(at)));
    from.visit(|| TcpStream::connect_timeout(&at, Duration::from_millis(700))).is_ok()
}

fn range(protocol: Protocol, first: u16, last: u16) -> PortRange {
    PortRange { protocol, first, last }
}

/// The host has the address at which instances ask for names.
fn with_gateway() {
    run(&format!("ip address add {GATEWAY}/32 dev lo scope link"));
}

#[tokio::test]
async fn instances_reach_of_their_host_only_names_and_echoes() {
    let web = web();
    let world = World::with([&web]).await;
    with_gateway();
    let from = Place::Inside(&web);
    let service = |address: Ipv4Addr, port| (Place::Host, (address, port).into());
    for closed in [service(HOST, 2375), service(GATEWAY, 2375), service(HOST, 53)] {
        assert!(!connects(from, closed), "{closed:?}");
    }
    assert_eq!(datagram((from, web.address), (Place::Host, HOST)), None);
    assert!(connects(from, service(GATEWAY, 53)), "names");
    inside(&web, &format!("busybox ping -c 1 -W 1 {GATEWAY}; busybox ping -c 1 -W 1 {HOST}"));
    // What the host begins is answered, such as probes, tunnels and logins.
    assert!(connects(Place::Host, (from, (web.address, 8080).into())));
    assert!(datagram((Place::Host, HOST), (from, web.address)).is_some());
    assert!(reaches(from, NEIGHBOUR), "what is no host of theirs is as open as before");
    // Nobody else is affected.
    assert!(connects(Place::Lan, service(HOST, 2375)));
    assert!(connects(Place::Host, service(HOST, 2375)));
    assert!(run("nft list chain inet dwell host").contains("counter packets"), "drops are counted");

    let open = HostNetwork {
        host_access: vec![
            range(Protocol::Tcp, 5000, 5001),
            range(Protocol::Tcp, 6000, 6000),
            range(Protocol::Udp, 1, 65535),
        ],
        ..host()
    };
    world.network.ensure_host(&open).await.unwrap();
    assert!([5000, 5001, 6000].into_iter().all(|port| connects(from, service(HOST, port))));
    assert!([5002, 6001].into_iter().all(|port| !connects(from, service(HOST, port))));
    assert_eq!(datagram((from, web.address), (Place::Host, HOST)), Some(web.address));
    world.network.ensure_host(&host()).await.unwrap();
    assert!(!connects(from, service(HOST, 5000)), "what is no longer allowed is closed");
}

#[tokio::test]
async fn instances_of_other_nodes_reach_no_more_of_this_host() {
    let world = World::ready().await;
    let there = Ipv4Addr::new(10, 80, 2, 5);
    let routes =
        RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() };
    world.network.sync_routes(&routes).await.unwrap();
    lan(&format!("ip address add {there}/32 dev lo"));
    assert_eq!(datagram((Place::Lan, there), (Place::Host, HOST)), None);
    assert!(datagram((Place::Lan, NEIGHBOUR), (Place::Host, HOST)).is_some(), "their node does");
    // A node without instances says itself whom it serves, by its own firewall.
    let routes_only = HostNetwork { blocks: Vec::new(), ..host() };
    world.network.ensure_host(&routes_only).await.unwrap();
    assert!(datagram((Place::Lan, there), (Place::Host, HOST)).is_some());
}

#[tokio::test]
async fn what_a_cloud_tells_its_hosts_is_told_to_no_instance() {
    let web = web();
    let world = World::with([&web]).await;
    lan(&format!("ip address add {METADATA}/32 dev lo"));
    run(&format!("ip route add {METADATA}/32 via {NEIGHBOUR}"));
    let metadata = (Place::Lan, (METADATA, 80).into());
    assert!(connects(Place::Host, metadata), "the host itself is told");
    assert!(!connects(Place::Inside(&web), metadata));
    let all = vec![range(Protocol::Tcp, 1, 65535), range(Protocol::Udp, 1, 65535)];
    world.network.ensure_host(&HostNetwork { host_access: all, ..host() }).await.unwrap();
    assert!(!connects(Place::Inside(&web), metadata), "it is not the host itself");
    let names = (Place::Lan, (METADATA, 53).into());
    assert!(!connects(Place::Inside(&web), names), "the node answers itself");
    world.network.ensure_host(&HostNetwork { foreign_names: true, ..host() }).await.unwrap();
    assert!(connects(Place::Inside(&web), names) && !connects(Place::Inside(&web), metadata));
    let out = datagram((Place::Inside(&web), web.address), (Place::Lan, OUTSIDE));
    assert_eq!(out, Some(HOST), "all else is as open as before");
}

#[tokio::test]
async fn nobody_on_the_segment_is_an_instance_of_this_node() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.uplink.rp_filter=0");
    let there = Ipv4Addr::new(10, 80, 2, 5);
    lan(&format!("ip address add {}/32 dev lo; ip address add {there}/32 dev lo", web.address));
    let claims = |source| datagram((Place::Lan, source), (Place::Inside(&db), db.address));
    assert_eq!(claims(web.address), None, "it is here, and not there");
    assert_eq!(claims(there), Some(there), "an instance of another node");
    // One that has gone elsewhere is believed to be there.
    world.network.remove_sandbox(&web.id()).await.unwrap();
    let exception = format!("ip route add {}/32 via {NEIGHBOUR}", web.address);
    run(&exception);
    assert_eq!(claims(web.address), Some(web.address));
}

#[tokio::test]
async fn nobody_on_the_segment_goes_out_under_this_hosts_address() {
    let web = web();
    let _world = World::with([&web]).await;
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.uplink.rp_filter=0
         ip netns add dwn-beyond
         ip link add beyond type veth peer name eth0 netns dwn-beyond
         ip address add 198.51.100.1/24 dev beyond
         ip link set beyond up
         nsenter --net=/run/netns/dwn-beyond ip link set eth0 up
         nsenter --net=/run/netns/dwn-beyond ip address add 198.51.100.2/24 dev eth0
         nsenter --net=/run/netns/dwn-beyond ip route add default via 198.51.100.1");
    let beyond = Ipv4Addr::new(198, 51, 100, 2);
    let unused = Ipv4Addr::new(10, 80, 7, 7);
    lan(&format!("ip address add {unused}/32 dev lo; ip route add 198.51.100.0/24 via {HOST}"));
    let to_beyond = |from| datagram(from, (Place::Named("dwn-beyond"), beyond));
    let own = to_beyond((Place::Inside(&web), web.address));
    assert_eq!(own, Some(Ipv4Addr::new(198, 51, 100, 1)), "its instance does");
    assert_eq!(
        to_beyond((Place::Lan, unused)),
        Some(unused),
        "under its own name, for what it is worth"
    );
}

/// Hosts of the segment that have a route, and containers of Docker's, do not get the names of the cluster, nor anything
/// else, at the gateway's address. They are told so at once, and go on to their next resolver.
#[tokio::test]
async fn the_gateway_is_nobody_elses() {
    let world = World::ready().await;
    with_gateway();
    lan(&format!("ip route add {GATEWAY}/32 via {HOST}"));
    let names = SocketAddr::from((GATEWAY, 53));
    for blocks in [host().blocks, Vec::new()] {
        world.network.ensure_host(&HostNetwork { blocks, ..host() }).await.unwrap();
        let _listener = Place::Host.visit(|| bound(|| TcpListener::bind(names)));
        let _names = Place::Host.visit(|| bound(|| UdpSocket::bind(names)));
        let connected = |from: Place<'_>| {
            from.visit(|| TcpStream::connect_timeout(&names, Duration::from_secs(2)))
        };
        assert_eq!(connected(Place::Lan).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        connected(Place::Host).unwrap();
        let told = Place::Lan.visit(|| {
            let asking = UdpSocket::bind("0.0.0.0:0").unwrap();
            asking.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            asking.connect(names).unwrap();
            asking.send(b"who?").unwrap();
            asking.recv(&mut [0; 9]).unwrap_err().kind()
        });
        assert_eq!(told, ErrorKind::ConnectionRefused);
    }
}
