//! Between the session's messages and the model's words.

use std::collections::VecDeque;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::directory::DirectoryChange;
use dwell_core::id::Revision;
use dwell_core::instance::{Assigned, InstanceStatus};
use dwell_core::ssh::{SshEvent, SshTrust};
use dwell_core::workload::Ssh;
use dwell_proto::v1;
use prost::Message as _;
use tonic::Status;

use crate::model::{
    Assignment, AssignmentDelta, Exception, KeySet, NetworkDelta, NodeNetwork, Peer, Report,
};
use crate::pki::{PkiError, SshAuthority};
use crate::status::into_status;

/// The most instances that one report may speak of.
const INSTANCES_MAX: usize = 10_000;
/// The most log-ins and the like in one message.
const SSH_EVENTS_MAX: usize = 100;
/// The largest message about the directory, in bytes, well below what one message may have; the directory of
/// a hundred thousand instances has fewer, and is taken in as one.
const DIRECTORY_MAX_BYTES: usize = 8 * 1024 * 1024;

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
        volumes: None,
        statuses: statuses.collect::<Result<_, _>>().map_err(into_status)?,
        gone: gone.collect::<Result<_, dwell_core::id::NameError>>().map_err(into_status)?,
    })
}

/// What happened on the port 22 of a node's instances.
pub(super) fn ssh_events(wire: Vec<v1::SshEvent>) -> Result<Vec<SshEvent>, Status> {
    if wire.len() > SSH_EVENTS_MAX {
        return Err(Status::invalid_argument(format!(
            "more than {SSH_EVENTS_MAX} SSH events at once"
        )));
    }
    let events = wire.into_iter().map(SshEvent::try_from);
    events.collect::<Result<_, _>>().map_err(into_status)
}

/// All that a node is to do.
///
/// # Errors
/// [`PkiError`] if a host key cannot be made.
pub(super) fn snapshot(
    assignment: &Assignment,
    ssh: &SshAuthority,
) -> Result<v1::Assignment, PkiError> {
    Ok(v1::Assignment {
        revision: assignment.revision.0,
        base_revision: 0,
        instances: instances(&assignment.instances, &assignment.made_at, ssh)?,
        removed: Vec::new(),
        network: Some(network(&assignment.network)),
        network_delta: None,
        ssh_trust: Some(trust(&assignment.key_sets, ssh)),
    })
}

/// What changed of it.
///
/// # Errors
/// [`PkiError`] if a host key cannot be made.
pub(super) fn delta(
    delta: &AssignmentDelta,
    ssh: &SshAuthority,
) -> Result<v1::Assignment, PkiError> {
    Ok(v1::Assignment {
        revision: delta.revision.0,
        base_revision: delta.base.0,
        instances: instances(&delta.instances, &delta.made_at, ssh)?,
        removed: delta.removed.iter().map(ToString::to_string).collect(),
        network: None,
        network_delta: (!delta.network.is_empty()).then(|| network_delta(&delta.network)),
        ssh_trust: delta.key_sets.as_ref().map(|key_sets| trust(key_sets, ssh)),
    })
}

/// With a host key for each that dwell serves SSH for.
fn instances(
    instances: &[Assigned],
    made_at: &[Timestamp],
    ssh: &SshAuthority,
) -> Result<Vec<v1::AssignedInstance>, PkiError> {
    let with_key = |(assigned, &made_at): (&Assigned, &Timestamp)| {
        let mut wire = v1::AssignedInstance::from(assigned);
        if matches!(assigned.template.ssh, Ssh::Dwell { .. }) {
            let key = ssh.host_key(&assigned.instance, assigned.address, made_at)?;
            wire.host_key = Some((&key).into());
        }
        Ok(wire)
    };
    instances.iter().zip(made_at).map(with_key).collect()
}

