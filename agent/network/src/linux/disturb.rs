//! What a notification of the kernel may have disturbed: functions of messages, and of how links were before.
//!
//! They are generous where nobody is likely to be at work, since a false alarm costs one look, and narrow
//! where much goes on that does not concern us: neighbours come and go, Docker changes its chains with
//! every container. What nobody asked for has the port number 0.

use std::collections::HashMap;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_REPLACE, NetlinkBuffer};
use nix::libc;

use super::family::{is_ipv6, node_of};
use super::nexthop::{self, Nexthop};
use super::observe::{self, Address, Address6, Link, Route, attributes, ip};
use super::{
    LOOPBACK, METRIC_BLOCK, METRIC_INSTANCE, METRIC_PEER, OVERLAY_TABLE, iptables, nftables,
    overlay, veth,
};
use crate::{GATEWAY, GATEWAY6, ROUTE_PROTOCOL};

/// One kind of thing to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Host,
    Sandboxes,
    Routes,
}

pub(super) const EVERYTHING: &[Kind] = &[Kind::Host, Kind::Sandboxes, Kind::Routes];
const UPLINKS: &[Kind] = &[Kind::Host, Kind::Routes];

type Message<'a> = NetlinkBuffer<&'a [u8]>;

/// By links, addresses, routes, nexthops, neighbours and rules of the host's namespace.
pub(super) fn by_routing(message: &Message<'_>, links: &mut KnownLinks) -> &'static [Kind] {
    let payload = message.payload();
    match message.message_type() {
        // Routers renew addresses of IPv6 all the time; of ours, which only somebody else takes away, none is.
        libc::RTM_NEWADDR if is_ipv6(payload) => &[],
        libc::RTM_DELADDR if is_ipv6(payload) => {
            let found = Address6::parse(payload);
            let is_ours = |it: Address6| node_of(it.address).is_some() || it.link == LOOPBACK;
            if found.is_some_and(is_ours) { &[Kind::Routes] } else { &[] }
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => UPLINKS,
        kind @ (libc::RTM_NEWLINK | libc::RTM_DELLINK) => {
            let is_gone = kind == libc::RTM_DELLINK;
            Link::parse(payload).map_or(EVERYTHING, |link| by_link(&link, is_gone, links))
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let is_replaced = message.flags() & NLM_F_REPLACE != 0;
            let Some(route) = route(payload) else { return &[] };
            match message.message_type() {
                // Which interfaces are uplinks, and what they carry, is another matter with another one.
                _ if route.is_default() && route.table == libc::RT_TABLE_MAIN => &[Kind::Host],
                libc::RTM_DELROUTE if route.protocol == ROUTE_PROTOCOL => by_route(&route),
                // Somebody else's in the place of ours.
                libc::RTM_NEWROUTE if is_replaced => by_route(&route),
                _ => &[],
            }
        }
        nexthop::RTM_NEWNEXTHOP | nexthop::RTM_DELNEXTHOP => {
            let ours = Nexthop::parse(payload).filter(Nexthop::is_ours);
            ours.map_or(&[], |_| &[Kind::Routes])
        }
        libc::RTM_NEWNEIGH if is_on_purpose(message) && lost_neighbour(payload).is_some() => {
            // Of an instance, or of a peer in the overlay.
            &[Kind::Sandboxes, Kind::Routes]
        }
        libc::RTM_DELNEIGH if is_on_purpose(message) => &[Kind::Routes],
        // The kernel does not say who has changed where a hardware address is.
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH if links.is_of_overlay(payload) => &[Kind::Routes],
        libc::RTM_NEWRULE | libc::RTM_DELRULE => UPLINKS,
        _ => &[],
    }
}

/// By what happens in another namespace, which may be a sandbox. The kernel's own deeds there are what
/// removing a sandbox looks like.
pub(super) fn by_inside(message: &Message<'_>) -> &'static [Kind] {
    let payload = message.payload();
    let is_sandboxs = match message.message_type() {
        // Of IPv6 the kernel does not say whether it was on purpose: what it says is not understood here.
        libc::RTM_DELADDR => {
            let address = Address::parse(payload);
            is_on_purpose(message) && address.is_some_and(|it| it.net.prefix_len() == 32)
        }
        // The default route.
        libc::RTM_DELROUTE if is_ipv6(payload) => {
            is_on_purpose(message) && payload.get(1) == Some(&0)
        }
        libc::RTM_DELROUTE => {
            let prefix = Route::parse(payload).map(|route| route.prefix);
            let is_needed = |prefix: ipnet::Ipv4Net| {
                prefix.prefix_len() == 0 || prefix == ipnet::Ipv4Net::from(GATEWAY)
            };
            is_on_purpose(message) && prefix.is_some_and(is_needed)
        }
        libc::RTM_NEWNEIGH => {
            let is_gateway = |lost| lost == IpAddr::from(GATEWAY) || lost == IpAddr::from(GATEWAY6);
            is_on_purpose(message) && lost_neighbour(payload).is_some_and(is_gateway)
        }
        // That of eth0 shows at its other end.
        libc::RTM_NEWLINK => Link::parse(payload)
            .is_some_and(|link| link.index == 1 && !link.is_up && is_switched(payload)),
        _ => false,
    };
    if is_sandboxs { &[Kind::Sandboxes] } else { &[] }
}

/// By changes to our own tables, or to the chains of iptables that lead to ours.
pub(super) fn by_firewall(message: &Message<'_>) -> &'static [Kind] {
    let Some(place) = nftables::place(message) else { return &[] };
    let is_ours = place.family == nftables::NFPROTO_INET
        && [nftables::TABLE, nftables::LEASES, nftables::FLOWS].contains(&place.table);
    let leads_to_ours = [nftables::NFPROTO_IPV4, nftables::NFPROTO_IPV6].contains(&place.family)
        && place.table == "filter"
        && place.chain.is_some_and(iptables::concerns);
    if is_ours || leads_to_ours { &[Kind::Host] } else { &[] }
}

fn by_link(link: &Link, is_gone: bool, links: &mut KnownLinks) -> &'static [Kind] {
    if veth::is_ours(link) {
        // One that is being made has no alias yet, and gets it with being up.
        let is_alive = veth::owner(link).is_some() && link.group != veth::DOOMED_GROUP;
        let is_dead = is_gone || !link.is_up || !link.has_carrier;
        return if is_alive && is_dead { &[Kind::Sandboxes] } else { &[] };
    }
    if links.note(link, is_gone) { UPLINKS } else { &[] }
}

/// How links that are not ours were last reported, as far as it matters to us.
///
/// The kernel says what a link is like and only for some changes that they are one. A carrier that is lost or
/// found, with which nexthops and routes go without a word, and another MTU are not among these.
#[derive(Debug, Default)]
pub(super) struct KnownLinks {
    states: HashMap<u32, LinkState>,
    /// The index of the overlay's device.
    overlay: Option<u32>,
}

/// What routes, uplinks and the size of packets depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LinkState {
    is_up: bool,
    has_carrier: bool,
    is_running: bool,
    mtu: u32,
}

impl KnownLinks {
    /// Takes them over from a look at all of them. Whatever is not known counts as changed when it is reported.
    pub(super) fn start_with(&mut self, links: &[Link]) {
        self.forget();
        for link in links.iter().filter(|link| !veth::is_ours(link)) {
            self.note(link, false);
        }
    }

    /// Forgets all, as what was reported since may have been lost.
    pub(super) fn forget(&mut self) {
        self.states.clear();
    }

    /// Whether a message about a neighbour is about a forwarding entry of the overlay's device.
    fn is_of_overlay(&self, payload: &[u8]) -> bool {
        let is_forwarding = payload.first().is_some_and(|it| i32::from(*it) == libc::AF_BRIDGE);
        is_forwarding && self.overlay.is_some() && observe::u32_at(payload, 4) == self.overlay
    }

    /// Whether this report is of a change that matters. A link that is made without being up leads nowhere yet.
    fn note(&mut self, link: &Link, is_gone: bool) -> bool {
        if overlay::is_device(link) {
            self.overlay = (!is_gone).then_some(link.index);
        }
        if is_gone {
            self.states.remove(&link.index);
            return true;
        }
        let now = LinkState {
            is_up: link.is_up,
            has_carrier: link.has_carrier,
            is_running: link.is_running,
            mtu: link.mtu,
        };
        match self.states.insert(link.index, now) {
            Some(before) => before != now,
            None => link.is_up,
        }
    }
}

/// Whether a message about a link says that it was set up or down.
fn is_switched(payload: &[u8]) -> bool {
    const CHANGED_FLAGS_AT: usize = 12;
    const JUST_MADE: u32 = u32::MAX;
    let changed = observe::u32_at(payload, CHANGED_FLAGS_AT).unwrap_or(JUST_MADE);
    changed != JUST_MADE && changed & libc::IFF_UP.cast_unsigned() != 0
}

/// Of either protocol.
fn route(payload: &[u8]) -> Option<Route> {
    if is_ipv6(payload) { Route::parse_ipv6(payload) } else { Route::parse(payload) }
}

fn by_route(route: &Route) -> &'static [Kind] {
    if route.table == OVERLAY_TABLE {
        return &[Kind::Routes];
    }
    match route.metric {
        METRIC_INSTANCE => &[Kind::Sandboxes],
        METRIC_PEER => &[Kind::Routes],
        METRIC_BLOCK => &[Kind::Host],
        _ => &[],
    }
}

/// Whether a process has asked for it, and it is not the kernel's own doing.
fn is_on_purpose(message: &Message<'_>) -> bool {
    message.port_number() != 0
}

/// The address of a neighbour that is not permanent, or not any more.
fn lost_neighbour(payload: &[u8]) -> Option<IpAddr> {
    const HEADER_BYTES: usize = 12;
    const NDA_DST: u16 = 1;
    const STATE_AT: usize = 8;
    const NUD_PERMANENT: u16 = 0x80;
    let state = u16::from_ne_bytes(*payload.get(STATE_AT..)?.first_chunk()?);
    let mut attributes = attributes(payload, HEADER_BYTES);
    let address = attributes.find(|attribute| attribute.kind == NDA_DST)?;
    if state & NUD_PERMANENT == 0 { ip(address.value) } else { None }
}
