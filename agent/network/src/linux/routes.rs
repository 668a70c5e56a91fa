//! Carrying out a [`plan`](super::plan): dump, decide, change in batches, report.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::netlink::{Outcome, Request};
use super::nexthop::{Group, Nexthop, nexthops};
use super::nftables::Peers;
use super::observe::{Address, Route};
use super::owner::Owner;
use super::plan::{self, Conflict, Kernel, PeerRoute, Plan};
use super::refused;
use super::request::Mode;
use super::{METRIC_PEER, OVERLAY_TABLE, request};
use crate::{NetworkError, Overlay, PeerFailure, RouteConflict, RouteReport, RouteTable};

impl Owner {
    /// See [`crate::Network::sync_routes`].
    pub(super) fn sync_routes(&mut self, table: &RouteTable) -> Result<RouteReport, NetworkError> {
        let mut kernel = self.observe_routes()?;
        let tunnelled = plan::tunnelled(table, &kernel.addresses);
        let overlay = table.overlay.filter(|_| !tunnelled.is_empty());
        // What the firewall says of it comes first, so that nothing gets in that no peer has sent.
        self.tell_firewall(table, &tunnelled, overlay)?;
        let prepared = match &overlay {
            Some(overlay) => self.ensure_overlay(overlay, &tunnelled, &kernel),
            None => Ok(false),
        };
        if matches!(prepared, Ok(true)) {
            kernel = self.observe_routes()?;
        }
        let plan = plan::plan(table, &kernel);
        let are_other_nexthops = !plan.nexthops.is_empty() || !plan.remove_nexthops.is_empty();
        let mut report = self.carry_out(plan)?;
        if let Err(error) = prepared {
            blame(&error, &tunnelled, table, &mut report);
        }
        match overlay {
            Some(_) => self.forget_overlay_peers(&tunnelled)?,
            None => self.remove_overlay(&kernel)?,
        }
        if are_other_nexthops {
            let action = || "list nexthops".to_owned();
            kernel.nexthops = self.route.dump(nexthops, Nexthop::parse).map_err(refused(action))?;
            kernel.nexthops.retain(|nexthop| !(nexthop.is_ours() && nexthop.is_ipv6));
        }
        self.follow_uplinks(&kernel)?;
        let mut ipv6 = self.sync_ipv6(table, &tunnelled, &kernel)?;
        ipv6.failures.retain(|failure| {
            failure.reason != plan::NO_DEVICE && !report.failures.contains(failure)
        });
        Ok(report.and(ipv6))
    }

    pub(super) fn observe_routes(&mut self) -> Result<Kernel, NetworkError> {
        let action = || "read addresses, nexthops and routes".to_owned();
        let route = &mut self.route;
        let addresses = route.dump(request::addresses, Address::parse).map_err(refused(action))?;
        let mut nexthops = route.dump(nexthops, Nexthop::parse).map_err(refused(action))?;
        let of_ipv6 = nexthops.extract_if(.., |it| it.is_ours() && it.is_ipv6).collect();
        let mut routes = route.dump(request::routes, Route::parse).map_err(refused(action))?;
        let beside = routes.extract_if(.., |route| route.table == OVERLAY_TABLE).collect();
        // Few hosts have a group at all, and every nexthop is one of those that would be read again.
        let is_of_group = |route: &Route| {
            // Few of many routes are worth a search.
            route.is_default()
                && nexthops
                    .iter()
                    .any(|nexthop| Some(nexthop.id) == route.nexthop && nexthop.link.is_none())
        };
        let groups = match routes.iter().any(is_of_group) {
            true => route.dump(self::nexthops, Group::parse).map_err(refused(action))?,
            false => Vec::new(),
        };
        let overlay = self.overlay_link()?;
        let overlay_routes = beside;
        let found = Kernel { addresses, nexthops, groups, of_ipv6, routes, ..Kernel::default() };
        Ok(Kernel { overlay_routes, overlay, ..found })
    }

