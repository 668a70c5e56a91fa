//! One sandbox: a named namespace, a veth into it, and all that makes an address reachable.
//!
//! ```text
//!  nothing ──▶ namespace ──▶ veth pair, down ──▶ inside complete ──▶ outside complete
//!              ▲   ▲               │ wrong MAC or address, other end lost
//!   name lost ─┘   └───────────────┘ veth deleted
//! ```
//!
//! A namespace whose name is lost is [found](super::inhabitant) by a process in it and gets its name again. One
//! that cannot be found is made anew only where no container runs, which would stay in the old one, cut off.
//!
//! The state is what the kernel shows. Each step looks first and does only what is missing, so that
//! making, completing after a crash and checking are the same code, and a correct sandbox is only read.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use dwell_core::sandbox::SandboxId;
use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use nix::libc;

use super::family::Family;
use super::netlink::{Netlink, Request};
use super::observe::{Address, Link, Neighbour, Route};
use super::owner::Owner;
use super::{
    LOOPBACK, METRIC_INSTANCE, namespace::Namespace, nftables, refused, request, send, veth,
};
use crate::{GATEWAY, GATEWAY_MAC, NetworkError, ROUTE_PROTOCOL, Sandbox};

mod ipv6;

/// How long a veth may take to carry packets, and how often to look.
const RUNNING_WITHIN: Duration = Duration::from_secs(1);
const RUNNING_POLL: Duration = Duration::from_micros(50);

impl Owner {
    /// See [`crate::Network::ensure_sandbox`].
    pub(super) fn ensure_sandbox(&mut self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let mtu = self.mtu.ok_or(NetworkError::HostNotReady)?;
        let id = sandbox.id();
        let namespace = match self.existing_namespace(&id)? {
            Some(namespace) => namespace,
            None => self.namespaces.create(&id)?,
        };
        self.complete(sandbox, namespace, mtu)
    }

    /// See [`crate::Network::repair_sandbox`].
    pub(super) fn repair_sandbox(&mut self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let mtu = self.mtu.ok_or(NetworkError::HostNotReady)?;
        let instance = &sandbox.instance;
        let namespace = self.existing_namespace(&sandbox.id())?;
        let lost = || NetworkError::SandboxLost { instance: instance.clone() };
        self.complete(sandbox, namespace.ok_or_else(lost)?, mtu)
    }

    /// The namespace of a sandbox; one that has lost its name and is in use gets it back.
    fn existing_namespace(
        &mut self,
        sandbox: &SandboxId,
    ) -> Result<Option<Namespace>, NetworkError> {
        if let Some(namespace) = self.namespaces.open(sandbox)? {
            return Ok(Some(namespace));
        }
        let Some(file) = self.find_inhabited(sandbox)? else { return Ok(None) };
        self.namespaces.adopt(sandbox, &file)?;
        tracing::warn!(instance = %sandbox.instance, "the sandbox had lost its name; it has it again");
        self.namespaces.open(sandbox)
    }

    fn complete(
        &mut self,
        sandbox: &Sandbox,
        mut namespace: Namespace,
        mtu: u32,
    ) -> Result<(), NetworkError> {
        let outside = self.ensure_pair(sandbox, &mut namespace, mtu)?;
        complete_inside(sandbox, &mut namespace.netlink, mtu)?;
        self.allow_source(&(outside.name.clone(), sandbox.address))?;
        self.complete_outside(sandbox, &outside, mtu)?;
        if let Some(range) = self.firewall.ipv6() {
            let range = range.filter(|_| ipv6::is_possible(mtu));
            self.complete_ipv6(sandbox, &mut namespace, &outside, range)?;
        }
        self.wait_until_running(sandbox, &mut namespace.netlink, outside.index)?;
        let is_one_of_two = self.namespaces.has(&sandbox.id().beside());
        if is_one_of_two { self.follow_pairs() } else { Ok(()) }
    }

