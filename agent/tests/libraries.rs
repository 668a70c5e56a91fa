//! What the agent's program loads at its start: each library is resident on every host of a fleet.

#![cfg(target_env = "gnu")]

use std::process::Command;

#[test]
fn the_agent_does_not_load_libm_for_a_single_function() {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_dwell-agent"));
    // glibc's loader says what it would load, and ends.
    let output = agent.env("LD_TRACE_LOADED_OBJECTS", "1").output().unwrap();
    let loaded = String::from_utf8_lossy(&output.stdout);
    assert!(loaded.contains("libc.so"), "the loader says something else: {loaded}");
    assert!(!loaded.contains("libm.so"), "{loaded}");
}
