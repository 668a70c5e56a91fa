//! One program for all targets: `DWELL_FUZZ_TARGET` says which. What each has to hold to stands beside its parser, in the `fuzz.rs` of
//! each crate, where the tests put everything through it that is kept in `corpus/`.
#![no_main]

use std::process::exit;
use std::sync::LazyLock;

type Holds = fn(&[u8]);

static TARGET: LazyLock<Holds> = LazyLock::new(|| {
    let asked = std::env::var("DWELL_FUZZ_TARGET").unwrap_or_default();
    let all = [
        dwell::fuzz::TARGETS,
        dwell_agent::fuzz::TARGETS,
        dwell_controller::fuzz::TARGETS,
        dwell_core::fuzz::TARGETS,
        dwell_daemon::fuzz::TARGETS,
        dwell_docker::fuzz::TARGETS,
        dwell_network::linux::fuzz::TARGETS,
        dwell_oci::fuzz::TARGETS,
        dwell_proto::fuzz::TARGETS,
        dwell_ssh::fuzz::TARGETS,
    ];
    let found = all.into_iter().flatten().find(|(name, _)| *name == asked);
    found.map_or_else(
        || {
            eprintln!("DWELL_FUZZ_TARGET is {asked:?}, which is no target");
            exit(2)
        },
        |(_, holds)| *holds,
    )
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
