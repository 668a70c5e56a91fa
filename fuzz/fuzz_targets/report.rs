//! What a controller takes from an agent.
#![no_main]

use dwell_core::instance::{InstanceStatus, MESSAGE_MAX};
use dwell_core::ssh::SshEvent;
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as Up;
use prost::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(v1::AgentMessage { message: Some(message) }) = v1::AgentMessage::decode(bytes) else { return };
    match message {
        Up::Status(report) => {
            for status in report.instances {
                if let Ok(status) = InstanceStatus::try_from(status) {
                    assert!(status.message.len() <= MESSAGE_MAX);
                }
            }
        }
        Up::SshEvents(events) => {
            for event in events.events {
                let _ = SshEvent::try_from(event);
            }
        }
        _ => {}
    }
});
