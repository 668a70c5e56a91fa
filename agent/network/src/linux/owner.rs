//! The owner of a host's network state: its sockets, and the host as a whole.
//!
//! What is remembered here is only what was last asked for; what exists is looked up in the kernel.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use nix::libc;
use tokio::sync::watch;

use super::family::Family;
use super::keeper::Keeper;
use super::namespace::Namespaces;
use super::netlink::Netlink;
use super::nexthop::{Nexthop, nexthops};
use super::nftables::{Firewall, Peers};
use super::observe::{Link, Route};
use super::plan::Kernel;
use super::reaper::Reaper;
use super::sysctl::{self, Sysctls};
use super::uplink::Uplinks;
use super::{LinuxConfig, METRIC_BLOCK, isolation, refused, request, send, veth};
use crate::{Disturbances, HostNetwork, NetworkError, Policy, ROUTE_PROTOCOL, Reach};

/// Entries that the neighbour table must hold before it is cleaned up, is cleaned up at once, and is
/// full: enough for 10,000 nodes on one segment. (Permanent entries, as instances have, do not count.)
const NEIGHBOURS: [(&str, u32); 3] = [
    ("net/ipv4/neigh/default/gc_thresh3", 65_536),
    ("net/ipv4/neigh/default/gc_thresh2", 32_768),
    ("net/ipv4/neigh/default/gc_thresh1", 16_384),
];

/// Settings of the whole host. Redirects would tell a neighbour to bypass this host on the way to an
/// instance; nexthop compatibility mode makes one change of a nexthop cost as much as all its routes.
const SETTINGS: [(&str, &str); 2] =
    [("net/ipv4/conf/all/send_redirects", "0"), ("net/ipv4/nexthop_compat_mode", "0")];
const IP_FORWARD: &str = "net/ipv4/ip_forward";
/// Where the settings of interfaces for IPv6 are, and those for all of them.
const IPV6: &str = "net/ipv6/conf";
const IPV6_FORWARD: &str = "net/ipv6/conf/all/forwarding";

/// Everything that acts on the host's network; used by one thread only.
pub(super) struct Owner {
    /// To links, addresses, routes and neighbours of the host's namespace.
    pub(super) route: Netlink,
    /// Of the host's namespace.
    pub(super) firewall: Firewall,
    pub(super) namespaces: Namespaces,
    pub(super) reaper: Reaper,
    pub(super) sysctls: Sysctls,
    /// As last asked for.
    pub(super) host: Option<HostNetwork>,
    /// Of new veths, in bytes; known with `host`.
    pub(super) mtu: Option<u32>,
    /// What the host was last prepared for.
    uplinks: BTreeSet<String>,
    /// The IPv6 address from which the host sends to instances, as last given to it, or that it has none of us; `None` as long
    /// as neither is known.
    pub(super) own_ipv6: Option<Option<Ipv6Addr>>,
    /// Where to tell that sandboxes are not as they should be any more.
    disturbances: watch::Sender<Disturbances>,
}

/// What came of preparing the host.
pub(super) struct Prepared {
    /// The interfaces that lead to other hosts.
    pub(super) uplinks: BTreeSet<String>,
    /// The first setting that could not be made.
    pub(super) settled: Result<(), NetworkError>,
}

impl Owner {
    /// For the namespace of the calling thread.
    pub(super) fn open(
        config: &LinuxConfig,
        disturbances: watch::Sender<Disturbances>,
    ) -> Result<Self, NetworkError> {
        let run_dir = &config.run_dir;
        let action = || "open a netlink socket (dwell-agent must run as root)".to_owned();
        let fail = |source| NetworkError::File {
            action: "make the run directory",
            path: run_dir.clone(),
            source,
        };
        fs::create_dir_all(run_dir).map_err(fail)?;
        let reaper = Reaper::start().map_err(refused(action))?;
        // For what an earlier agent has left behind.
        reaper.wake();
        let start = || "start the thread that keeps sandboxes".to_owned();
        let keeper = Keeper::open(config.keeping, run_dir).map_err(refused(start))?;
        Ok(Self {
            route: Netlink::route().map_err(refused(action))?,
            firewall: Firewall::open(config.program_limit).map_err(refused(action))?,
            namespaces: Namespaces::new(run_dir, keeper.clone()),
            reaper,
            sysctls: Sysctls::new(run_dir, keeper),
            host: None,
            mtu: None,
            uplinks: BTreeSet::new(),
            own_ipv6: None,
            disturbances,
        })
    }