    /// See [`crate::Network::remove_sandbox`].
    pub(super) fn remove_sandbox(&mut self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let links = self.links()?;
        let (ours, others): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|link| veth::belongs_to(link, sandbox));
        for link in &ours {
            self.retire(link)?;
        }
        let beside = sandbox.beside();
        let is_one_of_two = others.iter().any(|link| veth::belongs_to(link, &beside));
        if is_one_of_two || self.firewall.follows() {
            self.follow_pairs()?;
        }
        if !is_one_of_two {
            for owner in ours.iter().filter_map(veth::owner) {
                self.firewall.end_lease(owner.address)?;
            }
        }
        self.namespaces.remove(sandbox)?;
        if !ours.is_empty() {
            self.reaper.wake();
        }
        Ok(())
    }

    /// Cuts a veth off: no route leads to it and nothing may be sent from it; the reaper does the rest.
    pub(super) fn retire(&mut self, link: &Link) -> Result<(), NetworkError> {
        let mut requests = Vec::new();
        if let Some(veth::Ownership { address, .. }) = veth::owner(link) {
            self.firewall.forbid(&(link.name.clone(), address))?;
            requests.extend(Family::all(self.firewall.ipv6().flatten()).map(|family| {
                let address = family.address(address);
                request::delete_link_route(address, link.index, METRIC_INSTANCE)
            }));
        }
        requests
            .push(request::set_link(link.index, vec![LinkAttribute::Group(veth::DOOMED_GROUP)]));
        // A route or a link that is gone already is what was wanted.
        let gone = |errno| matches!(errno, Errno::ESRCH | Errno::ENODEV);
        send(&mut self.route, requests, gone, || format!("remove interface {}", link.name))
    }

    /// The veth pair with its `eth0` in the namespace, made anew if it is not the right one.
    fn ensure_pair(
        &mut self,
        sandbox: &Sandbox,
        namespace: &mut Namespace,
        mtu: u32,
    ) -> Result<Link, NetworkError> {
        if let Some(inside) = eth0(&mut namespace.netlink)? {
            if let Some(outside) = self.other_end(&inside, sandbox)? {
                return Ok(outside);
            }
            // The rare case: it must go before another can have its name, and that takes its time.
            let outcome = namespace.netlink.request(request::delete_link(inside.index));
            outcome
                .and_then(|outcome| Ok(outcome?))
                .map_err(refused(|| format!("replace eth0 of {}", sandbox.instance)))?;
        }
        self.make_pair(sandbox, namespace, mtu)
    }

    /// The host's end of `inside`, if the pair is right for `sandbox`.
    fn other_end(
        &mut self,
        inside: &Link,
        sandbox: &Sandbox,
    ) -> Result<Option<Link>, NetworkError> {
        let Some(index) = inside.peer.filter(|_| inside.mac == Some(sandbox.mac)) else {
            return Ok(None);
        };
        let outside = link(&mut self.route, request::get_link(index))?;
        Ok(outside.filter(|outside| {
            let is_its_end = outside.peer == Some(inside.index);
            let is_named = outside.alias.is_empty() || outside.alias == veth::alias(sandbox);
            is_its_end && is_named && veth::belongs_to(outside, &sandbox.id())
        }))
    }

    fn make_pair(
        &mut self,
        sandbox: &Sandbox,
        namespace: &Namespace,
        mtu: u32,
    ) -> Result<Link, NetworkError> {
        for name in veth::names(&sandbox.instance) {
            let add = request::add_veth(&name, namespace.file.as_fd(), sandbox.mac, mtu);
            let action = || format!("make interface {name} for {}", sandbox.instance);
            let made = match self.route.request(add).map_err(refused(action))? {
                Ok(()) => true,
                Err(refusal) if refusal.errno == Errno::EEXIST => false,
                Err(refusal) => return Err(refused(action)(refusal.into())),
            };
            match link(&mut self.route, request::get_link_by_name(&name))? {
                Some(new) if made => return Ok(new),
                // Left over from a namespace that lost its name; what lives in it is cut off.
                Some(old) if veth::belongs_to(&old, &sandbox.id()) => {
                    self.retire(&old)?;
                    self.reaper.wake();
                }
                // It is on its way out, or gone by now.
                _ => {}
            }
        }
        let source = std::io::Error::from(Errno::EEXIST);
        Err(refused(|| format!("find a free interface name for {}", sandbox.instance))(source))
    }

    /// Lets the sandbox send from its address, if need be by writing a table that somebody flushed.
    fn allow_source(&mut self, source: &nftables::Source) -> Result<(), NetworkError> {
        if self.firewall.allow(source)? {
            return Ok(());
        }
        let host = self.host.clone().ok_or(NetworkError::HostNotReady)?;
        self.write_firewall(&host)?;
        self.firewall.allow(source).map(drop)
    }

    fn complete_outside(
        &mut self,
        sandbox: &Sandbox,
        outside: &Link,
        mtu: u32,
    ) -> Result<(), NetworkError> {
        let action = || format!("connect interface {} of {}", outside.name, sandbox.instance);
        let mut missing = Vec::new();
        let alias = veth::alias(sandbox);
        if !outside.is_up || outside.alias != alias || outside.mtu != mtu {
            if !outside.is_up {
                // An IPv6 address that the kernel gives it would only cost time and open a way in.
                let ipv6 = format!("net/ipv6/conf/{}/disable_ipv6", outside.name);
                self.sysctls.set_own(&ipv6, "1")?;
            }
            let attributes = vec![LinkAttribute::Mtu(mtu), LinkAttribute::IfAlias(alias)];
            missing.push(request::set_link_up(outside.index, attributes));
        }
        missing.extend(self.missing_way(sandbox, outside, Family::V4)?);
        send(&mut self.route, missing, |_| false, action)
    }

    /// Waits for both ends of the veth. The kernel finds out that the end which came up first has a carrier
    /// now on a thread of its own, usually within 100 µs, and drops what is sent before.
    fn wait_until_running(
        &mut self,
        sandbox: &Sandbox,
        inside: &mut Netlink,
        outside: u32,
    ) -> Result<(), NetworkError> {
        let start = Instant::now();
        while start.elapsed() < RUNNING_WITHIN {
            let inside = eth0(inside)?.is_some_and(|link| link.is_running);
            let outside = link(&mut self.route, request::get_link(outside))?;
            if inside && outside.is_some_and(|link| link.is_running) {
                return Ok(());
            }
            thread::sleep(RUNNING_POLL);
        }
        let action = || format!("bring up the veth of {}", sandbox.instance);
        Err(refused(action)(Errno::ETIMEDOUT.into()))
    }

    /// What makes the host's way to the sandbox right, if it is not: the neighbour, and then the route, if it is reached.
    pub(super) fn missing_way(
        &mut self,
        sandbox: &Sandbox,
        outside: &Link,
        family: Family,
    ) -> Result<Vec<Request>, NetworkError> {
        let address = family.address(sandbox.address);
        let action = || format!("look up the neighbour {address}");
        let neighbour = request::get_neighbour(outside.index, address);
        let neighbour = self.route.get(neighbour, Neighbour::parse).map_err(refused(action))?;
        let is_right = neighbour.is_ok_and(|found| {
            found.is_some_and(|found| found.is_permanent && found.mac == sandbox.mac)
        });
        let missing = || request::set_neighbour(outside.index, address, sandbox.mac);
        let missing = (!is_right).then(missing);
        let route = match sandbox.reached {
            true => self.missing_route(sandbox, outside, family)?,
            false => None,
        };
        Ok(missing.into_iter().chain(route).collect())
    }

    fn missing_route(
        &mut self,
        sandbox: &Sandbox,
        outside: &Link,
        family: Family,
    ) -> Result<Option<Request>, NetworkError> {
        let address = family.address(sandbox.address);
        let parse = if family.is_ipv6() { Route::parse_ipv6 } else { Route::parse };
        let found = self
            .route
            .get(request::match_route(address, None), parse)
            .map_err(refused(|| format!("look up the route to {address}")))?;
        let ours = request::add_link_route(address, outside.index, METRIC_INSTANCE);
        let Some(route) = found.ok().flatten().filter(|route| route.prefix.prefix_len() == 32)
        else {
            return Ok(Some(ours));
        };
        if route.protocol != ROUTE_PROTOCOL {
            let names = self.link_names()?;
            let holder = route.describe(|link| names.get(&link).cloned());
            return Err(address_taken(sandbox, address, holder));
        }
        match route.link {
            Some(index) if index == outside.index => Ok(None),
            Some(index) => match self.retire_older(sandbox, index)? {
                Older::Beside => {
                    let table = libc::RT_TABLE_MAIN;
                    let (link, metric) = (outside.index, METRIC_INSTANCE);
                    Ok(Some(request::replace_link_route(address, link, metric, table)))
                }
                Older::Gone => Ok(Some(ours)),
            },
            // It leads to the node from which the instance has just moved here.
            None => Ok(Some(ours)),
        }
    }

    /// Cuts off the veth of a namespace that has lost its name, with whatever still lives in it. That of the instance's
    /// other sandbox is left alone.
    fn retire_older(&mut self, sandbox: &Sandbox, index: u32) -> Result<Older, NetworkError> {
        let Some(older) = link(&mut self.route, request::get_link(index))? else {
            return Ok(Older::Gone);
        };
        if veth::belongs_to(&older, &sandbox.id().beside()) {
            return Ok(Older::Beside);
        }
        if !veth::belongs_to(&older, &sandbox.id()) {
            let holder = format!("interface {}", older.alias);
            return Err(address_taken(sandbox, sandbox.address.into(), holder));
        }
        self.retire(&older)?;
        self.reaper.wake();
        Ok(Older::Gone)
    }
}

