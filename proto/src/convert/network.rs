//! What a node knows of the cluster's network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dwell_core::id::NodeName;
use dwell_core::net::Ranges;
use dwell_core::session::{NetworkDelta, NodeNetwork, NodePeer};

use super::{FromWireError, parse, parse_optional, text_or_empty};
use crate::v1;

impl From<&NodeNetwork> for v1::NodeNetwork {
    fn from(network: &NodeNetwork) -> Self {
        Self {
            cluster_cidr: network.cluster.first().to_string(),
            more_ranges: network.cluster.more().iter().map(ToString::to_string).collect(),
            block: text_or_empty(network.block.as_ref()),
            peers: network.peers.iter().map(to_peer).collect(),
            exceptions: network.exceptions.iter().map(to_exception).collect(),
            closed: network.closed,
            zone: network.zone.clone(),
            address: text_or_empty(network.address.as_ref()),
            ipv6_prefix: text_or_empty(network.ipv6.as_ref()),
            more_blocks: network.more_blocks.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::NodeNetwork> for NodeNetwork {
    type Error = FromWireError;

    fn try_from(wire: v1::NodeNetwork) -> Result<Self, FromWireError> {
        let more_blocks = wire.more_blocks.iter();
        let more_blocks = more_blocks.map(|block| parse("network.more_blocks", block));
        Ok(Self {
            cluster: ranges(&wire.cluster_cidr, &wire.more_ranges)?,
            block: parse_optional("network.block", &wire.block)?,
            more_blocks: more_blocks.collect::<Result<_, _>>()?,
            peers: peers(&wire.peers)?,
            exceptions: exceptions(&wire.exceptions)?,
            closed: wire.closed,
            zone: wire.zone,
            address: parse_optional("network.address", &wire.address)?,
            ipv6: parse_optional("network.ipv6_prefix", &wire.ipv6_prefix)?,
        })
    }
}

/// The ranges of a cluster: what is said as `cluster_cidr`, and as `more_ranges`.
///
/// # Errors
/// [`FromWireError`] if they are none, or not apart.
pub fn ranges(cluster_cidr: &str, more_ranges: &[String]) -> Result<Ranges, FromWireError> {
    let first = parse("cluster_cidr", cluster_cidr)?;
    let more = more_ranges.iter().map(|range| parse("more_ranges", range));
    let all = std::iter::once(Ok(first)).chain(more).collect::<Result<Vec<_>, _>>()?;
    Ranges::new(all).map_err(|error| FromWireError::new("more_ranges", error.to_string()))
}

impl From<&NetworkDelta> for v1::NetworkDelta {
    fn from(delta: &NetworkDelta) -> Self {
        Self {
            peers: delta.peers.iter().map(to_peer).collect(),
            removed_peers: delta.removed_peers.iter().map(ToString::to_string).collect(),
            exceptions: delta.exceptions.iter().map(to_exception).collect(),
            removed_exceptions: delta.removed_exceptions.iter().map(ToString::to_string).collect(),
            block: text_or_empty(delta.block.flatten().as_ref()),
            block_changed: delta.block.is_some(),
        }
    }
}

impl TryFrom<v1::NetworkDelta> for NetworkDelta {
    type Error = FromWireError;

    fn try_from(wire: v1::NetworkDelta) -> Result<Self, FromWireError> {
        let removed_peers =
            wire.removed_peers.iter().map(|node| parse("network_delta.removed_peers", node));
        let removed_exceptions = wire
            .removed_exceptions
            .iter()
            .map(|one| parse("network_delta.removed_exceptions", one));
        let block = parse_optional("network_delta.block", &wire.block)?;
        Ok(Self {
            peers: peers(&wire.peers)?,
            removed_peers: removed_peers.collect::<Result<_, _>>()?,
            exceptions: exceptions(&wire.exceptions)?,
            removed_exceptions: removed_exceptions.collect::<Result<_, _>>()?,
            block: wire.block_changed.then_some(block),
        })
    }
}

fn to_peer((node, peer): (&NodeName, &NodePeer)) -> v1::Peer {
    v1::Peer {
        node: node.to_string(),
        address: peer.address.to_string(),
        block: text_or_empty(peer.block.as_ref()),
        more_blocks: peer.more_blocks.iter().map(ToString::to_string).collect(),
    }
}

fn to_exception((address, node): (&Ipv4Addr, &NodeName)) -> v1::Exception {
    v1::Exception { address: address.to_string(), node: node.to_string() }
}

fn peers(wire: &[v1::Peer]) -> Result<BTreeMap<NodeName, NodePeer>, FromWireError> {
    let peer = |wire: &v1::Peer| {
        let more_blocks = wire.more_blocks.iter();
        let more_blocks = more_blocks.map(|block| parse("peer.more_blocks", block));
        let peer = NodePeer {
            address: parse("peer.address", &wire.address)?,
            block: parse_optional("peer.block", &wire.block)?,
            more_blocks: more_blocks.collect::<Result<_, _>>()?,
        };
        Ok((parse("peer.node", &wire.node)?, peer))
    };
    wire.iter().map(peer).collect()
}

fn exceptions(wire: &[v1::Exception]) -> Result<BTreeMap<Ipv4Addr, NodeName>, FromWireError> {
    let exception = |wire: &v1::Exception| {
        Ok((parse("exception.address", &wire.address)?, parse("exception.node", &wire.node)?))
    };
    wire.iter().map(exception).collect()
}
