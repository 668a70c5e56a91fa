//! The entry of the wrapper in Docker's configuration, wherever dwell is installed.

use std::path::Path;
use std::process::Command;

#[test]
fn the_wrapper_is_the_one_that_was_installed_with_the_agent() {
    let host = tempfile::tempdir().unwrap();
    let daemon_json = host.path().join("daemon.json");
    let agent = Path::new(env!("CARGO_BIN_EXE_dwell-agent"));
    let mut command = Command::new(agent);
    command.args(["install-runtime", "--no-reload", "--daemon-json"]).arg(&daemon_json);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&daemon_json).unwrap()).unwrap();
    let wrapper = agent.canonicalize().unwrap().with_file_name("dwell-oci");
    assert_eq!(settings["runtimes"]["dwell"]["path"], wrapper.to_str().unwrap());
}
