//! Looking at everything of ours in the kernel without changing it, and removing what belongs to no sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;

use dwell_core::sandbox::SandboxId;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::libc;

use super::family::Family;
use super::nftables::Source;
use super::observe::{Address, Address6, Link, Route};
use super::overlay::DEVICE;
use super::owner::Owner;
use super::plan::{self, Kernel};
use super::{METRIC_BLOCK, METRIC_INSTANCE, ipv6, refused, request, send, veth};
use crate::{Look, NetworkError, ROUTE_PROTOCOL, RouteDifference, RouteTable, SeenSandbox};

/// What is ours in the kernel and belongs to no sandbox.
struct Strays {
    links: Vec<Link>,
    routes: Vec<Route>,
    sources: Vec<Source>,
}

impl Owner {
    /// See [`crate::Network::look`].
    pub(super) fn look(&mut self, table: &RouteTable) -> Result<Look, NetworkError> {
        let links = self.links()?;
        let mut kernel = self.observe_routes()?;
        let (sources, of_ipv6) = self.look_at_ipv6(&mut kernel)?;
        let sandboxes = self.look_at_sandboxes(&links, &kernel, &sources, of_ipv6.as_ref())?;
        let names: BTreeMap<u32, &str> =
            links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let describe =
            |route: &Route| route.describe(|link| names.get(&link).map(|name| (*name).to_owned()));
        let all_sources = sources.union(&of_ipv6.unwrap_or_default()).cloned().collect();
        let strays = strays(&sandboxes, links.clone(), &kernel, all_sources);
        let shown = strays.links.iter().map(|link| match link.alias.as_str() {
            "" => format!("interface {}", link.name),
            alias => format!("interface {} ({alias})", link.name),
        });
        let shown = shown
            .chain(strays.routes.iter().map(|route| format!("route {}", describe(route))))
            .chain(strays.sources.iter().map(|(veth, address)| format!("source {veth} {address}")));
        let strays = shown.collect();
        let mut routes = self.route_differences(table, &kernel, describe);
        if let Some(ipv6) = table.ipv6 {
            let kernel = self.observe_ipv6(ipv6, &kernel)?;
            routes.extend(self.route_differences(&ipv6::with_nodes(table), &kernel, describe));
        }
        routes.extend(self.overlay_differences(table, &kernel)?);
        let isolation = self.firewall.isolation_differences()?;
        Ok(Look { sandboxes, strays, routes, isolation })
    }

    /// See [`crate::Network::sweep`].
    pub(super) fn sweep(&mut self) -> Result<(), NetworkError> {
        let links = self.links()?;
        let mut kernel = self.observe_routes()?;
        let (sources, of_ipv6) = self.look_at_ipv6(&mut kernel)?;
        let sandboxes = self.look_at_sandboxes(&links, &kernel, &sources, of_ipv6.as_ref())?;
        let all_sources = sources.union(&of_ipv6.unwrap_or_default()).cloned().collect();
        let strays = strays(&sandboxes, links, &kernel, all_sources);
        for link in &strays.links {
            // A namespace that has only lost its name gets it back from whoever looks after its instance.
            let is_inhabited = match veth::owner(link) {
                Some(owner) => self.find_inhabited(&owner.sandbox)?.is_some(),
                None => false,
            };
            if !is_inhabited {
                tracing::warn!(
                    interface = link.name,
                    alias = link.alias,
                    "removing an interface of no sandbox"
                );
                self.retire(link)?;
                self.reaper.wake();
            }
        }
        for source in &strays.sources {
            tracing::warn!(interface = source.0, address = %source.1, "nothing may send from an address of no sandbox any more");
            self.firewall.forbid(source)?;
        }
        let routes = strays.routes.iter().map(request::delete_route).collect();
        let is_gone = |errno| errno == Errno::ESRCH;
        send(&mut self.route, routes, is_gone, || "remove routes to no sandbox".to_owned())
    }

    /// Who may send in IPv4, and in IPv6 if instances have that. Adds the routes to instances of this host to the kernel's.
    fn look_at_ipv6(
        &mut self,
        kernel: &mut Kernel,
    ) -> Result<(BTreeSet<Source>, Option<BTreeSet<Source>>), NetworkError> {
        let sources = self.firewall.sources(Family::V4)?;
        let Some(range) = self.firewall.ipv6().flatten() else { return Ok((sources, None)) };
        kernel.routes.extend(self.ipv6_routes()?.into_iter().filter(is_to_instance));
        let of_ipv6 = self.firewall.sources(Family::of(range))?;
        Ok((sources, Some(of_ipv6)))
    }

