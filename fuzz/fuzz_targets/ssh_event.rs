//! A line from dwell-ssh, which repeats what strangers said to it.
#![no_main]

use dwell_core::ssh::SshEvent;
use dwell_proto::v1;

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    if let Ok(event) = serde_json::from_slice::<SshEvent>(line) {
        let _ = SshEvent::try_from(v1::SshEvent::from(&event));
    }
});
