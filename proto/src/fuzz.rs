//! What must hold of what comes from a network, for any bytes: see `fuzz/`.
#![expect(clippy::panic, reason = "that is how a target fails")]

use std::hint::black_box;
use std::str::from_utf8;

use dwell_core::audit::NodeAudit;
use dwell_core::directory::{Directory, DirectoryChange};
use dwell_core::instance::MESSAGE_MAX;
use dwell_core::session::{Assignment, AssignmentChange, Hello, SshEvents, StatusReport};
use dwell_core::workload::WorkloadSpec;
use prost::{Message as _, Name as _};

use crate::bounds::{Bounds, BoundsError};
use crate::pieces::Assembly;
use crate::trust::JoinToken;
use crate::v1;
use crate::v1::agent_message::Message as Up;
use crate::v1::controller_message::Message as Down;

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[
    ("api", api),
    ("assignment", assignment),
    ("join_token", join_token),
    ("node_audit", node_audit),
    ("report", report),
    ("wire", wire),
];

/// What anybody with a certificate may declare.
fn api(bytes: &[u8]) {
    let Ok(request) = v1::ApplyRequest::decode(bytes) else { return };
    for workload in request.workloads {
        let Ok(spec) = WorkloadSpec::try_from(workload) else { continue };
        spec.check().ok();
        black_box(spec.template.fingerprint());
        assert_eq!(WorkloadSpec::try_from(v1::WorkloadSpec::from(&spec)).as_ref(), Ok(&spec));
    }
}

/// What an agent takes from a controller.
fn assignment(bytes: &[u8]) {
    let Ok(v1::ControllerMessage { message: Some(message) }) = v1::ControllerMessage::decode(bytes)
    else {
        return;
    };
    let merge = |assignment| {
        if let Ok(change) = AssignmentChange::try_from(assignment) {
            drop(Assignment::merge(None, change));
        }
    };
    match message {
        Down::Assignment(assignment) => merge(assignment),
        Down::AssignmentPiece(piece) => {
            let whole = v1::AssignmentPiece { last: true, ..piece };
            if let Ok(Some(assignment)) = Assembly::default().take(whole) {
                merge(assignment);
            }
        }
        Down::Directory(change) => {
            if let Ok(change) = DirectoryChange::try_from(change) {
                Directory::default().apply(change).ok();
            }
        }
        _ => {}
    }
}

/// A join token, as somebody pastes it.
fn join_token(bytes: &[u8]) {
    let Ok(Ok(token)) = from_utf8(bytes).map(str::parse::<JoinToken>) else { return };
    let again = token.to_string().parse::<JoinToken>();
    assert!(again.is_ok_and(|again| again.secret() == token.secret()));
}

/// What a node says of itself when it is asked.
fn node_audit(bytes: &[u8]) {
    let Ok(audit) = v1::NodeAudit::decode(bytes) else { return };
    drop(NodeAudit::try_from(audit));
}

/// What a controller takes from an agent.
fn report(bytes: &[u8]) {
    let Ok(v1::AgentMessage { message: Some(message) }) = v1::AgentMessage::decode(bytes) else {
        return;
    };
    match message {
        Up::Status(report) => {
            if let Ok(report) = StatusReport::try_from(report) {
                assert!(report.instances.iter().all(|one| one.message.len() <= MESSAGE_MAX));
            }
        }
        Up::SshEvents(events) => drop(SshEvents::try_from(events)),
        Up::Hello(hello) => drop(Hello::try_from(hello)),
        _ => {}
    }
}

/// What a request would take in memory is told from its bytes, before they are read.
fn wire(bytes: &[u8]) {
    let Some(bounds) = Bounds::of_request(&v1::AgentMessage::full_name()) else {
        panic!("it is a request")
    };
    let said = bounds.check(bytes);
    let read = v1::AgentMessage::decode(bytes);
    match said {
        Ok(said) => {
            let takes = read.map_or(0, |message| message.message.as_ref().map_or(0, takes));
            assert!(takes <= said, "{takes} of {said}");
        }
        Err(BoundsError::Malformed { .. }) => assert!(read.is_err()),
        Err(BoundsError::Memory { .. }) => {}
    }
}

/// What the lists of a message take that may be long.
fn takes(message: &Up) -> usize {
    let report = |report: &v1::StatusReport| {
        let ends = |one: &v1::InstanceStatus| {
            one.ends.capacity() * size_of::<v1::ProcessEnd>() + one.message.capacity()
        };
        report.instances.capacity() * size_of::<v1::InstanceStatus>()
            + report.instances.iter().map(ends).sum::<usize>()
            + report.gone.capacity() * size_of::<String>()
            + report.gone.iter().map(String::capacity).sum::<usize>()
            + report.volumes.capacity() * size_of::<v1::SeenVolume>()
            + report.copies.capacity() * size_of::<v1::SeenVolume>()
    };
    match message {
        Up::Hello(hello) => {
            let engines = hello.capacity.as_ref().map_or(0, |capacity| {
                capacity.engines.capacity() * size_of::<(String, v1::EngineInfo)>()
            });
            hello.claims.capacity() * size_of::<v1::Claim>()
                + hello.status.as_ref().map_or(0, report)
                + engines
        }
        Up::Status(status) => report(status),
        Up::SshEvents(events) => events.events.capacity() * size_of::<v1::SshEvent>(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
