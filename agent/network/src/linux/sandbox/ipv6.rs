//! IPv6 in a sandbox: the address that follows from its IPv4 address, beside that.
//!
//! A sandbox is made without IPv6. It gets the address once the firewall knows of it, also while a container runs in it, and
//! loses it when the cluster has no prefix any more. There are no router advertisements, no duplicate address detection and
//! no neighbour discovery on its link, nor any link-local address: both ends are told what there is.
//!
//! `localhost` stays what it is in a sandbox without IPv6: `lo` has to let IPv6 pass, for what an instance sends to itself, but
//! there is no `::1`, where a server that listens at 127.0.0.1 would not be found.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Once;
use std::thread;
use std::time::Instant;

use dwell_core::net::Ipv6Range;
use dwell_core::net::ipv6::extract;
use nix::errno::Errno;
use nix::libc;

use super::super::family::{Family, is_ipv6};
use super::super::namespace::Namespace;
use super::super::netlink::{Netlink, Request};
use super::super::observe::{Address6, Link, Neighbour};
use super::super::owner::Owner;
use super::super::{METRIC_BLOCK, refused, request, send, sysctl};
use super::{LOOPBACK, RUNNING_POLL, RUNNING_WITHIN, eth0};
use crate::{GATEWAY_MAC, GATEWAY6, NetworkError, Sandbox};

/// What every link has to carry that has IPv6, in bytes.
const MTU_MIN: u32 = 1280;

/// Whether a sandbox can have IPv6 on a link that carries so much. Where it cannot, its IPv4 is the same as ever.
pub(super) fn is_possible(mtu: u32) -> bool {
    static WARNED: Once = Once::new();
    let has_ipv6 = sysctl::read("net/ipv6/conf/all/disable_ipv6").is_ok_and(|it| it.is_some());
    if !has_ipv6 || mtu < MTU_MIN {
        WARNED.call_once(|| {
            tracing::warn!(
                mtu,
                "instances here get no IPv6 address although the cluster has a prefix: that takes a kernel with IPv6, and links \
                 that carry {MTU_MIN} bytes"
            );
        });
        return false;
    }
    true
}

impl Owner {
    /// Gives the sandbox its address in `range`, and takes any other away that it had of us.
    pub(super) fn complete_ipv6(
        &mut self,
        sandbox: &Sandbox,
        namespace: &mut Namespace,
        outside: &Link,
        range: Option<Ipv6Range>,
    ) -> Result<(), NetworkError> {
        let action = || format!("set up IPv6 for {}", sandbox.instance);
        let found = namespace.netlink.dump(request::addresses6, Address6::parse);
        let found = found.map_err(refused(action))?;
        let wanted = range.map(|range| range.address(sandbox.address));
        let is_ours =
            |it: &&Address6| it.prefix_length == 128 && extract(it.address).1 == sandbox.address;
        let ours = found.iter().filter(is_ours);
        if ours.clone().any(|it| Some(it.address) != wanted) {
            // All that is there goes with it.
            self.namespaces.set_ipv6(&sandbox.id(), false)?;
        }
        let (Some(range), Some(wanted)) = (range, wanted) else {
            let setting = format!("net/ipv6/conf/{}/disable_ipv6", outside.name);
            let is_open = ours.count() > 0;
            return if is_open { self.sysctls.set_own(&setting, "1") } else { Ok(()) };
        };
        if !ours.clone().any(|it| it.address == wanted) {
            self.namespaces.set_ipv6(&sandbox.id(), true)?;
        }
        let missing = missing_inside(namespace, wanted, action)?;
        if !missing.is_empty() {
            let inside = &mut namespace.netlink;
            send(inside, missing, |errno| errno == Errno::EADDRNOTAVAIL, action)?;
            wait_until_local(inside, wanted, action)?;
        }
        self.sysctls.let_ipv6_in(&outside.name)?;
        let missing = self.missing_way(sandbox, outside, Family::of(range))?;
        send(&mut self.route, missing, |_| false, action)
    }
}

/// What is not there in the namespace that belongs to this address.
fn missing_inside(
    namespace: &mut Namespace,
    wanted: Ipv6Addr,
    action: impl Fn() -> String + Copy,
) -> Result<Vec<Request>, NetworkError> {
    let inside = &mut namespace.netlink;
    let Some(eth0) = eth0(inside)? else {
        return Err(refused(action)(Errno::ENODEV.into()));
    };
    let addresses = inside.dump(request::addresses6, Address6::parse).map_err(refused(action))?;
    let routes = inside.dump(request::routes6, Wide::parse).map_err(refused(action))?;
    let neighbours = inside.dump(request::neighbours6, Neighbour::parse);
    let neighbours = neighbours.map_err(refused(action))?;
    let mut missing = Vec::new();
    let loopback = addresses.iter().filter(|it| it.link == LOOPBACK && it.address.is_loopback());
    missing.extend(loopback.map(request::delete_address6));
    if !routes.contains(&Wide::Loopback) {
        missing.push(request::add_unreachable(
            ipnet::Ipv6Net::from(Ipv6Addr::LOCALHOST),
            libc::RT_TABLE_MAIN,
            METRIC_BLOCK,
        ));
    }
    if !addresses.iter().any(|it| (it.link, it.address) == (eth0.index, wanted)) {
        missing.push(request::add_address6(eth0.index, wanted));
    }
    // The link knows its gateway before anything is sent there.
    if !neighbours.iter().any(|found| {
        (found.link, found.address, found.mac, found.is_permanent)
            == (eth0.index, IpAddr::from(GATEWAY6), GATEWAY_MAC, true)
    }) {
        missing.push(request::set_neighbour(eth0.index, GATEWAY6, GATEWAY_MAC));
    }
    // Any default route will do: a workload with the right to may have chosen another.
    if !routes.contains(&Wide::Default) {
        missing.push(request::add_default_route(eth0.index, GATEWAY6.into()));
    }
    Ok(missing)
}

/// Waits until packets to the address are taken in. Also where nobody is asked whether it is somebody else's, the kernel
/// makes the route for that on a thread of its own, usually within 100 µs.
fn wait_until_local(
    inside: &mut Netlink,
    address: Ipv6Addr,
    action: impl Fn() -> String + Copy,
) -> Result<(), NetworkError> {
    const KIND_AT: usize = 7;
    let start = Instant::now();
    while start.elapsed() < RUNNING_WITHIN {
        let kind = |payload: &[u8]| payload.get(KIND_AT).copied();
        let found = inside.get(request::match_route(address, None), kind);
        if found.map_err(refused(action))? == Ok(Some(libc::RTN_LOCAL)) {
            return Ok(());
        }
        thread::sleep(RUNNING_POLL);
    }
    Err(refused(action)(Errno::ETIMEDOUT.into()))
}

/// A route that a sandbox has and that has no IPv4 image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wide {
    Default,
    Loopback,
    Other,
}

impl Wide {
    fn parse(payload: &[u8]) -> Option<Self> {
        let &[_, length, _, _, table, _, _, kind, ..] = payload else { return None };
        if !is_ipv6(payload) || table != libc::RT_TABLE_MAIN {
            return None;
        }
        Some(match (length, kind) {
            (0, libc::RTN_UNICAST) => Self::Default,
            (128, libc::RTN_UNREACHABLE) => Self::Loopback,
            _ => Self::Other,
        })
    }
}
