//! What we ask of the kernel, one function per request, in the words of `ip`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use dwell_core::net::Mac;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::family::{Family, Octets};
use super::netlink::Request;
use super::observe::{Address6, Neighbour, RTA_NH_ID, Route};
use super::plan::PeerRoute;
use crate::{GATEWAY_MAC, Overlay, ROUTE_PROTOCOL};

/// Something that may exist already: leave it alone, or put ours in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Refused with `EEXIST` if there is one.
    Add,
    /// Replaces what is there, without a gap, whosever it is.
    Replace,
    /// Goes behind what is there, and is in force when that has gone.
    Append,
}

impl Mode {
    pub(super) fn flags(self) -> u16 {
        match self {
            Self::Add => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Append => NLM_F_CREATE | NLM_F_APPEND,
        }
    }
}

/// `ip link add NAME type veth peer name eth0 netns INSIDE address MAC`, both ends down.
///
/// A veth uses one queue unless told otherwise, but has one for each processor unless told otherwise, and
/// waits 2 ms for other processors when it puts the others aside.
pub(super) fn add_veth(name: &str, inside: BorrowedFd<'_>, mac: Mac, mtu: u32) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::NetNsFd(inside.as_raw_fd()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(GATEWAY_MAC.0.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    Request::new(RouteNetlinkMessage::NewLink(link), Mode::Add.flags())
}

/// `ip link add NAME type vxlan id VNI local LOCAL dstport PORT nolearning`, down.
pub(super) fn add_vxlan(name: &str, vni: u32, overlay: &Overlay, mtu: u32) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(Mac::of_address(overlay.local).0.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![
                InfoVxlan::Id(vni),
                InfoVxlan::Local(overlay.local),
                InfoVxlan::Port(overlay.port),
                InfoVxlan::Learning(false),
            ])),
        ]),
    ];
    Request::new(RouteNetlinkMessage::NewLink(link), Mode::Add.flags())
}

/// `ip link set INDEX …`.
pub(super) fn set_link(index: u32, attributes: Vec<LinkAttribute>) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = attributes;
    Request::new(RouteNetlinkMessage::SetLink(link), 0)
}

/// `ip link set INDEX up`, with other changes in the same breath.
pub(super) fn set_link_up(index: u32, attributes: Vec<LinkAttribute>) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = attributes;
    Request::new(RouteNetlinkMessage::SetLink(link), 0)
}

/// `ip link del` of one link; of a veth, both ends go.
pub(super) fn delete_link(index: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Request::new(RouteNetlinkMessage::DelLink(link), 0)
}

/// `ip link del group GROUP`: all of them for the price of one.
pub(super) fn delete_link_group(group: u32) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::Group(group)];
    Request::new(RouteNetlinkMessage::DelLink(link), 0)
}

/// `ip link show NAME`.
pub(super) fn get_link_by_name(name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    Request::new(RouteNetlinkMessage::GetLink(link), 0)
}

/// `ip link show` of the link with this index.
pub(super) fn get_link(index: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Request::new(RouteNetlinkMessage::GetLink(link), 0)
}

/// `ip netns list-id`, for the network namespace that `file` refers to.
pub(super) fn namespace_number(file: BorrowedFd<'_>) -> Request {
    const NETNSA_FD: u16 = 3;
    let any_family = [0; 4];
    let attribute = (NETNSA_FD, Octets::from(file.as_raw_fd().to_ne_bytes()));
    Request::of_words(libc::RTM_GETNSID, 0, &any_family, [attribute])
}

/// `ip link show`, as a dump.
pub(super) fn links() -> Request {
    Request::new(RouteNetlinkMessage::GetLink(LinkMessage::default()), 0)
}

/// `ip -4 address show`, as a dump.
pub(super) fn addresses() -> Request {
    addresses_of(AddressFamily::Inet)
}

/// `ip -6 address show`, as a dump.
pub(super) fn addresses6() -> Request {
    addresses_of(AddressFamily::Inet6)
}

fn addresses_of(family: AddressFamily) -> Request {
    let mut address = AddressMessage::default();
    address.header.family = family;
    Request::new(RouteNetlinkMessage::GetAddress(address), 0)
}

/// `ip -4 route show`, as a dump of all tables.
pub(super) fn routes() -> Request {
    routes_of(AddressFamily::Inet)
}

/// `ip -6 route show`, as a dump of all tables.
pub(super) fn routes6() -> Request {
    routes_of(AddressFamily::Inet6)
}

fn routes_of(family: AddressFamily) -> Request {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    Request::new(RouteNetlinkMessage::GetRoute(route), 0)
}

/// `ip -4 neighbour show`, as a dump.
pub(super) fn neighbours() -> Request {
    neighbours_of(AddressFamily::Inet)
}

/// `ip -6 neighbour show`, as a dump.
pub(super) fn neighbours6() -> Request {
    neighbours_of(AddressFamily::Inet6)
}