/// What has become of the veth to which the address led before.
enum Older {
    /// It is that of the instance's other sandbox, and lives on.
    Beside,
    Gone,
}

fn address_taken(sandbox: &Sandbox, address: IpAddr, holder: String) -> NetworkError {
    NetworkError::AddressTaken { instance: sandbox.instance.clone(), address, holder }
}

/// Adds what is missing in the namespace.
fn complete_inside(sandbox: &Sandbox, inside: &mut Netlink, mtu: u32) -> Result<(), NetworkError> {
    let action = || format!("set up the inside of sandbox {}", sandbox.instance);
    let links = inside.dump(request::links, Link::parse).map_err(refused(action))?;
    let Some(eth0) = links.iter().find(|link| link.name == "eth0") else {
        return Err(refused(action)(Errno::ENODEV.into()));
    };
    let addresses = inside.dump(request::addresses, Address::parse).map_err(refused(action))?;
    let routes = inside.dump(request::routes, Route::parse).map_err(refused(action))?;
    let neighbours = inside.dump(request::neighbours, Neighbour::parse).map_err(refused(action))?;

    let mut missing = Vec::new();
    if !links.iter().any(|link| link.index == LOOPBACK && link.is_up) {
        missing.push(request::set_link_up(LOOPBACK, Vec::new()));
    }
    if !addresses
        .iter()
        .any(|found| found.link == eth0.index && found.net.addr() == sandbox.address)
    {
        missing.push(request::add_address(eth0.index, sandbox.address));
    }
    if !eth0.is_up || eth0.mtu != mtu {
        missing.push(request::set_link_up(eth0.index, vec![LinkAttribute::Mtu(mtu)]));
    }
    let gateway = ipnet::Ipv4Net::from(GATEWAY);
    if !routes.iter().any(|route| route.prefix == gateway && route.link == Some(eth0.index)) {
        missing.push(request::add_link_route(GATEWAY.into(), eth0.index, 0));
    }
    // Any default route will do: a workload with the right to may have chosen another.
    if !routes.iter().any(|route| route.prefix.prefix_len() == 0) {
        missing.push(request::add_default_route(eth0.index, GATEWAY.into()));
    }
    if !neighbours.iter().any(|found| {
        (found.link, found.address, found.mac, found.is_permanent)
            == (eth0.index, GATEWAY.into(), GATEWAY_MAC, true)
    }) {
        missing.push(request::set_neighbour(eth0.index, GATEWAY, GATEWAY_MAC));
    }
    send(inside, missing, |_| false, action)
}

pub(super) fn eth0(inside: &mut Netlink) -> Result<Option<Link>, NetworkError> {
    link(inside, request::get_link_by_name("eth0"))
}

/// The link asked for; `None` if there is no such.
fn link(netlink: &mut Netlink, request: Request) -> Result<Option<Link>, NetworkError> {
    let action = || "look up an interface".to_owned();
    match netlink.get(request, Link::parse).map_err(refused(action))? {
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
        found => found.map_err(|refusal| refused(action)(refusal.into())),
    }
}