    fn look_at_sandboxes(
        &mut self,
        links: &[Link],
        kernel: &Kernel,
        sources: &BTreeSet<Source>,
        of_ipv6: Option<&BTreeSet<Source>>,
    ) -> Result<BTreeMap<SandboxId, SeenSandbox>, NetworkError> {
        let mut seen = BTreeMap::new();
        for sandbox in self.namespaces.list()? {
            let found = self.look_at_sandbox(&sandbox, links, kernel, sources, of_ipv6)?;
            seen.insert(sandbox, found);
        }
        Ok(seen)
    }

    fn look_at_sandbox(
        &mut self,
        sandbox: &SandboxId,
        links: &[Link],
        kernel: &Kernel,
        sources: &BTreeSet<Source>,
        of_ipv6: Option<&BTreeSet<Source>>,
    ) -> Result<SeenSandbox, NetworkError> {
        let action = || format!("look at the inside of sandbox {sandbox}");
        let mut seen = SeenSandbox::default();
        let Some(mut namespace) = self.namespaces.open(sandbox)? else { return Ok(seen) };
        seen.namespace = namespace.file.metadata().ok().map(|found| found.ino());
        let Some(inside) = super::sandbox::eth0(&mut namespace.netlink)? else { return Ok(seen) };
        let addresses = namespace.netlink.dump(request::addresses, Address::parse);
        let addresses = addresses.map_err(refused(action))?;
        let own = addresses.iter().filter(|address| address.link == inside.index);
        seen.addresses = own.map(|address| address.net.addr()).collect();
        seen.mac = inside.mac;
        let outside = links.iter().find(|link| {
            Some(link.index) == inside.peer
                && link.peer == Some(inside.index)
                && veth::belongs_to(link, sandbox)
        });
        let Some(outside) = outside else { return Ok(seen) };
        seen.link = Some(outside.name.clone());
        seen.is_running = inside.is_running && outside.is_running;
        let leads_here =
            |route: &&Route| is_to_instance(route) && route.link == Some(outside.index);
        let (routed, routed6): (Vec<_>, Vec<_>) =
            kernel.routes.iter().filter(leads_here).partition(|it| !it.family.is_ipv6());
        seen.routed = routed.iter().map(|route| route.prefix.addr()).collect();
        seen.sources = addresses_of(&outside.name, sources).collect();
        if let (Some(of_ipv6), Some(range)) = (of_ipv6, self.firewall.ipv6().flatten()) {
            let found = namespace.netlink.dump(request::addresses6, Address6::parse);
            let found = found.map_err(refused(action))?;
            let own = found.iter().filter(|it| it.link == inside.index);
            let has = own.filter_map(|it| range.ipv4(it.address)).collect();
            let routed6 = routed6.iter().filter(|route| route.family == Family::of(range));
            let sides: [BTreeSet<Ipv4Addr>; 3] = [
                has,
                routed6.map(|route| route.prefix.addr()).collect(),
                addresses_of(&outside.name, of_ipv6).collect(),
            ];
            let names = ["eth0 has", "the host leads to it", "it may send from"];
            let differs = names.into_iter().zip(sides).filter(|(_, side)| *side != seen.addresses);
            seen.ipv6 = differs
                .map(|(name, side)| {
                    let side: Vec<_> =
                        side.iter().map(|it| range.address(*it).to_string()).collect();
                    format!(
                        "{name}: {}",
                        if side.is_empty() { "none".into() } else { side.join(", ") }
                    )
                })
                .collect();
        }
        Ok(seen)
    }

    fn overlay_differences(
        &mut self,
        table: &RouteTable,
        kernel: &Kernel,
    ) -> Result<Option<RouteDifference>, NetworkError> {
        let tunnelled = plan::tunnelled(table, &kernel.addresses);
        let Some(overlay) = table.overlay.filter(|_| !tunnelled.is_empty()) else {
            return Ok(None);
        };
        let found = self.overlay_difference(&overlay, &tunnelled)?;
        let declared = format!("it leads to {} peers", tunnelled.len());
        let subject = format!("interface {DEVICE}");
        Ok(found.map(|found| RouteDifference { subject, declared, found, is_own: true }))
    }

