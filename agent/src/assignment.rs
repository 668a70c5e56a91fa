//! What follows from the node's [`Assignment`](dwell_core::session::Assignment) for the host's network.
//!
//! The session owns the assignment: it merges what the controller sends and publishes the
//! result, to the reconciler at once, and to the [`keeper`](cache::keep) which writes it to disk. Only
//! what is on disk is acknowledged. A crash in between does no harm: an agent that starts says which revision it
//! holds and gets a snapshot, whatever it says.
//!
//! Invariant: an assignment that cannot be read from disk is as good as none, and without one nothing is touched.

pub mod cache;

use std::net::Ipv4Addr;
use std::num::NonZeroU32;

use dwell_core::session::NodeNetwork;

use crate::config::OverlayChoice;
use dwell_network::{Exception, HostNetwork, Ipv6Routes, Peer, PortRange, RouteTable};

/// What the host's operator has chosen about its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostChoices {
    /// Whether instances reach what is beyond the cluster under the host's address.
    pub masquerade: bool,
    /// Ports of the host itself that instances may connect to.
    pub host_access: Vec<PortRange>,
    /// Whether this agent answers DNS for instances, in a cluster that has a zone.
    pub answers_names: bool,
    /// See [`HostNetwork::untracked`].
    pub untracked: bool,
    /// See [`HostNetwork::connections_max`].
    pub connections_max: Option<NonZeroU32>,
    /// How instances of nodes are reached that share no segment with this one.
    pub overlay: OverlayChoice,
}

/// What the host is to provide.
#[must_use]
pub fn host_network(network: &NodeNetwork, choices: &HostChoices, forwards: bool) -> HostNetwork {
    HostNetwork {
        cluster: network.cluster.clone(),
        blocks: network.blocks().collect(),
        masquerade: choices.masquerade,
        host_access: choices.host_access.clone(),
        foreign_names: !choices.answers_names || network.zone.is_empty(),
        untracked: choices.untracked,
        connections_max: choices.connections_max,
        forwards,
        ipv6: network.ipv6,
    }
}

/// The routes to other nodes. Exceptions that lead here need none: a sandbox brings its route along.
///
/// The overlay sends from the address by which the others know this node, since they take packets from no other one, and
/// IPv6 addresses of the host's own follow from it; a controller that does not say which that is knows what this host takes
/// for its `own`.
#[must_use]
pub fn routes(network: &NodeNetwork, overlay: OverlayChoice, own: Option<Ipv4Addr>) -> RouteTable {
    let local = network.address.or(own);
    let peers = network.peers.iter();
    let exceptions = network.exceptions.iter();
    RouteTable {
        peers: peers
            .map(|(node, peer)| Peer {
                node: node.clone(),
                blocks: peer.blocks().collect(),
                via: peer.address,
            })
            .collect(),
        exceptions: exceptions
            .filter(|(_, node)| network.peers.contains_key(*node))
            .map(|(&address, node)| Exception { address, node: node.clone() })
            .collect(),
        overlay: local.and_then(|local| overlay.of(local)),
        ipv6: network.ipv6.zip(local).map(|(range, local)| Ipv6Routes { range, local }),
    }
}

#[cfg(test)]
mod tests {
    use dwell_core::id::NodeName;
    use dwell_core::session::NodePeer;

    use super::*;
    use crate::config::OverlayMode;

    #[test]
    fn instances_ask_elsewhere_without_an_answering_agent_or_a_zone() {
        let mut network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
        for (zone, answers, foreign) in
            [("", true, true), ("dwell", true, false), ("dwell", false, true)]
        {
            network.zone = zone.to_owned();
            let choices = HostChoices {
                masquerade: true,
                host_access: Vec::new(),
                answers_names: answers,
                untracked: true,
                connections_max: None,
                overlay: OverlayChoice { mode: OverlayMode::Never, port: 4789 },
            };
            let host = host_network(&network, &choices, true);
            assert_eq!(host.foreign_names, foreign, "{zone:?} {answers}");
        }
    }

    #[test]
    fn only_exceptions_that_lead_elsewhere_become_routes() {
        let node = |name: &str| NodeName::new(name).unwrap();
        let mut network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
        let block = Some("10.80.2.0/24".parse().unwrap());
        let peer = NodePeer {
            address: "192.168.1.2".parse().unwrap(),
            block,
            more_blocks: vec!["10.80.9.0/24".parse().unwrap()],
        };
        network.peers.insert(node("h2"), peer);
        network.exceptions.insert("10.80.9.1".parse().unwrap(), node("h1"));
        network.exceptions.insert("10.80.9.2".parse().unwrap(), node("h2"));
        network.ipv6 = Some("fd00:5::/64".parse().unwrap());
        let choice = OverlayChoice { mode: OverlayMode::Never, port: 4789 };
        let local = Ipv4Addr::new(192, 168, 1, 1);
        let routes = routes(&network, choice, Some(local));
        assert_eq!(routes.ipv6.unwrap().local, local);
        let there = Exception { address: "10.80.9.2".parse().unwrap(), node: node("h2") };
        assert_eq!(routes.exceptions, [there]);
        assert_eq!(routes.peers.len(), 1);
        let blocks = ["10.80.2.0/24".parse().unwrap(), "10.80.9.0/24".parse().unwrap()];
        assert_eq!(routes.peers[0].blocks, blocks);
    }
}
