//! Carrying out a [`plan`](super::plan): dump, decide, change in batches, report.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::nexthop::{Nexthop, nexthops};
use super::observe::{Address, Route};
use super::owner::Owner;
use super::plan::{self, Kernel, PeerRoute, Plan};
use super::refused;
use super::request::Mode;
use super::{METRIC_PEER, request};
use crate::network::{NetworkError, PeerFailure, RouteConflict, RouteReport, RouteTable};

impl Owner {
    /// See [`crate::network::Network::sync_routes`].
    pub(super) fn sync_routes(&mut self, table: &RouteTable) -> Result<RouteReport, NetworkError> {
        let kernel = self.observe_routes()?;
        let plan = plan::plan(table, &kernel);
        let report = self.carry_out(plan)?;
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

    fn carry_out(&mut self, plan: Plan) -> Result<RouteReport, NetworkError> {
        let mut report = RouteReport {
            in_place: plan.in_place,
            conflicts: plan.conflicts,
            failures: plan.failures,
            ..RouteReport::default()
        };
        let action = || "change routes".to_owned();

        let requests = plan.nexthops.iter().map(|(_, nexthop)| nexthop.set(Mode::Replace));
        let outcomes = self.route.batch(requests.collect()).map_err(refused(action))?;
        let mut refused_nodes = BTreeSet::new();
        for ((node, nexthop), outcome) in plan.nexthops.into_iter().zip(outcomes) {
            if let Err(refusal) = outcome {
                let gateway = nexthop.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
                let reason = format!("cannot use {gateway} as a next hop: {refusal}");
                refused_nodes.insert(node.clone());
                report.failures.push(PeerFailure { node, reason });
            }
        }

        let usable = |mut routes: Vec<PeerRoute>| {
            routes.retain(|route| !refused_nodes.contains(&route.node));
            routes
        };
        report.added = self.set_routes(&usable(plan.add), Mode::Add, &mut report)?;
        report.changed = self.set_routes(&usable(plan.change), Mode::Replace, &mut report)?;

        let removals = plan.remove.iter().map(|&prefix| request::delete_route(prefix, METRIC_PEER));
        let outcomes = self.route.batch(removals.collect()).map_err(refused(action))?;
        report.removed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        // The last of its routes has gone; one that somebody else uses it for goes with it.
        let removals = plan.remove_nexthops.iter().map(Nexthop::delete).collect();
        self.route.batch(removals).map_err(refused(action))?;
        Ok(report)
    }

    /// How many of `routes` are there now; the others are in the report.
    fn set_routes(
        &mut self,
        routes: &[PeerRoute],
        mode: Mode,
        report: &mut RouteReport,
    ) -> Result<usize, NetworkError> {
        let requests = routes
            .iter()
            .map(|route| request::set_peer_route(route.prefix, route.nexthop, METRIC_PEER, mode))
            .collect();
        let outcomes =
            self.route.batch(requests).map_err(refused(|| "change routes".to_owned()))?;
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

    /// Lets instances reach `nodes` under their own address.
    fn exempt_nodes(&mut self, mut nodes: Vec<Ipv4Addr>) -> Result<(), NetworkError> {
        nodes.sort_unstable();
        nodes.dedup();
        // Without a table there is nothing to exempt from; the one that is written next has them.
        self.firewall.set_nodes(nodes).map(drop)
    }
}
