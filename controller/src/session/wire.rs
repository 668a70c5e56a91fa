//! Between the session's messages and the model's words.

use dwell_core::id::Revision;
use dwell_core::instance::InstanceStatus;
use dwell_proto::v1;
use tonic::Status;

use crate::model::{Assignment, AssignmentDelta, NodeNetwork, Report};
use crate::status::into_status;

/// The most instances that one report may speak of.
const INSTANCES_MAX: usize = 10_000;

/// What a node saw. One wrong entry refuses the whole: it was made by a program, which then is wrong.
pub(super) fn report(wire: v1::StatusReport) -> Result<Report, Status> {
    if wire.instances.len() > INSTANCES_MAX || wire.gone.len() > INSTANCES_MAX {
        return Err(Status::invalid_argument(format!(
            "a report of more than {INSTANCES_MAX} instances"
        )));
    }
    let statuses = wire.instances.into_iter().map(InstanceStatus::try_from);
    let gone = wire.gone.iter().map(|name| name.parse());
    Ok(Report {
        revision: Revision(wire.revision),
        complete: wire.complete,
        statuses: statuses.collect::<Result<_, _>>().map_err(into_status)?,
        gone: gone.collect::<Result<_, dwell_core::id::NameError>>().map_err(into_status)?,
    })
}

/// All that a node is to do.
pub(super) fn snapshot(assignment: &Assignment) -> v1::Assignment {
    v1::Assignment {
        revision: assignment.revision.0,
        base_revision: 0,
        instances: assignment.instances.iter().map(Into::into).collect(),
        removed: Vec::new(),
        network: Some(network(&assignment.network)),
        network_delta: None,
        ssh_trust: None,
    }
}

/// What changed of it.
pub(super) fn delta(delta: &AssignmentDelta) -> v1::Assignment {
    v1::Assignment {
        revision: delta.revision.0,
        base_revision: delta.base.0,
        instances: delta.instances.iter().map(Into::into).collect(),
        removed: delta.removed.iter().map(ToString::to_string).collect(),
        network: delta.network.as_ref().map(network),
        network_delta: None,
        ssh_trust: None,
    }
}

fn network(network: &NodeNetwork) -> v1::NodeNetwork {
    let block =
        |block: Option<ipnet::Ipv4Net>| block.map(|block| block.to_string()).unwrap_or_default();
    let peers = network.peers.iter().map(|peer| v1::Peer {
        node: peer.node.to_string(),
        address: peer.address.to_string(),
        block: block(peer.block),
    });
    let exceptions = network.exceptions.iter().map(|exception| v1::Exception {
        address: exception.address.to_string(),
        node: exception.node.to_string(),
    });
    v1::NodeNetwork {
        cluster_cidr: network.cluster.to_string(),
        block: block(network.block),
        peers: peers.collect(),
        exceptions: exceptions.collect(),
        closed: false,
        zone: String::new(),
    }
}
