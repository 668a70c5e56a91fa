use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::*;
use crate::v1;
use crate::v1::agent_message::Message as Up;

fn of(name: &str) -> Bounds {
    Bounds::of_request(name).unwrap()
}

/// A field whose value is given as bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() + 10);
    encode_key(number, WireType::LengthDelimited, &mut text);
    encode_varint(bytes.len() as u64, &mut text);
    text.extend_from_slice(bytes);
    text
}

/// So many empty values of a field.
fn empty(number: u32, count: usize) -> Vec<u8> {
    field(number, &[]).repeat(count)
}

fn refused_at(name: &str, bytes: &[u8]) -> String {
    match of(name).check(bytes).unwrap_err() {
        BoundsError::Memory { field } => field,
        other @ BoundsError::Malformed { .. } => panic!("{other}"),
    }
}

#[test]
fn millions_of_empty_entries_are_refused_wherever_they_are() {
    let report = |number| field(3, &empty(number, 4 << 20));
    assert_eq!(refused_at("dwell.v1.AgentMessage", &report(2)), "dwell.v1.StatusReport.instances");
    assert_eq!(refused_at("dwell.v1.AgentMessage", &report(3)), "dwell.v1.StatusReport.gone");
    assert_eq!(refused_at("dwell.v1.AgentMessage", &report(6)), "dwell.v1.StatusReport.volumes");
    let claims = field(1, &empty(12, 4 << 20));
    assert_eq!(refused_at("dwell.v1.AgentMessage", &claims), "dwell.v1.Hello.claims");
    let engines = field(1, &field(3, &empty(10, 4 << 20)));
    assert_eq!(refused_at("dwell.v1.AgentMessage", &engines), "dwell.v1.Capacity.engines");
    // Of what there is one it may be said again and again.
    let capacities = field(1, &empty(3, 4 << 20));
    assert_eq!(refused_at("dwell.v1.AgentMessage", &capacities), "dwell.v1.Hello.capacity");
    let findings = field(8, &empty(1, 4 << 20));
    assert_eq!(refused_at("dwell.v1.TunnelUp", &findings), "dwell.v1.NodeAudit.findings");
    let environment = field(1, &field(3, &empty(4, 4 << 20)));
    let at = refused_at("dwell.v1.ApplyRequest", &environment);
    assert_eq!(at, "dwell.v1.Template.environment");
}

#[test]
fn a_node_that_is_full_is_heard() {
    let text = |number: usize| format!("workload-{number}");
    let instances = (0..10_000).map(|number| v1::InstanceStatus {
        instance: text(number),
        container_id: "c".repeat(64),
        message: "m".repeat(200),
        verdict: Some(v1::Verdict::default()),
        ends: vec![v1::ProcessEnd { number: 1, at_ms: 1, ..Default::default() }; 8],
        image_digest: "d".repeat(71),
        image_id: "i".repeat(71),
        ..Default::default()
    });
    let volumes = (0..100_000).map(|number| v1::SeenVolume {
        instance: text(number),
        name: "data".to_owned(),
        image_path: String::new(),
    });
    let claims =
        (0..10_000).map(|number| v1::Claim { instance: text(number), ..Default::default() });
    let status = v1::StatusReport {
        instances: instances.collect(),
        volumes: volumes.collect(),
        ..Default::default()
    };
    let hello =
        v1::Hello { status: Some(status), claims: claims.collect(), ..v1::Hello::default() };
    let bytes = v1::AgentMessage { message: Some(Up::Hello(hello)) }.encode_to_vec();
    assert!(bytes.len() < crate::MESSAGE_MAX_BYTES);
    let takes = of("dwell.v1.AgentMessage").check(&bytes).unwrap();
    assert!(takes < MEMORY_MAX_BYTES * 2 / 3, "{} MiB", takes >> 20);
}

#[test]
fn what_is_said_of_a_message_is_at_least_what_it_takes() {
    let each = |message: &str, name: &str| {
        let shape = SHAPES.iter().find(|shape| shape.name == message).unwrap();
        shape.fields.iter().find(|field| field.name == name).unwrap().each_bytes
    };
    macro_rules! covers {
        ($($message:literal, $field:literal: $type:ty;)*) => {$(
            let (said, takes) = (each($message, $field), size_of::<$type>());
            assert!(said >= takes, "{}: {said} of {takes}", stringify!($type));
        )*};
    }
    covers! {
        "dwell.v1.AgentMessage", "hello": v1::Hello;
        "dwell.v1.AgentMessage", "status": v1::StatusReport;
        "dwell.v1.AgentMessage", "ssh_events": v1::SshEvents;
        "dwell.v1.SshEvents", "events": v1::SshEvent;
        "dwell.v1.Hello", "capacity": v1::Capacity;
        "dwell.v1.Hello", "claims": v1::Claim;
        "dwell.v1.Hello", "address": String;
        "dwell.v1.StatusReport", "instances": v1::InstanceStatus;
        "dwell.v1.StatusReport", "volumes": v1::SeenVolume;
        "dwell.v1.StatusReport", "copies": v1::SeenVolume;
        "dwell.v1.InstanceStatus", "verdict": v1::Verdict;
        "dwell.v1.InstanceStatus", "ends": v1::ProcessEnd;
        "dwell.v1.Capacity", "engines": (String, v1::EngineInfo);
        "dwell.v1.TunnelUp", "diagnosis": v1::Diagnosis;
        "dwell.v1.TunnelUp", "audit": v1::NodeAudit;
        "dwell.v1.NodeAudit", "findings": v1::AuditFinding;
        "dwell.v1.ExecInput", "request": v1::ExecRequest;
        "dwell.v1.ApplyRequest", "workloads": v1::WorkloadSpec;
        "dwell.v1.WorkloadSpec", "template": v1::Template;
        "dwell.v1.WorkloadSpec", "labels": (String, String);
        "dwell.v1.Template", "mounts": v1::Mount;
        "dwell.v1.Template", "healthcheck": v1::HealthCheck;
        "dwell.v1.Template", "expose": v1::ServicePort;
        "dwell.v1.Template", "allow_from": v1::AllowList;
        "dwell.v1.AllowList", "rules": v1::AllowRule;
        "dwell.v1.AllowRule", "ports": v1::PortRange;
    }
}

/// The walk keeps in one number which lists have an entry.
#[test]
fn no_message_has_too_many_fields_and_every_one_that_is_named_is_there() {
    for shape in SHAPES {
        assert!(shape.fields.len() < 100, "{}", shape.name);
        for field in shape.fields {
            if let Content::Message(of) = field.content {
                assert!(of < SHAPES.len(), "{}.{}", shape.name, field.name);
            }
        }
    }
    assert!(Bounds::of_request("dwell.v1.ControllerMessage").is_none());
}

#[test]
fn what_cannot_be_taken_apart_is_refused() {
    let bounds = of("dwell.v1.AgentMessage");
    for bytes in [
        &[0x0a, 5, 1][..],
        // A length beyond all memory; no key; a key beyond 32 bits; a group without an end.
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0xff],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x0b, 0x0b, 0x0b],
    ] {
        let refusal = bounds.check(bytes).unwrap_err();
        assert!(matches!(refusal, BoundsError::Malformed { .. }), "{bytes:x?}: {refusal}");
        assert!(v1::AgentMessage::decode(bytes).is_err(), "{bytes:x?}");
    }
}

#[test]
fn fields_of_newer_programs_take_nothing() {
    let bytes = [field(99, &[1; 1000]), field(2, &[])].concat();
    let takes = of("dwell.v1.AgentMessage").check(&bytes).unwrap();
    assert!(takes < 600, "{takes}");
}