fn neighbours_of(family: AddressFamily) -> Request {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = family;
    Request::new(RouteNetlinkMessage::GetNeighbour(neighbour), 0)
}

/// `ip address add ADDRESS/32 dev LINK`.
pub(super) fn add_address(link: u32, address: Ipv4Addr) -> Request {
    let message = address_message(link, address);
    Request::new(RouteNetlinkMessage::NewAddress(message), Mode::Add.flags())
}

/// `ip address add ADDRESS/128 dev LINK nodad`: usable at once, as nobody else can have it.
pub(super) fn add_address6(link: u32, address: Ipv6Addr) -> Request {
    let mut message = address6_message(link, address, 128);
    message.header.flags = AddressHeaderFlags::Nodad;
    Request::new(RouteNetlinkMessage::NewAddress(message), Mode::Add.flags())
}

/// `ip address del` of exactly this one.
pub(super) fn delete_address6(found: &Address6) -> Request {
    let message = address6_message(found.link, found.address, found.prefix_length);
    Request::new(RouteNetlinkMessage::DelAddress(message), 0)
}

fn address6_message(link: u32, address: Ipv6Addr, prefix_length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = prefix_length;
    message.header.index = link;
    message.attributes = vec![AddressAttribute::Local(IpAddr::V6(address))];
    message
}

fn address_message(link: u32, address: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    message
}

/// `ip address add ADDRESS/32 dev LINK scope link`, from which nothing is sent unless asked for.
pub(super) fn add_link_address(link: u32, address: Ipv4Addr) -> Request {
    let mut message = address_message(link, address);
    message.header.scope = AddressScope::Link;
    Request::new(RouteNetlinkMessage::NewAddress(message), Mode::Add.flags())
}

/// `ip address add ADDRESS/32 dev LINK scope host`: nothing is ever sent from it.
pub(super) fn add_host_address(link: u32, address: Ipv4Addr) -> Request {
    let mut message = address_message(link, address);
    message.header.scope = AddressScope::Host;
    Request::new(RouteNetlinkMessage::NewAddress(message), Mode::Add.flags())
}

/// `ip neighbour replace ADDRESS lladdr MAC dev LINK nud permanent`.
pub(super) fn set_neighbour(link: u32, address: impl Into<IpAddr>, mac: Mac) -> Request {
    let mut message = neighbour(link, address.into());
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    Request::new(RouteNetlinkMessage::NewNeighbour(message), Mode::Replace.flags())
}

/// `ip neighbour get ADDRESS dev LINK`.
pub(super) fn get_neighbour(link: u32, address: IpAddr) -> Request {
    Request::new(RouteNetlinkMessage::GetNeighbour(neighbour(link, address)), 0)
}

/// `ip neighbour del` of exactly this one.
pub(super) fn delete_neighbour(found: &Neighbour) -> Request {
    Request::new(RouteNetlinkMessage::DelNeighbour(neighbour(found.link, found.address)), 0)
}

/// `bridge fdb show`, as a dump.
pub(super) fn forwarding() -> Request {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    Request::new(RouteNetlinkMessage::GetNeighbour(entry), 0)
}

/// `bridge fdb replace MAC dev LINK dst ADDRESS self permanent`, of the MAC that the address implies.
pub(super) fn add_forwarding(link: u32, address: Ipv4Addr) -> Request {
    let entry = forwarding_entry(link, address.into(), Mac::of_address(address));
    Request::new(RouteNetlinkMessage::NewNeighbour(entry), Mode::Replace.flags())
}

/// `bridge fdb del` of exactly this one.
pub(super) fn delete_forwarding(found: &Neighbour) -> Request {
    let entry = forwarding_entry(found.link, found.address, found.mac);
    Request::new(RouteNetlinkMessage::DelNeighbour(entry), 0)
}

fn forwarding_entry(link: u32, address: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut entry = neighbour(link, address);
    entry.header.family = AddressFamily::Bridge;
    entry.header.state = NeighbourState::Permanent;
    entry.header.flags = NeighbourFlags::Own;
    entry.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    entry
}

