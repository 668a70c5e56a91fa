//! Assignments as they come over the wire. What is not right in one refuses all of it: half an assignment
//! would stop the other half of the instances.

use std::collections::BTreeMap;
use std::str::FromStr;

use dwell_core::id::{InstanceName, Revision};
use dwell_core::instance::Assigned;
use dwell_proto::{FromWireError, v1};

use crate::assignment::{Assignment, Change, Delta, NodeNetwork, NodePeer};

/// The change that a message asks for.
///
/// # Errors
/// [`FromWireError`] names the field that makes no sense.
pub(super) fn change(wire: v1::Assignment) -> Result<Change, FromWireError> {
    let revision = Revision(wire.revision);
    let network = wire.network.as_ref().map(network).transpose()?;
    let instances = wire.instances.into_iter().map(Assigned::try_from);
    if wire.base_revision == 0 {
        let network = network.ok_or_else(|| wrong("assignment.network", "is missing"))?;
        let instances = instances
            .map(|one| one.map(|one| (one.instance.clone(), one)))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        return Ok(Change::Snapshot(Assignment { revision, network, instances }));
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
    }))
}

fn network(wire: &v1::NodeNetwork) -> Result<NodeNetwork, FromWireError> {
    let peers = wire.peers.iter().map(|wire| {
        let peer = NodePeer {
            address: parse("peer.address", &wire.address)?,
            block: optional("peer.block", &wire.block)?,
        };
        Ok((parse("peer.node", &wire.node)?, peer))
    });
    let exceptions = wire.exceptions.iter().map(|wire| {
        let address = parse("exception.address", &wire.address)?;
        Ok((address, parse("exception.node", &wire.node)?))
    });
    Ok(NodeNetwork {
        cluster: parse("network.cluster_cidr", &wire.cluster_cidr)?,
        block: optional("network.block", &wire.block)?,
        peers: peers.collect::<Result<_, _>>()?,
        exceptions: exceptions.collect::<Result<_, _>>()?,
        closed: wire.closed,
        zone: wire.zone.clone(),
    })
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
