//! What a request would take in memory is told from its bytes, before they are read.
#![no_main]

use dwell_proto::bounds::{Bounds, BoundsError};
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as Up;
use prost::{Message, Name};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bounds = Bounds::of_request(&v1::AgentMessage::full_name()).expect("a request");
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
});

/// What the lists of a message take that may be long.
fn takes(message: &Up) -> usize {
    let report = |report: &v1::StatusReport| {
        let ends = |one: &v1::InstanceStatus| one.ends.capacity() * size_of::<v1::ProcessEnd>() + one.message.capacity();
        report.instances.capacity() * size_of::<v1::InstanceStatus>()
            + report.instances.iter().map(ends).sum::<usize>()
            + report.gone.capacity() * size_of::<String>()
            + report.gone.iter().map(String::capacity).sum::<usize>()
            + report.volumes.capacity() * size_of::<v1::SeenVolume>()
    };
    match message {
        Up::Hello(hello) => {
            let engines = hello.capacity.as_ref().map_or(0, |capacity| {
                capacity.engines.capacity() * size_of::<(String, v1::EngineInfo)>()
            });
            hello.claims.capacity() * size_of::<v1::Claim>() + hello.status.as_ref().map_or(0, report) + engines
        }
        Up::Status(status) => report(status),
        Up::SshEvents(events) => events.events.capacity() * size_of::<v1::SshEvent>(),
        _ => 0,
    }
}
