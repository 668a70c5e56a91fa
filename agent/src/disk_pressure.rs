//! Which file systems of the node have no room left: that of the engine's data, and that of the agent's own.
//!
//! ```text
//!   has room ──less than 3 % and 1 GiB, or 3 % and 10,000 files, are left──▶ pressed
//!      ▲                                                                        │
//!      └──5 % or 2 GiB, and 5 % or 20,000 files, are left───────────────────────┘
//! ```
//!
//! The way back takes more than the way there, so that a disk at the edge is one state and not many events.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dwell_core::node::{DiskPressure, Room};
use nix::sys::statvfs::statvfs;

/// What is left of something, and all there is but what is kept for root, as `df` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    left: u64,
    all: u64,
}

/// From when on there is no room, and when there is again: less than so many percent and so much.
struct Bounds {
    begin: (u64, u64),
    end: (u64, u64),
}

const BYTES: Bounds = Bounds { begin: (3, 1 << 30), end: (5, 2 << 30) };
const FILES: Bounds = Bounds { begin: (3, 10_000), end: (5, 20_000) };

impl Bounds {
    fn is_pressed(&self, share: Share, was_pressed: bool) -> bool {
        let (percent, least) = if was_pressed { self.end } else { self.begin };
        let part = u128::from(share.all) * u128::from(percent) / 100;
        u128::from(share.left) < part && share.left < least
    }
}

/// Looks at file systems, each once however many of the paths are on it. Blocks for as long as they take to answer; one that does not
/// say is left out.
pub(crate) fn look(paths: &[&Path], before: &[DiskPressure]) -> Vec<DiskPressure> {
    let (mut devices, mut found) = (Vec::new(), Vec::new());
    for path in paths {
        let (Ok(metadata), Ok(seen)) = (fs::metadata(path), statvfs(*path)) else { continue };
        if devices.contains(&metadata.dev()) {
            continue;
        }
        devices.push(metadata.dev());
        let bytes = |blocks: u64| blocks.saturating_mul(seen.fragment_size());
        let used = bytes(seen.blocks().saturating_sub(seen.blocks_free()));
        let left = bytes(seen.blocks_available());
        found.extend(judge(
            path,
            Room::Bytes,
            Share { left, all: used.saturating_add(left) },
            before,
        ));
        // Some file systems make inodes as they need them, and say 0.
        if seen.files() > 0 {
            let used = seen.files().saturating_sub(seen.files_free());
            let left = seen.files_available();
            let share = Share { left, all: used.saturating_add(left) };
            found.extend(judge(path, Room::Files, share, before));
        }
    }
    found
}

/// Whether these are the same states, whatever the numbers.
pub(crate) fn are_same(one: &[DiskPressure], other: &[DiskPressure]) -> bool {
    let states = |all: &[DiskPressure]| -> Vec<(String, Room)> {
        all.iter().map(|one| (one.path.clone(), one.lacks)).collect()
    };
    states(one) == states(other)
}

fn judge(path: &Path, lacks: Room, share: Share, before: &[DiskPressure]) -> Option<DiskPressure> {
    let bounds = match lacks {
        Room::Bytes => BYTES,
        Room::Files => FILES,
    };
    let path = path.to_string_lossy().into_owned();
    let was = before.iter().any(|one| (&one.path, one.lacks) == (&path, lacks));
    let used = share.all.saturating_sub(share.left);
    let percent = u128::from(used) * 100 / u128::from(share.all.max(1));
    let percent = u8::try_from(percent).unwrap_or(100).min(100);
    bounds.is_pressed(share, was).then_some(DiskPressure { path, lacks, percent, left: share.left })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBI: u64 = 1 << 30;

    fn pressed(lacks: Room, left: u64, all: u64, was: bool) -> bool {
        let path = Path::new("/data");
        let before = DiskPressure { path: "/data".to_owned(), lacks, percent: 99, left: 1 };
        let before = if was { vec![before] } else { Vec::new() };
        judge(path, lacks, Share { left, all }, &before).is_some()
    }

    #[test]
    fn a_disk_at_the_edge_is_one_state() {
        for (left, all, begins, lasts) in [
            (GIBI / 2, 100 * GIBI, true, true),
            // Little of a large disk, and much of a small one, is room.
            (2 * GIBI, 1000 * GIBI, false, false),
            (GIBI, 8 * GIBI, false, false),
            // Between the two edges.
            (3 * GIBI / 2, 100 * GIBI, false, true),
            (320 << 20, 8 * GIBI, false, true),
            (0, 8 << 20, true, true),
            (0, 0, false, false),
        ] {
            assert_eq!(pressed(Room::Bytes, left, all, false), begins, "{left} of {all}");
            assert_eq!(pressed(Room::Bytes, left, all, true), lasts, "{left} of {all}");
        }
        assert!(pressed(Room::Files, 9_000, 6_000_000, false));
        assert!(!pressed(Room::Files, 15_000, 6_000_000, false));
        assert!(pressed(Room::Files, 15_000, 6_000_000, true));
        assert!(!pressed(Room::Files, 50_000, 6_000_000, true));
    }

    #[test]
    fn what_lacked_bytes_says_nothing_of_files() {
        let path = Path::new("/data");
        let bytes = DiskPressure { path: "/data".into(), lacks: Room::Bytes, percent: 99, left: 1 };
        let share = Share { left: 15_000, all: 6_000_000 };
        assert_eq!(judge(path, Room::Files, share, &[bytes]), None);
    }

    #[test]
    fn the_numbers_are_told_as_df_does() {
        let share = Share { left: 299 << 20, all: 10_000 << 20 };
        let told = judge(Path::new("/var/lib/docker"), Room::Bytes, share, &[]).unwrap();
        assert_eq!(told.to_string(), "/var/lib/docker 97 % full, 299Mi left");
    }

    #[test]
    fn a_file_system_is_looked_at_once_and_a_path_that_is_not_there_is_none() {
        let root = Path::new("/");
        let all = look(&[root, root, Path::new("/nonexistent")], &[]);
        assert_eq!(all, look(&[root], &[]));
        assert!(are_same(&all, &all));
    }
}
