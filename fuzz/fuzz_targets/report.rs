//! What a controller takes from an agent.
#![no_main]

use dwell_core::instance::MESSAGE_MAX;
use dwell_core::session::{Hello, SshEvents, StatusReport};
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as Up;
use prost::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(v1::AgentMessage { message: Some(message) }) = v1::AgentMessage::decode(bytes) else { return };
    match message {
        Up::Status(report) => {
            if let Ok(report) = StatusReport::try_from(report) {
                assert!(report.instances.iter().all(|one| one.message.len() <= MESSAGE_MAX));
            }
        }
        Up::SshEvents(events) => {
            let _ = SshEvents::try_from(events);
        }
        Up::Hello(hello) => drop(Hello::try_from(hello)),
        _ => {}
    }
});