    fn route_differences(
        &self,
        table: &RouteTable,
        kernel: &Kernel,
        describe: impl Fn(&Route) -> String,
    ) -> Vec<RouteDifference> {
        let difference = |subject: String, declared: &str, found: &str, is_own| RouteDifference {
            subject,
            declared: declared.to_owned(),
            found: found.to_owned(),
            is_own,
        };
        let none = "there is none";
        let plan = plan::plan(table, kernel);
        let mut found = Vec::new();
        for (node, nexthop, _) in &plan.nexthops {
            let existing = kernel.nexthops.iter().find(|existing| existing.id == nexthop.id);
            let gateway = existing.and_then(|existing| existing.gateway);
            let has = gateway.map_or_else(|| none.to_owned(), |gateway| format!("it is {gateway}"));
            let wanted = nexthop.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let subject = format!("next hop {node}");
            found.push(difference(subject, &format!("it is {wanted}"), &has, true));
        }
        for route in &plan.add {
            let declared = format!("it leads to {}", route.node);
            let subject = format!("route {}", route.family.net(route.prefix));
            found.push(difference(subject, &declared, none, true));
        }
        for route in &plan.change {
            let other = plan.replaced.iter().find(|other| other.prefix == route.prefix);
            let has = other.map_or_else(|| none.to_owned(), |other| describe(other));
            let declared = format!("it leads to {}", route.node);
            let subject = format!("route {}", route.family.net(route.prefix));
            found.push(difference(subject, &declared, &has, true));
        }
        for route in &plan.remove {
            let subject = format!("route {}", route.family.net(route.prefix));
            found.push(difference(subject, "there is none", &describe(route), true));
        }
        for nexthop in &plan.remove_nexthops {
            let has = nexthop.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
            let subject = format!("next hop {}", nexthop.id);
            found.push(difference(subject, none, &format!("it exists{has}"), true));
        }
        for conflict in &plan.conflicts {
            let declared = format!("it leads to {}", conflict.wanted.node);
            let wanted = conflict.wanted;
            let subject = format!("route {}", wanted.family.net(wanted.prefix));
            found.push(difference(subject, &declared, &describe(conflict.holder), false));
        }
        for failure in &plan.failures {
            let declared = format!("routes lead to {}", failure.node);
            let subject = format!("next hop {}", failure.node);
            found.push(difference(subject, &declared, &failure.reason, false));
        }
        let is_closed = |block: Ipv4Net| {
            kernel.routes.iter().any(|route| {
                route.prefix == block
                    && route.protocol == ROUTE_PROTOCOL
                    && route.kind == libc::RTN_UNREACHABLE
                    && route.metric == METRIC_BLOCK
            })
        };
        let blocks = self.host.iter().flat_map(|host| &host.blocks).map(Ipv4Net::trunc);
        for block in blocks.filter(|block| !is_closed(*block)) {
            let subject = format!("route {}", kernel.family.net(block));
            found.push(difference(subject, "what is not here is unreachable", none, true));
        }
        found
    }
}

/// What of the kernel's is ours and belongs to none of the `sandboxes`.
fn strays(
    sandboxes: &BTreeMap<SandboxId, SeenSandbox>,
    links: Vec<Link>,
    kernel: &Kernel,
    sources: BTreeSet<Source>,
) -> Strays {
    let used: BTreeSet<&str> =
        sandboxes.values().filter_map(|sandbox| sandbox.link.as_deref()).collect();
    let ours: Vec<Link> = links.into_iter().filter(veth::is_ours).collect();
    let has_link = |route: &Route| ours.iter().any(|link| Some(link.index) == route.link);
    let routes = kernel.routes.iter().filter(|route| is_to_instance(route) && !has_link(route));
    let routes = routes.cloned().collect();
    let has_veth = |veth: &str| ours.iter().any(|link| link.name == veth);
    let sources = sources.into_iter().filter(|(veth, _)| !has_veth(veth)).collect();
    // What is doomed goes anyway.
    let is_stray =
        |link: &Link| !used.contains(link.name.as_str()) && link.group != veth::DOOMED_GROUP;
    Strays { links: ours.into_iter().filter(is_stray).collect(), routes, sources }
}

/// Whether a route is one of ours to an instance of this host.
fn is_to_instance(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL && route.metric == METRIC_INSTANCE
}

fn addresses_of(veth: &str, sources: &BTreeSet<Source>) -> impl Iterator<Item = Ipv4Addr> {
    sources.iter().filter(move |(name, _)| name == veth).map(|(_, address)| *address)
}