fn neighbour(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = link;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// `ip route get fibmatch ADDRESS [mark MARK]`: the entry of the table that decides.
pub(super) fn match_route(address: impl Into<IpAddr>, mark: Option<u32>) -> Request {
    look_up(address.into(), mark, RouteFlags::FibMatch)
}

/// `ip route get ADDRESS [mark MARK]`: where a packet would go.
pub(super) fn resolve_route(address: Ipv4Addr, mark: Option<u32>) -> Request {
    look_up(address.into(), mark, RouteFlags::empty())
}

fn look_up(address: IpAddr, mark: Option<u32>, flags: RouteFlags) -> Request {
    let mut message = route(IpNet::from(address), RouteProtocol::Unspec);
    message.header.flags = flags;
    message.attributes.extend(mark.map(RouteAttribute::Mark));
    Request::new(RouteNetlinkMessage::GetRoute(message), 0)
}

/// `ip route add ADDRESS dev LINK scope link`, as one of ours.
pub(super) fn add_link_route(address: IpAddr, link: u32, metric: u32) -> Request {
    let message = link_route(address, link, metric);
    Request::new(RouteNetlinkMessage::NewRoute(message), Mode::Add.flags())
}

/// `ip route replace ADDRESS dev LINK scope link table TABLE`, as one of ours: there is no moment without a route.
pub(super) fn replace_link_route(address: IpAddr, link: u32, metric: u32, table: u8) -> Request {
    let mut message = link_route(address, link, metric);
    message.header.table = table;
    Request::new(RouteNetlinkMessage::NewRoute(message), Mode::Replace.flags())
}

/// `ip route del ADDRESS dev LINK`, only if it is ours.
pub(super) fn delete_link_route(address: IpAddr, link: u32, metric: u32) -> Request {
    Request::new(RouteNetlinkMessage::DelRoute(link_route(address, link, metric)), 0)
}

fn link_route(address: IpAddr, link: u32, metric: u32) -> RouteMessage {
    let mut message = route(IpNet::from(address), RouteProtocol::Other(ROUTE_PROTOCOL));
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Link;
    message.attributes.extend([RouteAttribute::Oif(link), RouteAttribute::Priority(metric)]);
    message
}

/// Inside a sandbox: `ip route add default via GATEWAY dev LINK`.
pub(super) fn add_default_route(link: u32, gateway: IpAddr) -> Request {
    let everything = match gateway {
        IpAddr::V4(_) => IpNet::V4(Default::default()),
        IpAddr::V6(_) => IpNet::V6(Default::default()),
    };
    let mut message = route(everything, RouteProtocol::Boot);
    message.header.kind = RouteType::Unicast;
    message.attributes.extend([RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(link)]);
    Request::new(RouteNetlinkMessage::NewRoute(message), Mode::Add.flags())
}

/// `ip route add unreachable PREFIX table TABLE`, as one of ours.
pub(super) fn add_unreachable(prefix: impl Into<IpNet>, table: u8, metric: u32) -> Request {
    let mut message = route(prefix.into(), RouteProtocol::Other(ROUTE_PROTOCOL));
    message.header.table = table;
    message.header.kind = RouteType::Unreachable;
    message.attributes.push(RouteAttribute::Priority(metric));
    Request::new(RouteNetlinkMessage::NewRoute(message), Mode::Add.flags())
}

/// `ip route add|append PREFIX nhid NEXTHOP [src SOURCE] [table TABLE]`, as one of ours.
pub(super) fn set_peer_route(route: &PeerRoute<'_>, metric: u32, mode: Mode) -> Request {
    let (scope, kind) = (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
    let family = route.family;
    let header = route_header(family, route.prefix, route.table, scope, kind);
    let attributes = [
        Some((libc::RTA_DST, family.octets(route.prefix.network()))),
        Some((RTA_NH_ID, Octets::from(route.nexthop))),
        Some((libc::RTA_PRIORITY, Octets::from(metric))),
        route.source.map(|source| (libc::RTA_PREFSRC, family.octets(source))),
    ];
    let attributes = attributes.into_iter().flatten();
    Request::of_words(libc::RTM_NEWROUTE, mode.flags(), &header, attributes)
}

/// `ip route del` of exactly this route of ours, and of none that has taken its place.
pub(super) fn delete_route(found: &Route) -> Request {
    let (scope, kind) = (libc::RT_SCOPE_NOWHERE, libc::RTN_UNSPEC);
    let family = found.family;
    let header = route_header(family, found.prefix, found.table, scope, kind);
    let link = found.link.filter(|_| found.nexthop.is_none());
    let attributes = [
        Some((libc::RTA_DST, family.octets(found.prefix.network()))),
        Some((libc::RTA_PRIORITY, Octets::from(found.metric))),
        found.nexthop.map(|nexthop| (RTA_NH_ID, Octets::from(nexthop))),
        link.map(|link| (libc::RTA_OIF, Octets::from(link))),
        found.source.map(|source| (libc::RTA_PREFSRC, family.octets(source))),
    ];
    Request::of_words(libc::RTM_DELROUTE, 0, &header, attributes.into_iter().flatten())
}

/// `struct rtmsg` of one of ours. There may be 100,000 of them, so these are written without detours.
fn route_header(family: Family, prefix: Ipv4Net, table: u8, scope: u8, kind: u8) -> [u8; 12] {
    let length = family.length(prefix.prefix_len());
    let family = u8::from(family.number());
    [family, length, 0, 0, table, ROUTE_PROTOCOL, scope, kind, 0, 0, 0, 0]
}

fn route(prefix: IpNet, protocol: RouteProtocol) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(prefix.addr());
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol;
    if prefix.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(prefix.network().into()));
    }
    message
}

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
