//! What a container uses, as the kernel counts it.
//!
//! The engine would have to be asked for its statistics, which it collects once a second: the first change of limits would be
//! done at once, and every one after that a second later. The kernel says at once what it counts.

use std::fs;
use std::io;
use std::path::Path;

use dwell_core::quantity::Bytes;
use dwell_daemon::cgroups::{self, Hierarchy, Place};
use dwell_engine::{ContainerId, Engine as _, EngineError, Usage, death};

use super::DockerEngine;
use super::client::NAME;

pub(super) async fn usage(engine: &DockerEngine, id: &ContainerId) -> Result<Usage, EngineError> {
    let container = engine.inspect(id).await?;
    let Some(pid) = container.details.and_then(|details| details.pid) else {
        return Ok(Usage::default());
    };
    // All of these files are in memory.
    let used = cgroups::of_process(pid).map(|places| at(&places));
    // Afterwards, so that nothing of another process is taken for this one's.
    if death::start_ticks(pid, id).is_err() {
        return Ok(Usage::default());
    }
    used.map_err(|error: io::Error| EngineError::Other {
        engine: NAME,
        operation: "tell what a container uses",
        reason: format!("its control groups cannot be read: {error}"),
    })
}

/// Of several trees, each has some of the controllers, and their files.
fn at(places: &[Place]) -> Usage {
    let mut usage = Usage::default();
    for Place { hierarchy, directory } in places {
        let (current, idle) = match hierarchy {
            Hierarchy::Unified => ("memory.current", "inactive_file"),
            // What is below it counts as well, under a name of its own.
            Hierarchy::Legacy(_) => ("memory.usage_in_bytes", "total_inactive_file"),
        };
        if let Some(bytes) = number(directory, current) {
            let idle = statistic(directory, idle).unwrap_or_default();
            usage.memory = Some(Bytes(bytes.saturating_sub(idle)));
        }
        if let Some(pids) = number(directory, "pids.current") {
            usage.pids = Some(u32::try_from(pids).unwrap_or(u32::MAX));
        }
    }
    usage
}

/// A number in a file, if there is such a file.
fn number(directory: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
}

/// One of the lines of `memory.stat`.
fn statistic(directory: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(directory.join("memory.stat")).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find_map(|(key, value)| if key == name { value.trim().parse().ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(hierarchy: &Hierarchy, files: &[(&str, &str)]) -> Usage {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        at(&[Place { hierarchy: hierarchy.clone(), directory: directory.path().to_owned() }])
    }

    #[test]
    fn both_versions_say_what_is_used() {
        let legacy = Hierarchy::Legacy(Vec::new());
        let used = |memory, pids| Usage { memory: Some(Bytes(memory)), pids };
        for (hierarchy, files, expected) in [
            (
                &Hierarchy::Unified,
                &[
                    ("memory.current", "5000\n"),
                    ("memory.stat", "anon 900\nfile 4100\ninactive_file 1000\n"),
                    ("pids.current", "3\n"),
                ][..],
                used(4000, Some(3)),
            ),
            (
                &Hierarchy::Unified,
                &[("pids.current", "3\n")],
                Usage { memory: None, pids: Some(3) },
            ),
            (&Hierarchy::Unified, &[], Usage::default()),
            (
                &legacy,
                &[
                    ("memory.usage_in_bytes", "5000\n"),
                    ("memory.stat", "inactive_file 7\ntotal_inactive_file 2000\n"),
                ],
                used(3000, None),
            ),
            (&legacy, &[("memory.usage_in_bytes", "5000\n")], used(5000, None)),
        ] {
            assert_eq!(usage(hierarchy, files), expected, "{files:?}");
        }
    }
}