    /// The ports of the sockets with which changes are made.
    pub(super) fn ports(&self) -> io::Result<Vec<u32>> {
        Ok(vec![self.route.port()?, self.firewall.port()?, self.reaper.port])
    }

    /// See [`crate::Network::ensure_host`]; all of it but iptables, which is to let the cluster's traffic pass
    /// between sandboxes and the uplinks that this returns.
    pub(super) fn ensure_host(&mut self, host: &HostNetwork) -> Result<Prepared, NetworkError> {
        let kernel = self.observe_routes()?;
        let uplinks = Uplinks::find(&kernel, &self.links()?);
        let is_other_mtu = self.mtu.replace(uplinks.mtu).is_some_and(|mtu| mtu != uplinks.mtu);
        self.uplinks.clone_from(&uplinks.names);
        let is_other_ipv6 = self.host.as_ref().is_none_or(|before| before.ipv6 != host.ipv6);
        self.host = Some(host.clone());
        let settled = first_error([
            self.ensure_settings(host, &uplinks.names),
            self.ensure_rule(host.ipv6),
            self.ensure_cluster_rules(&host.cluster),
            if self.firewall.follows() { self.ensure_slot_rules(true) } else { Ok(()) },
            self.ensure_cluster_rules_ipv6(host.ipv6, is_other_ipv6),
            self.ensure_blocks_of(Family::V4, &host.blocks, &kernel.routes),
            // No route leads to addresses of which the firewall that comes next does not know.
            self.ensure_ipv6_blocks(host.ipv6, &host.blocks, is_other_ipv6),
            self.ensure_firewall(host),
        ]);
        if is_other_mtu {
            // Only now, when whoever looks at a sandbox again gives it the new one.
            self.disturbances.send_modify(|counts| counts.sandboxes += 1);
        }
        Ok(Prepared { uplinks: uplinks.names, settled })
    }

    /// Has sandboxes follow what the host's interfaces carry now, and has the host prepared again for those that have
    /// become uplinks by leading to a peer, once both have been found out for the first time.
    pub(super) fn follow_uplinks(&mut self, kernel: &Kernel) -> Result<(), NetworkError> {
        let Some(before) = self.mtu else { return Ok(()) };
        let Uplinks { mtu, names, .. } = Uplinks::find(kernel, &self.links()?);
        self.mtu = Some(mtu);
        let (is_other_mtu, is_more) = (mtu != before, !names.is_subset(&self.uplinks));
        if is_other_mtu || is_more {
            self.disturbances.send_modify(|counts| {
                counts.sandboxes += u64::from(is_other_mtu);
                counts.host += u64::from(is_more);
            });
        }
        Ok(())
    }

    /// See [`crate::Network::cleanup`]; all of it but iptables. Docker needs forwarding as much as we did, and
    /// does not look again after its start: with `keep_forwarding` it stays on.
    pub(super) fn cleanup(&mut self, keep_forwarding: bool) -> Result<(), NetworkError> {
        self.host = None;
        self.mtu = None;
        // What listens to routers although it forwards goes with forwarding.
        let keep =
            |setting: &str| keep_forwarding && (setting == IP_FORWARD || setting.starts_with(IPV6));
        first_error([
            self.remove_all_sandboxes(),
            self.remove_all_routes(),
            self.firewall.delete(),
            self.sysctls.restore(keep),
        ])
    }

    /// See [`crate::Network::sync_policies`].
    pub(super) fn sync_policies(&mut self, policies: &[Policy]) -> Result<(), NetworkError> {
        if self.firewall.set_isolation(isolation::elements(policies))? {
            return Ok(());
        }
        match self.host.clone() {
            Some(host) => self.write_firewall(&host),
            // They come with the host's preparation.
            None => Ok(()),
        }
    }

    /// See [`crate::Network::sync_leases`].
    pub(super) fn sync_leases(&mut self, instances: Vec<Reach>) -> Result<(), NetworkError> {
        self.firewall.set_leases(instances)
    }

