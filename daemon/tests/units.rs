//! What the units of all daemons have to say, read from the files that are installed.

#![expect(clippy::unwrap_used, reason = "in a test, what is wrong fails the test")]

use std::fs;
use std::path::Path;

/// The units, by name: the lines that set something.
fn units() -> Vec<(String, Vec<String>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let units = files.filter(|path| path.extension().is_some_and(|end| end == "service"));
    let read = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| line.contains('=') && !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    units.map(|path| (path.file_name().unwrap().to_string_lossy().into(), read(&path))).collect()
}

#[test]
fn no_daemon_leaves_its_keys_in_a_core_file() {
    let units = units();
    assert_eq!(units.len(), 5, "{units:?}");
    for (name, settings) in units {
        assert!(settings.iter().any(|line| line == "LimitCORE=0"), "{name} has no LimitCORE=0");
    }
}

#[test]
fn the_controller_cannot_take_the_memory_of_its_whole_host() {
    let (_, settings) =
        units().into_iter().find(|(name, _)| name == "dwell-controller.service").unwrap();
    for bound in ["MemoryHigh", "MemoryMax"] {
        let value = settings.iter().find_map(|line| line.strip_prefix(bound)?.strip_prefix('='));
        let percent: u32 = value.unwrap().strip_suffix('%').unwrap().parse().unwrap();
        assert!((1..100).contains(&percent), "{bound} is {percent} %");
    }
}
