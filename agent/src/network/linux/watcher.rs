//! Notices that something of ours, or something ours depends on, has been changed by others.
//!
//! A thread listens to the kernel's notifications and counts, per kind of work, how often something may have
//! been disturbed. It repairs nothing and remembers nothing: whoever reads [`Disturbances`] looks at the
//! kernel again. A false alarm costs one look; silence is never proof, because the kernel removes some
//! routes without a word, which is why lost links and addresses count as well.
//!
//! What our own sockets have caused is left out, by their port numbers; but the kernel does not give one
//! with every message about a link, so that a veth of ours counts only when it goes or is set down.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use netlink_packet_core::{NLM_F_REPLACE, NetlinkBuffer};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::netlink::Netlink;
use super::nexthop::{self, Nexthop};
use super::observe::{self, Link, Route};
use super::{METRIC_BLOCK, METRIC_INSTANCE, METRIC_PEER, nftables, veth};
use crate::network::{Disturbances, ROUTE_PROTOCOL};

/// The thread lives as long as this does.
#[derive(Debug)]
pub(super) struct Watcher {
    _end: OwnedFd,
}

/// One kind of thing to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Sandboxes,
    Routes,
}

const EVERYTHING: &[Kind] = &[Kind::Host, Kind::Sandboxes, Kind::Routes];
const UPLINKS: &[Kind] = &[Kind::Host, Kind::Routes];

impl Watcher {
    /// For the namespace of the calling thread. `own` are the ports of the sockets with which we make changes.
    pub(super) fn start(own: Vec<u32>) -> io::Result<(Self, watch::Receiver<Disturbances>)> {
        let routing = Netlink::listen_route(&[
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_NEXTHOP,
        ])?;
        let firewall = Netlink::listen_netfilter(&[nftables::NOTIFICATIONS])?;
        let (ended, end) = pipe2(OFlag::O_CLOEXEC)?;
        let (counts, receiver) = watch::channel(Disturbances::default());
        let thread = thread::Builder::new().name("dwell-watcher".to_owned());
        thread.spawn(move || {
            if let Err(error) = run(routing, firewall, &ended, &own, &counts) {
                warn!(%error, "no longer notified of changes to the network; only the periodic check is left");
            }
        })?;
        Ok((Self { _end: end }, receiver))
    }
}

fn run(
    mut routing: Netlink,
    mut firewall: Netlink,
    ended: &OwnedFd,
    own: &[u32],
    counts: &watch::Sender<Disturbances>,
) -> io::Result<()> {
    let ready = |descriptor: &PollFd<'_>| descriptor.any().unwrap_or_default();
    loop {
        let watched = [routing.as_fd(), firewall.as_fd(), ended.as_fd()];
        let mut watched = watched.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        match poll(&mut watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [on_routing, on_firewall, on_end] = watched.each_ref().map(ready);
        if on_end {
            return Ok(());
        }
        if on_routing {
            listen(&mut routing, own, routing_disturbs, counts)?;
        }
        if on_firewall {
            listen(&mut firewall, own, firewall_disturbs, counts)?;
        }
    }
}

/// Reads one datagram and counts what it disturbs.
fn listen(
    socket: &mut Netlink,
    own: &[u32],
    disturbs: impl Fn(&NetlinkBuffer<&[u8]>) -> &'static [Kind],
    counts: &watch::Sender<Disturbances>,
) -> io::Result<()> {
    let kinds: Vec<Kind> = match socket.notifications() {
        Ok(messages) => messages
            .filter(|message| !own.contains(&message.port_number()))
            .flat_map(|message| disturbs(&message))
            .copied()
            .collect(),
        // Some notifications were lost: look at everything.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => EVERYTHING.to_vec(),
        Err(error) => return Err(error),
    };
    if kinds.is_empty() {
        return Ok(());
    }
    debug!(?kinds, "the network was disturbed");
    counts.send_modify(|counts| {
        counts.host += u64::from(kinds.contains(&Kind::Host));
        counts.sandboxes += u64::from(kinds.contains(&Kind::Sandboxes));
        counts.routes += u64::from(kinds.contains(&Kind::Routes));
    });
    Ok(())
}

fn routing_disturbs(message: &NetlinkBuffer<&[u8]>) -> &'static [Kind] {
    let payload = message.payload();
    match message.message_type() {
        libc::RTM_NEWADDR | libc::RTM_DELADDR => UPLINKS,
        kind @ (libc::RTM_NEWLINK | libc::RTM_DELLINK) => {
            let is_gone = kind == libc::RTM_DELLINK;
            Link::parse(payload).map_or(EVERYTHING, |link| link_disturbs(&link, is_gone, payload))
        }
        libc::RTM_DELROUTE => {
            let ours = Route::parse(payload).filter(|route| route.protocol == ROUTE_PROTOCOL);
            ours.map_or(&[], |route| route_disturbs(&route))
        }
        // Somebody else's in the place of ours.
        libc::RTM_NEWROUTE if message.flags() & NLM_F_REPLACE != 0 => {
            Route::parse(payload).map_or(&[], |route| route_disturbs(&route))
        }
        nexthop::RTM_NEWNEXTHOP | nexthop::RTM_DELNEXTHOP => {
            let ours = Nexthop::parse(payload).filter(Nexthop::is_ours);
            ours.map_or(&[], |_| &[Kind::Routes])
        }
        _ => &[],
    }
}

fn link_disturbs(link: &Link, is_gone: bool, payload: &[u8]) -> &'static [Kind] {
    const CHANGED_FLAGS_AT: usize = 12;
    const JUST_MADE: u32 = u32::MAX;
    if veth::is_ours(link) {
        // One that is being made has no alias yet, and gets it with being up.
        let is_alive = veth::owner(link).is_some() && link.group != veth::DOOMED_GROUP;
        return if is_alive && (is_gone || !link.is_up) { &[Kind::Sandboxes] } else { &[] };
    }
    // Not the many messages about everything else that can change of a link.
    let changed = observe::u32_at(payload, CHANGED_FLAGS_AT).unwrap_or(JUST_MADE);
    let is_switched = changed != JUST_MADE && changed & libc::IFF_UP.cast_unsigned() != 0;
    if is_gone || is_switched { UPLINKS } else { &[] }
}

fn route_disturbs(route: &Route) -> &'static [Kind] {
    match route.metric {
        METRIC_INSTANCE => &[Kind::Sandboxes],
        METRIC_PEER => &[Kind::Routes],
        METRIC_BLOCK => &[Kind::Host],
        _ => &[],
    }
}

/// Only the loss of our whole table, as by a firewall's reload: we change all the rest ourselves, with
/// a program whose port we do not know.
fn firewall_disturbs(message: &NetlinkBuffer<&[u8]>) -> &'static [Kind] {
    if nftables::is_loss_of_table(message) { &[Kind::Host, Kind::Sandboxes] } else { &[] }
}