    fn ensure_firewall(&mut self, host: &HostNetwork) -> Result<(), NetworkError> {
        if self.firewall.is_intact(host)? { Ok(()) } else { self.write_firewall(host) }
    }

    /// Writes our nftables table from what the kernel shows.
    pub(super) fn write_firewall(&mut self, host: &HostNetwork) -> Result<(), NetworkError> {
        let sources: Vec<_> = self
            .links()?
            .into_iter()
            .filter(|link| veth::is_ours(link) && link.group != veth::DOOMED_GROUP)
            .filter_map(|link| veth::owner(&link).map(|owner| (link.name, owner.address)))
            .collect();
        let action = || "list nexthops".to_owned();
        let nexthops = self.route.dump(nexthops, Nexthop::parse).map_err(refused(action))?;
        // What was last told, or what the kernel shows of what an earlier agent was told.
        let peers = match self.firewall.peers() {
            Some(peers) => peers.clone(),
            None => {
                let of = |is_wanted: fn(&Nexthop) -> bool| -> BTreeSet<_> {
                    let wanted = nexthops.iter().filter(|nexthop| is_wanted(nexthop));
                    wanted.filter_map(|nexthop| nexthop.gateway).collect()
                };
                Peers {
                    nodes: of(Nexthop::is_ours).into_iter().collect(),
                    tunnelled: of(|it| it.is_ours() && it.is_onlink).into_iter().collect(),
                    overlay: self.found_overlay()?,
                }
            }
        };
        let before = self.firewall.ipv6().flatten();
        self.firewall.write(host, &sources, peers)?;
        if self.firewall.ipv6().flatten() != before {
            // Now sandboxes may have addresses of which it knows.
            self.disturbances.send_modify(|counts| counts.sandboxes += 1);
        }
        Ok(())
    }

    pub(super) fn links(&mut self) -> Result<Vec<Link>, NetworkError> {
        self.route
            .dump(request::links, Link::parse)
            .map_err(refused(|| "list interfaces".to_owned()))
    }

    /// The interfaces' names by their indexes.
    pub(super) fn link_names(&mut self) -> Result<HashMap<u32, String>, NetworkError> {
        Ok(self.links()?.into_iter().map(|link| (link.index, link.name)).collect())
    }

    fn ensure_settings(
        &self,
        host: &HostNetwork,
        uplinks: &BTreeSet<String>,
    ) -> Result<(), NetworkError> {
        let forwarding = if host.forwards { self.sysctls.set(IP_FORWARD, "1") } else { Ok(()) };
        let ipv6 = host.ipv6.filter(|_| host.forwards);
        let forwarding_ipv6 = ipv6.map_or(Ok(()), |_| self.forward_ipv6());
        let plain = SETTINGS.map(|(setting, value)| self.sysctls.set(setting, value));
        let neighbours = NEIGHBOURS.map(|(setting, least)| self.sysctls.raise(setting, least));
        let uplinks = uplinks.iter().map(|uplink| self.ensure_uplink(uplink));
        let settings = std::iter::once(forwarding).chain(plain).chain(neighbours).chain(uplinks);
        first_error(settings.chain([forwarding_ipv6]))
    }

    /// Makes the host a router of IPv6. By itself the kernel then no longer believes routers, and a host that has its default
    /// route of one would lose it: so what has listened to them is told to go on.
    fn forward_ipv6(&self) -> Result<(), NetworkError> {
        const LISTENS: &str = "1";
        const LISTENS_AS_ROUTER: &str = "2";
        let directory = Path::new("/proc/sys").join(IPV6);
        let fail = |source| NetworkError::File { action: "list", path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let of = |setting| format!("{IPV6}/{}/{setting}", name.to_string_lossy());
            let is = |setting, value| Ok(sysctl::read(&of(setting))?.as_deref() == Some(value));
            if name != "all" && is("forwarding", "0")? && is("accept_ra", LISTENS)? {
                self.sysctls.set(&of("accept_ra"), LISTENS_AS_ROUTER)?;
            }
        }
        self.sysctls.set(IPV6_FORWARD, "1")
    }