fn trust(key_sets: &[Arc<KeySet>], ssh: &SshAuthority) -> v1::SshTrust {
    let lines = |set: &KeySet| set.keys.iter().map(|key| key.line.clone()).collect();
    let trust = SshTrust {
        user_authority: ssh.user_authority().to_owned(),
        host_authority: ssh.host_authority().to_owned(),
        key_sets: key_sets.iter().map(|set| (set.name.clone(), lines(set))).collect(),
        ..SshTrust::default()
    };
    (&trust).into()
}

fn network(network: &NodeNetwork) -> v1::NodeNetwork {
    v1::NodeNetwork {
        cluster_cidr: network.cluster.to_string(),
        block: block(network.block),
        peers: network.peers.iter().map(peer).collect(),
        exceptions: network.exceptions.iter().map(exception).collect(),
        closed: network.closed,
        zone: network.zone.clone(),
    }
}

fn network_delta(delta: &NetworkDelta) -> v1::NetworkDelta {
    v1::NetworkDelta {
        peers: delta.peers.iter().map(peer).collect(),
        removed_peers: delta.removed_peers.iter().map(ToString::to_string).collect(),
        exceptions: delta.exceptions.iter().map(exception).collect(),
        removed_exceptions: delta.removed_exceptions.iter().map(ToString::to_string).collect(),
        // A node whose own block changes gets a snapshot.
        block: String::new(),
        block_changed: false,
    }
}

fn peer(peer: &Peer) -> v1::Peer {
    v1::Peer {
        node: peer.node.to_string(),
        address: peer.address.to_string(),
        block: block(peer.block),
    }
}

fn exception(exception: &Exception) -> v1::Exception {
    v1::Exception { address: exception.address.to_string(), node: exception.node.to_string() }
}

fn block(block: Option<ipnet::Ipv4Net>) -> String {
    block.map(|block| block.to_string()).unwrap_or_default()
}

/// A change of the directory, as one message, or as several if it were too large for one; none if it says
/// nothing.
pub(super) fn directory(change: &DirectoryChange) -> VecDeque<v1::DirectoryChange> {
    pieces(change.into(), DIRECTORY_MAX_BYTES)
}

/// Only the last piece takes the agent to the change's revision; until then it holds the one that it had (or
/// the first of all, at which there was no directory), so that after a broken stream it gets everything again.
fn pieces(whole: v1::DirectoryChange, max_bytes: usize) -> VecDeque<v1::DirectoryChange> {
    let (base, revision) = (whole.base_revision, whole.revision);
    let until_then = base.max(1);
    let mut pieces = VecDeque::new();
    let empty = v1::DirectoryChange { base_revision: base, ..Default::default() };
    let mut piece = empty.clone();
    let mut bytes = 0;
    let mut next = |bytes_more: usize, piece: &mut v1::DirectoryChange| {
        bytes += bytes_more;
        if bytes > max_bytes {
            bytes = bytes_more;
            let next = v1::DirectoryChange { base_revision: until_then, ..Default::default() };
            let full = std::mem::replace(piece, next);
            pieces.push_back(v1::DirectoryChange { revision: until_then, ..full });
        }
    };
    // Of each entry also its tag and length.
    const FRAME: usize = 8;
    for name in whole.removed_workloads {
        next(name.len() + FRAME, &mut piece);
        piece.removed_workloads.push(name);
    }
    for name in whole.removed_instances {
        next(name.len() + FRAME, &mut piece);
        piece.removed_instances.push(name);
    }
    // An instance's workload is there before it.
    for workload in whole.workloads {
        next(workload.encoded_len() + FRAME, &mut piece);
        piece.workloads.push(workload);
    }
    for instance in whole.instances {
        next(instance.encoded_len() + FRAME, &mut piece);
        piece.instances.push(instance);
    }
    if base == 0 || piece != empty {
        pieces.push_back(v1::DirectoryChange { revision, ..piece });
    }
    pieces
}

#[cfg(test)]
mod tests;
