//! Assignments as they come over the wire. What is not right in one refuses all of it: half an assignment
//! would stop the other half of the instances.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;

use dwell_core::id::{InstanceName, NodeName, Revision};
use dwell_core::instance::Assigned;
use dwell_core::ssh::SshTrust;
use dwell_proto::{FromWireError, v1};

use crate::assignment::{Assignment, Change, Delta, NetworkDelta, NodeNetwork, NodePeer};

/// The change that a message asks for.
///
/// # Errors
/// [`FromWireError`] names the field that makes no sense.
pub(super) fn change(wire: v1::Assignment) -> Result<Change, FromWireError> {
    let revision = Revision(wire.revision);
    let network = wire.network.as_ref().map(network).transpose()?;
    let ssh_trust = wire.ssh_trust.map(SshTrust::try_from).transpose()?;
    let instances = wire.instances.into_iter().map(Assigned::try_from);
    if wire.base_revision == 0 {
        let network = network.ok_or_else(|| wrong("assignment.network", "is missing"))?;
        let instances = instances
            .map(|one| one.map(|one| (one.instance.clone(), one)))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let ssh_trust = ssh_trust.unwrap_or_default();
        return Ok(Change::Snapshot(Assignment { revision, network, instances, ssh_trust }));
    }
    Ok(Change::Delta(Delta {
        revision,
        base: Revision(wire.base_revision),
        changed: instances.collect::<Result<_, _>>()?,
        removed: wire
            .removed
            .iter()
            .map(|name| parse::<InstanceName>("assignment.removed", name))
            .collect::<Result<_, _>>()?,
        network,
        network_delta: wire
            .network_delta
            .as_ref()
            .map(network_delta)
            .transpose()?
            .unwrap_or_default(),
        ssh_trust,
    }))
}

fn network(wire: &v1::NodeNetwork) -> Result<NodeNetwork, FromWireError> {
    Ok(NodeNetwork {
        cluster: parse("network.cluster_cidr", &wire.cluster_cidr)?,
        block: optional("network.block", &wire.block)?,
        peers: peers(&wire.peers)?,
        exceptions: exceptions(&wire.exceptions)?,
        closed: wire.closed,
        zone: wire.zone.clone(),
    })
}

fn network_delta(wire: &v1::NetworkDelta) -> Result<NetworkDelta, FromWireError> {
    let removed_peers =
        wire.removed_peers.iter().map(|node| parse("network_delta.removed_peers", node));
    let removed_exceptions =
        wire.removed_exceptions.iter().map(|one| parse("network_delta.removed_exceptions", one));
    let block = optional("network_delta.block", &wire.block)?;
    Ok(NetworkDelta {
        peers: peers(&wire.peers)?,
        removed_peers: removed_peers.collect::<Result<_, _>>()?,
        exceptions: exceptions(&wire.exceptions)?,
        removed_exceptions: removed_exceptions.collect::<Result<_, _>>()?,
        block: wire.block_changed.then_some(block),
    })
}

fn peers(wire: &[v1::Peer]) -> Result<BTreeMap<NodeName, NodePeer>, FromWireError> {
    let peer = |wire: &v1::Peer| {
        let peer = NodePeer {
            address: parse("peer.address", &wire.address)?,
            block: optional("peer.block", &wire.block)?,
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

fn optional<T>(field: &'static str, text: &str) -> Result<Option<T>, FromWireError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

fn parse<T>(field: &'static str, text: &str) -> Result<T, FromWireError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| wrong(field, &error.to_string()))
}

fn wrong(field: &'static str, problem: &str) -> FromWireError {
    FromWireError { field, problem: problem.to_owned() }
}