    fn ensure_uplink(&self, uplink: &str) -> Result<(), NetworkError> {
        self.sysctls.set(&format!("net/ipv4/conf/{uplink}/send_redirects"), "0")?;
        // With several uplinks a packet of a peer need not come in where the answer goes out. The
        // stricter of "all" and the interface's own counts, but 2 (loose) counts as the highest.
        let own = format!("net/ipv4/conf/{uplink}/rp_filter");
        let is_strict = |value: Option<String>| value.as_deref() == Some("1");
        let is_loose = |value: Option<String>| value.as_deref() == Some("2");
        let all = sysctl::read("net/ipv4/conf/all/rp_filter")?;
        let strict = is_strict(sysctl::read(&own)?) || is_strict(all.clone());
        if strict && !is_loose(all) {
            self.sysctls.set(&own, "2")?;
        }
        Ok(())
    }

    /// The unreachable routes of the node's own blocks, and no other of ours among these `routes`.
    pub(super) fn ensure_blocks_of(
        &mut self,
        family: Family,
        blocks: &[Ipv4Net],
        routes: &[Route],
    ) -> Result<(), NetworkError> {
        let wanted: BTreeSet<Ipv4Net> = blocks.iter().map(Ipv4Net::trunc).collect();
        let is_block = |route: &&Route| {
            route.protocol == ROUTE_PROTOCOL
                && route.kind == libc::RTN_UNREACHABLE
                && route.metric == METRIC_BLOCK
        };
        let existing: Vec<_> = routes.iter().filter(is_block).collect();
        let mut requests: Vec<_> = existing
            .iter()
            .filter(|route| !wanted.contains(&route.prefix))
            .map(|route| request::delete_route(route))
            .collect();
        let missing =
            wanted.iter().filter(|wanted| !existing.iter().any(|route| route.prefix == **wanted));
        requests.extend(missing.map(|block| {
            request::add_unreachable(family.net(*block), libc::RT_TABLE_MAIN, METRIC_BLOCK)
        }));
        send(
            &mut self.route,
            requests,
            |_| false,
            || "set the unreachable routes of the node's blocks".into(),
        )
    }

    fn remove_all_sandboxes(&mut self) -> Result<(), NetworkError> {
        let doom = |link: &Link| {
            request::set_link(link.index, vec![LinkAttribute::Group(veth::DOOMED_GROUP)])
        };
        let mut requests: Vec<_> =
            self.links()?.iter().filter(|link| veth::is_ours(link)).map(doom).collect();
        requests.push(request::delete_link_group(veth::DOOMED_GROUP));
        // The reaper may be at the same work.
        let links = send(
            &mut self.route,
            requests,
            |errno| errno == Errno::ENODEV,
            || "delete the interfaces of sandboxes".to_owned(),
        );
        let names = self.namespaces.list()?;
        let names = names.iter().map(|instance| self.namespaces.remove(instance));
        first_error(std::iter::once(links).chain(names))?;
        self.namespaces.remove_directory()
    }

    fn remove_all_routes(&mut self) -> Result<(), NetworkError> {
        let kernel = self.observe_routes()?;
        let routes = kernel.routes.iter().chain(&kernel.overlay_routes);
        let routes = routes.filter(|route| route.protocol == ROUTE_PROTOCOL);
        let mut requests: Vec<_> = routes.map(request::delete_route).collect();
        let nexthops = kernel.nexthops.iter().filter(|nexthop| nexthop.is_ours());
        requests.extend(nexthops.map(Nexthop::delete));
        let removed = send(
            &mut self.route,
            requests,
            |errno| matches!(errno, Errno::ESRCH | Errno::ENOENT),
            || "remove our routes".to_owned(),
        );
        first_error([
            removed,
            self.remove_overlay(&kernel),
            self.remove_overlay_rule(),
            self.ensure_slot_rules(false),
            self.remove_cluster_rules(),
            self.remove_ipv6(&kernel),
        ])
    }
}

/// The first error of several independent pieces of work.
pub(super) fn first_error(
    results: impl IntoIterator<Item = Result<(), NetworkError>>,
) -> Result<(), NetworkError> {
    results.into_iter().fold(Ok(()), Result::and)
}