    pub(super) fn carry_out(&mut self, plan: Plan<'_>) -> Result<RouteReport, NetworkError> {
        let mut report = RouteReport {
            in_place: plan.in_place,
            conflicts: self.name(&plan.conflicts)?,
            failures: plan.failures,
            ..RouteReport::default()
        };

        let requests = plan.nexthops.iter().map(|(_, nexthop, mode)| nexthop.set(*mode));
        let outcomes = self.change(requests)?;
        let mut refused_nodes = BTreeSet::new();
        for ((node, nexthop, _), outcome) in plan.nexthops.into_iter().zip(outcomes) {
            if let Err(refusal) = outcome {
                let gateway = nexthop.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
                let protocol = if nexthop.is_ipv6 { " for IPv6" } else { "" };
                let reason = format!("cannot use {gateway} as a next hop{protocol}: {refusal}");
                refused_nodes.insert(node);
                report.failures.push(PeerFailure { node: node.clone(), reason });
            }
        }

        let (mut add, mut change) = (plan.add, plan.change);
        for routes in [&mut add, &mut change] {
            routes.retain(|route| !refused_nodes.contains(route.node));
        }
        report.added = self.set_routes(&add, Mode::Add, &mut report)?;
        report.changed = self.set_routes(&change, Mode::Append, &mut report)?;
        self.change(plan.replaced.into_iter().map(request::delete_route))?;

        let outcomes = self.change(plan.remove.into_iter().map(request::delete_route))?;
        report.removed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        // The last of its routes has gone; one that somebody else uses it for goes with it.
        self.change(plan.remove_nexthops.iter().map(Nexthop::delete))?;
        Ok(report)
    }

    /// How many of `routes` are there now; the others are in the report.
    fn set_routes(
        &mut self,
        routes: &[PeerRoute<'_>],
        mode: Mode,
        report: &mut RouteReport,
    ) -> Result<usize, NetworkError> {
        let requests = routes.iter().map(|route| request::set_peer_route(route, METRIC_PEER, mode));
        let outcomes = self.change(requests)?;
        let mut done = 0;
        for (route, outcome) in routes.iter().zip(outcomes) {
            let node = route.node.clone();
            match outcome {
                Ok(()) => done += 1,
                // Somebody was faster; the next dump will show who.
                Err(refusal) if refusal.errno == Errno::EEXIST => {
                    let wanted = route.family.net(route.prefix);
                    let holder = format!("{wanted}, made a moment ago");
                    report.conflicts.push(RouteConflict { node, wanted, holder });
                }
                Err(refusal) => {
                    let prefix = route.family.net(route.prefix);
                    let reason = format!("cannot set the route to {prefix}: {refusal}");
                    report.failures.push(PeerFailure { node, reason });
                }
            }
        }
        Ok(done)
    }

    fn change(
        &mut self,
        requests: impl Iterator<Item = Request>,
    ) -> Result<Vec<Outcome>, NetworkError> {
        self.route.batch(requests).map_err(refused(|| "change routes".to_owned()))
    }

    /// The conflicts, for people.
    fn name(&mut self, conflicts: &[Conflict<'_>]) -> Result<Vec<RouteConflict>, NetworkError> {
        if conflicts.is_empty() {
            return Ok(Vec::new());
        }
        let names = self.link_names()?;
        let name = |conflict: &Conflict<'_>| RouteConflict {
            node: conflict.wanted.node.clone(),
            wanted: conflict.wanted.family.net(conflict.wanted.prefix),
            holder: conflict.holder.describe(|link| names.get(&link).cloned()),
        };
        Ok(conflicts.iter().map(name).collect())
    }

    /// Lets instances reach the peers under their own address, and those in the overlay through it.
    fn tell_firewall(
        &mut self,
        table: &RouteTable,
        tunnelled: &BTreeSet<Ipv4Addr>,
        overlay: Option<Overlay>,
    ) -> Result<(), NetworkError> {
        let nodes: BTreeSet<_> = table.peers.iter().map(|peer| peer.via).collect();
        let nodes = nodes.into_iter().collect();
        let peers = Peers { nodes, tunnelled: tunnelled.iter().copied().collect(), overlay };
        match (self.firewall.set_peers(peers)?, self.host.clone()) {
            (false, Some(host)) => self.write_firewall(&host),
            // Without a table there is nothing to tell; the one that is written next has them.
            _ => Ok(()),
        }
    }
}

/// A device that could not be had is a failure of the peers that are reached through it, and of no others.
fn blame(
    error: &NetworkError,
    tunnelled: &BTreeSet<Ipv4Addr>,
    table: &RouteTable,
    report: &mut RouteReport,
) {
    let cause = std::error::Error::source(error);
    let reason = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    report.failures.retain(|failure| failure.reason != plan::NO_DEVICE);
    let peers = table.peers.iter().filter(|peer| tunnelled.contains(&peer.via));
    let failure = |node| PeerFailure { node, reason: reason.clone() };
    report.failures.extend(peers.map(|peer| failure(peer.node.clone())));
}
