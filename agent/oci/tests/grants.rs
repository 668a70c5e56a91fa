//! Settings of the kernel, capabilities and devices, with a real Docker, a real runc and the wrapper.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use dwell_core::instance::Assigned;
use dwell_core::workload::{Device, Process, Template};
use dwell_docker::world::{World, shell};
use dwell_docker::{Allowed, DockerConfig, DockerEngine, Runtime};
use dwell_engine::Engine as _;
use dwell_engine::fake::assigned;
use dwell_network::fixtures::Namespace;

/// The only cluster of the daemon.
const CLUSTER: &str = "grants";
const IDLE: &str = "busybox sleep 1000";

fn declared(config: &DockerConfig, sandbox: &Namespace, process: Process) -> Assigned {
    let assigned = assigned("web-0", 1, Template { process, ..shell(IDLE) });
    let path = dwell_network::sandbox_path(&config.run_dir, &assigned.instance.clone().into());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if !path.exists() {
        symlink(sandbox.path(), path).unwrap();
    }
    assigned
}

#[tokio::test]
async fn what_is_declared_and_allowed_is_there_and_nothing_else() {
    let world = World::new().await;
    world.register_wrapper(Path::new(env!("CARGO_BIN_EXE_dwell-oci")), CLUSTER).await;
    let allowed = Allowed {
        capabilities: vec!["SYS_PTRACE".to_owned()],
        devices: vec!["/dev/full".into()],
        ..Allowed::default()
    };
    let config = DockerConfig { allowed, ..world.node(CLUSTER, Runtime::Dwell).config };
    let engine = DockerEngine::new(config.clone());
    let sandbox = Namespace::new();
    let device = |source: &str| Device {
        source: source.to_owned(),
        target: "/dev/inside".to_owned(),
        permissions: "rw".to_owned(),
    };
    let process = Process {
        sysctls: [("net.core.somaxconn", "1234"), ("kernel.msgmax", "12345")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        cap_drop: ["ALL".to_owned()].into(),
        cap_add: ["SYS_PTRACE", "CHOWN"].map(str::to_owned).into(),
        devices: vec![device("/dev/full")],
        ..Process::default()
    };

    for (odd, says) in [
        (
            Process { cap_add: ["SYS_ADMIN".to_owned()].into(), ..process.clone() },
            "the capability SYS_ADMIN is not in `allow_capabilities`",
        ),
        (
            Process { devices: vec![device("/dev/kmsg")], ..process.clone() },
            "the device \"/dev/kmsg\" is not in `allow_devices`",
        ),
    ] {
        let refused = engine.create(&declared(&config, &sandbox, odd)).await.unwrap_err();
        assert!(refused.is_permanent() && refused.to_string().contains(says), "{refused}");
    }

    let id = engine.create(&declared(&config, &sandbox, process)).await.unwrap();
    engine.start(&id).await.unwrap();
    let look = "b=busybox; $b cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax; $b grep CapEff /proc/1/status; \
                echo x 2>&1 > /dev/inside; $b stat -c %t:%T /dev/inside";
    let seen = world.docker(&["exec", id.as_str(), "sh", "-c", look]);
    // SYS_PTRACE is 19, CHOWN is 0; the device is 1:7.
    for line in ["1234", "12345", "CapEff:\t0000000000080001", "1:7"] {
        assert!(seen.lines().any(|one| one == line), "{line} is missing in {seen}");
    }
    engine.stop(&id, Duration::ZERO).await.unwrap();

    // What the operator has ceased to allow.
    for allowed in [
        Allowed { capabilities: Vec::new(), ..config.allowed.clone() },
        Allowed { devices: Vec::new(), ..config.allowed.clone() },
    ] {
        let engine = DockerEngine::new(DockerConfig { allowed, ..config.clone() });
        let refused = engine.start(&id).await.unwrap_err();
        assert!(refused.is_permanent() && refused.to_string().contains("`allow_"), "{refused}");
    }
    engine.start(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
}
