//! What an agent takes from a controller.
#![no_main]

use dwell_core::directory::{Directory, DirectoryChange};
use dwell_core::instance::Assigned;
use dwell_core::ssh::SshTrust;
use dwell_proto::v1;
use dwell_proto::v1::controller_message::Message as Down;
use prost::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(v1::ControllerMessage { message: Some(message) }) = v1::ControllerMessage::decode(bytes) else {
        return;
    };
    match message {
        Down::Assignment(assignment) => {
            for instance in assignment.instances {
                let _ = Assigned::try_from(instance);
            }
            let _ = assignment.ssh_trust.map(SshTrust::try_from);
        }
        Down::Directory(change) => {
            if let Ok(change) = DirectoryChange::try_from(change) {
                let _ = Directory::default().apply(change);
            }
        }
        _ => {}
    }
});
