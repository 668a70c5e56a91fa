//! What an agent takes from a controller.
#![no_main]

use dwell_core::directory::{Directory, DirectoryChange};
use dwell_core::session::{Assignment, AssignmentChange};
use dwell_proto::v1;
use dwell_proto::v1::controller_message::Message as Down;
use prost::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(v1::ControllerMessage { message: Some(message) }) = v1::ControllerMessage::decode(bytes) else {
        return;
    };
    match message {
        Down::Assignment(assignment) => {
            if let Ok(change) = AssignmentChange::try_from(assignment) {
                let _ = Assignment::merge(None, change);
            }
        }
        Down::Directory(change) => {
            if let Ok(change) = DirectoryChange::try_from(change) {
                let _ = Directory::default().apply(change);
            }
        }
        _ => {}
    }
});
