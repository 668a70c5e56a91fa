//! Carrying out a [`plan`](super::plan): dump, decide, change in batches, report.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::netlink::{Outcome, Request};
use super::nexthop::{Nexthop, nexthops};
use super::observe::{Address, Route};
use super::owner::Owner;
use super::plan::{self, Conflict, Kernel, PeerRoute, Plan};
use super::refused;
use super::request::Mode;
use super::{METRIC_PEER, request};
use crate::{NetworkError, PeerFailure, RouteConflict, RouteReport, RouteTable};

impl Owner {
    /// See [`crate::Network::sync_routes`].
    pub(super) fn sync_routes(&mut self, table: &RouteTable) -> Result<RouteReport, NetworkError> {
        let kernel = self.observe_routes()?;
        let report = self.carry_out(plan::plan(table, &kernel))?;
        self.exempt_nodes(table.peers.iter().map(|peer| peer.via).collect())?;
        Ok(report)
    }

    pub(super) fn observe_routes(&mut self) -> Result<Kernel, NetworkError> {
        let action = || "read addresses, nexthops and routes".to_owned();
        let route = &mut self.route;
        Ok(Kernel {
            addresses: route.dump(request::addresses, Address::parse).map_err(refused(action))?,
            nexthops: route.dump(nexthops, Nexthop::parse).map_err(refused(action))?,
            routes: route.dump(request::routes, Route::parse).map_err(refused(action))?,
        })
    }

    fn carry_out(&mut self, plan: Plan<'_>) -> Result<RouteReport, NetworkError> {
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
                let reason = format!("cannot use {gateway} as a next hop: {refusal}");
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
        let requests = routes
            .iter()
            .map(|route| request::set_peer_route(route.prefix, route.nexthop, METRIC_PEER, mode));
        let outcomes = self.change(requests)?;
        let mut done = 0;
        for (route, outcome) in routes.iter().zip(outcomes) {
            let node = route.node.clone();
            match outcome {
                Ok(()) => done += 1,
                // Somebody was faster; the next dump will show who.
                Err(refusal) if refusal.errno == Errno::EEXIST => {
                    let holder = format!("{}, made a moment ago", route.prefix);
                    let wanted = route.prefix;
                    report.conflicts.push(RouteConflict { node, wanted, holder });
                }
                Err(refusal) => {
                    let reason = format!("cannot set the route to {}: {refusal}", route.prefix);
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
            wanted: conflict.wanted.prefix,
            holder: conflict.holder.describe(|link| names.get(&link).cloned()),
        };
        Ok(conflicts.iter().map(name).collect())
    }

    /// Lets instances reach `nodes` under their own address.
    fn exempt_nodes(&mut self, mut nodes: Vec<Ipv4Addr>) -> Result<(), NetworkError> {
        nodes.sort_unstable();
        nodes.dedup();
        // Without a table there is nothing to exempt from; the one that is written next has them.
        self.firewall.set_nodes(nodes).map(drop)
    }
}
